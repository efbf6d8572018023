"""Files that are odd: TIFF by its tags, JPEG by its segments, PNG by its chunks."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def encoded(form, pixels=None, **options) -> bytes:
    file = io.BytesIO()
    pixels = noise(12, 10, 3) if pixels is None else pixels
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, form, **options)
    return file.getvalue()


def short(*values, order="<"):
    return struct.pack(f"{order}{len(values)}H", *values)


def long(*values, order="<"):
    return struct.pack(f"{order}{len(values)}I", *values)


def tiff(pixels, photometric=None, add=(), drop=(), sort=True, order="<", **values) -> bytes:
    """An uncompressed TIFF file of one strip.

    Args:
        pixels: (H, W) or (H, W, C), as they are stored.
        photometric: 2 or 1 if None.
        add: further tags (number, type, count, bytes).
        drop: numbers of tags that are left out.
        sort: the tags are in order.
        order: of bytes.
        values: `counts` for the bytes of the strip.
    """
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    photometric = (2 if channels > 2 else 1) if photometric is None else photometric
    tags = [
        (256, 3, 1, short(width, order=order)),
        (257, 3, 1, short(height, order=order)),
        (258, 3, channels, short(*[8 * pixels.itemsize] * channels, order=order)),
        (259, 3, 1, short(1, order=order)),
        (262, 3, 1, short(photometric, order=order)),
        (273, 4, 1, b"HERE"),
        (277, 3, 1, short(channels, order=order)),
        (278, 3, 1, short(height, order=order)),
        (279, 4, 1, long(values.get("counts", len(data)), order=order)),
        (284, 3, 1, short(1, order=order)),
    ]
    tags = [tag for tag in tags if tag[0] not in drop] + list(add)
    tags = sorted(tags, key=lambda tag: tag[0]) if sort else tags
    behind, more = 8 + 2 + 12 * len(tags) + 4, b""
    body = short(len(tags), order=order)
    for number, kind, count, content in tags:
        body += struct.pack(f"{order}HHI", number, kind, count)
        if len(content) <= 4:
            body += content.ljust(4, b"\0")
        else:
            body += long(behind + len(more), order=order)
            more += content + bytes(len(content) % 2)
    body = body.replace(b"HERE", long(behind + len(more), order=order))
    head = b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08"
    return head + body + bytes(4) + more + data


def chunk(kind: bytes, content: bytes, right=True) -> bytes:
    checksum = zlib.crc32(kind + content) ^ (not right)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def with_chunk(png: bytes, new: bytes, late=False) -> bytes:
    """A PNG file with a chunk behind its head, or behind its pixels."""
    at = len(png) - 12 if late else 33
    return png[:at] + new + png[at:]


def exif_bytes(orientation=6, further=b"", count=0) -> bytes:
    """EXIF of an orientation and further entries of 12 bytes."""
    entries = struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0) + further
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 1 + count) + entries + bytes(4)


def with_exif(jpeg: bytes, exif: bytes) -> bytes:
    return jpeg[:2] + segment(0xE1, b"Exif\0\0" + exif) + jpeg[2:]


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def raw_profile(exif: bytes, packed=True, name=b"exif") -> bytes:
    """A text chunk with EXIF, as ImageMagick writes it."""
    digits = (b"Exif\0\0" + exif).hex().encode()
    lines = b"\n".join(digits[k : k + 72] for k in range(0, len(digits), 72))
    text = b"\n" + name + b"\n%8d\n" % (len(exif) + 6) + lines + b"\n"
    key = b"Raw profile type " + name + b"\0"
    return chunk(b"zTXt", key + b"\0" + zlib.compress(text)) if packed else chunk(b"tEXt", key + text)


def with_scan_header(jpeg: bytes, values: bytes) -> bytes:
    """A JPEG file whose first scan says Ss, Se, AhAl."""
    scan = jpeg.index(b"\xff\xda")
    first = scan + 5 + 2 * jpeg[scan + 4]
    return jpeg[:first] + values + jpeg[first + 3 :]
