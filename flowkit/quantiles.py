"""The distribution function of a `torch.distributions` object as a map to the unit interval."""

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, constraints

from flowkit.pointwise import Pointwise, bounds
from flowkit.torch_objects import copied, deep_copy


class Cdf(Pointwise):
    """The distribution function F of a distribution of numbers: its draws become uniform. Its inverse draws.

    Digits in the tails are those that the distribution's own `cdf` and `icdf` keep.

    Args:
        distribution: of `torch.distributions`, with `cdf`, `icdf` and one interval as its support; of batch shape ()
            or (C,). It moves with the module, and stays out of the state dict.

    Raises:
        ValueError: for a distribution without an `icdf`, with a batch of another shape, or not on an interval.

    Example:
        >>> import flowkit
        >>> uniform = flowkit.elementwise.Cdf(torch.distributions.Normal(0.0, 1.0))
        >>> uniform(torch.zeros(1, 1))[0]
        tensor([[0.5000]])
    """

    codomain = constraints.interval(0.0, 1.0)
    __deepcopy__ = deep_copy

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        name = type(distribution).__name__
        if distribution.event_shape or len(distribution.batch_shape) > 1:
            shape = tuple(distribution.batch_shape), tuple(distribution.event_shape)
            raise ValueError(f"Cdf: the distribution must be of numbers, one or C of them; {name} has shapes {shape}")
        if bounds(distribution.support) is None:
            raise ValueError(f"Cdf: the support of {name}, {distribution.support}, is no interval of the reals")
        try:
            half = torch.full(distribution.batch_shape, 0.5)
            distribution.icdf(half)
            distribution.cdf(distribution.icdf(half))
        except NotImplementedError:
            raise ValueError(f"Cdf: {name} has no cdf and icdf of its own") from None
        if distribution.batch_shape:
            self.in_channels = self.out_channels = distribution.batch_shape[0]
        self.distribution = copied(distribution, lambda tensor: tensor)

    def extra_repr(self) -> str:
        """The distribution."""
        return str(self.distribution)

    @property
    def domain(self) -> constraints.Constraint | None:  # type: ignore[override]
        """The support of the distribution."""
        support: constraints.Constraint = self.distribution.support
        return support

    def value(self, x: Tensor) -> Tensor:
        """F(x)."""
        law = self.distribution
        if type(law) is Normal:  # torch's own loses the lower tail
            return self._called(lambda v: torch.erfc((law.loc - v) / law.scale / math.sqrt(2)) / 2, x)
        return self._called(law.cdf, x)

    def solve(self, y: Tensor) -> Tensor:
        """The quantile of y."""
        law = self.distribution
        if type(law) is Normal:
            return self._called(lambda v: law.loc + law.scale * torch.special.ndtri(v), y)
        return self._called(law.icdf, y)

    def log_slope(self, x: Tensor) -> Tensor:
        """The log-density."""
        return self._called(self.distribution.log_prob, x)

    @staticmethod
    def _called(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return function(x.movedim(1, -1)).movedim(-1, 1).to(x.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.distribution = copied(self.distribution, fn)
        return super()._apply(fn, recurse)
