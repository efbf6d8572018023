"""Composition: a chain applies its parts from left to right and adds their log-dets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

from torch import Tensor, nn
from torch.distributions import constraints

from flowkit.bijector import Bijector, Inverse, facts, full_precision, no_logdet, undone
from flowkit.columns import ends
from flowkit.fusion import compose, fits, runs_of
from flowkit.shortcuts import author, hooked
from flowkit.tree import Value, leaves, map_leaves, repeat_rows, widen


class Chain(Bijector):
    """Applies bijectors from left to right; `Chain()` is the identity. `f >> g` is `Chain(f, g)`, flat.

    Every part gets the same context. A part may come from elsewhere (an nflows transform, say) if it has
    `forward(x, context)` and `inverse(y, context)` that return (value, logdet); such a part knows nothing of
    precision policies and runs with autocast off. Neighbours that are channel-linear (ActNorm, 1×1 convolution,
    permutation) are composed and touch the pixels once, but for parts that a subclass or a patch has changed, or that
    somebody hooks: the result is that of the parts one by one. A chain among the parts gives its parts and is not
    called itself, unless it was subclassed, patched or hooked before.

    Raises:
        TypeError: if a part is not a module with an inverse.
        ValueError: if the channels that two parts state can't follow from each other.

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
            plain = type(part) is Chain and author(part, "forward") and not hooked(part)
            flat.extend(part.parts if plain else [part])  # type: ignore[arg-type]
        self.parts = nn.ModuleList(flat)
        stated = [facts(part) for part in flat]
        self.x_is_tensor = bool(flat) and stated[0].x_is_tensor
        self.y_is_tensor = bool(flat) and stated[-1].y_is_tensor
        if author(self, "forward") is Chain:
            self.constant_logdet = self._constant_logdet()
        self.domain, self.codomain = _ends(flat)
        self.stride, self.shrink = pace(flat)
        self.in_channels = _entrance(stated)
        self.out_channels = _entrance(map(Inverse, stated[::-1]))

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.parts)

    def __getitem__(self, index: int) -> nn.Module:
        return self.parts[index]

    def forward(self, x: Value, context: Value = None) -> tuple[Value, Tensor]:
        """Applies the parts in order. Returns the last value and the sum of the log-dets, shape (B,)."""
        return walk(self.runs(), x, context, inverse=False)

    def inverse(self, y: Value, context: Value = None) -> tuple[Value, Tensor]:
        """Applies the inverses in reverse order."""
        return walk(self.runs(), y, context, inverse=True)

    def inverse_alone(self, y: Value, context: Value = None) -> Value:
        """The inverse without its log-det."""
        runs = self.runs()[::-1]
        for run, as_one in zip(runs, compose(runs, next(leaves(y)), inverse=True), strict=True):
            if as_one and fits(run, y):
                y, _ = as_one.apply(y)
                continue
            for part in reversed(run):
                native = isinstance(part, Bijector)
                y = undone(part, y, context) if native else _apply(part, part.inverse, y, context)[0]
        return y

    def runs(self) -> list[list[Any]]:
        """The parts in order: those that act as one together, the others alone."""
        return runs_of(self.parts)

    def _constant_logdet(self) -> bool:
        patched = any({"forward", "inverse"} & vars(part).keys() for part in self.parts)
        return not patched and all(facts(part).constant_logdet for part in self.parts)


Bijector._chain = Chain  # `>>`


def walk(runs: list[list[Any]], x: Value, context: Value, inverse: bool) -> tuple[Value, Tensor]:
    """Applies the runs of a chain in order, or undoes them in reverse order."""
    first = next(leaves(x))
    logdet, shared = no_logdet(first), []
    ordered = runs[:: -1 if inverse else 1]
    for run, as_one in zip(ordered, compose(ordered, first, inverse), strict=True):
        if as_one and fits(run, x):
            x, term = as_one.apply(x)
            shared.append(term)
        else:
            x, term = apply_run(run, x, context, inverse)
            logdet = logdet + term
    return x, logdet + sum(shared[1:], shared[0]) if shared else logdet


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
        value, logdet = method(x, map_leaves(lambda c: repeat_rows(widen(c), first.shape[0]), context))
        return value, logdet


def _ends(parts: list[nn.Module]) -> tuple[constraints.Constraint | None, constraints.Constraint | None]:
    """Where a chain lives: the first's domain, the last's codomain, if each part reaches just what the next takes."""
    if not parts:
        return constraints.real, constraints.real
    return ends([(getattr(part, "domain", None), getattr(part, "codomain", None)) for part in parts])


def pace(parts: Iterable[nn.Module]) -> tuple[int, Fraction | None]:
    """Stride and shrink of parts one after the other, as far as they state it."""
    stride, shrink = 1, Fraction(1)
    for part in map(facts, parts):
        stride = math.lcm(stride, (shrink * part.stride).numerator)
        if part.shrink is None:
            return stride, None
        shrink *= part.shrink
    return stride, shrink


def _entrance(parts: Iterable[Bijector]) -> int | None:
    """The channels that a chain of parts expects of x, as far as they state it."""
    shrink = Fraction(1)
    for part in parts:
        if part.in_channels is not None:
            exact = part.in_channels / shrink**2
            if exact.denominator > 1:
                raise ValueError(
                    f"Chain: {type(part).__name__}({part.extra_repr()}) takes {part.in_channels} channels, which the "
                    f"maps beside it, that trade sizes for channels by {shrink}², can't make"
                )
            return int(exact)
        if part.shrink is None:
            return None
        shrink *= part.shrink
    return None
