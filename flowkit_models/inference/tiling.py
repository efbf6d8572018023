"""Images that don't fit in memory: upscaled and downscaled in overlapping tiles, finished rows first."""

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from flowkit_models.devices import available_bytes
from flowkit_models.inference.latent_field import (
    Field,
    LatentField,
    PredictedField,
    StoredField,
    ZeroField,
    cut_window,
)
from flowkit_models.inference.memory import is_out_of_memory, peak_tensor_bytes
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.checks import padded, temperatures
from flowkit_models.models.linf.model import LINF
from flowkit_models.models.refinement import RADIUS

Bits = Literal[8, 16, 32]
Progress = Callable[[int, int], None]

TILE = 384
"""LR pixels of a tile's side, where memory allows."""
OVERLAP = 32
"""LR pixels that neighbouring tiles share.

Small HCFlow, SRFlow and IRN at ×4, trained for minutes or with perturbed weights, τ up to 0.8: tiles and the whole
image differed by at most 53 grey levels with an overlap of 4, 8 with 8, 1.1 with 16 and 0.01 with 32; downscaled, by
2, 1, 0 and 0. The networks of the full-size models reach further. Their trained weights were not at hand.
"""
PROBE = 32
"""LR pixels of the side of the tile that is run to estimate memory on the CPU."""
SPARE = 5
"""Available memory over what a tile's tensors may hold on the CPU; it takes up to 2.1 times those."""

_Run = Callable[[int, int, int, int], Tensor]


class _Grid(NamedTuple):
    """Pixels of the result that lie before a row, or a column, of the LR image."""

    rows: Callable[[int], int]
    columns: Callable[[int], int]


_DTYPES = {8: torch.uint8, 16: torch.uint16, 32: torch.float32}


class Tiled:
    """A model's `upscale` and `downscale` for one image of any size, in the memory of one tile and a strip of rows.

    Tiles are windows of the image that the whole model runs on. Neighbours share `overlap` LR pixels: a quarter of
    them at each tile's rim, where it lacks context, is thrown away, and the half between is cross-faded. Latents are
    crops of one field over the whole image (`fields.LatentField`), so that all tiles make the same draw.

    `encode` and `decode` have no tiled form: that they undo each other exactly is what they are for, and tiles agree
    with the whole image nearly and not exactly.

    If a tile doesn't fit in memory, it is done in tiles of half its side, and so are those after it; what is finished
    stays. On the CPU, where the kernel may kill a process before an allocation fails, the side is also chosen such
    that an estimate from a small tile fits. So the result can depend on the memory that there is, as far as the seams
    show at all; name `tile` where that matters.

    Args:
        model: the model, on its device.
        tile: side of a tile in LR pixels, overlaps included. None: 384, or less where memory is short.
        overlap: LR pixels that neighbours share.

    Attributes:
        side: of tiles from now on, in LR pixels; None before the first. It falls when memory runs out.

    Raises:
        ValueError: for an overlap below 0, or a tile that is hardly larger than two overlaps.

    Example:
        >>> import flowkit_models
        >>> from flowkit_models.inference.latent_field import LatentField
        >>> tiled = Tiled(flowkit_models.create("hcflow_sr_x4_small"), tile=32, overlap=8)
        >>> tiled.upscale(torch.rand(3, 60, 50), LatentField(seed=0)).shape
        torch.Size([3, 240, 200])
    """

    def __init__(self, model: ImageFlow, tile: int | None = None, overlap: int = OVERLAP) -> None:
        self.model = model
        self._multiple = 1 if model.any_scale else model.lr_multiple
        self.overlap = self._up(overlap)
        self._floor = self._up(2 * self.overlap + 2 * self._multiple)
        if overlap < 0:
            raise ValueError(f"Tiled: overlap must be at least 0, got {overlap}")
        if tile is not None and tile < self._floor:
            raise ValueError(
                f"Tiled: a tile with overlaps of {self.overlap} LR pixels takes at least {self._floor}, got {tile}"
            )
        self.side = None if tile is None else self._up(tile)

    def upscale(
        self,
        lr: Tensor,
        latents: Field | tuple[Tensor, ...] | None = None,
        temperature: float | None = None,
        bits: Bits = 8,
        progress: Progress | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Makes the HR image of one LR image.

        Args:
            lr: (3, h, w), float in [0, 1] or uint8, on any device.
            latents: a field, such as `LatentField(seed, draw)`; or tensors for the whole image, as the model's own
                `upscale` takes them. None: what the model's learned prior predicts; there is no temperature then.
            temperature: standard deviation of the latents. None: the model's `usual_temperature`; 1 for tensors where
                that is 0.
            bits: of the result: 8 (uint8), 16 (uint16, of which 65535 is white) or 32 (float32 in [0, 1]).
            progress: called with (tiles done, tiles in all) after each tile.
            size: (H, W) of the result, for a model of any scale (LINF).

        Returns:
            (3, scale·h, scale·w), or of that size, on the CPU.

        Raises:
            ValueError: for a wrong shape, dtype or temperature, NaN, or latents that don't fit.
            MemoryError: if the smallest tiles don't fit in memory.
        """
        _check(lr, "lr")
        height, _ = self.model.target(lr[None], size)
        return _assembled(self.strips(lr, latents, temperature, bits, progress, size), height)

    def strips(
        self,
        lr: Tensor,
        latents: Field | tuple[Tensor, ...] | None = None,
        temperature: float | None = None,
        bits: Bits = 8,
        progress: Progress | None = None,
        size: tuple[int, int] | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """`upscale`, as rows are finished: yields (top, rows), from top to bottom; rows is (3, some, scale·w)."""
        _check(lr, "lr")
        if bits not in _DTYPES:
            raise ValueError(f"upscale: bits must be 8, 16 or 32, got {bits!r}")
        target = self.model.target(lr[None], size)
        if isinstance(self.model, LINF):
            return self._at_any_scale(self.model, lr, latents, temperature, bits, progress, target)
        if isinstance(latents, tuple | list):
            field: Field = self._stored(latents, lr.shape[1:])
        else:
            field = latents or PredictedField(lr)
        if isinstance(field, PredictedField):
            if temperature is not None:
                raise ValueError("upscale: a learned prior goes without a temperature: draw with a LatentField")
            temperature = 1.0
        elif temperature is None:
            usual = self.model.usual_temperature
            temperature = 1.0 if isinstance(latents, tuple | list) and not usual else usual
        tau = temperature
        if tau == 0 and isinstance(field, LatentField):
            field = ZeroField()

        def run(top: int, left: int, height: int, width: int) -> Tensor:
            window = padded(self._cut(lr, top, left, height, width), self.model.lr_multiple)
            z = tuple(part.to(window) for part in field.crop(self.model, top, left, height, width))
            return self.model.upscale(window, temperature=tau, latents=z)[0, 0]

        return self._finished(run, lr.shape[1:], self._whole(self.model.scale), target, bits, progress)

    def _at_any_scale(
        self,
        model: LINF,
        lr: Tensor,
        latents: Field | tuple[Tensor, ...] | None,
        temperature: float | None,
        bits: Bits,
        progress: Progress | None,
        target: tuple[int, int],
    ) -> Iterator[tuple[int, Tensor]]:
        """Strips of a model whose HR pixels lie anywhere among the LR pixels: a tile has those in its window."""
        p, channels = model.config.patch, model.config.channels
        image, (height, width) = lr[None], lr.shape[1:]
        cell, (down, right) = model.cell(image, target), model.centres(image, target)
        field = StoredField(tuple(latents)) if isinstance(latents, tuple | list) else latents
        if field is None or not (isinstance(field, LatentField | StoredField) or target == model.target(image, None)):
            raise ValueError(
                f"latents: {type(model).__name__} takes a LatentField or tensors, got {type(field).__name__}"
            )
        if isinstance(field, StoredField):
            model.check_z(image, field.latents, target)
        (tau,) = temperatures(1, temperature)
        if tau == 0 and isinstance(field, LatentField):
            field = ZeroField()

        def before(centres: Tensor, side: int, at: int) -> int:  # the last patches may reach beyond the image
            return len(centres) if at >= side else int(torch.searchsorted(centres, at - 0.5))

        def run(top: int, left: int, rows: int, columns: int) -> Tensor:
            window = self._cut(lr, top, left, rows, columns)
            i, end = (before(down, height, at) for at in (top, top + rows))
            j, last = (before(right, width, at) for at in (left, left + columns))
            if i == end or j == last:  # made so much smaller that no pixel lies here
                return window.new_zeros(3, p * (end - i), p * (last - j))
            if isinstance(field, LatentField | StoredField | ZeroField):
                (z,) = field.part([(channels, i, j, end - i, last - j)])
            else:  # of LR pixels, each of which has a whole number of HR pixels
                (z,) = field.crop(model, top, left, rows, columns)
            at = ((down[i:end] - top).to(window.device), (right[j:last] - left).to(window.device))
            return model.window(window, at[0], at[1], cell, tau * z.to(window))[0].clamp(0, 1)

        grid = _Grid(lambda at: p * before(down, height, at), lambda at: p * before(right, width, at))
        return self._finished(run, lr.shape[1:], grid, target, bits, progress)

    def downscale(
        self, hr: Tensor, progress: Progress | None = None, refine: int = 0, radius: float = RADIUS
    ) -> Tensor:
        """Makes the model's LR image of one HR image.

        Args:
            hr: (3, H, W), float in [0, 1] or uint8, on any device.
            progress: called with (tiles done, tiles in all) after each tile.
            refine: as for `ImageFlow.downscale`; each tile is refined by itself.
            radius: as there.

        Returns:
            (3, ⌈H/scale⌉, ⌈W/scale⌉), uint8, on the CPU.

        Raises:
            ValueError: for a wrong shape or dtype, NaN in the image or the result, or a model that makes no LR image.
            MemoryError: if the smallest tiles don't fit in memory.
        """
        _check(hr, "hr")
        scale = self.model.scale

        def run(top: int, left: int, height: int, width: int) -> Tensor:
            window = self._cut(hr, scale * top, scale * left, scale * height, scale * width)
            lr = padded(self.model.downscale(window, refine, radius), self._multiple)[0]
            if not bool(lr.isfinite().all()):  # 8 bits could not tell
                raise ValueError("what the model makes of this image is not finite: take another checkpoint")
            return lr

        size = torch.Size(-(-side // scale) for side in hr.shape[1:])
        target = (size[0], size[1])
        return _assembled(self._finished(run, size, self._whole(1), target, 8, progress), size[0])

    def _whole(self, ratio: int) -> _Grid:
        """The grid of a whole number of pixels for each LR pixel."""
        return _Grid(lambda at: ratio * at, lambda at: ratio * at)

    def _finished(
        self,
        run: _Run,
        size: torch.Size,
        grid: _Grid,
        target: tuple[int, int],
        bits: Bits,
        progress: Progress | None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Strips without padding, as they are stored. `size`: of the LR image; `target`: of the result."""
        height, width = (self._up(side) for side in size)
        if self.side is None:
            self.side = self._chosen(run, height, width)
        for top, rows in self._strips(run, (0, 0, height, width), grid, progress):
            if top < target[0] and rows.shape[1]:
                yield top, _stored(rows[:, : target[0] - top, : target[1]], bits)

    def _strips(
        self, run: _Run, window: tuple[int, int, int, int], grid: _Grid, progress: Progress | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Yields (top, rows) of a window of the image, float32."""
        top, left, height, width = window
        rows, tile_height = self._starts(height)
        columns, tile_width = self._starts(width)

        def down(row: int) -> int:
            return grid.rows(top + row) - grid.rows(top)

        def right(column: int) -> int:
            return grid.columns(left + column) - grid.columns(left)

        unfinished = torch.empty(3, 0, right(width))
        for i, row in enumerate(rows):
            band = torch.empty(3, down(row + tile_height) - down(row), right(width))
            filled = 0
            for j, column in enumerate(columns):
                tile = self._tile(run, top + row, left + column, tile_height, tile_width, grid)
                start, end = right(column), right(column + tile_width)
                _fade_in(tile, band[..., start:filled], dim=2)
                band[..., start:end], filled = tile, end
                if progress is not None:
                    progress(i * len(columns) + j + 1, len(rows) * len(columns))
            _fade_in(band, unfinished, dim=1)
            finished = down([*rows, height][i + 1]) - down(row)
            yield down(row), band[:, :finished]
            unfinished = band[:, finished:].clone()  # not a view, which would hold on to the band

    def _tile(self, run: _Run, top: int, left: int, height: int, width: int, grid: _Grid) -> Tensor:
        """One tile, float32 on the CPU; in smaller ones if it doesn't fit in memory."""
        assert self.side is not None, "chosen before"
        if max(height, width) <= self.side:
            try:
                with torch.no_grad():
                    return run(top, left, height, width).float().cpu()
            except (RuntimeError, MemoryError) as error:  # OutOfMemoryError is a RuntimeError
                if not is_out_of_memory(error):
                    raise
            self._halve(max(height, width))  # here, where the error no longer holds on to what was computed
        window = (top, left, height, width)
        return torch.cat([rows for _, rows in self._strips(run, window, grid)], 1)

    def _halve(self, side: int) -> None:
        if side <= self._floor:
            raise MemoryError(
                f"{type(self.model).__name__}: not even a tile of {side} LR pixels a side fits in memory: "
                'free some, take a smaller overlap, or make the model with precision="bf16"'
            )
        self.side = max(self._floor, self._up(side // 2))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _chosen(self, run: _Run, height: int, width: int) -> int:
        """The side of tiles where none was named."""
        if max(height, width) <= PROBE or next(self.model.parameters()).device.type != "cpu":
            return self._up(TILE)
        free = available_bytes()
        if free is None:
            return self._up(TILE)
        height, width = (min(side, self._up(PROBE)) for side in (height, width))
        per_pixel = peak_tensor_bytes(lambda: run(0, 0, height, width)) / (height * width)
        side = math.isqrt(int(free / SPARE / per_pixel)) // self._multiple * self._multiple
        return max(self._floor, min(side, self._up(TILE)))

    def _starts(self, length: int) -> tuple[list[int], int]:
        """Starts of tiles along a side, spread evenly at multiples, and their length."""
        assert self.side is not None, "chosen before"
        if length <= self.side:
            return [0], length
        count = math.ceil((length - self.overlap) / (self.side - self.overlap))
        size = self._up(math.ceil((length + (count - 1) * self.overlap) / count))
        multiple = self._multiple
        return [i * (length - size) // (count - 1) // multiple * multiple for i in range(count)], size

    def _cut(self, image: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
        """A window of the image, (1, 3, …) floats where the model is; less of it at the bottom and the right."""
        return cut_window(image, (top, left), (top + height, left + width), next(self.model.parameters()))

    def _stored(self, latents: tuple[Tensor, ...], size: torch.Size) -> StoredField:
        expected = [(1, *shape) for shape in self.model.latent_shapes(*(self._up(side) for side in size))]
        got = [tuple(z.shape) for z in latents]
        if got != expected:
            raise ValueError(f"latents: expected shapes {expected} for lr {(3, *size)}, got {got}")
        return StoredField(latents)

    def _up(self, side: int) -> int:
        return -(-side // self._multiple) * self._multiple


def _fade_in(new: Tensor, old: Tensor, dim: int) -> None:
    """Overwrites the start of `new` along a dimension, as far as `old` goes, by a cross-fade from `old`."""
    length = old.shape[dim]
    if length:
        place = (torch.arange(length) + 0.5) / length
        weight = (2 * place - 0.5).clamp(0, 1)  # a quarter of the old alone, a ramp, a quarter of the new alone
        part = new.narrow(dim, 0, length)
        part.copy_(old + weight.view(-1, *[1] * (2 - dim)) * (part - old))  # where both agree, exactly that


def _stored(rows: Tensor, bits: Bits) -> Tensor:
    return rows.clone() if bits == 32 else (rows * (2**bits - 1)).round_().to(_DTYPES[bits])


def _assembled(strips: Iterator[tuple[int, Tensor]], height: int) -> Tensor:
    top, rows = next(strips)
    out = torch.empty((3, height, rows.shape[2]), dtype=rows.dtype)
    out[:, : rows.shape[1]] = rows
    for top, rows in strips:
        out[:, top : top + rows.shape[1]] = rows
    return out


def _check(image: Tensor, name: str) -> None:
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"{name}: expected one image (3, H, W), got {got}")
    if not (image.dtype == torch.uint8 or (image.is_floating_point() and bool(image.isfinite().all()))):
        raise ValueError(f"{name}: expected uint8, or finite floats in [0, 1], got {image.dtype} or NaN in it")
