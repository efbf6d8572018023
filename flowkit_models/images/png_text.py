"""Text chunks of PNG files in any language, and XMP, which is one: libvips writes UTF-8 where the standard has Latin-1.

Texts are metadata called "png-comment-0-KEYWORD", "png-comment-1-KEYWORD", …, as libvips calls them. XMP, "xmp-data",
is stored unpacked, as its standard has it, so that programs find it that know no PNG.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import IO

PREFIX = "png-comment-"
NOTE = "png-note"
"""Metadata for a chunk of flowkit's own, flKt, which other programs pass over. It is written, and not read."""
MOST_TEXTS = 1000
MOST_BYTES = 2**23
"""Of one text, unpacked: a few bytes can ask for gigabytes."""
_HEAD = 33
"""Bytes before the first chunk that may be a text: signature and IHDR."""
_XMP = b"XML:com.adobe.xmp\0\0\0\0\0"
_OTHERS = ("XML:com.adobe.xmp", "Raw profile type ")
"""Starts of keywords that hold a packet of XMP, EXIF or IPTC, and no text."""


def read_texts(file: IO[bytes]) -> dict[str, str]:
    """Texts of a PNG file, wherever in it they stand; those that are damaged or too long are left out."""
    found = (text for kind, content in _chunks(file) if (text := _text(kind, content)) is not None)
    wanted = (pair for pair in found if not pair[0].startswith(_OTHERS))
    return {f"{PREFIX}{i}-{keyword}": text for i, (keyword, text) in enumerate(islice(wanted, MOST_TEXTS))}


def text_chunks(metadata: Mapping[str, bytes | str]) -> bytes:
    """Chunks for texts, XMP and note in a picture's metadata: texts are tEXt if they are ASCII, else iTXt."""
    xmp, note = metadata.get("xmp-data", b""), metadata.get(NOTE, "")
    chunks = [_chunk(b"iTXt", _XMP + xmp)] if isinstance(xmp, bytes) and xmp else []
    chunks += [_chunk(b"flKt", note.encode())] if isinstance(note, str) and note else []
    for name, text in metadata.items():
        keyword = _latin(name.split("-", 3)[-1])
        if not name.startswith(PREFIX) or not isinstance(text, str) or keyword is None or not 1 <= len(keyword) <= 79:
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


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of the chunks that may hold a text."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"tEXt", b"zTXt", b"iTXt") and length <= MOST_BYTES:
            yield kind, file.read(length)
            file.seek(4, 1)
        else:
            file.seek(length + 4, 1)


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


def _latin(keyword: str) -> bytes | None:
    try:
        return keyword.encode("latin-1")
    except UnicodeEncodeError:
        return None


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
