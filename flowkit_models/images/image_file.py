"""Image files as 8-bit RGB tensors, through Pillow: reading every format, writing PNG, listing folders."""

import os
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from flowkit_models.files import atomic_path
from flowkit_models.images import formats
from flowkit_models.images.convert import to_uint8

T = TypeVar("T")

# Python's warning filters belong to the whole process: files are opened by one thread at a time, and read by many
_FILTERS = threading.Lock()
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 lie on their side


class ImageError(ValueError):
    """A file or folder of images that cannot be used: one line that names it and what is wrong."""


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Reads an image file as uint8 (3, H, W), RGB, upright.

    EXIF orientation is applied; grey, palette and CMYK become RGB; transparency is laid over white; 16-bit
    grey is scaled to 8 bits (65535 becomes 255). Of an animation, the first picture is read.

    Raises:
        ImageError: if the file is missing, empty, a folder, not readable, not an image, damaged, larger than
            Pillow's limit on pixels, or has floating-point pixels (whose range nobody knows).
    """
    return _use(path, lambda image: _as_tensor(ImageOps.exif_transpose(image)))


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of the image that `read_image` would return, from the head of the file: nothing is decoded.

    An EXIF orientation that a PNG file stores behind its pixels is not seen.

    Raises:
        ImageError: as `read_image` does, but damage further on in the file goes unnoticed.
    """
    return _use(path, _upright_size)


def _use(path: str | os.PathLike[str], use: Callable[[Image.Image], T]) -> T:
    """Opens an image file and hands it on; whatever goes wrong becomes an `ImageError`."""
    path = Path(path)
    try:
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=_readable())
        with image:
            return use(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        reason = f"more than {Image.MAX_IMAGE_PIXELS} pixels: cut it, or raise PIL.Image.MAX_IMAGE_PIXELS"
    except UnidentifiedImageError:
        reason = "not an image that Pillow can read" if path.stat().st_size else "empty file (zero bytes)"
    except ImageError as error:
        reason = str(error)
    except OSError as error:
        reason = error.strerror or f"damaged or truncated ({error})"
    except Exception as error:  # decoders raise anything on a damaged file
        reason = f"damaged or truncated ({type(error).__name__}: {error})"
    raise ImageError(f"{path}: {reason}")


def _readable() -> list[str]:
    """Pillow's names of the formats that it was built with: no other decoder meets what a stranger sends."""
    Image.init()
    return [row.pillow for row in formats.FORMATS if row.pillow in Image.OPEN]


def _upright_size(image: Image.Image) -> tuple[int, int]:
    # Pillow turns the size of TIFF itself, and decodes a whole PNG file to look for EXIF behind its pixels
    told = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
    turned = told and image.getexif().get(_ORIENTATION, 1) in range(5, 9)
    return (image.width, image.height) if turned else (image.height, image.width)


def _as_tensor(image: Image.Image) -> Tensor:
    """Pixels of any Pillow mode as uint8 (3, H, W), RGB."""
    if image.mode == "F":
        raise ImageError("floating-point pixels: save it with 8 or 16 bits per channel")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip and not scale
        image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def write_image(path: str | os.PathLike[str], x: Tensor) -> None:
    """Writes an image (3, H, W), uint8 or floating point in [0, 1], as a PNG file, wholly or not at all.

    Floating point is clamped and rounded (`to_uint8`).

    Raises:
        ImageError: if the name does not end with .png, the tensor is no such image, or writing fails.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ImageError(f"{path}: images are written as PNG: end the name with .png")
    if x.ndim != 3 or x.shape[0] != 3 or 0 in x.shape:
        raise ImageError(f"{path}: an image is (3, H, W), got {tuple(x.shape)}")
    if not (x.dtype == torch.uint8 or (x.is_floating_point() and bool(x.isfinite().all()))):
        raise ImageError(f"{path}: an image is uint8 or finite floating point, got {x.dtype} or NaN in it")
    pixels = to_uint8(x.detach()).permute(1, 2, 0).contiguous().cpu().numpy()
    try:
        with atomic_path(path) as unfinished:
            Image.fromarray(pixels).save(unfinished, format="PNG")
    except OSError as error:
        raise ImageError(f"{path}: cannot be written ({error.strerror or error})") from None


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files in a folder and below it, sorted, known by their extension in any case.

    Raises:
        ImageError: if there is no such folder or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    found = [path for path in formats.find_files(folder, formats.endings()) if path.is_file()]
    if not found:
        raise ImageError(f"{folder}: no images in it (looked for {', '.join(formats.endings())})")
    return found


def check_writable(folder: str | os.PathLike[str]) -> Path:
    """Makes a folder, with those above it, and writes and removes a file in it, before long work starts.

    Raises:
        ImageError: if either fails.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"proof")
    except OSError as error:
        raise ImageError(f"{folder}: cannot write in this folder ({error.strerror or error})") from None
    return folder
