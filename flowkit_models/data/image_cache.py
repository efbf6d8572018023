"""Image files, decoded when they are needed and kept in memory up to a number of bytes."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import get_worker_info

from flowkit_models.images.image_file import ImageError, image_size, read_image

_WHOLE, _PIECE = 1 << 24, 1 << 16


@dataclass(frozen=True)
class ImageFile:
    """An image file whose size is known without decoding it: height and width in pixels, upright."""

    path: Path
    height: int
    width: int

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> "ImageFile":
        """Reads the head of the file; raises ImageError as `image_size` does."""
        return cls(Path(path), *image_size(path))

    def read(self) -> Tensor:
        """The pixels, uint8 (3, height, width); raises ImageError as `read_image` does, or if the size is another."""
        return self.sized(read_image(self.path))

    def sized(self, x: Tensor) -> Tensor:
        """The pixels; raises ImageError if they are not as many as were found at first."""
        if x.shape[1:] != (self.height, self.width):
            raise ImageError(f"{self.path}: {x.shape[1]} × {x.shape[2]}, but was {self.height} × {self.width}")
        return x

    def digest(self) -> bytes:
        """BLAKE2b digest (16 bytes) of the file; of one above 16 MB, of its length and 64 pieces spread over it.

        Raises:
            OSError: if the file can't be read.
        """
        found = hashlib.blake2b(digest_size=16)
        with self.path.open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            found.update(str(length).encode())
            pieces = [(0, length)] if length <= _WHOLE else [(i * (length - _PIECE) // 63, _PIECE) for i in range(64)]
            for start, size in pieces:
                file.seek(start)
                found.update(file.read(size))
        return found.digest()

    @property
    def nbytes(self) -> int:
        """Size in memory, decoded."""
        return 3 * self.height * self.width


class Decoded:
    """Groups of images (an HR image, or HR and LR) by index, as tuples of uint8 tensors (3, H, W).

    If all files together fit into `memory`, they are decoded now, and forked workers share them. Otherwise each
    process decodes what it needs and forgets what it used longest ago; the workers of a DataLoader share the bytes
    out among them. A pickled copy (a worker that is not forked) starts empty and does the same.

    Args:
        groups: files, or tensors, which are passed on as they are and do not count.
        memory: bytes for decoded pixels.
    """

    def __init__(self, groups: Sequence[tuple[ImageFile | Tensor, ...]], memory: int) -> None:
        if memory < 0:
            raise ValueError(f"memory is a number of bytes, got {memory}")
        self._groups, self._memory = groups, memory
        self._kept: OrderedDict[int, tuple[Tensor, ...]] = OrderedDict()
        self._bytes = 0
        files = [i for i, group in enumerate(groups) if _nbytes(group)]
        if files and sum(_nbytes(groups[i]) for i in files) <= memory:
            with ThreadPoolExecutor() as pool:
                for i, group in zip(files, pool.map(self._try, files), strict=True):
                    if group is not None:
                        self._keep(i, group)

    def digests(self) -> list[str]:
        """Digests of the groups' files and tensors: other ones if a photograph is replaced, whatever its date."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(_digest, self._groups))

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """The images of a group; raises ImageError if a file turns out damaged."""
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        images = self._read(index)
        if _nbytes(self._groups[index]):
            self._keep(index, images)
        return images

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict(), "_bytes": 0}

    def _read(self, index: int) -> tuple[Tensor, ...]:
        return tuple(image if isinstance(image, Tensor) else image.read() for image in self._groups[index])

    def _try(self, index: int) -> tuple[Tensor, ...] | None:
        """None for what is damaged: whoever asks for it will hear so."""
        try:
            return self._read(index)
        except ImageError:
            return None

    def _keep(self, index: int, images: tuple[Tensor, ...]) -> None:
        worker = get_worker_info()
        limit = self._memory // (worker.num_workers if worker else 1)
        self._kept[index] = images
        self._bytes += _nbytes(self._groups[index])
        while self._bytes > limit:
            oldest, _ = self._kept.popitem(last=False)
            self._bytes -= _nbytes(self._groups[oldest])


def _digest(group: tuple[ImageFile | Tensor, ...]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for image in group:
        if isinstance(image, ImageFile):
            found.update(image.digest())
        else:
            found.update(f"{tuple(image.shape)}".encode() + image.numpy().tobytes())
    return found.hexdigest()


def _nbytes(group: tuple[ImageFile | Tensor, ...]) -> int:
    return sum(image.nbytes for image in group if isinstance(image, ImageFile))
