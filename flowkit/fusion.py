"""Channel-linear runs of a chain: each is one matrix, and touches the pixels once. All are made in a few calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flowkit.bijector import full_precision, widest
from flowkit.fixed_linear import Scale, Shift
from flowkit.linear import (
    LONG,
    ActNorm,
    InvertibleConv1x1,
    LinAlgError,
    Permutation,
    alone,
    factored,
    mix_channels,
    per_channel,
    pixels,
    singular,
)
from flowkit.shortcuts import replaceable
from flowkit.tree import Value

Run = Sequence[nn.Module]
"""Neighbours in a chain that act together: channel-linear maps of the same channels, or any one part."""

_SHIFTS_FIRST = (ActNorm, Shift)
"""Their `bias` is added to x before all else."""

_DIAGONAL = (*_SHIFTS_FIRST, Permutation)
"""No sums of channels: they take nothing from the exactness of a shift that comes later in the run."""

_UNSHIFTED = (InvertibleConv1x1, Permutation, Scale)
"""They have no bias."""


class Pixelwise(NamedTuple):
    """y = matrix·(x + shift) + bias at every pixel.

    The shift that comes first stays outside the matrix, in both directions: x + shift is exact where a mean that is
    large beside the spread cancels, matrix·x + matrix·shift is not.

    Attributes:
        shift: (C,), or None.
        matrix: (C, C).
        bias: (C,), or None.
        slope: log|det matrix|, the log-det of one pixel.
    """

    shift: Tensor | None
    matrix: Tensor
    bias: Tensor | None
    slope: Tensor

    def apply(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Applies it to (B, C, *spatial). Returns y and the log-det, which all samples share: a scalar."""
        shifted = x if self.shift is None else x + per_channel(self.shift, x)
        slope = self.slope if x.ndim == 2 else self.slope * pixels(x)
        return mix_channels(shifted, self.matrix, self.bias), slope


def runs_of(parts: Iterable[nn.Module]) -> list[list[nn.Module]]:
    """Parts of a chain in order: those that act as one together, the others alone.

    A matrix that no shift precedes ends its run, for all but permutations: what a later shift takes away from its
    product would already be lost to rounding.
    """
    runs: list[list[nn.Module]] = []
    channels: Any = None  # of the run that is open
    shifted = mixed = False
    for part in parts:
        author = replaceable(part, "after")
        own = None if author is None else part.in_channels
        if own is None or own != channels or (mixed and not shifted and author is not Permutation):
            runs.append([])
            channels, shifted, mixed = own, False, False
        runs[-1].append(part)
        shifted |= author in _SHIFTS_FIRST and not mixed
        mixed |= author not in _DIAGONAL
    return runs


def compose(runs: Sequence[Run], like: Tensor, inverse: bool = False) -> Iterator[Pixelwise | None]:
    """Yields what each run does to a pixel, or what undoes it; None for a run that is no matter of matrices.

    Runs of the same kinds of maps share their calls. Products and inverses are computed in float64 and rounded once.

    Args:
        runs: as from `runs_of`; of a whole chain, from its end if inverse.
        like: a tensor of the dtype and the dimensions, and on the device, that they will act on.
        inverse: undo the runs.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, run in enumerate(runs):
        authors = _authors(run)
        if _worth_a_matrix(run, authors, like):
            form: Any = run[0].form() if len(run) == 1 else None  # type: ignore[operator]
            groups.setdefault((run[0].in_channels, form, *authors), []).append(i)
    made: dict[int, Pixelwise] = {}
    with full_precision(like):
        for (_, form, *authors), members in groups.items():
            try:
                if factored(form):
                    matrix, slope = alone([runs[i][0] for i in members], inverse)
                    stacked = _rounded(like, None, matrix, None, slope)
                else:
                    stacked = _stacked([runs[i] for i in members], authors, like, inverse)
            except RuntimeError as error:
                found = _singular(runs[::-1] if inverse else runs, like)
                if found is None:
                    raise
                raise LinAlgError(found) from error
            each = zip(*((None,) * len(members) if part is None else part.unbind() for part in stacked), strict=True)
            made.update(zip(members, map(Pixelwise._make, each), strict=True))
    return map(made.get, range(len(runs)))


def fits(run: Run, x: Value) -> bool:
    """Whether x is what a channel-linear run takes; if not, its first part says so."""
    return isinstance(x, Tensor) and x.shape[1] == run[0].in_channels


def _authors(run: Run) -> list[Any]:
    """The classes whose `after` describes the parts; [None] for one part that must be called."""
    if len(run) == 1:
        return [replaceable(run[0], "after")]
    classes: list[Any] = [type(part) for part in run]
    return [cls.written["after"][0] for cls in classes]


def _worth_a_matrix(run: Run, authors: list[Any], like: Tensor) -> bool:
    """Several maps with a matrix among them, or a 1×1 convolution: its determinant is cheaper in company."""
    if len(run) == 1 and authors[0] is not InvertibleConv1x1:
        return False
    mixes = any(author not in _DIAGONAL for author in authors)
    channels: Any = run[0].in_channels
    return mixes and (like.ndim > 2 or channels <= LONG)


def _stacked(
    runs: Sequence[Run], authors: list[Any], like: Tensor, inverse: bool
) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor]:
    """Several runs of the same kinds: shifts (n, C), matrices (n, C, C), biases (n, C), slopes (n,)."""
    channels: Any = runs[0][0].in_channels
    wide = widest(like.device)
    eye = torch.eye(channels, dtype=wide, device=like.device).expand(len(runs), -1, -1)
    kinds = list(zip(authors, zip(*runs, strict=True), strict=True))
    shift = _first_shift(kinds)
    matrix, bias = eye, eye.new_zeros(len(runs), channels) if shift is None else -shift.to(wide)
    for author, parts in kinds:
        matrix, bias = author.after(parts, matrix, bias)
    shifts = sum(author not in _UNSHIFTED for author in authors)
    rest = bias if shifts > (shift is not None) else None
    if not inverse:
        return _rounded(like, shift, matrix, rest, torch.linalg.slogdet(matrix).logabsdet)
    factors, pivots = torch.linalg.lu_factor(matrix)
    back = torch.linalg.lu_solve(factors, pivots, eye)
    slope = (factors * eye).sum(2).abs().log().sum(1)  # of the diagonal, which inductor takes with a warning
    return _rounded(like, None if rest is None else -rest, back, None if shift is None else -shift, -slope)


def _rounded(like: Tensor, *parts: Tensor | None) -> Any:
    return tuple(None if part is None else part.to(like.dtype) for part in parts)


def _first_shift(kinds: list[tuple[Any, tuple[Any, ...]]]) -> Tensor | None:
    """The shift of an ActNorm or Shift that only permutations precede, as one of x."""
    orders: list[Tensor] = []
    for author, parts in kinds:
        if author in _SHIFTS_FIRST:
            shift = torch.stack([part.bias for part in parts])
            for back in reversed(orders):
                shift = shift.gather(1, back)
            return shift
        if author is not Permutation:
            return None
        orders.append(torch.stack([part.back for part in parts]))
    return None


def _singular(runs: Sequence[Run], like: Tensor) -> str | None:
    """Names the part of a chain whose matrix has no inverse."""
    for i, part in enumerate(part for run in runs for part in run):
        author: Any = replaceable(part, "after")
        if author is not None:
            channels: Any = part.in_channels
            eye = torch.eye(channels, dtype=like.dtype, device=like.device)[None]
            matrix, _ = author.after([part], eye, eye[:, 0])
            if not torch.linalg.slogdet(matrix).logabsdet.isfinite().all():
                return f"part {i} of the chain, {singular(part)}"
    return None
