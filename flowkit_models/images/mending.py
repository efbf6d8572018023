"""Image files with odd metadata, made such that strict decoders take them: no byte that holds pixels is touched.

What is wrong with the pixels stays wrong, so a strict decoder still finds it.
"""

import mmap
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import IO

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"acTL", b"IDAT", b"IEND"}
_MOST_EXIF = 2**24
"""Longest EXIF, in bytes."""

# what says how TIFF pixels are stored and looked at; all else (texts, dates, private tags) may be left out
_TIFF_KEPT = {254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 283, 284, 292, 293, 296, 317, 320}
_TIFF_KEPT |= {322, 323, 324, 325, 332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532, 700, 33723, 34675}
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_SAMPLES, _ROWS, _EXTRA, _PHOTOMETRIC = 277, 278, 338, 262
# values that exist, of orientation, unit, planes, order of bits and kind of numbers; else 1 is meant
_TIFF_VALUES = {274: range(1, 9), 296: (1, 2, 3), 284: (1, 2), 266: (1, 2), 339: (1, 2, 3, 5, 6)}
_TIFF_SINGLE = (256, 257, 259, 262, 266, 274, 277, 278, 284, 296, 317)


def mended(data: bytes, form: str) -> bytes:
    """The file with its metadata put right or left out; as it is if there is nothing to mend.

    Args:
        data: the whole file.
        form: "jpeg", "png" or "tiff"; others stay as they are.
    """
    known: dict[str, Callable[[bytes], bytes]] = {"jpeg": _jpeg, "png": upright_png, "tiff": _tiff}
    try:
        return known[form](data) if form in known else data
    except (struct.error, IndexError, ValueError):
        return data


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and position of each segment of a JPEG file, up to the end of the picture; scans are passed over."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xD9:
            return
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # of a scan
            at += 1 if marker == 0xFF else 2
            continue
        yield marker, at
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _jpeg(data: bytes) -> bytes:
    """JFIF's revision is a known one, and sequential scans say that they are (Samsung's say 0, 0 or 63, 1)."""
    out = bytearray(data)
    sequential = False
    short: list[tuple[int, int]] = []
    for marker, at in jpeg_segments(data):
        name, length = data[at + 4 : at + 9], int.from_bytes(data[at + 2 : at + 4], "big")
        if (marker, name[:4]) in ((0xE0, b"JFIF"), (0xEE, b"Adob")) and length < (16 if marker == 0xE0 else 14):
            short.append((at, at + 2 + length))
        elif marker == 0xE0 and name == b"JFIF\0":
            out[at + 9 : at + 11] = b"\1\2"
        elif marker == 0xEE and name == b"Adobe" and data[at + 15] > 2:
            out[at + 15] = 1  # as the decoder takes it
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            sequential = marker in (0xC0, 0xC1)
        elif marker == 0xDA and sequential:
            first = at + 5 + 2 * data[at + 4]
            out[first : first + 3] = b"\0\x3f\0"
    for start, end in reversed(short):
        del out[start:end]
    return bytes(out)


def png_chunk_starts(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Kind and first bytes of the chunks of a PNG file, without reading their rest."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[:4], "big")
        start = file.read(min(length, 32))
        yield head[4:], start
        file.seek(length - len(start) + 4, 1)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Kind, content and all bytes of each chunk of a PNG file, up to the end of the picture."""
    at, kind = 8, b""
    while at + 8 <= len(data) and kind != b"IEND":
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        yield kind, data[at + 8 : at + 8 + length], data[at : at + 12 + length]
        at += 12 + length


def upright_png(data: bytes) -> bytes:
    """A PNG file with its EXIF before the pixels, wherever it was, and without texts but XMP and what is damaged."""
    exif = b""
    head: list[bytes] = []
    rest: list[bytes] = []
    for kind, content, chunk in _png_chunks(data):
        right = zlib.crc32(kind + content).to_bytes(4, "big") == chunk[-4:]
        critical = not kind[0] & 32
        fine = kind in _PNG_KEPT or (kind == b"pHYs" and len(content) == 9) or (kind == b"iCCP" and _unpacks(content))
        fine &= kind != b"tRNS" or len(content) in {0: (2,), 2: (6,)}.get(data[25], range(1, 257))
        fine |= kind == b"iTXt" and content.startswith(b"XML:com.adobe.xmp\0\0")
        if critical or (right and fine):
            (head if kind == b"IHDR" else rest).append(chunk)
        elif right and not exif:
            exif = content if kind == b"eXIf" else _raw_profile(kind, content)
    if exif:
        head.append(len(exif).to_bytes(4, "big") + b"eXIf" + exif + zlib.crc32(b"eXIf" + exif).to_bytes(4, "big"))
    return _PNG_START + b"".join(head + rest)


def _unpacks(profile: bytes) -> bool:
    """True if a colour profile is whole, and no larger than the 1 MiB that Pillow takes."""
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(profile.partition(b"\0")[2][1:], 2**20)
    except zlib.error:
        return False
    return unpacker.eof


def has_late_exif(chunks: Iterator[tuple[bytes, bytes]]) -> bool:
    """True if a PNG file has EXIF where decoders don't look: behind its pixels, or in a text.

    Args:
        chunks: kind and first bytes of the content, in order.
    """
    pixels = False
    for kind, start in chunks:
        pixels |= kind == b"IDAT"
        if (kind == b"eXIf" and pixels) or (kind in (b"tEXt", b"zTXt", b"iTXt") and start.startswith(_RAW)):
            return True
    return False


_RAW = (b"Raw profile type exif\0", b"Raw profile type APP1\0")


def _raw_profile(kind: bytes, content: bytes) -> bytes:
    """EXIF in a text chunk, as ImageMagick writes it: a line, the length, hexadecimal digits."""
    if kind not in (b"tEXt", b"zTXt") or not content.startswith(_RAW):
        return b""
    text = content.partition(b"\0")[2]
    if kind == b"zTXt":
        try:
            text = zlib.decompressobj().decompress(text[1:], _MOST_EXIF)
        except zlib.error:
            return b""
    digits = b"".join(text.split(b"\n")[3:])
    try:
        exif = bytes.fromhex(re.sub(rb"\s", b"", digits).decode("ascii"))
    except ValueError:
        return b""
    return exif.removeprefix(b"Exif\0\0") if exif.removeprefix(b"Exif\0\0")[:2] in (b"II", b"MM") else b""


def tiff_tags(data: bytes | mmap.mmap) -> dict[int, tuple[int, ...]]:
    """Whole numbers of the first directory of a TIFF file, by tag; of what can't be read, none."""
    try:
        order, _, _, entries, _ = _directory(data)
    except (struct.error, KeyError, ValueError):
        return {}
    return {tag: numbers for tag, entry in entries.items() if (numbers := _numbers(data, order, entry))}


_Entry = tuple[int, int, bytes]


def _directory(data: bytes | mmap.mmap) -> tuple[str, int, int, dict[int, _Entry], int]:
    """Byte order, position, number of entries, entries (type, count, value) by tag, and the next directory."""
    order = {b"II*\0": "<", b"MM\0*": ">"}[data[:4]]
    at = struct.unpack_from(f"{order}I", data, 4)[0]
    count = struct.unpack_from(f"{order}H", data, at)[0]
    entries: dict[int, _Entry] = {}
    for k in range(count):
        tag, kind, number = struct.unpack_from(f"{order}HHI", data, at + 2 + 12 * k)
        entries.setdefault(tag, (kind, number, data[at + 10 + 12 * k : at + 14 + 12 * k]))
    end = data[at + 2 + 12 * count : at + 6 + 12 * count]
    return order, at, count, entries, struct.unpack(f"{order}I", end)[0] if len(end) == 4 else 0


def _numbers(data: bytes | mmap.mmap, order: str, entry: _Entry) -> tuple[int, ...]:
    kind, count, value = entry
    if kind not in (1, 3, 4) or not 0 < count <= 2**20:
        return ()
    size = _TIFF_SIZES[kind] * count
    at = struct.unpack(f"{order}I", value)[0]
    raw = value[:size] if size <= 4 else data[at : at + size]
    return struct.unpack(f"{order}{count}{'xBxHI'[kind]}", raw) if len(raw) == size else ()


def _tiff(data: bytes) -> bytes:
    """A directory of what the pixels need: sorted, each tag once, with values that exist."""
    return rewritten_tiff(data, {})


def rewritten_tiff(data: bytes, changes: dict[int, int]) -> bytes:
    """The same, with other values for some tags."""
    try:
        order, at, count, entries, after = _directory(data)
    except KeyError:  # BigTIFF
        return data
    tags = {tag: numbers for tag, entry in entries.items() if (numbers := _numbers(data, order, entry))}
    kept = {tag: entry for tag, entry in entries.items() if tag in _TIFF_KEPT}
    wanted = {tag: tags[tag][0] for tag in _TIFF_SINGLE if len(tags.get(tag, ())) > 1}
    wanted |= {tag: 1 for tag, known in _TIFF_VALUES.items() if tag in kept and tags.get(tag, (0,))[0] not in known}
    wanted |= changes
    if tags.get(_ROWS) == (0,):
        del kept[_ROWS]
    bits = tags.get(258, (1,))
    if _SAMPLES not in tags and len(bits) > 1:
        wanted[_SAMPLES] = len(bits)
    samples = tags.get(_SAMPLES, (wanted.get(_SAMPLES, 1),))[0]
    colours = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}.get(tags.get(_PHOTOMETRIC, (1,))[0], samples)
    if samples == colours:
        kept.pop(_EXTRA, None)
    elif samples == colours + 1 and tags.get(_EXTRA, (9,))[0] not in (0, 1, 2):
        wanted[_EXTRA] = 2  # transparency, not multiplied in
    for tag, number in wanted.items():
        kept[tag] = (
            (4, 1, struct.pack(f"{order}I", number))
            if number >= 2**16
            else ((3, 1, struct.pack(f"{order}HH", number, 0)))
        )
    body = b"".join(struct.pack(f"{order}HHI", tag, *kept[tag][:2]) + kept[tag][2] for tag in sorted(kept))
    new = struct.pack(f"{order}H", len(kept)) + body + struct.pack(f"{order}I", after if after < len(data) else 0)
    if len(new) <= 2 + 12 * count + 4:
        return data[:at] + new + data[at + len(new) :]
    starts, sizes = (tags.get(strips) or tags.get(tiles, ()) for strips, tiles in ((273, 324), (279, 325)))
    if not sizes or len(starts) != len(sizes) or any(map(len(data).__lt__, map(int.__add__, starts, sizes))):
        return data  # bytes behind it would be taken for pixels that it lacks
    padded = data + bytes(len(data) % 2)
    return padded[:4] + struct.pack(f"{order}I", len(padded)) + padded[8:] + new
