"""Pictures for the tests of the command, and looks at what it has left."""

from pathlib import Path

import numpy as np
from PIL import Image


def noise(height=12, width=10, channels=3, seed=0, dtype=np.uint8):
    """Pixels that no compression can make small, so that a cut file lacks some."""
    top = np.iinfo(dtype).max
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, top, shape, dtype, endpoint=True)


def save(path, pixels=None, **options) -> Path:
    """Writes a picture with Pillow, which knows kinds that we don't write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = noise() if pixels is None else pixels
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def tree(folder) -> list[str]:
    """All that is in a folder, hidden files too."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def opened(path) -> np.ndarray:
    """A picture's pixels, by Pillow."""
    with Image.open(path) as image:
        return np.asarray(image)
