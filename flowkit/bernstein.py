"""Bernstein polynomials with increasing coefficients as an elementwise map."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowkit.arguments import check_numbers, check_whole
from flowkit.kinds import softplus_from_one
from flowkit.numeric import NumericKind

MOST = 100
"""The highest degree: binomial coefficients of 130 are beyond float32, and of 68 beyond 64 bits."""


@dataclass(frozen=True)
class Bernstein(NumericKind):
    """A polynomial of a given degree on [−bound, bound], by its Bernstein coefficients, linear outside.

    Parameters per channel: a shift, and `degree` raw differences of neighbouring coefficients, which a softplus makes
    positive. The polynomial has no shape that it starts from but the identity, and no rounding that grows: values and
    slopes are means of the coefficients.

    Args:
        degree: n, 1 to 100.
        bound: half the width of the interval; beyond it the map goes on along its tangent.
        bisections: halvings of the bracket before the Newton steps of the inverse.

    Raises:
        ValueError: if degree, bound or bisections are not positive, or the degree is above 100.

    Source:
        Sick et al., Deep transformation models (2020); Ramasinghe et al., Robust normalizing flows using
        Bernstein-type polynomials (2022).

    Example:
        >>> import flowkit
        >>> kind = Bernstein(6)
        >>> b = flowkit.Coupling(flowkit.nets.MLP(1, kind.parameters), keep=1, kind=kind)
        >>> x = torch.tensor([[0.5, 1.0]])
        >>> b.inverse(b(x)[0])[0].detach()
        tensor([[0.5000, 1.0000]])
    """

    alike: ClassVar[bool] = True

    degree: int
    bound: float = 5.0
    bisections: int = 32

    def __post_init__(self) -> None:
        check_whole("Bernstein", degree=self.degree, bisections=self.bisections)
        check_numbers("Bernstein", "(0, inf)", bound=self.bound)
        if self.degree > MOST:
            raise ValueError(f"Bernstein: degree must be at most {MOST}, got {self.degree}")

    @property
    def parameters(self) -> int:
        """A shift and the differences."""
        return 1 + self.degree

    def prepare(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients and their differences in units of the identity's, each (n, …)."""
        shift, raw = parameters.movedim(2, 0).split([1, self.degree])
        steps = softplus_from_one(raw)
        rises = torch.cat([torch.zeros_like(shift), steps.cumsum(0)])
        return shift - self.bound + 2 * self.bound / self.degree * rises, steps

    def evaluate(self, x: Tensor, prepared: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The polynomial, and that of the differences."""
        return self.value(x, prepared), (prepared[1] * self._basis(x, self.degree - 1)).sum(0).log()

    def value(self, x: Tensor, prepared: tuple[Tensor, Tensor]) -> Tensor:
        """The polynomial."""
        return (prepared[0] * self._basis(x, self.degree)).sum(0)

    def _basis(self, x: Tensor, n: int) -> Tensor:
        """The n + 1 Bernstein polynomials of degree n, by products: a power of 0 has no second derivative in torch."""
        u = (x + self.bound) / (2 * self.bound)
        rising, falling = [torch.ones_like(u)], [torch.ones_like(u)]
        for _ in range(n):
            rising.append(rising[-1] * u)
            falling.append(falling[-1] * (1 - u))
        return torch.stack([float(math.comb(n, k)) * rising[k] * falling[n - k] for k in range(n + 1)])
