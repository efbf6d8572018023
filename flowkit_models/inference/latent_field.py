"""Latents of an image of any size as a function of position, so that a part of it can be drawn without the whole."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from flowkit_models.models.base import ImageFlow
from flowkit_models.models.checks import padded
from flowkit_models.models.learned_latents import HALVINGS, Prior, predicted

BLOCK = 64
"""Side of the squares that are drawn together. Another value is another field."""

MARGIN = 32
"""LR pixels around a tile that a learned prior sees as well."""

Window: TypeAlias = tuple[int, int, int, int, int]
"""Channels of a latent, and the top, left, height and width of a part of it."""


class Field(Protocol):
    """Standard-normal latents of one whole image, of which a window's can be asked for."""

    def crop(self, model: ImageFlow, top: int, left: int, height: int, width: int) -> tuple[Tensor, ...]:
        """The latents of a window of the LR image, as `model.decode` and `model.upscale` take them.

        Args:
            model: whose latents these are.
            top: first row of the window, in LR pixels; this and the others are multiples of `model.lr_multiple`.
            left: first column.
            height: rows.
            width: columns.

        Returns:
            Tensors (1, C, H, W), float32 on the CPU, coarsest first.

        Raises:
            ValueError: for a window that is empty, starts before the image, or is not of such multiples.
        """


class LatentField:
    """A draw of the latents of an image that has no end: white noise that depends on seed, draw and position alone.

    The number at (latent, channel, row, column) is the same whatever else is asked for, and in whatever order, so the
    crops of an image's tiles are the crops of the latents of the whole image, and memory is that of a crop. Squares of
    64 × 64 come from numpy's Philox generator, whose key is (seed, draw) and whose counter starts at (latent, row,
    column of the square): streams never overlap. It fills channel after channel.

    Args:
        seed: of the image, from 0 to 2⁶⁴ − 1.
        draw: number of the sample, in the same range.

    Raises:
        ValueError: for a seed or a draw outside that range.

    Example:
        >>> import flowkit_models
        >>> model = flowkit_models.create("hcflow_sr_x4_small")
        >>> field = LatentField(seed=1)
        >>> [tuple(z.shape) for z in field.crop(model, 0, 0, 60, 80)]
        [(1, 21, 60, 80), (1, 6, 120, 160)]
        >>> torch.equal(field.crop(model, 0, 0, 60, 80)[1][..., 20:, 40:], field.crop(model, 10, 20, 50, 60)[1])
        True
    """

    def __init__(self, seed: int, draw: int = 0) -> None:
        for name, value in (("seed", seed), ("draw", draw)):
            if not isinstance(value, int) or not 0 <= value < 2**64:
                raise ValueError(f"LatentField: {name} must be a whole number from 0 to 2**64 - 1, got {value!r}")
        self.seed, self.draw = seed, draw

    def crop(self, model: ImageFlow, top: int, left: int, height: int, width: int) -> tuple[Tensor, ...]:
        """See `Field.crop`."""
        return self.part(latent_windows(model, top, left, height, width))

    def part(self, windows: Sequence[Window]) -> tuple[Tensor, ...]:
        """The same, by the window of each latent, coarsest first."""
        return tuple(self._latent(index, *window) for index, window in enumerate(windows))

    def _latent(self, index: int, channels: int, top: int, left: int, height: int, width: int) -> Tensor:
        out = np.empty((channels, height, width), np.float32)
        for i in range(top // BLOCK, -(-(top + height) // BLOCK)):
            for j in range(left // BLOCK, -(-(left + width) // BLOCK)):
                square = self._square(index, channels, i, j)
                rows, square_rows = _shared(i, top, height)
                columns, square_columns = _shared(j, left, width)
                out[:, rows, columns] = square[:, square_rows, square_columns]
        return torch.from_numpy(out)[None]

    def _square(
        self, index: int, channels: int, i: int, j: int
    ) -> np.ndarray[tuple[int, int, int], np.dtype[np.float32]]:
        key = np.array([self.seed, self.draw], np.uint64)
        counter = np.array([0, index, i, j], np.uint64)  # the first word counts on from here
        generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
        return generator.standard_normal((channels, BLOCK, BLOCK), np.float32)


class ZeroField:
    """Latents of zero: what τ = 0 makes of any draw, without drawing."""

    def crop(self, model: ImageFlow, top: int, left: int, height: int, width: int) -> tuple[Tensor, ...]:
        """See `Field.crop`."""
        return self.part(latent_windows(model, top, left, height, width))

    def part(self, windows: Sequence[Window]) -> tuple[Tensor, ...]:
        """The same, by the window of each latent, coarsest first."""
        return tuple(torch.zeros(1, channels, rows, columns) for channels, _, _, rows, columns in windows)


class StoredField:
    """Latents that are there as tensors, of a whole image: encoded, edited, or drawn before.

    Args:
        latents: as `ImageFlow.encode` returns them, of one image; for `upscale`, of the LR image padded to multiples.
    """

    def __init__(self, latents: tuple[Tensor, ...]) -> None:
        self.latents = latents

    def crop(self, model: ImageFlow, top: int, left: int, height: int, width: int) -> tuple[Tensor, ...]:
        """See `Field.crop`.

        Raises:
            ValueError: also if a latent is missing, has another number of channels or ends before the window.
        """
        windows = latent_windows(model, top, left, height, width)
        if len(self.latents) != len(windows):
            raise ValueError(f"latents: {type(model).__name__} has {len(windows)} of them, got {len(self.latents)}")
        return self.part(windows)

    def part(self, windows: Sequence[Window]) -> tuple[Tensor, ...]:
        """The same, by the window of each latent, coarsest first."""
        parts = []
        for z, (channels, row, column, rows, columns) in zip(self.latents, windows, strict=True):
            if z.ndim != 4 or z.shape[:2] != (1, channels) or z.shape[2] < row + rows or z.shape[3] < column + columns:
                needed = f"(1, {channels}, ≥ {row + rows}, ≥ {column + columns})"
                raise ValueError(f"latents: expected {needed} for this window, got {tuple(z.shape)}")
            parts.append(z[..., row : row + rows, column : column + columns].float().cpu())
        return tuple(parts)


class PredictedField:
    """Latents of one LR image that a learned prior predicts, window by window: the same picture every time.

    What lies within `margin` LR pixels of a window is seen as well; windows start at whole squares of the U-Nets, so
    that all of them see one grid.

    Args:
        lr: (3, h, w), float in [0, 1] or uint8, on any device.
        prior: None: the model's own.
        margin: see above.
    """

    def __init__(self, lr: Tensor, prior: Prior | None = None, margin: int = MARGIN) -> None:
        self.lr, self.prior, self.margin = lr, prior, margin

    def crop(self, model: ImageFlow, top: int, left: int, height: int, width: int) -> tuple[Tensor, ...]:
        """See `Field.crop`.

        Raises:
            ValueError: also if the model has no prior of its own and there is no other, or the image ends before the
                window.
        """
        prior = self.prior or model.prior
        if prior is None:
            raise ValueError(f"this {type(model).__name__} has no learned prior: draw its latents, or train one")
        unit = 2**HALVINGS * model.lr_multiple
        first = [max(0, start - self.margin) // unit * unit for start in (top, left)]
        last = [top + height + self.margin, left + width + self.margin]
        window = cut_window(self.lr, first, last, next(model.parameters()))
        latents = predicted(model, padded(window, model.lr_multiple), prior)
        return StoredField(latents).crop(model, top - first[0], left - first[1], height, width)


def cut_window(image: Tensor, first: Sequence[int], last: Sequence[int], like: Tensor) -> Tensor:
    """A window of an image, (1, 3, …) floats as and where `like` is; less of it at the bottom and the right."""
    window = image[None, :, first[0] : last[0], first[1] : last[1]].to(like)
    return window / 255 if image.dtype == torch.uint8 else window


def latent_windows(model: ImageFlow, top: int, left: int, height: int, width: int) -> list[Window]:
    """(channels, top, left, height, width) of each latent's part of a window of the LR image, coarsest first."""
    multiple = model.lr_multiple
    window = (top, left, height, width)
    if min(top, left) < 0 or min(height, width) < 1 or any(side % multiple for side in window):
        raise ValueError(
            f"window (top, left, height, width) of an LR image: no multiples of {multiple} from 0: {window}"
        )
    per = model.latent_shapes(multiple, multiple)  # a latent's pixels for that many LR pixels
    row, column, rows, columns = (size // multiple for size in window)
    return [(channels, row * side, column * side, rows * side, columns * side) for channels, side, _ in per]


def _shared(square: int, start: int, size: int) -> tuple[slice, slice]:
    """Overlap of a window and square number `square` along one side, as slices of the window and of the square."""
    first, last = max(start, square * BLOCK), min(start + size, (square + 1) * BLOCK)
    return slice(first - start, last - start), slice(first - square * BLOCK, last - square * BLOCK)
