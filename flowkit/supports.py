"""Maps of the reals onto the supports of torch's constraints and distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
import torch.distributions
from torch import Tensor, nn
from torch.distributions import Distribution, StickBreakingTransform, constraints
from torch.distributions.constraints import Constraint

from flowkit.bijector import Bijector
from flowkit.chain import Chain
from flowkit.distributions import from_transform
from flowkit.elementwise import Sigmoid
from flowkit.pointwise import Constant, Pointwise, at, bounds
from flowkit.torch_objects import copied, deep_copy
from flowkit.tree import Value, describe


def biject_to(target: Constraint | Distribution) -> Bijector:
    """A bijector of the reals onto a set, such as the support of a prior.

    `Flow(biject_to(prior).inv >> …, base)` has log-density −inf outside of the set, and draws inside alone: where
    rounding would put a number on an open end, it is the next one inside.

    Args:
        target: a constraint of `torch.distributions`, or a distribution, whose support is taken. Intervals by a
            sigmoid, half-lines by an exponential, with bounds that are numbers or (C,), the same for every row;
            the simplex by stick-breaking, K − 1 numbers to K; products of these (`independent`, and `cat` and `stack`
            along the last dimension) coordinate by coordinate; all else by what torch registers.

    Raises:
        TypeError: if it is neither.
        ValueError: if the support is not known or discrete, or no map onto it is.

    Example:
        >>> import flowkit
        >>> from torch.distributions import Uniform
        >>> b = biject_to(Uniform(torch.tensor([0.0, -1.0]), torch.tensor([1.0, 3.0])))
        >>> b(torch.zeros(1, 2))[0]
        tensor([[0.5000, 1.0000]])
        >>> biject_to(torch.distributions.constraints.simplex)(torch.zeros(1, 2))[0]
        tensor([[0.3333, 0.3333, 0.3333]])
    """
    constraint = _support(target) if isinstance(target, Distribution) else target
    if not isinstance(constraint, Constraint):
        raise TypeError(f"biject_to: expected a constraint or a distribution of torch, got {type(target).__name__}")
    if _discrete(constraint):
        raise ValueError(f"biject_to: {target} is discrete, and no map of the reals reaches it")
    inner = _unwrapped(constraint)
    if inner is constraints.real:
        return Chain()
    if inner is constraints.simplex:
        return from_transform(StickBreakingTransform())
    ends = bounds(inner)
    if ends is not None and all(not isinstance(end, Tensor) or end.ndim <= 1 for end in ends):
        return _between(*ends)
    if isinstance(inner, constraints.cat | constraints.stack) and inner.dim == -1:
        return _Columns(inner.cseq, getattr(inner, "lengths", [1] * len(inner.cseq)))
    try:
        return from_transform(torch.distributions.biject_to(constraint))
    except NotImplementedError:
        raise ValueError(f"biject_to: no map of the reals onto {constraint} is known") from None


def _support(distribution: Distribution) -> Any:
    try:
        support: Any = distribution.support
    except NotImplementedError:
        raise ValueError(f"biject_to: {distribution} does not state its support") from None
    return support


def _discrete(constraint: Constraint) -> bool:
    try:
        return bool(constraint.is_discrete)
    except NotImplementedError:
        raise ValueError(
            f"biject_to: {constraint} depends on a distribution's parameters; give the distribution"
        ) from None


def _unwrapped(constraint: Constraint) -> Constraint:
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def _between(low: Constant, high: Constant) -> Bijector:
    infinite = [torch.as_tensor(end).isinf() for end in (low, high)]
    if any(bool(some.any() != some.all()) for some in infinite):  # coordinate by coordinate
        pairs = zip(*(end.unbind() for end in torch.broadcast_tensors(*map(torch.as_tensor, (low, high)))), strict=True)
        targets = [_bounded(float(left), float(right)) for left, right in pairs]
        return _Columns(targets, [1] * len(targets))
    below, above = (bool(some.all()) for some in infinite)
    if below and above:
        return Chain()
    if below or above:
        return _HalfLine(high, -1) if below else _HalfLine(low, 1)
    return _Interval(low, high)


def _bounded(low: float, high: float) -> Constraint:
    """The constraint of numbers between two ends, of which either may be infinite."""
    if math.isinf(low):
        return constraints.real if math.isinf(high) else constraints.less_than(high)
    return constraints.greater_than(low) if math.isinf(high) else constraints.interval(low, high)


class _Interval(Sigmoid):
    """The open interval: a number never rounds to its ends."""

    def value(self, x: Tensor) -> Tensor:
        """Of the sigmoid, and inside."""
        low, high = _as(self.low, x), _as(self.high, x)
        return super().value(x).clamp(torch.nextafter(low, high), torch.nextafter(high, low))


class _HalfLine(Pointwise):
    """All beyond a bound: y = bound ± eˣ, and not the bound itself."""

    bound: Constant

    def __init__(self, bound: Constant, sign: int) -> None:
        super().__init__()
        self.keep(bound=bound)
        self.sign = sign

    @property
    def codomain(self) -> Constraint:  # type: ignore[override]
        """The open half-line."""
        return constraints.greater_than(self.bound) if self.sign > 0 else constraints.less_than(self.bound)

    def value(self, x: Tensor) -> Tensor:
        """The exponential from there."""
        bound = _as(self.bound, x)
        first = torch.nextafter(bound, torch.full_like(bound, self.sign * math.inf))
        y = bound + self.sign * x.exp()
        return torch.maximum(y, first) if self.sign > 0 else torch.minimum(y, first)

    def solve(self, y: Tensor) -> Tensor:
        """The logarithm of the distance."""
        return (self.sign * (y - at(self.bound, y))).log()

    def log_slope(self, x: Tensor) -> Tensor:
        """That of the exponential."""
        return x


class _Columns(Bijector):
    """Neighbouring channels onto sets of their own, of given lengths."""

    x_is_tensor = y_is_tensor = True
    __deepcopy__ = deep_copy

    def __init__(self, targets: Sequence[Constraint], lengths: Sequence[int]) -> None:
        super().__init__()
        self.lengths = list(lengths)
        self.parts = nn.ModuleList(map(biject_to, targets))
        shorter = [_unwrapped(target) is constraints.simplex for target in targets]
        self.inputs = [length - short for length, short in zip(lengths, shorter, strict=True)]
        self.in_channels, self.out_channels = sum(self.inputs), sum(self.lengths)
        each = [_unwrapped(target) for target in targets]
        numbers = all(constraint.event_dim == 0 for constraint in each)
        self.codomain = constraints.cat(each, -1, self.lengths) if numbers else None
        if not any(shorter):
            self.shrink = Fraction(1)

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Maps each group."""
        return self._each(x, self.inputs, list(self.parts))

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Maps each group back."""
        return self._each(y, self.lengths, [part.inverse for part in self.parts])

    def _each(self, x: Tensor, lengths: list[int], maps: list[Any]) -> tuple[Tensor, Tensor]:
        if x.ndim != 2:
            raise ValueError(f"biject_to: a product of sets is one of vectors (B, C), got {describe(x)}")
        made = [each(part) for each, part in zip(maps, x.split(lengths, 1), strict=True)]
        logdet: Tensor = torch.stack([term for _, term in made]).sum(0)
        return torch.cat([y for y, _ in made], 1), logdet

    def _apply(self, function: Any, recurse: bool = True) -> _Columns:
        self.codomain = copied(self.codomain, function)
        super()._apply(function, recurse)
        return self


def _as(constant: Constant, x: Tensor) -> Tensor:
    found = at(constant, x)
    return found if isinstance(found, Tensor) else torch.full((), found, dtype=x.dtype, device=x.device)
