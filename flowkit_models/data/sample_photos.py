"""Photographs that come with two wheels: to train on, and others to test on."""

import importlib.util
from pathlib import Path

from torch import Tensor

from flowkit_models.images.image_file import read_image

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
    `hubble` look unlike everyday photographs: give them a small weight in `RandomCrops`.

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
        raise ImportError(f'photographs come with {package}: pip install "flowkit-torch[train]"')
    return Path(spec.origin).parents[1]
