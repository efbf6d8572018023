"""Elementwise maps that are integrals of a positive function: sums of squares, and a small network."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowkit.arguments import check_numbers, check_whole
from flowkit.kinds import softplus_from_one
from flowkit.numeric import NumericKind


class Integral(NumericKind):
    """y = start + ∫₀ˣ slope(t) dt, by Fejér's rule with a fixed number of points.

    A subclass says `parameters`, `nodes`, `start_of` and `slope`; `prepare` as in any numeric kind.
    """

    nodes: int

    @abstractmethod
    def start_of(self, prepared: Any) -> Tensor:
        """Y at 0, (B, C, *spatial)."""

    @abstractmethod
    def slope(self, t: Tensor, prepared: Any) -> Tensor:
        """The positive slopes at t, (B, C, *spatial, points)."""

    def evaluate(self, x: Tensor, prepared: Any) -> tuple[Tensor, Tensor]:
        """The integral, and the logarithm of the slope at its end."""
        points, weights = _fejer(self.nodes, x)
        slopes = self.slope(x.unsqueeze(-1) * torch.cat([points, torch.ones_like(points[:1])]), prepared)
        return self.start_of(prepared) + x * (slopes[..., :-1] * weights).sum(-1), slopes[..., -1].log()

    def value(self, x: Tensor, prepared: Any) -> Tensor:
        """The integral alone."""
        points, weights = _fejer(self.nodes, x)
        return self.start_of(prepared) + x * (self.slope(x.unsqueeze(-1) * points, prepared) * weights).sum(-1)


@dataclass(frozen=True)
class SumOfSquares(Integral):
    """y = c + ∫₀ˣ Σₖ (Σₗ aₖₗ tˡ)² dt, a polynomial of degree 2·degree + 1 whose slope is a mean of squares.

    Parameters per channel: c, and `squares` · (degree + 1) coefficients. The constant ones start at 1, and the linear
    ones get offsets, since squares that start alike would get the same gradient for ever; so zero parameters are nearly
    the identity: off by mean(offset²)·x³/3. The quadrature is exact.

    Args:
        squares: k, polynomials that are squared; the sum is over k (a mean), so that the slope starts at 1.
        degree: of each of them.
        offset: half the range of the offsets of the linear coefficients.
        floor: the least slope; the squares get the rest, 1 − floor.
        bound: |x| beyond which the map goes on along its tangent.
        bisections: halvings of the bracket before the Newton steps of the inverse.

    Raises:
        ValueError: for no squares, a negative degree or offset, a floor outside [0, 1), or no positive bound.

    Source:
        Jaini et al., Sum-of-Squares Polynomial Flow (2019).

    Example:
        >>> import flowkit
        >>> kind = SumOfSquares(2, 3)
        >>> b = flowkit.Coupling(flowkit.nets.MLP(1, kind.parameters), keep=1, kind=kind)
        >>> x = torch.tensor([[0.5, 1.0]])
        >>> b.inverse(b(x)[0])[0].detach()
        tensor([[0.5000, 1.0000]])
    """

    alike: ClassVar[bool] = True

    squares: int
    degree: int
    offset: float = 0.1
    floor: float = 1e-3
    bound: float = 10.0
    bisections: int = 32

    def __post_init__(self) -> None:
        check_whole("SumOfSquares", squares=self.squares, bisections=self.bisections)
        check_whole("SumOfSquares", 0, degree=self.degree)
        check_numbers("SumOfSquares", "[0, inf)", offset=self.offset)
        check_numbers("SumOfSquares", "[0, 1)", floor=self.floor)
        check_numbers("SumOfSquares", "(0, inf)", bound=self.bound)

    @property
    def parameters(self) -> int:
        """C and the coefficients."""
        return 1 + self.squares * (self.degree + 1)

    @property
    def nodes(self) -> int:  # type: ignore[override]
        """As many as make the integral of a polynomial of degree 2·degree exact."""
        return 2 * self.degree + 1

    def prepare(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """C, and the coefficients by degree, (degree + 1, …, k, 1)."""
        coefficients = parameters[:, :, 1:].movedim(2, -1).unflatten(-1, (self.squares, -1)).movedim(-1, 0)
        by_degree = [coefficients[0] + 1, *coefficients[1:]]
        if self.squares > 1 and self.degree:
            raw = by_degree[1]
            by_degree[1] = raw + torch.linspace(
                -self.offset, self.offset, self.squares, dtype=raw.dtype, device=raw.device
            )
        return parameters[:, :, 0], torch.stack(by_degree).unsqueeze(-1)

    def start_of(self, prepared: tuple[Tensor, Tensor]) -> Tensor:
        """The constant c of integration."""
        return prepared[0]

    def slope(self, t: Tensor, prepared: tuple[Tensor, Tensor]) -> Tensor:
        """The mean of the squares, by Horner's rule, above the floor."""
        t = t.unsqueeze(-2)
        lower, highest = prepared[1][:-1], prepared[1][-1]
        polynomial = highest + 0 * t
        for coefficient in reversed(lower.unbind(0)):
            polynomial = polynomial * t + coefficient
        return self.floor + (1 - self.floor) * polynomial.square().mean(-2)


@dataclass(frozen=True)
class Monotonic(Integral):
    """y = c + ∫₀ˣ f(t) dt with f > 0 a network of one hidden layer whose weights are the parameters (UMNN).

    f(t) = softplus(Σⱼ vⱼ tanh(uⱼ t + bⱼ) + v₀), scaled to start at 1. Parameters per channel: c, v₀, and `hidden` each
    of u, b and v. u starts at 1 and b at numbers from −2 to 2, so that units differ; zero parameters are the identity.

    The quadrature has `nodes` points, and the log-det is log f(x): that of the integral, from which the quadrature's
    slope may differ where f changes faster than the points are apart. For |x| ≤ 4 and |u| ≤ 4, 32 points are right to
    about 1e-6.

    Args:
        hidden: units of the hidden layer.
        nodes: points of the quadrature.
        bound: |x| beyond which the map goes on along its tangent.
        bisections: halvings of the bracket before the Newton steps of the inverse.

    Raises:
        ValueError: if hidden, nodes, bound or bisections are not positive.

    Source:
        Wehenkel and Louppe, Unconstrained Monotonic Neural Networks (2019). There the network is one of its own, given
        embeddings; a kind owns no weights, so that its weights are among the parameters here.

    Example:
        >>> import flowkit
        >>> kind = Monotonic(8)
        >>> b = flowkit.Coupling(flowkit.nets.MLP(1, kind.parameters), keep=1, kind=kind)
        >>> x = torch.tensor([[0.5, 1.0]])
        >>> b.inverse(b(x)[0])[0].detach()
        tensor([[0.5000, 1.0000]])
    """

    alike: ClassVar[bool] = True

    hidden: int
    nodes: int = 32
    bound: float = 10.0
    bisections: int = 32

    def __post_init__(self) -> None:
        check_whole("Monotonic", hidden=self.hidden, nodes=self.nodes, bisections=self.bisections)
        check_numbers("Monotonic", "(0, inf)", bound=self.bound)

    @property
    def parameters(self) -> int:
        """c, v₀, and u, b, v."""
        return 2 + 3 * self.hidden

    def prepare(self, parameters: Tensor) -> tuple[Tensor, ...]:
        """c, v₀ of shape (…, 1), and u, b, v of shape (…, hidden, 1)."""
        raw = parameters.movedim(2, -1)
        u, b, v = raw[..., 2:].unsqueeze(-1).split(self.hidden, -2)
        apart = torch.linspace(-2, 2, self.hidden, dtype=raw.dtype, device=raw.device).unsqueeze(-1)
        return raw[..., 0], raw[..., 1:2], u + 1, b + (apart if self.hidden > 1 else 0.0), v

    def start_of(self, prepared: tuple[Tensor, ...]) -> Tensor:
        """The constant c of integration."""
        return prepared[0]

    def slope(self, t: Tensor, prepared: tuple[Tensor, ...]) -> Tensor:
        """The network's."""
        _, v0, u, b, v = prepared
        return softplus_from_one((v * torch.tanh(u * t.unsqueeze(-2) + b)).sum(-2) + v0)


def _fejer(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Points in (0, 1) and weights of Fejér's first rule, exact for polynomials of degree n − 1.

    By formula, on the device: no table to copy.
    """
    angles = (2 * torch.arange(n, dtype=like.dtype, device=like.device) + 1) * (math.pi / (2 * n))
    harmonics = torch.arange(1, n // 2 + 1, dtype=like.dtype, device=like.device)
    series = (torch.cos(2 * harmonics * angles[:, None]) / (4 * harmonics.square() - 1)).sum(-1)
    return (1 - torch.cos(angles)) / 2, (1 - 2 * series) / n
