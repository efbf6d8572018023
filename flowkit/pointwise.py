"""Base class of fixed maps of every number on its own, and what happens at the bounds of their sets.

What is outside of, or on, the bound has no density: a map then returns a finite placeholder and the log-det −inf, so
that the log-density of a whole chain is −inf, never NaN. NaN stays NaN.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from flowkit.bijector import TensorMap
from flowkit.linear import per_channel
from flowkit.tree import Value, describe, sum_per_sample

Constant = float | Tensor
"""A number, or one a channel: a tensor (C,), kept as a buffer."""


def bounds(constraint: constraints.Constraint | None) -> tuple[Constant, Constant] | None:
    """The ends of an interval, −inf and inf where it has none; None for a set of another kind."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    if constraint is constraints.real:
        return -math.inf, math.inf
    low = getattr(constraint, "lower_bound", None)
    high = getattr(constraint, "upper_bound", None)
    if (low is None and high is None) or getattr(constraint, "is_discrete", False):
        return None
    return _end(low, -math.inf), _end(high, math.inf)


def _end(bound: Any, otherwise: float) -> Constant:
    if bound is None:
        return otherwise
    return bound if isinstance(bound, Tensor) else float(bound)


class Pointwise(TensorMap):
    """A fixed map of every number: a subclass gives `value`, `solve` and `log_slope`, on the inside of its sets."""

    def value(self, x: Tensor) -> Tensor:
        """The result y of every number x, of x's shape."""
        raise NotImplementedError(f"{type(self).__name__} defines no value(x)")

    def solve(self, y: Tensor) -> Tensor:
        """The number x behind every y, of y's shape."""
        raise NotImplementedError(f"{type(self).__name__} defines no solve(y)")

    def log_slope(self, x: Tensor) -> Tensor:
        """Logarithm of the slope dy/dx, of x's shape."""
        raise NotImplementedError(f"{type(self).__name__} defines no log_slope(x)")

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Maps every number."""
        x, outside = _held(self.domain, x)
        return self.value(x), total(self.log_slope(x), outside)

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Maps every number back."""
        y, outside = _held(self.codomain, y)
        x = self.solve(y)
        return x, total(-self.log_slope(x), outside)

    def keep(self, **constants: Constant) -> None:
        """Keeps numbers as attributes, and tensors (C,) as buffers."""
        for name, constant in constants.items():
            if isinstance(constant, Tensor) and constant.ndim:
                if constant.ndim > 1:
                    raise ValueError(
                        f"{type(self).__name__}: {name} must be a number or (C,), got {describe(constant)}"
                    )
                if self.in_channels not in (None, len(constant)):
                    raise ValueError(
                        f"{type(self).__name__}: {name} has {len(constant)} channels, not {self.in_channels}"
                    )
                self.in_channels = self.out_channels = len(constant)
                self.register_buffer(name, constant.detach().clone())
            else:
                setattr(self, name, float(constant))

    def extra_repr(self) -> str:
        """The constants."""
        shown = {**{k: v for k, v in vars(self).items() if isinstance(v, float)}, **self._buffers}
        return ", ".join(f"{k}={v.tolist() if isinstance(v, Tensor) else f'{v:g}'}" for k, v in shown.items())


def at(constant: Constant, x: Tensor) -> Any:
    """A constant, in such a shape that it broadcasts with x."""
    return per_channel(constant.to(x.dtype), x) if isinstance(constant, Tensor) and constant.ndim == 1 else constant


def _held(constraint: constraints.Constraint | None, value: Tensor) -> tuple[Tensor, Tensor | None]:
    """The numbers with a placeholder for those outside of, or on, the bound; and which those are."""
    ends = bounds(constraint)
    if ends is None or constraint is constraints.real:
        return value, None
    low, high = (at(end, value) for end in ends)
    outside = (value <= low) | (value >= high)
    return torch.where(outside, _middle(low, high), value), outside


def _middle(low: Any, high: Any) -> Any:
    if isinstance(low, float) and math.isinf(low):
        return 0.0 if isinstance(high, float) and math.isinf(high) else high - 1.0
    return low + 1.0 if isinstance(high, float) and math.isinf(high) else low + (high - low) / 2


def total(log_slope: Tensor, outside: Tensor | None) -> Tensor:
    """The log-det (B,): the sum of the log-slopes, −inf if any number is outside."""
    return sum_per_sample(log_slope if outside is None else torch.where(outside, -math.inf, log_slope))


def positive(layer: str, name: str, constant: Constant) -> Constant:
    """The constant.

    Raises:
        ValueError: that names the layer, if it is not positive and finite.
    """
    values = torch.as_tensor(constant)
    if not bool(((values > 0) & values.isfinite()).all()):
        raise ValueError(f"{layer}: {name} must be positive, got {constant}")
    return constant


def log(constant: Any) -> Any:
    """Logarithm of a number or a tensor."""
    return constant.log() if isinstance(constant, Tensor) else math.log(constant)
