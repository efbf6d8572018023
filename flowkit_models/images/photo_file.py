"""Photographs as files, through libvips: 8 or 16 bits, gray, alpha, orientation, profile and EXIF are kept."""

import re
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.ExifTags import Base
from PIL.Image import Exif
from torch import Tensor

from flowkit_models.files import write_whole
from flowkit_models.images.convert import to_uint8
from flowkit_models.images.foreign import kind_of
from flowkit_models.images.formats import (
    ImageFormat,
    labels,
    named_format,
    read_formats,
    recognised_format,
    written_format,
    written_formats,
)
from flowkit_models.images.photo_decode import COLOURS, PictureError, decode, import_vips, one_line
from flowkit_models.images.png_file import PNG_NOTE, TEXT_PREFIX, insert_chunks, read_texts, text_chunks
from flowkit_models.images.transparency import over_white

MAX_PIXELS = 2**28
"""Of a file that is read: a few damaged bytes can ask for terabytes. Its pixels take 12 bytes each as floats."""

RAISE = "raise flowkit_models.images.photo_file.MAX_PIXELS"
"""What a user can do who needs larger ones."""

KEPT = ("exif-", "xmp-data", "iptc-data", "icc-profile-data")
"""Starts of the names of metadata that are kept, beside texts (`png_file.TEXT_PREFIX`)."""
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Header:
    """Format, kind of pixels and metadata of a picture: all it takes to write another like it.

    Attributes:
        format: name of its row in `formats.FORMATS`.
        bits: 8 or 16, per channel.
        gray: one channel of light, which is read as three equal ones.
        alpha: with transparency, not multiplied into the colours.
        resolution: pixels per millimetre, across and down; 1 where the file says nothing.
        metadata: EXIF, XMP, IPTC, ICC profile and comments by the names that libvips gives them; upright.
    """

    format: str = "png"
    bits: int = 8
    gray: bool = False
    alpha: bool = False
    resolution: tuple[float, float] = (1.0, 1.0)
    metadata: dict[str, bytes | str] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """In a file: gray or RGB, and alpha."""
        return (1 if self.gray else 3) + self.alpha

    @property
    def dtype(self) -> type[np.generic]:
        """Of what a file holds."""
        return np.uint16 if self.bits == 16 else np.uint8

    def fitted(self, form: str) -> tuple["Header", list[str]]:
        """Header cut to what a format holds, and what is left out, in words: nothing, as a rule."""
        row = named_format(form)
        lost = []
        if self.alpha and not row.alpha:
            lost.append(f"{row.label} has no transparency: laid over white")
        if self.bits == 16 and not row.wide:
            lost.append(f"{row.label} has 8 bits per channel: 16 were given")
        return replace(self, format=form, bits=self.bits if row.wide else 8, alpha=self.alpha and row.alpha), lost


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that was read.

    Attributes:
        pixels: (3, H, W), float32 in [0, 1], upright, in the colour space of the file's profile.
        alpha: (1, H, W), float32 in [0, 1], or None.
        header: the rest.
        warnings: lines that say what was odd about the file.
    """

    pixels: Tensor
    alpha: Tensor | None
    header: Header
    warnings: tuple[str, ...] = ()


def read_photo(path: str | Path, max_pixels: int | None = None, otherwise: str = RAISE) -> Picture:
    """Reads a photograph in any format with a `vips_loader` in `formats.FORMATS`, told by its content, not its name.

    Gray, palette, 1 to 16 bits, alpha; CMYK becomes sRGB through its profile. Nothing is returned of a damaged file.

    Args:
        path: the file.
        max_pixels: the most that it may have; None: `MAX_PIXELS`.
        otherwise: what to do with a larger one, for the error.

    Raises:
        PictureError: if there is no such file, or it is not of these, damaged, truncated, animated, of several
            pages, too large, or has floating-point pixels or too many channels.
        ModuleNotFoundError: without pyvips.
    """
    path = Path(path)
    row = _format(path)
    missing = f"{row.label} file, which can't be read here, or is damaged: convert it to PNG or JPEG"
    what = missing if row.some_builds else "damaged or truncated"
    with one_line(path, what):
        decoded = decode(path, row, max_pixels or MAX_PIXELS, otherwise, what)
        image, pixels, warnings = decoded.image, decoded.pixels, decoded.warnings
        metadata = _metadata(image)
        if row.name == "png":
            with path.open("rb") as file:
                metadata |= read_texts(file)
    if decoded.turned and isinstance(xmp := metadata.get("xmp-data"), bytes):
        metadata["xmp-data"] = upright_xmp(xmp)
    colours = COLOURS[image.interpretation]
    profile = metadata.get("icc-profile-data")
    if profile is not None and not _fits(profile, colours):
        del metadata["icc-profile-data"]
        warnings.append("its colour profile is broken or for other channels, and was left out")
    alpha = pixels[colours:] if len(pixels) > colours else None
    header = Header(
        row.name,
        16 if image.format == "ushort" else 8,
        colours == 1,
        alpha is not None,
        _resolution(image, metadata),
        metadata,
    )
    light = pixels[:colours]
    return Picture(light if colours == 3 else light.expand(3, -1, -1), alpha, header, tuple(warnings))


def stored(pixels: Tensor, alpha: Tensor | None, header: Header) -> NDArray[Any]:
    """A picture, or a strip or tile of it, as a file with this header holds it: clamped and rounded.

    Args:
        pixels: (3, h, w), floating point in [0, 1].
        alpha: (1, h, w), or None: opaque. Where the header has none, the colours are laid over white.
        header: fitted to the format of the file.

    Returns:
        (h, w, header.channels), uint8 or uint16.
    """
    if alpha is not None and not header.alpha:
        pixels = over_white(pixels, alpha)
    if header.gray:
        pixels = (pixels * pixels.new_tensor(_LUMA)[:, None, None]).sum(0, keepdim=True)
    if header.alpha:
        alpha = pixels.new_ones(1, *pixels.shape[1:]) if alpha is None else alpha.to(pixels)
        pixels = torch.cat((pixels, alpha))
    pixels = pixels.movedim(0, -1)
    if header.bits == 8:
        return to_uint8(pixels).contiguous().cpu().numpy()
    return (pixels.clamp(0, 1) * 65535).round().to(torch.int32).cpu().numpy().astype(np.uint16)


def write_photo(path: str | Path, array: NDArray[Any], header: Header, quality: int = 95) -> None:
    """Writes a picture wholly or not at all; the end of the name says the format.

    Args:
        path: ends as one of `formats.written_formats()` does.
        array: what `stored` returns, put together: (H, W, header.channels). It is not copied.
        header: fitted to the format.
        quality: 1 to 100, of JPEG and WebP; 100 makes WebP lossless.

    Raises:
        PictureError: for another format, a picture too large for it, or a file that can't be written.
        ModuleNotFoundError: without pyvips.
    """
    path = Path(path)
    row = format_of(path)
    check_size(path, *array.shape[:2])
    fitted, _ = header.fitted(row.name)
    if array.shape[2] != header.channels or array.dtype != header.dtype or fitted.bits != header.bits:
        raise ValueError(f"{path}: {array.dtype} with {array.shape[2]} channels is not what its header says: {header}")
    if path.is_dir():
        raise PictureError(f"{path}: is a folder; name a file")
    with one_line(path, "cannot be written"):
        texts = text_chunks(header.metadata) if row.name == "png" else b""
        image = _wrapped(np.ascontiguousarray(array), header, without="xmp-data" if texts else TEXT_PREFIX)
        options = row.options(quality)
        if row.vips_saver == "tiff":
            options = {**options, "bigtiff": array.nbytes > 2**31}

        def save(file: IO[bytes]) -> None:
            file.seek(len(texts))
            target = import_vips().Target.new_to_descriptor(file.fileno())
            getattr(image, f"{row.vips_saver}save_target")(target, **options)
            if texts:
                insert_chunks(file, texts)

        write_whole(path, save)


def format_of(path: str | Path) -> ImageFormat:
    """The format that the end of a file's name asks for; raises PictureError if it is none that is written."""
    row = written_format(path)
    if row is None:
        known = ", ".join(ending for row in written_formats() for ending in row.endings)
        raise PictureError(f"{path}: pictures are written as {known}: end the name with one of these")
    return row


def check_size(path: str | Path, height: int, width: int) -> None:
    """Raises PictureError if the format of a name can't hold a picture of this size."""
    longest = format_of(path).max_side
    if max(height, width) > longest:
        larger = ", ".join(row.short_name for row in written_formats() if row.max_side >= max(height, width))
        raise PictureError(
            f"{path}: {height} × {width} pixels, and this format ends at {longest}: choose another ({larger})"
        )


def _format(path: Path) -> ImageFormat:
    """The format of a file by its first bytes."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise PictureError(f"{path}: is a folder, not a picture")
        if not stat.S_ISREG(status.st_mode):
            raise PictureError(f"{path}: not a regular file, but a device, pipe or socket")
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise PictureError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not start:
        raise PictureError(f"{path}: empty file (zero bytes)")
    row = recognised_format(start)
    if row is None and (kind := kind_of(start)):
        raise PictureError(f"{path}: {kind}, not a {labels(read_formats())} file: convert it to one of them")
    if row is None:
        raise PictureError(f"{path}: not a {labels(read_formats())} file: convert it to one of them")
    if row.vips_loader is None or not import_vips().type_find("VipsOperation", f"{row.vips_loader}load_source"):
        raise PictureError(f"{path}: {row.label} file, which can't be read here: convert it to PNG or JPEG")
    return row


def _metadata(image: Any) -> dict[str, bytes | str]:
    """Metadata that is kept of an image; not its thumbnail, which shows another size and orientation."""
    names = (name for name in _fields(image) if name.startswith(KEPT))
    kept = {name: image.get(name) for name in names if "Orientation" not in name and not name.startswith("exif-ifd1")}
    if "exif-data" in kept:
        kept["exif-data"] = _without_thumbnail(kept["exif-data"])
    return kept


def _fields(image: Any) -> list[str]:
    """Names of an image's metadata; pyvips' `get_fields` fails where a PNG's keyword, which is Latin-1, is no UTF-8."""
    vips, names = import_vips(), list[str]()
    array = vips.vips_lib.vips_image_get_fields(image.pointer)
    while array[len(names)] != vips.ffi.NULL:
        names.append(vips.ffi.string(array[len(names)]).decode(errors="replace"))
        vips.glib_lib.g_free(array[len(names) - 1])
    vips.glib_lib.g_free(array)
    return names


def _without_thumbnail(exif: bytes) -> bytes:
    """EXIF whose first directory is its last: the second one describes the thumbnail."""
    start = 6 if exif.startswith(b"Exif\0\0") else 0
    order: Literal["little", "big"] = "little" if exif[start : start + 2] == b"II" else "big"
    first = start + int.from_bytes(exif[start + 4 : start + 8], order)
    link = first + 2 + 12 * int.from_bytes(exif[first : first + 2], order)
    return exif[:link] + bytes(4) + exif[link + 4 :] if link + 4 <= len(exif) else exif


def _resolution(image: Any, metadata: dict[str, bytes | str]) -> tuple[float, float]:
    """Pixels per millimetre; of WebP, libvips doesn't look for it in the EXIF, and would then overwrite that."""
    exif = metadata.get("exif-data")
    if (image.xres, image.yres) != (1, 1) or not isinstance(exif, bytes):
        return image.xres, image.yres
    tags = Exif()
    try:
        tags.load(exif)
        per_unit = float(tags[Base.XResolution]), float(tags[Base.YResolution])
    except Exception:  # rubbish can fail in any way, and says nothing
        return 1.0, 1.0
    millimetres = 10 if tags.get(Base.ResolutionUnit) == 3 else 25.4
    sane = all(0 < number < 1e6 for number in per_unit)
    return (per_unit[0] / millimetres, per_unit[1] / millimetres) if sane else (1.0, 1.0)


_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8](\s*[\"'<])")


def upright_xmp(xmp: bytes) -> bytes:
    """XMP with its orientation set to upright: some readers trust it more than EXIF."""
    return _XMP_ORIENTATION.sub(rb"\g<1>1\2", xmp)


def _fits(profile: bytes | str, colours: int) -> bool:
    """True if an ICC profile has a sound head and is for this many channels."""
    if not isinstance(profile, bytes) or len(profile) < 132 or profile[36:40] != b"acsp":
        return False
    return int.from_bytes(profile[:4], "big") <= len(profile) and profile[16:20] == (
        b"GRAY" if colours == 1 else b"RGB "
    )


def _wrapped(array: NDArray[Any], header: Header, without: str) -> Any:
    """An array as an image of libvips, with all that the header says but PNG texts, and `without` one kind more."""
    vips = import_vips()
    height, width, channels = array.shape
    wide = header.bits == 16
    image = vips.Image.new_from_memory(array.data, width, height, channels, "ushort" if wide else "uchar")
    light = ("grey16" if wide else "b-w") if header.gray else ("rgb16" if wide else "srgb")
    image = image.copy(interpretation=light, xres=header.resolution[0], yres=header.resolution[1])
    for name, value in header.metadata.items():
        if name.startswith((TEXT_PREFIX, PNG_NOTE, without)):
            continue
        image.set_type(vips.GValue.blob_type if isinstance(value, bytes) else vips.GValue.refstr_type, name, value)
    image.set_type(vips.GValue.gint_type, "orientation", 1)  # the EXIF as it was read may still say another
    return image
