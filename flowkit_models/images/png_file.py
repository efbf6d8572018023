"""PNG files chunk by chunk: texts, XMP and EXIF, which decoders look for in one place or encoding. No pixel is touched.

Texts are metadata called "png-comment-0-KEYWORD", "png-comment-1-KEYWORD", …, as libvips calls them, in any language:
libvips writes UTF-8 where the standard has Latin-1. XMP, "xmp-data", is a text, too, stored unpacked, as its standard
has it, so that programs find it that know no PNG.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import IO

TEXT_PREFIX = "png-comment-"
PNG_NOTE = "png-note"
"""Metadata for a chunk of flowkit's own, flKt, which other programs pass over. It is written, and not read."""
MOST_TEXTS = 1000
MOST_BYTES = 2**23
"""Of one text, unpacked: a few bytes can ask for gigabytes."""
_MOST_EXIF = 2**24
"""Longest EXIF in a text, in bytes."""
_START = b"\x89PNG\r\n\x1a\n"
_HEAD = 33
"""Bytes before the first chunk that may be a text: signature and IHDR."""
_XMP = b"XML:com.adobe.xmp\0\0\0\0\0"
_OTHERS = ("XML:com.adobe.xmp", "Raw profile type ")
"""Starts of keywords that hold a packet of XMP, EXIF or IPTC, and no text."""
_RAW_EXIF = (b"Raw profile type exif\0", b"Raw profile type APP1\0")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"acTL", b"IDAT", b"IEND"}


def read_texts(file: IO[bytes]) -> dict[str, str]:
    """Texts of a PNG file, wherever in it they stand; those that are damaged or too long are left out."""
    chunks = ((kind, length) for kind, length in _chunks(file) if kind in _TEXTS and length <= MOST_BYTES)
    found = (text for kind, length in chunks if (text := _text(kind, file.read(length))) is not None)
    wanted = (pair for pair in found if not pair[0].startswith(_OTHERS))
    return {f"{TEXT_PREFIX}{i}-{keyword}": text for i, (keyword, text) in enumerate(islice(wanted, MOST_TEXTS))}


def text_chunks(metadata: Mapping[str, bytes | str]) -> bytes:
    """Chunks for texts, XMP and note in a picture's metadata: texts are tEXt if they are ASCII, else iTXt."""
    xmp, note = metadata.get("xmp-data", b""), metadata.get(PNG_NOTE, "")
    chunks = [_chunk(b"iTXt", _XMP + xmp)] if isinstance(xmp, bytes) and xmp else []
    chunks += [_chunk(b"flKt", note.encode())] if isinstance(note, str) and note else []
    for name, text in metadata.items():
        keyword = _latin(name.split("-", 3)[-1])
        if (
            not name.startswith(TEXT_PREFIX)
            or not isinstance(text, str)
            or keyword is None
            or not 1 <= len(keyword) <= 79
        ):
            continue
        kind, gap = (b"tEXt", b"\0") if text.isascii() else (b"iTXt", b"\0\0\0\0\0")
        chunks.append(_chunk(kind, keyword + gap + text.replace("\0", "").encode(errors="replace")))
    return b"".join(chunks)


def insert_chunks(file: IO[bytes], chunks: bytes) -> None:
    """Puts chunks behind the head of a PNG that was written at `len(chunks)`: only the head is moved."""
    file.seek(len(chunks))
    head = file.read(_HEAD)
    file.seek(0)
    file.write(head + chunks)


def count_frames(file: IO[bytes]) -> int:
    """Number of frames of a PNG file, which libvips doesn't tell: the acTL chunk stands before the pixels."""
    for kind, _ in _chunks(file):
        if kind == b"acTL":
            return int.from_bytes(file.read(4), "big")
        if kind in (b"IDAT", b"IEND"):
            break
    return 1


def with_exif_in_front(file: IO[bytes]) -> bytes | None:
    """`upright_png` of a file whose EXIF is behind its pixels or in a text, where decoders don't look; else None."""
    pixels = False
    for kind, length in _chunks(file):
        pixels |= kind == b"IDAT"
        if (kind == b"eXIf" and pixels) or (kind in _TEXTS and file.read(min(length, 32)).startswith(_RAW_EXIF)):
            file.seek(0)
            return upright_png(file.read())
    return None


def upright_png(data: bytes) -> bytes:
    """A PNG file with its EXIF before the pixels, wherever it was, and without texts but XMP and what is damaged."""
    exif = b""
    head: list[bytes] = []
    rest: list[bytes] = []
    file = io.BytesIO(data)
    for kind, length in _chunks(file):
        content, checksum = file.read(length), file.read(4)
        right = zlib.crc32(kind + content).to_bytes(4, "big") == checksum
        critical = not kind[0] & 32
        fine = kind in _KEPT or (kind == b"pHYs" and len(content) == 9) or (kind == b"iCCP" and _unpacks(content))
        fine &= kind != b"tRNS" or len(content) in {0: (2,), 2: (6,)}.get(data[25], range(1, 257))
        fine |= kind == b"iTXt" and content.startswith(b"XML:com.adobe.xmp\0\0")
        if critical or (right and fine):
            (head if kind == b"IHDR" else rest).append(struct.pack(">I4s", length, kind) + content + checksum)
        elif right and not exif:
            exif = content if kind == b"eXIf" else _raw_profile(kind, content)
        if kind == b"IEND":
            break
    head += [_chunk(b"eXIf", exif)] if exif else []
    return _START + b"".join(head + rest)


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Kind and length of each chunk; the file stands at the chunk's content each time."""
    at = len(_START)
    while file.seek(at) == at and len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        yield kind, length
        at += 12 + length


def _text(kind: bytes, content: bytes) -> tuple[str, str] | None:
    """Keyword and text of a chunk; None: damaged."""
    keyword, _, rest = content.partition(b"\0")
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed = rest[:1] == b"\1"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif packed:
        rest = rest[1:]
    if packed:
        unpacker = zlib.decompressobj()
        try:
            rest = unpacker.decompress(rest, MOST_BYTES)
        except zlib.error:
            return None
        if not unpacker.eof:
            return None
    return keyword.decode("latin-1"), rest.decode(*(("utf-8", "replace") if kind == b"iTXt" else ("latin-1",)))


def _unpacks(profile: bytes) -> bool:
    """True if a colour profile is whole, and no larger than the 1 MiB that Pillow takes."""
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(profile.partition(b"\0")[2][1:], 2**20)
    except zlib.error:
        return False
    return unpacker.eof


def _raw_profile(kind: bytes, content: bytes) -> bytes:
    """EXIF in a text chunk, as ImageMagick writes it: a line, the length, hexadecimal digits."""
    if kind not in (b"tEXt", b"zTXt") or not content.startswith(_RAW_EXIF):
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


def _latin(keyword: str) -> bytes | None:
    try:
        return keyword.encode("latin-1")
    except UnicodeEncodeError:
        return None


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
