"""Fixed maps of every number on its own, and the supports that they lead to: sigmoid, exp, tanh, a CDF, an affine map.

Each states its domain and codomain. Numbers outside of, or on, the bound of the set that a map takes give a finite
placeholder and the log-det −inf (`flowkit.pointwise`).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from flowkit.fixed_linear import Matrix, Scale, Shift
from flowkit.pointwise import Constant, Pointwise, at, log, positive, total
from flowkit.quantiles import Cdf
from flowkit.tree import Value

__all__ = [
    "Asinh",
    "Cdf",
    "Exp",
    "Leaky",
    "Matrix",
    "Scale",
    "Shift",
    "Sigmoid",
    "SignedPower",
    "SinhArcsinh",
    "Softplus",
    "Tanh",
]


class Sigmoid(Pointwise):
    """The reals onto an interval, y = low + (high − low)·σ(x). `Sigmoid().inv` is the logit of data in (0, 1).

    Args:
        low, high: the ends, numbers or (C,).
        margin: α in [0, ½): data in [low, high], its ends included, is squeezed into the middle, u ← α + (1 − 2α)u,
            before the logit, and the log-det counts it; RealNVP takes 0.05. The interval that is reached is then wider
            than [low, high], by α/(1 − 2α) of its length on either side.

    Raises:
        ValueError: if low is not below high, or for another margin.

    Example:
        >>> import flowkit
        >>> y, logdet = flowkit.elementwise.Sigmoid(-1.0, 1.0)(torch.zeros(1, 2))
        >>> y.tolist(), logdet
        ([[0.0, 0.0]], tensor([-1.3863]))
    """

    low: Constant
    high: Constant

    def __init__(self, low: Constant = 0.0, high: Constant = 1.0, margin: float = 0.0) -> None:
        super().__init__()
        if not 0 <= margin < 0.5:
            raise ValueError(f"Sigmoid: margin must be at least 0 and below 0.5, got {margin}")
        self.keep(low=low, high=high)
        width = torch.as_tensor(self.high - self.low)
        if not bool(((width > 0) & width.isfinite()).all()):
            raise ValueError(f"Sigmoid: low must be below high, and both finite, got {low} and {high}")
        beyond = margin / (1 - 2 * margin)
        self.keep(low=low - beyond * (high - low), high=high + beyond * (high - low))

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        """The open interval that is reached."""
        return constraints.interval(self.low, self.high)

    def value(self, x: Tensor) -> Tensor:
        """From the nearer end, so that no digit is lost beside it."""
        low, high = at(self.low, x), at(self.high, x)
        part = (high - low) * torch.sigmoid(torch.where(x < 0, x, -x))  # −|x| would have no slope at 0
        return torch.where(x < 0, low + part, high - part)

    def solve(self, y: Tensor) -> Tensor:
        """The logit, exact beside either end."""
        return (y - at(self.low, y)).log() - (at(self.high, y) - y).log()

    def log_slope(self, x: Tensor) -> Tensor:
        """log(high − low) + log σ(x) + log σ(−x)."""
        width = at(self.high, x) - at(self.low, x)
        return F.logsigmoid(x) + F.logsigmoid(-x) + log(width)


class Exp(Pointwise):
    """The reals onto the positive numbers, y = eˣ.

    Example:
        >>> import flowkit
        >>> flowkit.elementwise.Exp()(torch.zeros(1, 2))[0]
        tensor([[1., 1.]])
    """

    codomain = constraints.positive

    def value(self, x: Tensor) -> Tensor:
        """The exponential."""
        return x.exp()

    def solve(self, y: Tensor) -> Tensor:
        """The logarithm."""
        return y.log()

    def log_slope(self, x: Tensor) -> Tensor:
        """Logarithm of the slope, which is x."""
        return x


class Softplus(Pointwise):
    """The reals onto the positive numbers, y = log(1 + eˣ): eˣ far below 0, x far above.

    Example:
        >>> import flowkit
        >>> flowkit.elementwise.Softplus().inverse(torch.full((1, 1), 40.0))[0]
        tensor([[40.]])
    """

    codomain = constraints.positive

    def value(self, x: Tensor) -> Tensor:
        """log(1 + eˣ), exact in both tails."""
        return _softplus(x)

    def solve(self, y: Tensor) -> Tensor:
        """The inverse, y + log(1 − e⁻ʸ)."""
        return y + (-torch.expm1(-y)).log()

    def log_slope(self, x: Tensor) -> Tensor:
        """Logarithm of the slope, log σ(x)."""
        return F.logsigmoid(x)


class Tanh(Pointwise):
    """The reals onto (−1, 1), y = tanh x.

    Example:
        >>> import flowkit
        >>> (flowkit.elementwise.Tanh() >> flowkit.elementwise.Tanh().inv)(torch.ones(1, 1))[0]
        tensor([[1.]])
    """

    codomain = constraints.interval(-1.0, 1.0)

    def value(self, x: Tensor) -> Tensor:
        """The hyperbolic tangent."""
        return torch.tanh(x)

    def solve(self, y: Tensor) -> Tensor:
        """Its inverse."""
        return torch.atanh(y)

    def log_slope(self, x: Tensor) -> Tensor:
        """2(log 2 − |x| − log(1 + e^−2|x|))."""
        size = torch.where(x < 0, -x, x)
        return 2 * (math.log(2) - size - _softplus(-2 * size))


class SinhArcsinh(Pointwise):
    """Skew and tails of a density, y = sinh((asinh x + skew)·tail) (Jones and Pewsey, 2009).

    Args:
        skew: positive ones lean to the right; numbers or (C,).
        tail: positive; tails heavier than those of x if above 1, lighter if below. Numbers or (C,).

    Raises:
        ValueError: if tail is not positive.

    Example:
        >>> import flowkit
        >>> flowkit.elementwise.SinhArcsinh(tail=2.0)(torch.ones(1, 1))[0]
        tensor([[2.8284]])
    """

    skew: Constant
    tail: Constant

    def __init__(self, skew: Constant = 0.0, tail: Constant = 1.0) -> None:
        super().__init__()
        self.keep(skew=skew, tail=positive("SinhArcsinh", "tail", tail))

    def value(self, x: Tensor) -> Tensor:
        """sinh((asinh x + s)·t)."""
        return torch.sinh(self._angle(x))

    def solve(self, y: Tensor) -> Tensor:
        """sinh(asinh y / t − s)."""
        return torch.sinh(torch.asinh(y) / at(self.tail, y) - at(self.skew, y))

    def log_slope(self, x: Tensor) -> Tensor:
        """Log t + log cosh((asinh x + s)·t) − ½ log(1 + x²)."""
        angle = self._angle(x)
        log_cosh = torch.logaddexp(angle, -angle) - math.log(2)
        return log_cosh + _log_hypot(x) + log(at(self.tail, x))

    def _angle(self, x: Tensor) -> Tensor:
        return (torch.asinh(x) + at(self.skew, x)) * at(self.tail, x)


class Asinh(Pointwise):
    """A logarithm with a sign, y = asinh x: the reals onto the reals, for data over many orders of magnitude.

    Example:
        >>> import flowkit
        >>> flowkit.elementwise.Asinh()(torch.full((1, 1), -1e6))[0]
        tensor([[-14.5087]])
    """

    def value(self, x: Tensor) -> Tensor:
        """The inverse hyperbolic sine."""
        return torch.asinh(x)

    def solve(self, y: Tensor) -> Tensor:
        """The hyperbolic sine."""
        return torch.sinh(y)

    def log_slope(self, x: Tensor) -> Tensor:
        """−½ log(1 + x²)."""
        return _log_hypot(x)


class Leaky(Pointwise):
    """A leaky rectifier, y = x for x ≥ 0 and slope·x below; its log-slope jumps at 0.

    Args:
        slope: positive; numbers or (C,).

    Raises:
        ValueError: if slope is not positive.

    Example:
        >>> import flowkit
        >>> flowkit.elementwise.Leaky(0.5)(torch.tensor([[-2.0, 2.0]]))
        (tensor([[-1.,  2.]]), tensor([-0.6931]))
    """

    slope: Constant

    def __init__(self, slope: Constant = 0.01) -> None:
        super().__init__()
        self.keep(slope=positive("Leaky", "slope", slope))

    def value(self, x: Tensor) -> Tensor:
        """The number x, or a·x below 0."""
        return torch.where(x < 0, x * at(self.slope, x), x)

    def solve(self, y: Tensor) -> Tensor:
        """The number y, or y/a below 0."""
        return torch.where(y < 0, y / at(self.slope, y), y)

    def log_slope(self, x: Tensor) -> Tensor:
        """Logarithm of the slope: log a below 0, else 0."""
        return (x < 0) * (log(at(self.slope, x)) + torch.zeros_like(x))


class SignedPower(Pointwise):
    """A power that keeps the sign, y = sign(x)·|x|^power, the reals onto the reals.

    At 0 its slope is 0 or infinite, so no density goes through: unless power is 1 the log-det there is −inf both ways.

    Args:
        power: positive; numbers or (C,).

    Raises:
        ValueError: if power is not positive.

    Example:
        >>> import flowkit
        >>> flowkit.elementwise.SignedPower(3.0)(torch.tensor([[-2.0]]))[0]
        tensor([[-8.]])
    """

    power: Constant

    def __init__(self, power: Constant) -> None:
        super().__init__()
        self.keep(power=positive("SignedPower", "power", power))

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Raises to the power."""
        return self._to_the(at(self.power, x), x)

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Takes the root."""
        return self._to_the(1 / at(self.power, y), y)

    @staticmethod
    def _to_the(power: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        zero = x == 0
        size = torch.where(zero, 1.0, x).abs()
        log_slope = log(power) + (power - 1) * size.log()
        singular = zero & (power != 1.0)
        return torch.where(zero, x, x.sign() * size**power), total(log_slope, singular)


def _softplus(x: Tensor) -> Tensor:
    """log(1 + eˣ); torch's own is x beyond a threshold, 2e-9 off in float64."""
    return -F.logsigmoid(-x)


def _log_hypot(x: Tensor) -> Tensor:
    """−½ log(1 + x²), where x² would overflow too."""
    return -torch.hypot(x, torch.ones_like(x)).log()
