"""Images in tar archives as WebDataset writes them: each is a range of bytes of its shard."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from flowkit_models.data.shard_image import HEAD, Index, ShardImage, mark_of, shard_errors
from flowkit_models.files import opened_system
from flowkit_models.images.formats import endings, left_out
from flowkit_models.images.image_file import ImageError

PACKED = {".gz": "gunzip", ".bz2": "bunzip2", ".xz": "unxz", ".zst": "unzstd"}
"""Endings of compressed archives, and what unpacks them."""

_MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz", b"(\xb5/\xfd": ".zst"}


@dataclass(frozen=True)
class TarImage(ShardImage):
    """An image in a tar archive.

    Attributes:
        start: of its bytes in the shard.
    """

    start: int

    def content(self, system: Any, inner: str) -> bytes:
        """See `ShardImage`."""
        content: bytes = system.cat_file(inner, start=self.start, end=self.start + self.length)
        if len(content) != self.length:
            raise ImageError(f"{self.path}: truncated, the shard was longer")
        return content


def tar_index(shard: str) -> Index:
    """The images of a tar archive. Their heads alone are read.

    Raises:
        ImageError: if it is missing, compressed or no archive.
    """
    index = Index()
    with shard_errors(shard, "tar archive"):
        system, inner = opened_system(shard)
        with system.open(inner, "rb") as file:
            _check_plain(shard, file.read(8))
        with system.open(inner, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in _pictures(archive):
                _add(index, shard, member, file)
    return index


def _add(index: Index, shard: str, member: tarfile.TarInfo, file: IO[bytes]) -> None:
    path = Path(PurePosixPath(shard).name, member.name.lstrip("/"))
    head = _range(file, member.offset_data, min(member.size, HEAD))

    def make(height: int, width: int) -> ShardImage:
        return TarImage(path, height, width, shard, member.size, mark_of(head), member.offset_data)

    index.add(path, head, partial(_range, file, member.offset_data, member.size), make)


def _range(file: IO[bytes], start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)


def _check_plain(shard: str, start: bytes) -> None:
    for magic, ending in _MAGIC.items():
        if start.startswith(magic):
            raise ImageError(
                f"{shard}: is compressed, and images are read at random: unpack it to a plain .tar "
                f"({PACKED[ending]}); photographs hardly get smaller by it"
            )


def _pictures(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        parts = PurePosixPath(member.name)
        if member.isreg() and parts.suffix.lower() in endings() and not any(left_out(part) for part in parts.parts):
            yield member
