"""Provenance of pictures: the note in their metadata that flowkit made them, and which model's downscaling."""

import mmap
import re
from dataclasses import replace
from pathlib import Path

from flowkit_models.images.photo_file import Header
from flowkit_models.images.png_file import PNG_NOTE

_NAMESPACE = "urn:flowkit:origin"
LATENTS_NOTE = "flowkit_encoded"
"""Key of the note in files of `flowkit encode` that says what they are."""
_NOTE = re.compile(rb'<rdf:Description[^>]*xmlns:flowkit="urn:flowkit:origin"[^>]*/>')
_MADE_BY = re.compile(rb'flowkit:downscaledBy="([0-9a-f]{64})"')
_EMPTY = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def signed(header: Header, checksum: str | None) -> Header:
    """A header whose XMP packet says that the model with this checksum made the picture by downscaling.

    XMP, because all formats that are written keep it. What else is in the packet stays.

    Args:
        header: of the picture.
        checksum: of the model; None: no note of flowkit, and an old one is taken out.
    """
    packet = header.metadata.get("xmp-data", b"")
    packet = _NOTE.sub(b"", packet if isinstance(packet, bytes) else packet.encode())
    if checksum is not None:
        packet = _noted(packet if b"</rdf:RDF>" in packet else _EMPTY, f'downscaledBy="{checksum}"')
    others = {name: value for name, value in header.metadata.items() if name != "xmp-data"}
    return replace(header, metadata={**others, "xmp-data": packet} if packet not in (b"", _EMPTY) else others)


def marked(header: Header) -> Header:
    """A header that says that flowkit made the picture: PNG in a chunk of its own, the others in their XMP packet.

    A packet that can't be read is left as it is, and so is one that says it already.
    """
    if header.format == "png":
        return replace(header, metadata={**header.metadata, PNG_NOTE: _NAMESPACE})
    packet = header.metadata.get("xmp-data", _EMPTY)
    packet = packet if isinstance(packet, bytes) else packet.encode()
    if b"</rdf:RDF>" not in packet or _NAMESPACE.encode() in packet:
        return header
    return replace(header, metadata={**header.metadata, "xmp-data": _noted(packet, 'made="true"')})


def _noted(packet: bytes, what: str) -> bytes:
    note = f'<rdf:Description rdf:about="" xmlns:flowkit="{_NAMESPACE}" flowkit:{what}/>'
    return packet.replace(b"</rdf:RDF>", note.encode() + b"</rdf:RDF>", 1)


def made_here(path: Path) -> bool:
    """True for a file of flowkit: a picture with the note of `signed` or `marked`, or latents of `encode`."""
    if not path.is_file():  # opening a pipe would wait for who writes into it
        return False
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return any(content.find(note.encode()) >= 0 for note in (_NAMESPACE, LATENTS_NOTE))
    except (OSError, ValueError):  # ValueError: an empty file
        return False


def noted_maker(path: Path) -> str | None:
    """`made_by` of a file, without decoding it."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = _MADE_BY.search(content)
            return found.group(1).decode() if found else None
    except (OSError, ValueError):  # ValueError: an empty file
        return None


def made_by(header: Header) -> str | None:
    """The checksum of the model whose downscaling made a picture, if it says so."""
    packet = header.metadata.get("xmp-data", b"")
    found = _MADE_BY.search(packet if isinstance(packet, bytes) else packet.encode())
    return found.group(1).decode() if found else None
