"""An image that lies encoded in a shard, and what finds it there."""

import hashlib
import os
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from flowkit_models.data.image_cache import ImageFile
from flowkit_models.files import opened_system
from flowkit_models.images.formats import endings
from flowkit_models.images.image_file import ImageError, image_size, read_image

T = TypeVar("T")

HEAD = 2**18
"""Bytes of an image that are read to know its size."""


@dataclass(frozen=True)
class ShardImage(ImageFile):
    """An image in a shard; `path` is the shard's name and the image's in it.

    Attributes:
        shard: path or URL.
        length: of its bytes.
        mark: digest of bytes that were read to find it.
    """

    shard: str
    length: int
    mark: bytes

    def read(self) -> Tensor:
        """See `ImageFile`."""
        try:
            system, inner = opened_system(self.shard)
            content = self.content(system, inner)
        except (ImageError, ImportError):
            raise
        except Exception as error:  # of whatever file system
            raise ImageError(f"{self.path}: cannot be read ({_line(error)})") from None
        return self.sized(_use(content, self.path, read_image))

    def digest(self) -> bytes:
        """Digest of the length and of bytes that were read anyway: all of a large set takes too long."""
        return hashlib.blake2b(self.mark + str(self.length).encode(), digest_size=16).digest()

    @abstractmethod
    def content(self, system: Any, inner: str) -> bytes:
        """Its bytes.

        Args:
            system: the shard's file system, of fsspec.
            inner: the shard's path in it.
        """


@dataclass
class Index:
    """The images of a shard, and a line for each that can't be used."""

    images: list[ShardImage] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, path: Path, head: bytes, whole: Callable[[], bytes], make: Callable[[int, int], ShardImage]) -> None:
        """Adds an image if its size can be told.

        Args:
            path: the shard's name and the image's in it.
            head: its first bytes, as a rule enough.
            whole: reads all of them.
            make: gives it a height and a width.
        """
        try:
            try:
                size = _use(head, path, image_size)
            except ImageError:  # TIFF may tell it at the end
                content = whole()
                if len(content) == len(head):
                    raise
                size = _use(content, path, image_size)
        except ImageError as error:
            self.problems.append(str(error))
        else:
            self.images.append(make(*size))


@contextmanager
def shard_errors(shard: str, kind: str) -> Iterator[None]:
    """Turns what goes wrong with a shard into an `ImageError` of one line that names it."""
    try:
        yield
    except FileNotFoundError:
        raise ImageError(f"{shard}: no such shard") from None
    except (ImageError, ImportError):
        raise
    except Exception as error:  # of the format, or of whatever file system
        raise ImageError(f"{shard}: no {kind} that can be read ({_line(error)})") from None


def mark_of(content: bytes) -> bytes:
    """Digest of bytes."""
    return hashlib.blake2b(content, digest_size=16).digest()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _use(content: bytes, name: Path, use: Callable[[Path], T]) -> T:
    """Hands an image to a function that takes a file; errors have the image's name."""
    # a file and no folder around it: some file systems take 25 ms to remove one
    handle, place = tempfile.mkstemp(suffix=name.suffix if name.suffix.lower() in endings() else "")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        return use(Path(place))
    except ImageError as error:
        raise ImageError(str(error).replace(place, str(name))) from None
    finally:
        Path(place).unlink()
