"""One mixture of Gaussians for all numbers of a latent, carried to a standard normal: SharedGaussianization."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowkit.arguments import check_numbers, check_whole
from flowkit.bijector import TensorMap, widest
from flowkit.spline import _Piece
from flowkit.tree import Value, sum_per_sample

LIMIT = 20.0
"""Logits, means and log-variances are held within ± this."""
REACH = 8.0
"""Standard deviations of each component that the table covers; beyond, the map goes on along its tangent."""
DEPTH = 8
"""The table has 2^DEPTH intervals."""
LEAST = 1e-5
"""Height of an interval: where components leave a gap, the map would be flat."""


class SharedGaussianization(TensorMap):
    """z = Φ⁻¹(Σ wⱼ Φ((x − μⱼ)/σⱼ)) with the same k components for every number of x, all learned.

    What makes the details of an image, if they are so distributed, a standard normal latent; its inverse draws from
    the mixture. A function of one number is the same everywhere, so it is computed at 257 places alone, and between
    them interpolated by rational quadratics with the mixture's slopes: within 1e-5 of it, if no component is ten times
    as narrow as another. The interpolation itself is a bijection, exactly inverted, with the log-det of its own slope.

    Args:
        components: k.
        std: of the first logits, means and log-variances, which are drawn.

    Attributes:
        logits, means, log_vars: (k,). They count within ±20.

    Raises:
        ValueError: without components.

    Source:
        The mixture is SAIN's (2023), of high-frequency details.

    Example:
        >>> import flowkit
        >>> b = flowkit.SharedGaussianization(5)
        >>> x = torch.tensor([[0.5, -1.0]])
        >>> torch.allclose(b.inverse(b(x)[0])[0], x, atol=1e-6)
        True
    """

    def __init__(self, components: int, std: float = 1e-4) -> None:
        super().__init__()
        check_whole("SharedGaussianization", components=components)
        check_numbers("SharedGaussianization", "[0, inf)", std=std)
        self.logits, self.means, self.log_vars = (nn.Parameter(std * torch.randn(components)) for _ in range(3))

    def extra_repr(self) -> str:
        """The number of components."""
        return str(len(self.logits))

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Numbers of the mixture to normal ones."""
        table = self._table(x)
        piece = table.piece(x, table.x)
        near = x.clamp(table.x[0], table.x[-1])
        theta = (near - piece.x) / piece.width
        rise, log_slope = piece.at(theta)
        return piece.y + piece.height * rise + (x - near) * log_slope.exp(), sum_per_sample(log_slope)

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Normal numbers to those of the mixture."""
        x, log_slope = self._quantile(y, 1.0)
        return x, sum_per_sample(log_slope)

    def quantile(self, z: Tensor, temperature: float = 1.0) -> Tensor:
        """Numbers of the mixture at normal ones of any shape; a temperature scales each component about its mean."""
        return self._quantile(z, temperature)[0]

    def sample(self, normal: Tensor, uniform: Tensor) -> Tensor:
        """Draws whose gradient reaches the logits, too: the component by a hard Gumbel-softmax.

        Args:
            normal: standard normal numbers of any shape.
            uniform: numbers in [0, 1) of that shape, and (k,) behind.
        """
        gumbel = -(-uniform.clamp(1e-6, 1 - 1e-6).log()).log()
        logits, means, log_stds = self._held()
        soft = (logits + gumbel).softmax(-1)
        hard = torch.nn.functional.one_hot(soft.argmax(-1), len(logits)).to(soft)
        chosen = hard + soft - soft.detach()
        return (chosen * (means + log_stds.exp() * normal.unsqueeze(-1))).sum(-1)

    def _held(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, means and logarithms of standard deviations."""
        logits, means, log_vars = (p.clamp(-LIMIT, LIMIT) for p in (self.logits, self.means, self.log_vars))
        return logits, means, log_vars / 2

    def _quantile(self, z: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Quantiles, and the logarithms of their slopes."""
        table = self._table(z, temperature)
        piece = table.piece(z, table.z)
        near = z.clamp(table.z[0], table.z[-1])
        theta = piece.solve(near)
        log_slope = -piece.at(theta)[1]
        return piece.x + piece.width * theta + (z - near) * log_slope.exp(), log_slope

    def _table(self, like: Tensor, temperature: float = 1.0) -> "_Table":
        """The mixture at places of equal distance, all components within; computed from the nearer end."""
        logits, means, log_stds = (p.to(widest(like.device)) for p in self._held())
        log_stds = log_stds + math.log(max(temperature, 1e-3))
        weights, stds = logits.softmax(0), log_stds.exp()
        low, high = (means - REACH * stds).detach().amin(), (means + REACH * stds).detach().amax()
        x = low + (high - low) * torch.linspace(0, 1, 2**DEPTH + 1, dtype=low.dtype, device=low.device)
        u = (x[:, None] - means) / stds
        below, above = ((weights * torch.erfc(v * math.sqrt(0.5))).sum(1) / 2 for v in (-u, u))
        lower = below < above
        tail = torch.special.ndtri(torch.where(lower, below, above))
        z = torch.where(lower, tail, -tail)
        heights = z.diff().clamp_min(LEAST)
        z = torch.cat([z[:1], z[:1] + heights.cumsum(0)])
        log_density = (logits.log_softmax(0) - u.square() / 2 - log_stds).logsumexp(1)
        slopes = torch.maximum((log_density + z.square() / 2).exp(), LEAST / x.diff()[:1])
        return _Table(*(part.to(like.dtype) for part in (x, z, x.diff(), heights, slopes)))


class _Table(NamedTuple):
    """Knots x and z of a spline, its intervals' widths and heights, and the slopes at the knots."""

    x: Tensor
    z: Tensor
    widths: Tensor
    heights: Tensor
    slopes: Tensor

    def piece(self, value: Tensor, knots: Tensor) -> _Piece:
        """The pieces that numbers lie in, of x or z; beyond the ends the first or the last."""
        value, knots = value.detach(), knots.detach()
        index = torch.zeros_like(value, dtype=torch.int64)
        for bit in reversed(range(DEPTH)):
            index = index + (value >= knots[index + 2**bit]) * 2**bit
        parts = (self.x, self.z, self.widths, self.heights, self.slopes, self.slopes[1:])
        return _Piece(*(part[index] for part in parts))
