"""Files that are no pictures to read, by their first bytes or tags: an error should name what they are."""

import re
from collections.abc import Mapping

_KINDS = [
    (rb"....ftyp(isom|iso\d|mp4.|M4[AVP] |avc1|3g[p2].|qt  |dash|MSNV)", "a video"),
    (rb"....ftypcrx ", "a raw photograph of a camera (CR3)"),
    (rb"....ftyp", "a file in HEIF's or MP4's container"),
    (rb"....(moov|mdat|wide|free)", "a video"),
    (rb"\x1a\x45\xdf\xa3", "a video"),
    (rb"RIFF....AVI ", "a video"),
    (rb"FUJIFILMCCD-RAW|IIRO|IIU\0", "a raw photograph of a camera"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript program"),
    (rb"%PDF", "a PDF document"),
    (rb"8BPS", "a Photoshop document"),
    (rb"gimp xcf", "a GIMP document"),
    (rb"\x76\x2f\x31\x01|#\?RADIANCE", "a picture with high dynamic range"),
    (rb"PK\x03\x04", "a ZIP archive"),
    (rb"\x1f\x8b|7z\xbc\xaf|Rar!", "an archive"),
    (rb"\x7fELF|MZ", "a program"),
    (rb"\0\x05\x16\x07", "macOS's notes on a file, not the file"),
    (rb"version https:/", "a pointer of Git LFS: fetch the file with git lfs pull"),
    (rb"(?i)\s*(<!doctype html|<html)", "a web page"),
    (rb"\s*(<\?xml|<svg)", "a drawing (SVG) or another XML file"),
]


def kind_of(start: bytes) -> str | None:
    """Kind of a file that is no picture of ours, in words, by its first 16 bytes; None: unknown.

    >>> kind_of(b"%!PS-Adobe-3.0 EP")
    'a PostScript program'
    """
    return next((what for pattern, what in _KINDS if re.match(pattern, start, re.DOTALL)), None)


def raw_kind(tags: Mapping[int, tuple[int, ...]], behind_head: bytes) -> str | None:
    """Kind of a TIFF file that holds a camera's raw data and only a small picture beside it; None: a picture.

    Args:
        tags: of its first directory.
        behind_head: its bytes 8 and 9.
    """
    if 50706 in tags:
        return "a raw photograph (DNG)"
    preview = tags.get(254, (0,))[0] == 1 and 330 in tags
    return "a raw photograph of a camera" if behind_head == b"CR" or preview else None


def stored_as_ycc(tags: Mapping[int, tuple[int, ...]]) -> bool:
    """True if a TIFF file holds luma and chroma, not packed as JPEG: decoders take them for RGB."""
    return tags.get(262) == (6,) and tags.get(259, (1,))[0] not in (6, 7)
