"""Image files as 8-bit RGB tensors, through Pillow: reading every format, writing PNG, listing folders."""

import io
import mmap
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from flowkit_models.devices import available_bytes
from flowkit_models.files import atomic_path
from flowkit_models.images import formats
from flowkit_models.images.convert import to_uint8, ycc_to_rgb
from flowkit_models.images.foreign import kind_of, raw_kind, stored_as_ycc
from flowkit_models.images.mending import mended, rewritten_tiff, tiff_tags
from flowkit_models.images.png_file import with_exif_in_front

T = TypeVar("T")

# Python's warning filters belong to the whole process: files are opened by one thread at a time, and read by many
_FILTERS = threading.Lock()
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 lie on their side
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MOST_SCANS = 1000  # of a JPEG; ten are usual, and each costs as much as the picture
_TOLD: set[str] = set()  # warnings, which are said once a process


class ImageError(ValueError):
    """A file or folder of images that cannot be used: one line that names it and what is wrong."""


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Reads an image file as uint8 (3, H, W), RGB, upright.

    EXIF orientation is applied; grey, palette and CMYK become RGB; transparency is laid over white; 16-bit
    grey is scaled to 8 bits (65535 becomes 255). Of an animation, the first picture is read. What is odd about the
    metadata of a file whose pixels are whole is said once, with a UserWarning that names it.

    Raises:
        ImageError: if the file is missing, empty, a folder, not readable, not an image, damaged, larger than
            Pillow's limit on pixels or the memory that is left, or has floating-point pixels (whose range nobody
            knows).
    """
    return _use(path, _as_tensor)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of the image that `read_image` would return, from the head of the file: nothing is decoded.

    Raises:
        ImageError: as `read_image` does, but damage further on in the file goes unnoticed.
    """
    return _use(path, _upright_size)


def conversion(path: str | os.PathLike[str]) -> str | None:
    """Conversion that `read_image` does to a file other than 8-bit RGB, in words; None: none.

    Raises:
        ImageError: as `image_size` does.
    """
    return _use(path, lambda file: _conversion(file.image))


@dataclass(frozen=True)
class _Opened:
    """An open image, and what Pillow doesn't see in it: YCbCr in RGB's place, white as 0 in 16 bits."""

    image: Image.Image
    ycc: bool = False
    inverted: bool = False


def _use(path: str | os.PathLike[str], use: Callable[[_Opened], T]) -> T:
    """Opens an image file and hands it on; whatever goes wrong becomes an `ImageError`."""
    path = Path(path)
    said: list[str] = []
    try:
        result = _mending(path, use, said)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        reason = f"more than {Image.MAX_IMAGE_PIXELS:,} pixels: cut it, or raise PIL.Image.MAX_IMAGE_PIXELS"
    except UnidentifiedImageError:
        reason = _what_it_is(path)
    except ImageError as error:
        reason = str(error)
    except MemoryError:
        reason = "not enough memory for it: cut it, or close other programs"
    except OSError as error:
        reason = error.strerror or f"damaged or truncated ({error})"
    except Exception as error:  # decoders raise anything on a damaged file
        reason = f"damaged or truncated ({type(error).__name__}: {error})"
    else:
        _tell(path, said)
        return result
    raise ImageError(f"{path}: {reason}")


def _mending(path: Path, use: Callable[[_Opened], T], said: list[str]) -> T:
    """Uses an image file as it is, or else with its metadata put right."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ImageError("not a regular file, but a device, pipe or socket")
    data, ycc, inverted = _changed(path)
    try:
        return _with_pillow(path if data is None else io.BytesIO(data), use, ycc, inverted, said)
    except (ImageError, MemoryError, Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise
    except Exception as error:
        row = _row(path)
        if row is None or row.name not in ("jpeg", "png", "tiff"):
            raise
        whole = mended(path.read_bytes() if data is None else data, row.name)
        try:
            result = _with_pillow(io.BytesIO(whole), use, ycc, inverted, said)
        except Exception:  # it was not the metadata
            raise error from None
        said.append(f"its metadata is odd, its pixels are whole ({_sentence(path, row, error)})")
        return result


def _with_pillow(file: Path | io.BytesIO, use: Callable[[_Opened], T], ycc: bool, inverted: bool, said: list[str]) -> T:
    with _quiet(said):
        image = Image.open(file, formats=_readable())
    with image:
        if image.format == "TIFF":
            with _quiet(said):  # it looks at all tags, and says so, when it decodes
                dict(image.getexif())
        return use(_Opened(image, ycc, inverted))


@contextmanager
def _quiet(said: list[str]) -> Iterator[None]:
    """Collects the warnings of Pillow, which name no file."""
    with _FILTERS, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
        said += dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught)


def _tell(path: Path, said: list[str]) -> None:
    for line in said:
        if (text := f"{path}: {line}") not in _TOLD:
            _TOLD.add(text)
            warnings.warn(text, stacklevel=4)


def _changed(path: Path) -> tuple[bytes | None, bool, bool]:
    """The file as Pillow has to see it (None: as it is), and whether it is YCbCr, or white is 0 in 16 bits."""
    row = _row(path)
    if row is None or not path.stat().st_size:
        return None, False, False
    with path.open("rb") as file:
        if row.name == "png":
            return with_exif_in_front(file), False, False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if row.name == "jpeg" and content[:].count(b"\xff\xda") > _MOST_SCANS:
                raise ImageError(f"more than {_MOST_SCANS} scans: not a photograph, but made to take long")
            if row.name != "tiff":
                return None, False, False
            tags = tiff_tags(content)
            if kind := raw_kind(tags, content[8:10]):
                raise ImageError(f"{kind}: develop it to TIFF, PNG or JPEG first")
            if tags.get(262) == (0,) and tags.get(258) == (16,):
                return rewritten_tiff(content[:], {262: 1}), False, True
            if not stored_as_ycc(tags):
                return None, False, False
            if tags.get(530, (2, 2)) != (1, 1) or set(tags.get(258, ())) != {8}:
                raise ImageError("YCbCr other than 3 × 8 bits per pixel: save it as RGB")
            return rewritten_tiff(content[:], {262: 2}), True, False


def _row(path: Path) -> formats.ImageFormat | None:
    """The format of a file by its first bytes; None where there is no such file to look at."""
    try:
        with path.open("rb") as file:
            return formats.recognised_format(file.read(16))
    except OSError:
        return None


def _what_it_is(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        return "empty file (zero bytes)"
    row = formats.recognised_format(start)
    named = f"{row.label} file, or the start of one" if row else kind_of(start)
    return f"{named}, not an image that Pillow can read" if named else "not an image that Pillow can read"


def _sentence(path: Path, row: formats.ImageFormat, error: Exception) -> str:
    """What the decoder has to say; of a file that it doesn't recognise, Pillow keeps that to itself."""
    if isinstance(error, UnidentifiedImageError):
        try:
            with path.open("rb") as file:
                Image.OPEN[str(row.pillow)][0](file, "").close()
        except Exception as told:  # the reason
            error = told
    return f"{error}"[:160]


def _readable() -> list[str]:
    """Pillow's names of the formats that it was built with: no other decoder meets what a stranger sends."""
    Image.init()
    return [row.pillow for row in formats.FORMATS if row.pillow in Image.OPEN]


def _orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF has it."""
    try:
        with _quiet([]):
            orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # rubbish can fail in any way, and says nothing
        return 1
    return orientation if orientation in _TURNS else 1


def _upright_size(file: _Opened) -> tuple[int, int]:
    image = file.image
    # Pillow turns the size of TIFF itself, and decodes a whole PNG file to look for EXIF behind its pixels
    told = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
    turned = told and _orientation(image) in range(5, 9)
    return (image.width, image.height) if turned else (image.height, image.width)


def _as_tensor(file: _Opened) -> Tensor:
    """Pixels of any Pillow mode as uint8 (3, H, W), RGB."""
    image = file.image
    if image.mode == "F":
        raise ImageError("floating-point pixels: save it with 8 or 16 bits per channel")
    # Pillow's own picture, copies in RGBA and RGB, and the tensor
    need, free = 20 * image.width * image.height, available_bytes()
    if free is not None and need > free:
        size = f"{image.width} × {image.height} pixels take {need / 2**30:.1f} GiB of memory"
        raise ImageError(f"{size}, and {free / 2**30:.1f} are left: cut it, or close other programs")
    image.load()
    turn = _TURNS.get(_orientation(image)) if image.format != "TIFF" else None
    transparent = image.has_transparency_data
    if turn is not None:  # and not ImageOps.exif_transpose, which writes all EXIF anew and fails on what is odd
        image = image.transpose(turn)
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip and not scale
        levels = np.asarray(image)
        image = Image.fromarray(
            ((65535 - levels if file.inverted else levels) / 257).round().clip(0, 255).astype(np.uint8)
        )
    elif transparent:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    rgb = np.array(image.convert("RGB"))
    return torch.from_numpy(ycc_to_rgb(rgb) if file.ycc else rgb).permute(2, 0, 1).contiguous()


def _conversion(image: Image.Image) -> str | None:
    wide = image.mode.startswith("I") or any(";16" in str(tile) for tile in getattr(image, "tile", []))
    if image.has_transparency_data:
        return "transparent, laid over white"
    if wide:
        return "16 bits, reduced to 8"
    return None if image.mode == "RGB" else f"mode {image.mode}, made RGB"


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


def check_writable(folder: str | os.PathLike[str], keep: bool = True) -> Path:
    """Makes a folder, with those above it, and writes and removes a file in it, before long work starts.

    Args:
        folder: of results.
        keep: leave the folders that were made; False: nothing is left of the check.

    Raises:
        ImageError: if either fails.
    """
    folder = Path(folder)
    made = [] if keep else [above for above in (folder, *folder.parents) if not above.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"proof")
        for empty in made:
            empty.rmdir()
    except OSError as error:
        raise ImageError(f"{folder}: cannot write in this folder ({error.strerror or error})") from None
    return folder
