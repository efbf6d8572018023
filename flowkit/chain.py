"""Composition: a chain applies its parts from left to right and adds their log-dets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from torch import Tensor, nn
from torch.distributions import constraints

from flowkit.bijector import Bijector, full_precision, no_logdet
from flowkit.fusion import compose, runs_of
from flowkit.tree import Value, leaves, map_leaves, repeat_rows, widen


class Chain(Bijector):
    """Applies bijectors from left to right; `Chain()` is the identity. `f >> g` is `Chain(f, g)`, flat.

    Every part gets the same context. A part may come from elsewhere (an nflows transform, say) if it has
    `forward(x, context)` and `inverse(y, context)` that return (value, logdet); such a part knows nothing of
    precision policies and runs with autocast off. Neighbours that are channel-linear (ActNorm, 1×1 convolution,
    permutation) are composed and touch the pixels once, unless somebody hooks one of them.

    Raises:
        TypeError: if a part is not a module with an inverse.

    Example:
        >>> import torch, flowkit
        >>> flow = flowkit.Squeeze() >> flowkit.ActNorm(12) >> flowkit.InvertibleConv1x1(12)
        >>> y, logdet = flow(torch.rand(2, 3, 8, 8))
        >>> y.shape, logdet.shape
        (torch.Size([2, 12, 4, 4]), torch.Size([2]))
    """

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        flat: list[nn.Module] = []
        for part in parts:
            if not isinstance(part, nn.Module) or not callable(getattr(part, "inverse", None)):
                raise TypeError(f"Chain: {type(part).__name__} is not a module with an inverse")
            flat.extend(part if type(part) is Chain else [part])
        self.parts = nn.ModuleList(flat)
        self.x_is_tensor = bool(flat) and getattr(flat[0], "x_is_tensor", False)
        self.y_is_tensor = bool(flat) and getattr(flat[-1], "y_is_tensor", False)
        self.constant_logdet = all(getattr(part, "constant_logdet", False) for part in flat)
        self.domain, self.codomain = _ends(flat)
        self.in_channels, self.stride, self.shrink = _entrance(flat)
        self.out_channels = _entrance([part.inv if isinstance(part, Bijector) else part for part in flat[::-1]])[0]

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.parts)

    def __getitem__(self, index: int) -> nn.Module:
        return self.parts[index]

    def forward(self, x: Value, context: Value = None) -> tuple[Value, Tensor]:
        """Applies the parts in order. Returns the last value and the sum of the log-dets, shape (B,)."""
        return self._walk(x, context, inverse=False)

    def inverse(self, y: Value, context: Value = None) -> tuple[Value, Tensor]:
        """Applies the inverses in reverse order."""
        return self._walk(y, context, inverse=True)

    def _walk(self, x: Value, context: Value, inverse: bool) -> tuple[Value, Tensor]:
        first = next(leaves(x))
        logdet = no_logdet(first)
        runs = self.runs()[:: -1 if inverse else 1]
        for run, as_one in zip(runs, compose(runs, first, inverse), strict=True):
            x, term = as_one.apply(x) if as_one and fits(run, x) else apply_run(run, x, context, inverse)
            logdet = logdet + term
        return x, logdet

    def runs(self) -> list[list[Any]]:
        """The parts in order: those that act as one together, the others alone."""
        return runs_of(self.parts)


Bijector._chain = Chain  # `>>`


def fits(run: list[Any], x: Value) -> bool:
    """Whether x is what a channel-linear run takes; if not, its first part says so."""
    return isinstance(x, Tensor) and x.shape[1] == run[0].in_channels


def apply_run(run: list[Any], x: Value, context: Value, inverse: bool = False) -> tuple[Value, Tensor]:
    """Applies the parts one after the other, or undoes them."""
    terms = []
    for part in reversed(run) if inverse else run:
        x, term = _apply(part, part.inverse if inverse else part, x, context)
        terms.append(term)
    return x, sum(terms[1:], terms[0])


def _apply(part: nn.Module, method: Any, x: Value, context: Value) -> tuple[Value, Tensor]:
    if isinstance(part, Bijector):
        out: tuple[Value, Tensor] = method(x, context)
        return out
    first = next(leaves(x))
    with full_precision(first):
        value, logdet = method(x, map_leaves(lambda c: repeat_rows(widen(c), len(first)), context))
        return value, logdet


def _ends(parts: list[nn.Module]) -> tuple[constraints.Constraint | None, constraints.Constraint | None]:
    """Where a chain lives: the first's domain, the last's codomain, if each part reaches just what the next takes."""
    if not parts:
        return constraints.real, constraints.real
    joints = [(getattr(a, "codomain", None), getattr(b, "domain", None)) for a, b in itertools.pairwise(parts)]
    if any(reached is None or repr(reached) != repr(taken) for reached, taken in joints):
        return None, None
    return getattr(parts[0], "domain", None), getattr(parts[-1], "codomain", None)


def _entrance(parts: list[nn.Module]) -> tuple[int | None, int, Fraction | None]:
    """What a chain of parts expects of x: channels, stride; and its shrink. As far as the parts state it."""
    channels, stride, shrink = None, 1, Fraction(1)
    for part in parts:
        stride = math.lcm(stride, (shrink * getattr(part, "stride", 1)).numerator)
        own: int | None = getattr(part, "in_channels", None)
        if channels is None and own is not None:
            channels = int(own / shrink**2)
        step: Fraction | None = getattr(part, "shrink", None)
        if step is None:
            return channels, stride, None
        shrink *= step
    return channels, stride, shrink
