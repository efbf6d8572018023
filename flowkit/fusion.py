"""Channel-linear runs of a chain: each is one matrix, and touches the pixels once. All are made in a few calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowkit.bijector import full_precision
from flowkit.linear import ChannelLinear, InvertibleConv1x1, mix_channels, pixels

Run = Sequence[nn.Module]
"""Neighbours in a chain that act together: channel-linear maps of the same channels, or any one part."""


class Pixelwise(NamedTuple):
    """y = matrix·x + bias at every pixel.

    Attributes:
        matrix: (C, C).
        bias: (C,).
        slope: log|det matrix|, the log-det of one pixel.
    """

    matrix: Tensor
    bias: Tensor
    slope: Tensor

    def apply(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Applies it to (B, C, *spatial). Returns y and the log-det, shape (B,)."""
        return mix_channels(x, self.matrix, self.bias), (self.slope * pixels(x)).expand(x.shape[0])


def runs_of(parts: Iterable[nn.Module]) -> list[list[nn.Module]]:
    """Parts of a chain in order: those that act as one together, the others alone."""
    runs: list[list[nn.Module]] = []
    for part in parts:
        last = runs[-1][-1] if runs else None
        if last is not None and _free(last) and _free(part) and last.in_channels == part.in_channels:
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


def acts_as_one(run: Run) -> bool:
    """Worth a matrix: several maps, or a 1×1 convolution, whose determinant and inverse are cheaper in company."""
    return len(run) > 1 or (isinstance(run[0], InvertibleConv1x1) and _free(run[0]))


def compose(runs: Sequence[Run], like: Tensor, inverse: bool = False) -> Iterator[Pixelwise | None]:
    """Yields what each run does to a pixel, or what undoes it; None for a run that is no matter of matrices.

    Runs of the same kinds of maps share their calls. Inverses are solved in float64.

    Args:
        runs: as from `runs_of`.
        like: a tensor of the dtype, and on the device, that they will act on.
        inverse: undo the runs.
    """
    groups: dict[tuple[int | None, ...], list[int]] = {}
    for i, run in enumerate(runs):
        if acts_as_one(run):
            groups.setdefault((run[0].in_channels, *(hash(type(part)) for part in run)), []).append(i)  # type: ignore[arg-type]
    made: dict[int, Pixelwise] = {}
    with full_precision(like):
        for members in groups.values():
            stacked = _stacked([runs[i] for i in members], like, inverse)
            each = zip(*(part.unbind() for part in stacked), strict=True)
            made.update(zip(members, map(Pixelwise._make, each), strict=True))
    return map(made.get, range(len(runs)))


def _stacked(runs: Sequence[Run], like: Tensor, inverse: bool) -> Pixelwise:
    """Several runs of the same kinds: matrices (n, C, C), biases (n, C), slopes (n,)."""
    first: ChannelLinear = runs[0][0]  # type: ignore[assignment]
    wide = torch.float64 if inverse else like.dtype
    eye = torch.eye(first.in_channels or 0, dtype=wide, device=like.device).expand(len(runs), -1, -1)
    matrix, bias = eye, like.new_zeros(len(runs), first.in_channels or 0, dtype=wide)
    for parts in zip(*runs, strict=True):
        matrix, bias = type(parts[0]).after(parts, matrix, bias)
    if not inverse:
        return Pixelwise(matrix, bias, torch.linalg.slogdet(matrix).logabsdet)
    factors, pivots = torch.linalg.lu_factor(matrix)
    back = torch.linalg.lu_solve(factors, pivots, eye)
    slope = -(factors * eye).sum(2).abs().log().sum(1)  # of the diagonal, which inductor takes with a warning
    return Pixelwise(*(part.to(like.dtype) for part in (back, -(back @ bias[..., None])[..., 0], slope)))


def _free(part: nn.Module) -> bool:
    """Channel-linear, and nobody watches its calls."""
    return isinstance(part, ChannelLinear) and not (part._forward_hooks or part._forward_pre_hooks)
