"""Planar, radial and Sylvester flows: narrow maps of a whole vector, here with their inverses."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.arguments import check_whole
from flowkit.bijector import TensorMap, full_precision
from flowkit.matrices import diagonal, reflections
from flowkit.roots import root
from flowkit.tree import Value, sum_per_sample

_ONE = math.log(math.e - 1)
"""Softplus of it is 1."""


class _PerPixel(TensorMap):
    """A map of the vector at every pixel: a subclass maps (…, C) to y and the log-det (…)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        check_whole(type(self).__name__, features=features)
        self.in_channels = self.out_channels = features

    def extra_repr(self) -> str:
        """The features."""
        return str(self.in_channels)

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Maps every vector."""
        with full_precision(x):
            y, logdet = self.bent(x.movedim(1, -1))
        return y.movedim(-1, 1), sum_per_sample(logdet[..., None])

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Maps every vector back."""
        with full_precision(y):
            x, logdet = self.straightened(y.movedim(1, -1))
        return x.movedim(-1, 1), sum_per_sample(logdet[..., None])

    def bent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps x (…, C); returns y and the log-det (…)."""
        raise NotImplementedError

    def straightened(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Maps y (…, C) back; returns x and the log-det (…) of the inverse."""
        raise NotImplementedError


class Sylvester(_PerPixel):
    """y = x + Q R tanh(R̃ Qᵀx + b): planar flows side by side, as many as the rank (van den Berg et al., 2018).

    Q has orthonormal columns, by reflections, R and R̃ are upper triangular, and the diagonal of R̃R stays above −1, so
    that the map is invertible. Its inverse is a root of one variable for every unit, from the last to the first: exact,
    with exact gradients. It starts as the identity. Of an image every pixel's channels are mapped.

    Args:
        features: C of x.
        rank: units, at most C.

    Raises:
        ValueError: for no features, or a rank that is not between 1 and their number.

    Example:
        >>> import flowkit
        >>> b = flowkit.Sylvester(3, rank=2)
        >>> y, logdet = b(torch.randn(5, 3))
        >>> y.shape, logdet.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(self, features: int, rank: int) -> None:
        super().__init__(features)
        check_whole("Sylvester", rank=rank)
        if rank > features:
            raise ValueError(f"Sylvester: rank must be between 1 and {features}, got {rank}")
        self.vectors = nn.Parameter(torch.randn(rank, features))
        self.inner = nn.Parameter(torch.zeros(rank, rank))  # R̃, the logarithm of its diagonal on the diagonal
        self.outer = nn.Parameter(torch.zeros(rank, rank))  # R, without its diagonal
        self.raw = nn.Parameter(torch.full((rank,), _ONE))  # softplus of it, minus 1, is the diagonal of R̃R
        self.bias = nn.Parameter(torch.zeros(rank))

    def extra_repr(self) -> str:
        """Features and rank."""
        return f"{self.in_channels}, rank={len(self.bias)}"

    def bent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One pass."""
        frame, inner, outer = self._factors()
        bend = torch.tanh(x @ frame @ inner.T + self.bias)
        return x + bend @ outer.T @ frame.T, self._log_slope(bend).sum(-1)

    def straightened(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Unit by unit, from the last."""
        frame, inner, outer = self._factors()
        strength = inner @ outer
        targets = y @ frame @ inner.T + self.bias
        bends: list[Tensor] = []
        for i in reversed(range(len(self.bias))):
            later = [
                strength[i, j] * bend for j, bend in zip(range(i + 1, len(self.bias)), reversed(bends), strict=True)
            ]
            target = targets[..., i] - sum(later)
            bends.append(torch.tanh(_unbent(target, self.raw[i])))
        bend = torch.stack(bends[::-1], -1)
        return y - bend @ outer.T @ frame.T, -self._log_slope(bend).sum(-1)

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Q, (C, rank), R̃ and R."""
        scale = diagonal(self.inner).exp()
        own = (F.softplus(self.raw) - 1) / scale
        frame = reflections(self.vectors)[:, : len(self.bias)]
        return frame, self.inner.triu(1) + scale.diag(), self.outer.triu(1) + own.diag()

    def _log_slope(self, bend: Tensor) -> Tensor:
        return _log_slope(bend, self.raw)


class Planar(_PerPixel):
    """y = x + û·tanh(wᵀx + b): space is pushed along û at one plane (Rezende and Mohamed, 2015).

    û is u, moved along w until wᵀû = softplus(wᵀu) − 1 > −1, so that the map is invertible. The inverse is one root of
    one variable, wᵀx between wᵀy ± |wᵀû|: exact, with exact gradients. It starts as the identity. Of an image every
    pixel's channels are mapped.

    Args:
        features: C of x.

    Raises:
        ValueError: for no features.

    Example:
        >>> import flowkit
        >>> b = flowkit.Planar(2)
        >>> x = torch.randn(5, 2)
        >>> torch.allclose(b.inverse(b(x)[0])[0], x, atol=1e-5)
        True
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        weight = torch.randn(features) / features**0.5
        self.weight = nn.Parameter(weight)
        self.direction = nn.Parameter(weight * _ONE / weight.dot(weight))
        self.bias = nn.Parameter(torch.zeros(()))

    def bent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One pass."""
        push, raw = self._push()
        bend = torch.tanh(x @ self.weight + self.bias)
        return x + bend[..., None] * push, _log_slope(bend, raw)

    def straightened(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """One root."""
        push, raw = self._push()
        bend = torch.tanh(_unbent(y @ self.weight + self.bias, raw))
        return y - bend[..., None] * push, -_log_slope(bend, raw)

    def _push(self) -> tuple[Tensor, Tensor]:
        """û, and the wᵀu that it is made of."""
        raw = self.weight.dot(self.direction)
        return self.direction + (F.softplus(raw) - 1 - raw) * self.weight / self.weight.dot(self.weight), raw


class Radial(_PerPixel):
    """y = x + β(x − c)/(α + |x − c|): space is pulled to a centre or pushed from it (Rezende and Mohamed, 2015).

    α > 0 and β > −α, so that the map is invertible; the inverse is the root of a quadratic. It starts as the identity.
    Of an image every pixel's channels are mapped.

    Args:
        features: C of x.

    Raises:
        ValueError: for no features.

    Example:
        >>> import flowkit
        >>> flow = flowkit.Flow(flowkit.Radial(2) >> flowkit.Radial(2), flowkit.StandardNormal())
        >>> flow.sample(4).shape
        torch.Size([4, 2])
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.centre = nn.Parameter(torch.randn(features))
        self.raw_width = nn.Parameter(torch.zeros(()))  # softplus of it is α
        self.raw_slope = nn.Parameter(torch.zeros(()))  # softplus of it is α + β

    def bent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One pass."""
        radius, width, slope = self._radius(x)
        factor = (radius + slope) / (width + radius)
        return self.centre + (x - self.centre) * factor[..., None], self._logdet(radius, width, slope)

    def straightened(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The positive root r of r² + (α + β − ρ)·r = α·ρ, ρ the distance of y from the centre."""
        reached, width, slope = self._radius(y)
        linear, product = slope - reached, width * reached
        size = torch.where(linear < 0, -linear, linear)  # |0| would have no slope
        larger = (size + (linear**2 + 4 * product).sqrt()) / 2
        radius = torch.where(linear < 0, larger, product / larger)
        factor = (width + radius) / (radius + slope)
        return self.centre + (y - self.centre) * factor[..., None], -self._logdet(radius, width, slope)

    def _radius(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distances from the centre, α and α + β."""
        radius = torch.linalg.vector_norm(x - self.centre, dim=-1)
        return radius, F.softplus(self.raw_width), F.softplus(self.raw_slope)

    def _logdet(self, radius: Tensor, width: Tensor, slope: Tensor) -> Tensor:
        """Across the radius C − 1 times, and along it."""
        across = (radius + slope).log() - (width + radius).log()
        along = (radius * (radius + 2 * width) + slope * width).log() - 2 * (width + radius).log()
        return (self.centre.numel() - 1) * across + along


def _log_slope(bend: Tensor, raw: Tensor) -> Tensor:
    """Log(1 + s·tanh′) where s = softplus(raw) − 1 and `bend` is the tanh; no difference of near numbers."""
    return (bend**2 + F.softplus(raw) * (1 - bend**2)).log()


def _unbent(target: Tensor, raw: Tensor) -> Tensor:
    """Where a + s·tanh(a) reaches the target, s = softplus(raw) − 1 > −1."""
    strength = F.softplus(raw) - 1

    def evaluate(a: Tensor) -> tuple[Tensor, Tensor]:
        bend = torch.tanh(a)
        return a + strength * bend, _log_slope(bend, raw)

    with torch.no_grad():
        reach = strength.abs()
        low, high = target - reach, target + reach
    return root(evaluate, target, low, high, value=lambda a: a + strength * torch.tanh(a))[0]
