"""Photographs to train and to test on, and random crops of them as training batches."""

import importlib.util
import math
import os
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from flowkit_models.bicubic import bicubic_resize
from flowkit_models.images import ImageError, list_images, read_image, to_float

# where the wheels of scikit-image and scikit-learn keep their photographs
_TRAINING = {
    "china": "sklearn/datasets/images/china.jpg",
    "flower": "sklearn/datasets/images/flower.jpg",
    "motorcycle_left": "skimage/data/motorcycle_left.png",
    "motorcycle_right": "skimage/data/motorcycle_right.png",
    "rocket": "skimage/data/rocket.jpg",
    "retina": "skimage/data/retina.jpg",
    "hubble": "skimage/data/hubble_deep_field.jpg",
}
_TEST = {name: f"skimage/data/{name}.png" for name in ("astronaut", "chelsea", "coffee")}


def bundled_photos() -> dict[str, Tensor]:
    """The colour photographs inside the scikit-image and scikit-learn wheels that are free for training.

    Nothing is downloaded: those that a release of the wheels does not carry are left out. `retina` and
    `hubble` look unlike everyday photographs: give them a small weight in `Crops`.

    Returns:
        uint8 images (3, H, W) by name.

    Raises:
        ImportError: if a wheel is not installed; the message says how to install both.
    """
    return _from_wheels(_TRAINING)


def test_photos() -> dict[str, Tensor]:
    """Three photographs for tests and demonstrations, cropped at the bottom and right to multiples of 8.

    Returns:
        uint8 images (3, H, W): astronaut, chelsea (a cat) and coffee; none is among `bundled_photos`.

    Raises:
        ImportError: if scikit-image is not installed.
    """
    photos = _from_wheels(_TEST)
    return {name: x[:, : x.shape[1] // 8 * 8, : x.shape[2] // 8 * 8] for name, x in photos.items()}


# pytest would take the imported function for a test
test_photos.__test__ = False  # type: ignore[attr-defined]


def _from_wheels(places: dict[str, str]) -> dict[str, Tensor]:
    # The files are read where they lie: the packages' own loaders may go to the network.
    files = {name: _wheel_folder(place.split("/")[0]) / place for name, place in places.items()}
    return {name: read_image(file) for name, file in files.items() if file.is_file()}


def _wheel_folder(package: str) -> Path:
    """The folder in which a package is installed, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f'photographs come with {package}: pip install "flowkit-torch[recipes]"')
    return Path(spec.origin).parents[1]


def read_photos(folder: str | os.PathLike[str], min_size: int) -> dict[str, Tensor]:
    """Every usable image in a folder and below it, as uint8 (3, H, W) by path relative to the folder.

    A file that cannot be read, or with a side below `min_size` pixels, is skipped with a UserWarning.

    Raises:
        ImageError: if the folder is missing, or none of its images can be used.
    """
    photos = {}
    for path in list_images(folder):
        try:
            photo = read_image(path)
        except ImageError as error:
            warnings.warn(f"skipped {error}", stacklevel=2)
            continue
        if min(photo.shape[1:]) < min_size:
            height, width = photo.shape[1:]
            warnings.warn(f"skipped {path}: {height} × {width} is below {min_size} pixels", stacklevel=2)
            continue
        photos[path.relative_to(folder).as_posix()] = photo
    if not photos:
        raise ImageError(f"{folder}: none of its images can be used (readable, {min_size} pixels a side)")
    return photos


class Crops(Iterator[tuple[Tensor, Tensor]]):
    """Endless training batches: random crops of photographs, and their bicubic LR images.

    Each crop is flipped left-right, flipped upside down and transposed with probability 1/2 each. LR is made
    from the 8-bit crop and rounded to 8 bits. The generator's state is the whole state of the iterator.

    Args:
        photos: uint8 images (3, H, W) by name, each at least `size` on both sides.
        size: side of an HR crop in pixels, a multiple of `scale`.
        batch: crops per batch.
        scale: HR size over LR size.
        generator: source of all randomness, on the CPU.
        weights: how often to see some photographs: a photograph is chosen with probability proportional to
            its number of pixels times its weight, 1 if it has none here.

    Yields hr (batch, 3, size, size) and lr (batch, 3, size / scale, size / scale), float32 in [0, 1].

    Raises:
        ValueError: if an argument does not fit, with the reason.
    """

    def __init__(
        self,
        photos: dict[str, Tensor],
        size: int,
        batch: int,
        scale: int,
        generator: torch.Generator,
        *,
        weights: dict[str, float] | None = None,
    ) -> None:
        weights = weights or {}
        if min(size, batch, scale) < 1 or size % scale:
            raise ValueError(f"size {size} must be a multiple of scale {scale}, and batch {batch} at least 1")
        if not photos:
            raise ValueError("no photos to take crops from")
        small = [name for name, photo in photos.items() if min(photo.shape[1:]) < size]
        if small:
            raise ValueError(f"crops of {size} pixels do not fit into photos {small}: leave them out")
        if unknown := weights.keys() - photos.keys():
            raise ValueError(f"weights for unknown photos {sorted(unknown)}; there are {sorted(photos)}")
        chances = [photo[0].numel() * weights.get(name, 1.0) for name, photo in photos.items()]
        if min(chances) < 0 or not 0 < sum(chances) < math.inf:
            raise ValueError(f"weights must be finite, not negative and not all zero, got {weights}")
        self.photos = list(photos.values())
        self.chances = torch.tensor(chances, dtype=torch.float64)
        self.size, self.batch, self.scale, self.generator = size, batch, scale, generator

    def __next__(self) -> tuple[Tensor, Tensor]:
        """The next batch: hr and lr."""
        chosen = torch.multinomial(self.chances, self.batch, replacement=True, generator=self.generator)
        hr = torch.stack([self._crop(self.photos[i]) for i in chosen.tolist()])
        return to_float(hr), to_float(bicubic_resize(hr, Fraction(1, self.scale)))

    def _crop(self, photo: Tensor) -> Tensor:
        top, left = (self._below(side - self.size + 1) for side in photo.shape[1:])
        crop = photo[:, top : top + self.size, left : left + self.size]
        crop = crop.flip([dim for dim in (1, 2) if self._below(2)])
        return crop.mT if self._below(2) else crop

    def _below(self, end: int) -> int:
        return int(torch.randint(end, (), generator=self.generator))
