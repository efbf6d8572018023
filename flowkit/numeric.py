"""Elementwise maps whose inverse has no formula: given by their values and slopes, inverted by a root finder."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from flowkit.kinds import Kind
from flowkit.roots import finite_exp, root
from flowkit.tree import sum_per_sample


class NumericKind(Kind):
    """An increasing map of every number, stated by its values and slopes; the base class inverts it.

    A subclass says `parameters` and `evaluate`. Beyond ±`bound` the map goes on along its tangent, so that it reaches
    all reals. The inverse is bisected and polished by Newton steps, always as many of them; first and second
    derivatives are exact in both directions (implicit function theorem).

    Attributes:
        bound: |x| beyond which the map goes on along its tangent, and the bracket of the inverse.
        bisections: halvings of the bracket before the Newton steps.

    Example:
        >>> import flowkit
        >>> class Bend(NumericKind):
        ...     parameters = 1
        ...     def evaluate(self, x, p):
        ...         rate = p[:, :, 0].sigmoid()
        ...         return x + rate * x.sin(), torch.log1p(rate * x.cos())
        >>> b = flowkit.Coupling(flowkit.nets.MLP(1, 1), keep=1, kind=Bend())
        >>> x = torch.tensor([[0.5, 1.0]])
        >>> b.inverse(b(x)[0])[0].detach()
        tensor([[0.5000, 1.0000]])
    """

    bound: float = 10.0
    bisections: int = 32

    def prepare(self, parameters: Tensor) -> Any:
        """What `evaluate` takes, made once per call of (B, C, P, *spatial); by default the parameters themselves."""
        return parameters

    @abstractmethod
    def evaluate(self, x: Tensor, prepared: Any) -> tuple[Tensor, Tensor]:
        """Maps x, (B, C, *spatial), to y and the logarithms of the slopes, each of that shape."""

    def value(self, x: Tensor, prepared: Any) -> Tensor:
        """Maps x to y alone: what bisection calls."""
        return self.evaluate(x, prepared)[0]

    def reach(self, prepared: Any) -> Tensor | float:
        """|x| beyond which the map goes on along its tangent."""
        return self.bound

    def range(self, x: Tensor, prepared: Any) -> tuple[Tensor, Tensor]:
        """The values at both ends of the reach, in the shape of x."""
        reach = self.reach(prepared)
        return self.value(torch.full_like(x, -1.0) * reach, prepared), self.value(torch.ones_like(x) * reach, prepared)

    def bracket(self, y: Tensor, prepared: Any) -> tuple[Tensor, Tensor]:
        """Ends between which x lies, for y in the range."""
        reach = self.reach(prepared)
        return torch.full_like(y, -1.0) * reach, torch.ones_like(y) * reach

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates the map."""
        prepared = self.prepare(parameters)
        reach = self.reach(prepared)
        near = x.clamp(-reach, reach)  # type: ignore[arg-type]  # two numbers, or two tensors
        y, log_slope = self.evaluate(near, prepared)
        return y + (x - near) * finite_exp(log_slope), sum_per_sample(log_slope)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Solves for x."""
        prepared = self.prepare(parameters)
        near = y.clamp(*self.range(y, prepared))
        x, log_slope = root(
            lambda x: self.evaluate(x, prepared),
            near,
            *self.bracket(near, prepared),
            bisections=self.bisections,
            value=lambda x: self.value(x, prepared),
        )
        return x + (y - near) * finite_exp(-log_slope), -sum_per_sample(log_slope)
