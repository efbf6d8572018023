"""Image files with odd metadata, made such that strict decoders take them: no byte that holds pixels is touched.

What is wrong with the pixels stays wrong, so a strict decoder still finds it.
"""

import mmap
import struct
from collections.abc import Callable, Iterator

from flowkit_models.images.png_file import upright_png

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
