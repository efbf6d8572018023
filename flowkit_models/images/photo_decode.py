"""Decoding of photographs by libvips: strictly, and where only metadata is odd, once more with that put right."""

import logging
import mmap
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowkit_models.devices import available_bytes
from flowkit_models.images.convert import ycc_to_rgb
from flowkit_models.images.foreign import raw_kind, stored_as_ycc
from flowkit_models.images.formats import ImageFormat
from flowkit_models.images.mending import mended, rewritten_tiff, tiff_tags
from flowkit_models.images.png_file import count_frames, with_exif_in_front

COLOURS = {"b-w": 1, "grey16": 1, "srgb": 3, "rgb16": 3, "rgb": 3}
"""Channels of light by libvips' name of a colour space."""

_EXTRANEOUS = "extraneous bytes before marker"
# sentences of decoders that are about pixels: what is lost of them is not told from what is there
_LOST = re.compile(
    r"premature|corrupt|huffman|not enough|too short|too little|missing data|read error|unexpected end|end of file|eof"
    r"|line length|inconsistent progression|scanline"
    r"|uncompress|decompress|decod|inflate|zlib|checksum|crc|truncated file",
    re.IGNORECASE,
)
_CHATTER = re.compile(r"^(VIPS: )?(read gave \d+ warnings|error in tile .*|\s*)$")
_ONE_AT_A_TIME = threading.Lock()  # libvips logs for the whole process


class PictureError(ValueError):
    """A picture that cannot be read or written: one line that names the file, what is wrong, and what to do."""


@dataclass(frozen=True)
class Decoded:
    """A decoded picture.

    Attributes:
        image: of libvips, with the metadata.
        pixels: all channels, float32 (C, H, W) in [0, 1], upright.
        warnings: what was odd.
        turned: metadata said that it had to be turned, which was done.
    """

    image: Any
    pixels: Tensor
    warnings: list[str]
    turned: bool


def import_vips() -> Any:
    """The module pyvips; raises ModuleNotFoundError, with the remedy, if it or its library is not there."""
    try:
        import pyvips  # noqa: PLC0415 - an extra, and slow to start
    except (ImportError, OSError):  # without the package, or without the library that it binds
        raise ModuleNotFoundError('pictures need pyvips: pip install "flowkit-torch[cli]"') from None
    logger = logging.getLogger("pyvips")  # where its warnings go; without a handler, Python prints them
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return pyvips


@contextmanager
def one_line(path: Path, what: str) -> Iterator[None]:
    """Turns what libvips and the system say into a PictureError."""
    try:
        yield
    except PictureError:
        raise
    except OSError as error:
        raise PictureError(f"{path}: {what} ({error.strerror or error})") from None
    except MemoryError:
        raise PictureError(f"{path}: not enough memory for it: cut it, or close other programs") from None
    except import_vips().Error as error:
        raise PictureError(_damaged(path, what, _reasons(error))) from None


def decode(path: Path, row: ImageFormat, max_pixels: int, otherwise: str, what: str) -> Decoded:
    """Decodes a picture, wholly or not at all.

    Args:
        path: the file.
        row: its format.
        max_pixels: the most that it may have.
        otherwise: what to do with a larger one.
        what: to say of one that can't be decoded.

    Raises:
        PictureError: if it is of several pages, too large for the limit or the memory, of pixels that are not read, or
            if any of its pixels are lost.
    """
    data, ycc = _changed(path, row)
    try:
        return _decode(path, row, (max_pixels, otherwise), data, ycc, "warning")
    except import_vips().Error as error:
        # most warnings are about metadata, and hide what comes after
        whole = mended(path.read_bytes() if data is None else data, row.name)
        with _ONE_AT_A_TIME, _listening() as said:
            with suppress(import_vips().Error):
                _open(path, row, data, "none")  # says what is odd about the file as it is
            try:
                found = _decode(path, row, (max_pixels, otherwise), whole, ycc, "error")
                said.extend(_reasons(import_vips().Error("what libvips has kept in mind")))
            except import_vips().Error as second:
                reasons = _reasons(error) or [*_reasons(second), *said]
                raise PictureError(_damaged(path, what, reasons)) from None
        said = list(dict.fromkeys([*_reasons(error), *said]))
        if any(_EXTRANEOUS in line for line in said):
            # cameras leave such bytes behind the pixels, and so does damage
            found.warnings.append("has bytes between its parts that mean nothing: look whether it is damaged")
            said = [line for line in said if _EXTRANEOUS not in line]
        if lost := [line for line in said if _LOST.search(line)]:
            raise PictureError(_damaged(path, what, lost)) from None
        if said:
            found.warnings.append(f"its metadata is odd, its pixels are whole ({'; '.join(said)[:160]})")
        return found


def _changed(path: Path, row: ImageFormat) -> tuple[bytes | None, bool]:
    """The file as libvips has to see it (None: as it is), and whether its RGB is YCbCr."""
    with path.open("rb") as file:
        if row.name == "png":
            return with_exif_in_front(file), False
        if row.name != "tiff":
            if row.vips_loader == "heif" and file.read(12)[8:] == b"avis":
                raise PictureError(
                    f"{path}: has several frames (animated); one picture is needed: save them one by one"
                )
            return None, False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            tags = tiff_tags(content)
            if kind := raw_kind(tags, content[8:10]):
                raise PictureError(f"{path}: {kind}: develop it to TIFF, PNG or JPEG first")
            if 277 not in tags and len(tags.get(258, ())) > 1:  # the decoder would take the first channel alone
                return mended(content[:], "tiff"), False
            if not stored_as_ycc(tags):
                return None, False
            if tags.get(530, (2, 2)) != (1, 1) or set(tags.get(258, ())) != {8}:
                raise PictureError(f"{path}: YCbCr other than 3 × 8 bits per pixel: save it as RGB")
            return rewritten_tiff(content[:], {262: 2}), True


def _decode(
    path: Path, row: ImageFormat, limit: tuple[int, str], data: bytes | None, ycc: bool, fail_on: str
) -> Decoded:
    image = _open(path, row, data, fail_on)
    _check(path, image, row.name, *limit)
    turned = image.get_typeof("orientation") != 0 and image.get("orientation") in range(2, 9)
    image, warnings = _in_rgb(image.autorot())
    levels = _levels(image)
    return Decoded(image, _pixels(ycc_to_rgb(levels) if ycc else levels), warnings, turned)


def _open(path: Path, row: ImageFormat, data: bytes | None, fail_on: str) -> Any:
    """An image of which only the head has been read."""
    vips = import_vips()
    load = getattr(vips.Image, f"{row.vips_loader}load_source")
    if data is not None:
        return load(vips.Source.new_from_memory(data), fail_on=fail_on, memory=True)
    with path.open("rb") as file:  # libvips takes no names that are not UTF-8, and keeps a descriptor of its own
        return load(vips.Source.new_from_descriptor(file.fileno()), fail_on=fail_on, memory=True)


@contextmanager
def _listening() -> Iterator[list[str]]:
    """What libvips logs meanwhile, as it comes."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines = (line.strip().removeprefix("VIPS: ") for line in record.getMessage().splitlines())
            said.extend(line for line in lines if line not in said and not _CHATTER.match(line))

    logger, listener = logging.getLogger("pyvips"), Listener(logging.WARNING)
    level, disabled = logger.level, logging.root.manager.disable
    logger.addHandler(listener)
    logger.setLevel(logging.WARNING)
    try:
        yield said
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
        logging.disable(disabled)


def _reasons(error: Exception) -> list[str]:
    """A line of what was called, then the reasons, often repeated."""
    lines = [line.strip() for line in str(error).splitlines()[1:]]
    telling = [line for line in lines if line and not line.endswith("load error") and "bad seek" not in line]
    return list(dict.fromkeys(telling or filter(None, lines)))


def _damaged(path: Path, what: str, reasons: list[str]) -> str:
    reason = "; ".join(dict.fromkeys(reasons))[:160]
    return f"{path}: {what} ({reason})" if reason else f"{path}: {what}"


def _check(path: Path, image: Any, form: str, max_pixels: int, otherwise: str) -> None:
    """Refuses what can be told from the head of a file, before its pixels are decoded."""
    frames = image.get("n-pages") if image.get_typeof("n-pages") else 1
    if form == "png":
        with path.open("rb") as file:
            frames = count_frames(file)
    if frames > 1:
        what = "pages" if form == "tiff" else "frames (animated)"
        raise PictureError(f"{path}: has {frames} {what}; one picture is needed: save them one by one")
    size = f"{image.width} × {image.height}"
    if image.width * image.height > max_pixels:
        raise PictureError(f"{path}: {size} is more than {max_pixels:,} pixels: cut it, or {otherwise}")
    if image.format not in ("uchar", "ushort"):
        raise PictureError(f"{path}: pixels of type {image.format}: save it with 8 or 16 whole bits per channel")
    colours = 4 if image.interpretation == "cmyk" else COLOURS.get(image.interpretation)
    if colours is None or not colours <= image.bands <= colours + 1:
        raise PictureError(
            f"{path}: {image.bands} channels ({image.interpretation}): save it as gray or RGB, with or without alpha"
        )
    # the decoder's picture, its bytes for Python, and floats
    need = image.width * image.height * image.bands * (4 + 3 * (2 if image.format == "ushort" else 1))
    free = available_bytes()
    if free is not None and need > free:
        raise PictureError(
            f"{path}: {size} pixels take {need / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} are left: cut it, "
            "or close other programs"
        )


def _in_rgb(image: Any) -> tuple[Any, list[str]]:
    """The image in a colour space of light, and warnings."""
    if image.interpretation != "cmyk":
        return image, []
    reduced = ", and its 16 bits to 8" if image.format == "ushort" else ""
    # from the profile in the file, or libvips' own where there is none
    image = image.icc_transform("srgb", embedded=True, input_profile="cmyk")
    return image, [f"CMYK was converted to sRGB{reduced}"]


def _levels(image: Any) -> np.ndarray[Any, Any]:
    """All channels as they are stored, (H, W, C)."""
    array = np.frombuffer(bytearray(image.write_to_memory()), np.uint16 if image.format == "ushort" else np.uint8)
    return array.reshape(image.height, image.width, image.bands)


def _pixels(levels: np.ndarray[Any, Any]) -> Tensor:
    """All channels as float32 (C, H, W) in [0, 1]."""
    height, width, bands = levels.shape
    pixels = np.empty((bands, height, width), np.float32)
    for channel in range(bands):
        np.divide(levels[..., channel], np.float32(np.iinfo(levels.dtype).max), out=pixels[channel], dtype=np.float32)
    return torch.from_numpy(pixels)
