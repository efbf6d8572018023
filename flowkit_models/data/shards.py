"""Photographs in shards: tar archives as WebDataset writes them, on this machine or at a URL, read at random.

An image is a range of bytes of its shard, so that sample i stays a function of i, and a resumed run goes on with the
very samples that it would have seen.
"""

import hashlib
import os
import re
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from torch import Tensor

from flowkit_models.data.image_cache import ImageFile
from flowkit_models.files import opened_system
from flowkit_models.images.formats import endings, left_out
from flowkit_models.images.image_file import ImageError, image_size, read_image

T = TypeVar("T")

HEAD = 2**18
"""Bytes of an image that are read to know its size."""

_PACKED = {".gz": "gunzip", ".bz2": "bunzip2", ".xz": "unxz", ".zst": "unzstd"}
_MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz", b"(\xb5/\xfd": ".zst"}
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def is_sharded(data: str | os.PathLike[str]) -> bool:
    """Tells whether training data are shards: a path or URL that ends in .tar, perhaps with * or {000..127}.

    Compressed ones count, for the message that they can't be read at random.
    """
    return os.fspath(data).lower().endswith((".tar", ".tgz", *(f".tar{ending}" for ending in _PACKED)))


@dataclass(frozen=True)
class ShardImage(ImageFile):
    """An image in a shard; `path` is the shard's name and the image's in it.

    Attributes:
        shard: path or URL.
        start: of its bytes in the shard.
        length: of its bytes.
        head: digest of the first of them.
    """

    shard: str
    start: int
    length: int
    head: bytes

    def read(self) -> Tensor:
        """See `ImageFile`."""
        return self.sized(_use(self._bytes(), self.path, read_image))

    def digest(self) -> bytes:
        """Digest of the length and of the first bytes, which were read anyway: all of a large set takes too long."""
        return hashlib.blake2b(self.head + str(self.length).encode(), digest_size=16).digest()

    def _bytes(self) -> bytes:
        try:
            system, inner = opened_system(self.shard)
            content: bytes = system.cat_file(inner, start=self.start, end=self.start + self.length)
        except Exception as error:  # of whatever file system
            raise ImageError(f"{self.path}: cannot be read ({' '.join(str(error).split())})") from None
        if len(content) != self.length:
            raise ImageError(f"{self.path}: truncated, the shard was longer")
        return content


def shard_images(data: str | os.PathLike[str], size: int) -> dict[str, ShardImage]:
    """The images of shards by SHARD.tar/NAME, in order. Heads alone are read, of each shard in a thread.

    Images that can't be used, or are smaller than `size` pixels a side, are left out with a UserWarning.

    Args:
        data: path or URL of a shard, or of several: with *, or a range {000..127}.
        size: side of a crop in pixels.

    Raises:
        ImageError: if there is no such shard, one can't be read, or none of the images can be used.
    """
    shards = find_shards(os.fspath(data))
    found: dict[str, ShardImage] = {}
    with ThreadPoolExecutor(min(16, len(shards))) as pool:
        for images, problems in pool.map(_indexed, shards):
            for problem in problems:
                warnings.warn(f"skipped {problem}", stacklevel=5)
            for image in images:
                name = image.path.as_posix()
                if name in found:
                    raise ImageError(f"{name} is there twice: give shards, and images in them, names of their own")
                if min(image.height, image.width) < size:
                    warnings.warn(
                        f"skipped {name}: {image.height} × {image.width} is below {size} pixels", stacklevel=5
                    )
                else:
                    found[name] = image
    if not found:
        raise ImageError(f"{os.fspath(data)}: none of its images can be used (readable, {size} pixels a side)")
    return found


def find_shards(data: str) -> list[str]:
    """The shards that a path or URL with * or {000..127} stands for.

    >>> find_shards("s3://photos/{08..10}.tar")
    ['s3://photos/08.tar', 's3://photos/09.tar', 's3://photos/10.tar']

    Raises:
        ImageError: if there is none.
    """
    data = re.sub(r"^(\w+):/(?=[^/])", r"\1://", data)  # what pathlib makes of a URL
    if span := _RANGE.search(data):
        first, last = span.groups()
        numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
        found = [shard for number in numbers for shard in find_shards(_RANGE.sub(number, data, count=1))]
        if not found:
            raise ImageError(f"{data}: no such shards")
        return found
    if "*" not in data:
        return [data]
    try:
        system, inner = opened_system(data)
        found = sorted(system.glob(inner))
    except Exception as error:  # of whatever file system
        raise ImageError(f"{data}: cannot be read ({' '.join(str(error).split())})") from None
    if not found:
        raise ImageError(f"{data}: no such shards")
    return [system.unstrip_protocol(name) if "://" in data else name for name in found]


def _indexed(shard: str) -> tuple[list[ShardImage], list[str]]:
    """The images of a shard, and a line for each that can't be used."""
    images, problems = [], []
    name = PurePosixPath(shard).name
    try:
        system, inner = opened_system(shard)
        with system.open(inner, "rb") as file:
            start = file.read(8)
        for magic, ending in _MAGIC.items():
            if start.startswith(magic):
                raise ImageError(
                    f"{shard}: is compressed, and images are read at random: unpack it to a plain .tar "
                    f"({_PACKED[ending]}); photographs hardly get smaller by it"
                )
        with system.open(inner, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in _pictures(archive):
                file.seek(member.offset_data)
                head = file.read(min(member.size, HEAD))
                path = Path(name, member.name.lstrip("/"))
                digest = hashlib.blake2b(head, digest_size=16).digest()
                try:
                    height, width = _use(head, path, image_size)
                except ImageError as error:
                    problems.append(str(error))
                    continue
                images.append(ShardImage(path, height, width, shard, member.offset_data, member.size, digest))
    except FileNotFoundError:
        raise ImageError(f"{shard}: no such shard") from None
    except ImageError:
        raise
    except Exception as error:  # of tar, or of whatever file system
        raise ImageError(f"{shard}: no tar archive that can be read ({' '.join(str(error).split())})") from None
    return images, problems


def _pictures(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        parts = PurePosixPath(member.name)
        if member.isreg() and parts.suffix.lower() in endings() and not any(left_out(part) for part in parts.parts):
            yield member


def _use(content: bytes, name: Path, use: Callable[[Path], T]) -> T:
    """Hands an image to a function that takes a file; errors have the image's name."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"image{name.suffix}")  # its own may be longer than this machine's may be
        file.write_bytes(content)
        try:
            return use(file)
        except ImageError as error:
            raise ImageError(str(error).replace(str(file), str(name))) from None
