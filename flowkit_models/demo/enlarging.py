"""Enlarging of the page: a window of a photograph before and after, variations of it, the whole as a file. No gradio.

What it makes of a photograph is what `flowkit upscale` makes, through the same functions.
"""

import functools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flowkit_models.images import photo_file
from flowkit_models.images.formats import result_ending
from flowkit_models.images.photo_file import Picture, stored
from flowkit_models.images.provenance import made_by, marked, signed
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.inference.enlarging import enlarged_rows, seen, upscaled
from flowkit_models.inference.latent_field import LatentField
from flowkit_models.inference.tiling import OVERLAP
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.checkpoint_file import checksum

WINDOW = (960, 1280)
"""Height and width that is shown at 100 %, in HR pixels at most."""

MOST = 16_000_000
"""Pixels of a photograph that the page enlarges: sixteen times as many come out at ×4."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sample:
    """One of the enlargements that a model can make of a photograph.

    Attributes:
        temperature: τ; None: what the model's learned prior predicts.
        seed: of the latents.
        draw: number of the draw of that seed, from 0.
    """

    temperature: float | None
    seed: int = 0
    draw: int = 0

    @property
    def field(self) -> LatentField | None:
        """The latents of the whole photograph; None for a learned prior's."""
        return None if self.temperature is None else LatentField(self.seed, self.draw)


@dataclass(frozen=True)
class _Moved:
    """A field whose origin is elsewhere; see `flowkit_models.inference.latent_field.Field`."""

    field: LatentField
    top: int
    left: int

    def crop(self, model: ImageFlow, top: int, left: int, height: int, width: int) -> tuple[Tensor, ...]:
        """See `Field.crop`."""
        return self.field.crop(model, top + self.top, left + self.left, height, width)


class Window:
    """A window of a photograph, with the surroundings that the network needs to make of it what it makes in the whole.

    Args:
        picture: the photograph.
        model: that enlarges it.
        centre: of the window, (row, column) as fractions of the photograph.

    Attributes:
        size: height and width of the window in HR pixels.
        share: pixels that go through the network over those of the whole photograph.
    """

    def __init__(self, picture: Picture, model: ImageFlow, centre: tuple[float, float] = (0.5, 0.5)) -> None:
        self.model = model
        scale, multiple = model.scale, model.lr_multiple
        inner, outer = [], []
        for side, most, at in zip(picture.pixels.shape[1:], WINDOW, centre, strict=True):
            length = min(side, most // scale)
            start = min(max(round(at * side - length / 2), 0), side - length)
            first = max(0, start - OVERLAP) // multiple * multiple
            inner.append((start - first, length))
            outer.append((first, min(side, start + length + OVERLAP)))
        (self._top, bottom), (self._left, right) = outer
        self._inner = [slice(scale * start, scale * (start + length)) for start, length in inner]
        self.size = tuple(scale * length for _, length in inner)
        pixels, self._under = seen(picture)
        self._pixels = pixels[:, self._top : bottom, self._left : right]
        if self._under is not None:
            self._under = self._under[:, self._top : bottom, self._left : right]
        height, width = picture.pixels.shape[1:]
        self.share = self._pixels[0].numel() / (height * width)
        kept = {name: value for name, value in picture.header.metadata.items() if name == "icc-profile-data"}
        self.header = replace(picture.header, format="png", bits=8, metadata=kept)

    def before(self) -> NDArray[Any]:
        """The window enlarged by bicubic, as a file with `header` holds it."""
        scale = self.model.scale
        alpha = None if self._under is None else bicubic_resize(self._under[:1], scale).clamp(0, 1)
        return self._cut(stored(bicubic_resize(self._pixels, scale), alpha, self.header))

    def after(self, sample: Sample, progress: Progress) -> NDArray[Any]:
        """The window as the model enlarges it, within a grey level of that part of the whole."""
        field = None if sample.field is None else _Moved(sample.field, self._top, self._left)
        rows = None if self._under is None else enlarged_rows(self._under, self.model.target(self._pixels[None], None))
        made = upscaled(self.model, self._pixels, None, sample.temperature, rows, self.header, field, progress)
        return self._cut(made)

    def _cut(self, array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(array[tuple(self._inner)])


@functools.lru_cache(maxsize=1)
def _read(path: str, changed: int) -> Picture:
    return photo_file.read_photo(path, MOST, "use the command `flowkit upscale`, which takes larger ones")


def read_photo(path: str) -> Picture:
    """A photograph, kept in memory until another is read or the file changes.

    Raises:
        ValueError: if it is no picture, or of more than `MOST` pixels; one line.
    """
    return _read(path, Path(path).stat().st_mtime_ns)


def look(
    model: ImageFlow, photo: str, folder: Path, sample: Sample, centre: tuple[float, float], progress: Progress
) -> dict[str, Any]:
    """A window of a photograph before and after.

    Args:
        model: on its device.
        photo: the file.
        folder: of the pictures.
        sample: which of the enlargements.
        centre: of the window, (row, column) as fractions of the photograph.
        progress: is called with (tiles done, tiles in all).

    Returns:
        {"before": PNG file, "after": PNG file, "size": [width, height] of the window, "whole": of all that there is,
        "seconds": that it took, "estimate": for the whole}.
    """
    start = time.monotonic()
    picture = read_photo(photo)
    window = Window(picture, model, centre)
    files = {"before": folder / "before.png", "after": folder / "after.png"}
    photo_file.write_photo(files["before"], window.before(), window.header)
    photo_file.write_photo(files["after"], window.after(sample, progress), window.header)
    seconds = time.monotonic() - start
    return {
        **{name: str(file) for name, file in files.items()},
        "size": window.size[::-1],
        "whole": [side * model.scale for side in reversed(picture.pixels.shape[1:])],
        "seconds": seconds,
        "estimate": seconds / window.share,
    }


def vary(
    model: ImageFlow,
    photo: str,
    folder: Path,
    samples: list[Sample],
    centre: tuple[float, float],
    progress: Progress,
) -> list[tuple[str, str]]:
    """A window of a photograph as each of several samples, PNG files with captions; arguments as for `look`."""
    window = Window(read_photo(photo), model, centre)
    made = []
    for i, sample in enumerate(samples):

        def share(done: int, total: int, i: int = i) -> None:
            progress(i * total + done, len(samples) * total)

        file = folder / f"variation{sample.draw + 1}.png"
        photo_file.write_photo(file, window.after(sample, share), window.header)
        made.append((str(file), f"variation {sample.draw + 1}"))
    return made


def enlarge_file(model: ImageFlow, photo: str, folder: Path, sample: Sample, progress: Progress) -> dict[str, Any]:
    """Enlarges a photograph as `flowkit upscale` does, into a file of its format; arguments as for `look`.

    Returns:
        {"file": path, "label": of the button that downloads it, "about": a line: sizes, time, what was odd}.
    """
    start = time.monotonic()
    picture = read_photo(photo)
    stem = re.sub(r"[^\w.-]+", "_", Path(photo).stem)[:100]
    target = folder / f"{stem}_x{model.scale}{result_ending(photo)}"
    form = photo_file.format_of(target)
    height, width = (side * model.scale for side in picture.pixels.shape[1:])
    photo_file.check_size(target, height, width)
    header, lost = signed(picture.header, None).fitted(form.name)
    pixels, under = seen(picture, own=made_by(picture.header) == checksum(model))
    rows = None if under is None else enlarged_rows(under, (height, width))
    array = upscaled(model, pixels, None, sample.temperature, rows, header, sample.field, progress)
    photo_file.write_photo(target, array, marked(header))
    kilobytes = target.stat().st_size / 1e3
    length = f"{kilobytes / 1e3:.1f} MB" if kilobytes >= 100 else f"{max(1, round(kilobytes))} kB"
    size = f"{width} × {height} pixels, {length}"
    small = " × ".join(str(side) for side in reversed(picture.pixels.shape[1:]))
    lines = [f"{small} became {width} × {height} pixels in {time.monotonic() - start:.1f} s", *picture.warnings, *lost]
    return {
        "file": str(target),
        "label": f"Download {target.name} ({size})",
        "about": " ".join(f"{line[:1].upper()}{line[1:]}." for line in lines),
    }
