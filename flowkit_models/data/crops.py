"""Training data: endless random crops of photographs with their LR images, the i-th a pure function of (seed, i)."""

import math
import operator
import os
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from flowkit_models.data.degradation import Bicubic, Degradation
from flowkit_models.data.image_cache import Decoded, ImageFile
from flowkit_models.data.layouts import hr_images
from flowkit_models.data.pairs import PairFiles, excess
from flowkit_models.data.shards import is_sharded, shard_hint, shard_images
from flowkit_models.images.convert import to_float
from flowkit_models.images.image_file import ImageError
from flowkit_models.images.resize import bicubic_to

Photos: TypeAlias = Mapping[str, Tensor] | str | os.PathLike[str]
"""Images in memory by name, uint8 (3, H, W); a folder of image files, searched with what is below it; or shards, see
`flowkit_models.data.shards`."""

Weights: TypeAlias = Mapping[str, float] | Callable[[str], float] | None
"""How often to see an image, 1 for those that a mapping doesn't name; or a function of its name."""

Augment: TypeAlias = Literal["flip", "flips", "colours", "none"]
"""flip: left-right. flips: left-right, upside down, transposed. colours: flips, and negatives. Each with probability
1/2; in colours the channels also come in any order."""

MEMORY = 2 << 30
"""Default bytes for decoded files."""

_STORED, _UNROUNDED = Bicubic(), Bicubic(rounded=False)
_Group: TypeAlias = tuple[ImageFile | Tensor, ...]


class _Crops(Dataset[tuple[Tensor, Tensor]]):
    """Base of both datasets: the choice of image, position and flips, and the files in memory.

    Sample i draws from a generator of its own, numpy's Philox with the key (seed, i): it does not matter which
    process makes it, nor what was made before.

    Attributes:
        names: of the images in use.
    """

    def __init__(
        self,
        images: Mapping[str, tuple[tuple[int, int], _Group]],
        size: int,
        scale: int,
        augment: Augment,
        weights: Weights,
        seed: int,
        memory: int,
    ) -> None:
        if augment not in get_args(Augment):
            raise ValueError(f'augment is "flip", "flips", "colours" or "none", got {augment!r}')
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed is a whole number from 0 to 2⁶⁴ - 1, got {seed}")
        if isinstance(weights, Mapping) and (unknown := weights.keys() - images.keys()):
            raise ValueError(f"weights for unknown images {sorted(unknown)}")
        found = {name: weights(name) if callable(weights) else (weights or {}).get(name, 1.0) for name in images}
        chances = [height * width * found[name] for name, ((height, width), _) in images.items()]
        if not chances or min(chances) < 0 or not 0 < sum(chances) < math.inf:
            other = {name: weight for name, weight in found.items() if weight != 1}
            raise ValueError(f"weights must be finite, not negative and not all zero, got {other}")
        self.names = list(images)
        self.size, self.scale, self.augment, self.seed = size, scale, augment, seed
        self._chances = np.cumsum(chances)
        self._told = torch.zeros(len(images), dtype=torch.bool).share_memory_()
        self._images = Decoded([group for _, group in images.values()], memory)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Sample `index`: hr (3, size, size) and lr (3, size / scale, size / scale), float32.

        Raises:
            IndexError: if it is negative.
            ImageError: if no image can be read any more.
        """
        index = operator.index(index)
        if index < 0:
            raise IndexError(f"samples are counted from 0, got {index}")
        generator = self._generator(index)
        return self._sample(self._draw(generator), generator, index)

    def fingerprint(self) -> dict[str, str]:
        """Digests of the images' contents, LR files included, by name, in the order that the draws count them."""
        return dict(zip(self.names, self._images.digests(), strict=True))

    def part(self, index: int, size: int) -> Tensor:
        """Part `index` of the HR images, of another size: float32 (3, h, w), sides `size` or less in small images."""
        generator = self._generator(index)
        hr = self._draw(generator)[0]
        top, left = (int(generator.integers(max(0, side - size) + 1)) for side in hr.shape[1:])
        return to_float(hr[:, top : top + size, left : left + size])

    def _generator(self, index: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=np.array([self.seed, index], dtype=np.uint64)))

    @abstractmethod
    def _sample(self, images: tuple[Tensor, ...], generator: np.random.Generator, index: int) -> tuple[Tensor, Tensor]:
        """A crop of a chosen image, and its LR image."""

    def _draw(self, generator: np.random.Generator) -> tuple[Tensor, ...]:
        """A random image. One that turns out damaged is passed over with a warning, as if its weight were 0."""
        for _ in range(100):
            chosen = np.searchsorted(self._chances, generator.random() * self._chances[-1], side="right")
            try:
                return self._images[int(chosen)]
            except ImageError as error:
                if not self._told[chosen]:  # by any of the workers
                    self._told[chosen] = True
                    warnings.warn(f"skipped {error}", stacklevel=3)
        raise ImageError("none of 100 images drawn in a row can be read: see the warnings before this")

    def _flips(self, generator: np.random.Generator) -> "_Flips":
        count = {"none": 0, "flip": 1, "flips": 3, "colours": 3}[self.augment]
        flips = _Flips(*(bool(generator.integers(2)) for _ in range(count)))
        if self.augment == "colours":
            flips.channels, flips.negative = generator.permutation(3).tolist(), bool(generator.integers(2))
        return flips


class _Flips:
    """Flips of one sample, and what becomes of its colours; called on its images."""

    def __init__(self, sideways: bool = False, over: bool = False, transpose: bool = False) -> None:
        self.dims = [dim for dim, turned in ((1, over), (2, sideways)) if turned]
        self.transpose = transpose
        self.channels, self.negative = [0, 1, 2], False

    def __call__(self, x: Tensor) -> Tensor:
        x = x.flip(self.dims)[self.channels]
        if self.negative:
            x = ~x if x.dtype == torch.uint8 else 1 - x
        return (x.mT if self.transpose else x).contiguous()


class RandomCrops(_Crops):
    """Crops of HR photographs anywhere, LR made from the crop itself: how HCFlow and SRFlow train for SR.

    LR at the rim of a crop therefore sees mirrored pixels, not the photograph beyond. Photographs are chosen with
    probability proportional to pixels × weight.

    A map-style dataset without a length: any index from 0 on is a sample, a pure function of (seed, index).

    Args:
        photos: images by name, or a folder. In a folder, files that cannot be read or are smaller than a crop are
            left out with a UserWarning. Folders of sub-images (`flowkit prepare sub-images`) decode fastest.
        size: side of an HR crop in pixels, a multiple of the degradation's scale.
        degradation: makes LR from the uint8 HR crop; default `Bicubic(4)`.
        augment: "flip" (left-right, as published), "flips" (upside down and transposed too), "colours" (that, channels
            in any order, and every other crop as a negative) or "none"; done before the degradation.
        smallest: each crop is of the photograph made smaller, height and width by a factor each from U(smallest, 1), as
            far as the crop still fits; in (0, 1], 1: as it is. More detail in a pixel, and more pictures of a small
            collection.
        weights: see `Weights`. Names in a folder are paths relative to it, those of pairs are the pairs'.
        seed: of all draws, 0 … 2⁶⁴ - 1.
        memory: bytes for decoded files, see `Decoded`.

    Samples are (hr, lr), float32 in [0, 1] (an unrounded degradation may leave it a little).

    Raises:
        ImageError: if the folder is missing or no file in it can be used.
        ValueError: if an argument does not fit, or photographs given by name are smaller than a crop.

    >>> data = RandomCrops({"grey": torch.full((3, 40, 50), 51, dtype=torch.uint8)}, 16)
    >>> hr, lr = data[123_456]
    >>> hr.shape, lr.shape, lr.unique()
    (torch.Size([3, 16, 16]), torch.Size([3, 4, 4]), tensor([0.2000]))
    """

    def __init__(
        self,
        photos: Photos,
        size: int,
        degradation: Degradation = _STORED,
        *,
        augment: Augment = "flip",
        smallest: float = 1.0,
        weights: Weights = None,
        seed: int = 0,
        memory: int = MEMORY,
    ) -> None:
        _check_size(size, degradation.scale)
        if not 0 < smallest <= 1:
            raise ValueError(f"smallest is a factor above 0 and at most 1, got {smallest}")
        self.degradation, self.smallest = degradation, smallest
        super().__init__(_photos(photos, size), size, degradation.scale, augment, weights, seed, memory)

    def _sample(self, images: tuple[Tensor, ...], generator: np.random.Generator, index: int) -> tuple[Tensor, Tensor]:
        full, sides = images[0].shape[1:], [self.size] * 2
        if self.smallest < 1:
            sides = [min(round(self.size / generator.uniform(self.smallest, 1)), side) for side in full]
        top, left = (int(generator.integers(whole - side + 1)) for whole, side in zip(full, sides, strict=True))
        crop = self._flips(generator)(images[0][:, top : top + sides[0], left : left + sides[1]])
        if max(sides) > self.size:
            crop = bicubic_to(crop, (self.size, self.size))
        return to_float(crop), _float(self.degradation(crop, generator))


class AnyScaleCrops(_Crops):
    """Crops for models of any scale: a factor from U(1, largest) for each batch, LR crops of one size (LIIF, LINF).

    The HR crop has ⌊side · factor⌉ pixels a side, and LR is made from it, rounded to 8 bits, as by `RandomCrops`.

    Args:
        photos: as for `RandomCrops`; of `side · largest` pixels at least.
        side: of the LR crops.
        largest: the largest factor.
        batch: samples that share a factor: those of a training step, of all processes.
        augment: as for `RandomCrops`.
        weights: as there.
        seed: as there.
        memory: as there.

    Raises:
        ImageError: as `RandomCrops`.
        ValueError: if an argument does not fit.

    >>> data = AnyScaleCrops({"grey": torch.full((3, 40, 50), 51, dtype=torch.uint8)}, 8, 4, batch=2)
    >>> [data[i][0].shape[1] for i in range(6)], data[0][1].shape
    ([16, 16, 11, 11, 22, 22], torch.Size([3, 8, 8]))
    """

    def __init__(
        self,
        photos: Photos,
        side: int,
        largest: int,
        batch: int,
        *,
        augment: Augment = "flip",
        weights: Weights = None,
        seed: int = 0,
        memory: int = MEMORY,
    ) -> None:
        if min(side, largest, batch) < 1:
            raise ValueError(f"side, largest and batch are at least 1, got {side}, {largest} and {batch}")
        self.largest, self.batch = largest, batch
        super().__init__(_photos(photos, side * largest), side, largest, augment, weights, seed, memory)

    def _sample(self, images: tuple[Tensor, ...], generator: np.random.Generator, index: int) -> tuple[Tensor, Tensor]:
        key = np.array([self.seed, index // self.batch], dtype=np.uint64)
        of_batch = np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, 1], dtype=np.uint64)))
        side = round(self.size * of_batch.uniform(1, self.largest))
        top, left = (int(generator.integers(full - side + 1)) for full in images[0].shape[1:])
        crop = self._flips(generator)(images[0][:, top : top + side, left : left + side])
        return to_float(crop), to_float(bicubic_to(crop, (self.size, self.size)))


class AlignedCrops(_Crops):
    """The same window of an HR image and of its whole LR image: how IRN and HCFlow for rescaling train.

    With LR files, their pixels are used (HCFlow). Without, LR is the bicubic of the *whole* photograph, cropped at
    the bottom and right to multiples of the scale: only the window is computed, with the margin that the kernel
    reaches, which gives the same bits. Unrounded, it is IRN's reference. (IRN's official training resizes a
    photograph that is no multiple of the scale; here it is cropped.)

    The LR position is drawn first; flips are the same for both. Everything else is as in `RandomCrops`.

    Args:
        images: pairs from `find_pairs`; or photographs as in `RandomCrops`, HR alone. Files that cannot be read or are
            smaller than a crop are left out with a UserWarning.
        size: side of an HR crop in pixels, a multiple of the scale.
        reference: the scale, and the bicubic where there is no LR file; default `Bicubic(4, rounded=False)`.
        augment: "flips" (as published), or as for `RandomCrops`.
        weights: see `RandomCrops`.
        seed: of all draws, 0 … 2⁶⁴ - 1.
        memory: bytes for decoded files, see `Decoded`.

    Samples are (hr, lr), float32 in [0, 1] (LR may leave it a little where the reference is not rounded).

    Raises:
        ImageError: if the sizes of a pair do not belong together, or no image can be used.
        ValueError: if an argument does not fit.
    """

    def __init__(
        self,
        images: Sequence[PairFiles] | Photos,
        size: int,
        reference: Bicubic = _UNROUNDED,
        *,
        augment: Augment = "flips",
        weights: Weights = None,
        seed: int = 0,
        memory: int = MEMORY,
    ) -> None:
        _check_size(size, reference.scale)
        self.reference = reference
        if isinstance(images, Mapping | str | os.PathLike):
            given = _photos(images, size)
        else:
            given = _pairs(images, size, reference.scale)
        super().__init__(given, size, reference.scale, augment, weights, seed, memory)

    def _sample(self, images: tuple[Tensor, ...], generator: np.random.Generator, index: int) -> tuple[Tensor, Tensor]:
        hr, scale, side = images[0], self.scale, self.size // self.scale
        height, width = images[1].shape[1:] if len(images) == 2 else (n // scale for n in hr.shape[1:])
        top, left = int(generator.integers(height - side + 1)), int(generator.integers(width - side + 1))
        crop = hr[:, top * scale : (top + side) * scale, left * scale : (left + side) * scale]
        if len(images) == 2:
            lr = images[1][:, top : top + side, left : left + side]
        else:
            # an LR pixel sees HR pixels up to 1.5 LR pixels beyond its own
            above, before = max(top - 2, 0), max(left - 2, 0)
            below, after = min(top + side + 2, height), min(left + side + 2, width)
            window = hr[:, above * scale : below * scale, before * scale : after * scale]
            top, left = top - above, left - before
            lr = self.reference(window, generator)[:, top : top + side, left : left + side]
        flips = self._flips(generator)
        return to_float(flips(crop)), _float(flips(lr))


def _check_size(size: int, scale: int) -> None:
    if size < 1 or size % scale:
        raise ValueError(f"size {size} must be a multiple of scale {scale}")


def _float(x: Tensor) -> Tensor:
    return to_float(x) if x.dtype == torch.uint8 else x.float()


def _photos(photos: Photos, size: int) -> dict[str, tuple[tuple[int, int], _Group]]:
    """Sizes and sources of photographs by name."""
    if isinstance(photos, Mapping):
        if not photos:
            raise ValueError("no photos to take crops from")
        for name, photo in photos.items():
            if photo.dtype != torch.uint8 or photo.ndim != 3 or len(photo) != 3:
                raise ValueError(f"photos are uint8 (3, H, W), {name} is {photo.dtype} {tuple(photo.shape)}")
        if small := [name for name, photo in photos.items() if min(photo.shape[1:]) < size]:
            raise ValueError(f"crops of {size} pixels do not fit into photos {small}: leave them out")
        return {name: ((photo.shape[1], photo.shape[2]), (photo,)) for name, photo in photos.items()}
    if is_sharded(photos):
        return {name: ((image.height, image.width), (image,)) for name, image in shard_images(photos, size).items()}
    found: dict[str, tuple[tuple[int, int], _Group]] = {}
    with shard_hint(photos):
        files = hr_images(Path(photos))
    for path in files:
        if file := _usable(path, size):
            found[path.relative_to(photos).as_posix()] = ((file.height, file.width), (file,))
    if not found:
        raise ImageError(f"{photos}: none of its images can be used (readable, {size} pixels a side)")
    return found


def _pairs(pairs: Sequence[PairFiles], size: int, scale: int) -> dict[str, tuple[tuple[int, int], _Group]]:
    """The same for pairs; the size is that of the HR part that has an LR image."""
    found: dict[str, tuple[tuple[int, int], _Group]] = {}
    larger = []
    for pair in pairs:
        hr = _usable(pair.hr, size)
        lr = _usable(pair.lr, size // scale) if hr and pair.lr else None
        if hr is None or (pair.lr and lr is None):
            continue
        group: _Group = (hr,)
        height, width = hr.height // scale * scale, hr.width // scale * scale
        if lr:
            if excess(pair, (hr.height, hr.width), (lr.height, lr.width), scale):
                larger.append(pair.name)
            group, height, width = (hr, lr), lr.height * scale, lr.width * scale
        if pair.name in found:
            raise ValueError(f"two pairs are called {pair.name}: rename one")
        found[pair.name] = ((height, width), group)
    if larger:
        warnings.warn(
            f"{len(larger)} HR images ({', '.join(larger[:3])}…) are a few pixels larger than LR × {scale}: "
            "what is too much at the bottom and right is not used",
            stacklevel=3,
        )
    if not found:
        raise ImageError(f"none of {len(pairs)} pairs can be used (readable, HR {size} pixels a side)")
    return found


def _usable(path: Path, size: int) -> ImageFile | None:
    """The file, or None and a warning."""
    try:
        file = ImageFile.at(path)
    except ImageError as error:
        warnings.warn(f"skipped {error}", stacklevel=4)
        return None
    if min(file.height, file.width) < size:
        warnings.warn(f"skipped {path}: {file.height} × {file.width} is below {size} pixels", stacklevel=4)
        return None
    return file
