"""Forty hostile pictures, and a program that reads them under an address limit: `python hostile_files.py FOLDER`."""

import functools
import os
import resource
import struct
import sys
import time
import zlib
from pathlib import Path

import numpy as np
from odd_files import chunk, encoded, exif_bytes, long, noise, segment, short, tiff, with_chunk, with_exif

PNG, JPEG = encoded("PNG", noise(40, 40, 3)), encoded("JPEG", noise(40, 40, 3))


def png(width, height, bits=8, colour=2, data=b"", before=b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + before + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def flat_png(side, bits, channels) -> bytes:
    """A sound PNG file of one colour."""
    row = bytes(1 + -(-side * bits * channels // 8))
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row * 64) for _ in range(side // 64)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@functools.cache
def bomb() -> bytes:
    """256 MiB of zeros, packed."""
    return zlib.compress(bytes(2**28), 9)


def sized_jpeg(height, width) -> bytes:
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


def many_scans(count) -> bytes:
    jpeg = encoded("JPEG", np.zeros((1024, 1024), np.uint8), progressive=True)
    at = jpeg.rindex(b"\xff\xda")
    scan = jpeg[at:-2]
    return jpeg[:at] + scan * count + b"\xff\xd9"


def webp_bomb() -> bytes:
    return encoded("WEBP", np.zeros((16383, 16383), np.uint8), lossless=True, method=0)


def changed_tiff(offset) -> bytes:
    content = bytearray(tiff(noise(12, 10, 3)))
    content[4:8] = long(offset)
    return bytes(content)


TIFF = tiff(noise(12, 10, 3))
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d"><image href="/etc/passwd"/></svg>'
GIF = b"GIF89a" + short(65535, 65535) + b"\x80\0\0" + bytes(6) + b"," + short(0, 0, 65535, 65535) + b"\0\2\0;"
SIDES = [(256, 4, 1, long(60000)), (257, 4, 1, long(60000))]
HOSTILE = {
    "eps.png": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n",
    "eps.tif": lambda: b"\xc5\xd0\xd3\xc6" + long(30, 100) + bytes(22) + b"%!PS-Adobe-3.0 EPSF-3.0\n" + bytes(90),
    "pdf.jpg": lambda: b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
    "svg.png": lambda: SVG % (9, 9),
    "svg, late.png": lambda: b'<?xml version="1.0"?>\n' + SVG % (10**9, 10**9),
    "mvg.png": lambda: b"push graphic-context\nviewbox 0 0 64 64\nfill 'url(https://127.0.0.1/\"|touch ran\")'\n",
    "msl.jpg": lambda: b'<?xml version="1.0"?><image><read filename="/etc/passwd"/><write filename="ran"/></image>',
    "xpm.png": lambda: b'/* XPM */\nstatic char *x[] = {\n"9999 9999 1 1",\n"a c #000000",\n',
    "csv.png": lambda: b"1,2,3\n4,5,6\n",
    "vips.jpg": lambda: b"\x08\xf2\xa6\xb6" + struct.pack("<II", 60000, 60000) + bytes(52),
    "hdr.png": lambda: b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 60000 +X 60000\n",
    "pnm.png": lambda: b"P6 99999 99999 255\n",
    "bmp.png": lambda: b"BM" + long(1000, 0, 54, 40, 60000, 60000) + short(1, 24) + bytes(24),
    "fits.tif": lambda: b"SIMPLE  =                    T" + bytes(2850),
    "program.png": lambda: b"#!/bin/sh\ntouch ran\n",
    "50000.png": lambda: png(50000, 50000, data=bytes(1000)),
    "2^31.png": lambda: png(2**31 - 1, 2**31 - 1, data=bytes(1000)),
    "16384 of a bit.png": lambda: flat_png(16384, 1, 1),
    "16384.png": lambda: flat_png(16384, 8, 3),
    "16384, wide.png": lambda: flat_png(16384, 16, 4),
    "9000, wide.png": lambda: flat_png(8960, 16, 4),
    "ztxt.png": lambda: with_chunk(PNG, chunk(b"zTXt", b"Comment\0\0" + bomb())),
    "exif in ztxt.png": lambda: with_chunk(PNG, chunk(b"zTXt", b"Raw profile type exif\0\0" + bomb())),
    "itxt.png": lambda: with_chunk(PNG, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb())),
    "iccp.png": lambda: with_chunk(PNG, chunk(b"iCCP", b"x\0\0" + bomb())),
    "many texts.png": lambda: with_chunk(PNG, chunk(b"tEXt", b"a\0b") * 200_000),
    "many frames.png": lambda: with_chunk(PNG, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
    "long chunk.png": lambda: PNG[:33] + struct.pack(">I", 2**31 - 1) + b"tEXt" + PNG[33:],
    "idat.png": lambda: png(64, 64, data=b"") [:-12] + chunk(b"IDAT", b"") * 200_000 + PNG[-12:],
    "65535.jpg": lambda: sized_jpeg(65535, 65535),
    "16000.jpg": lambda: sized_jpeg(16000, 16000),
    "scans.jpg": lambda: many_scans(30_000),
    "500 scans.jpg": lambda: many_scans(500),
    "segments.jpg": lambda: JPEG[:2] + segment(0xFE, b"") * 200_000 + JPEG[2:],
    "exif loop.jpg": lambda: with_exif(JPEG, exif_bytes()[:-4] + long(8)),
    "exif far.jpg": lambda: with_exif(JPEG, exif_bytes(6, struct.pack("<HHII", 0x8769, 4, 1, 8), 1)),
    "ifd loop.tif": lambda: TIFF[:130] + long(8) + TIFF[134:],
    "ifd far.tif": lambda: changed_tiff(2**32 - 2),
    "ifd in itself.tif": lambda: changed_tiff(6),
    "60000.tif": lambda: tiff(noise(12, 10, 3), drop=(256, 257), add=SIDES),
    "strip.tif": lambda: tiff(noise(12, 10, 3), counts=2**32 - 1),
    "count.tif": lambda: tiff(noise(12, 10, 3), add=[(305, 2, 2**32 - 1, long(8))]),
    "tiles.tif": lambda: tiff(noise(12, 10, 3), add=[(322, 4, 1, long(2**31)), (323, 4, 1, long(2**31))]),
    "65535.gif": lambda: GIF,
    "bomb.webp": webp_bomb,
    "16383.webp": lambda: b"RIFF" + long(30) + b"WEBPVP8L" + long(10) + b"\x2f\xfe\xff\xff\x0f" + bytes(9),
    "box.avif": lambda: b"\0\0\0\x18ftypavif\0\0\0\0avifmif1" + b"\xff\xff\xff\xffmeta" + bytes(100),
}  # fmt: skip


def main(folder: Path) -> None:
    """Prints name, reader, seconds and what came of it for each file in a folder; "good.png" first, without a limit."""
    from flowkit_models.images import photo_file  # noqa: PLC0415 - only this process needs it
    from flowkit_models.images.image_file import read_image  # noqa: PLC0415

    readers = (photo_file.read_photo, read_image)
    for read in readers:
        read(folder / "good.png")
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2 * 2**30,) * 2)
    for path in sorted(folder.iterdir()):
        for read in readers:
            start = time.process_time()  # the machine may be busy
            try:
                said = f"read {read(path) is not None}"
            except ValueError as error:
                said = repr(str(error))
            print(f"{path.name}\t{read.__module__}\t{time.process_time() - start:.2f}\t{said}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
