"""Dequantisation: noise, uniform or learned, that turns grey levels into densities."""

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from flowkit.arguments import check_numbers
from flowkit.bases import StandardNormal
from flowkit.bijector import TensorMap, facts
from flowkit.flow import Flow
from flowkit.tree import Value


class Dequantize(TensorMap):
    """Spreads each grey level over its cell: y = x + u/bins, u uniform in [0, 1) or learned.

    Its log-det is −log(bins) per element: a density of y integrates over the cell to a probability of x. The
    inverse returns to the grid of multiples of 1/bins. (Being stochastic it is exempt from the round-trip law.)

    With a density q(u|x) the log-det is −log(bins) per element − log q(u|x): log-densities are a lower bound of the
    grey levels' log-probability, tight where q is what the flow behind makes of a cell (variational dequantisation:
    Ho et al., Flow++, 2019). `Flow.bits_per_dim(x, k=…)` tightens it.

    Args:
        bins: cells per unit; 256 for 8-bit images k/256. (Images k/255 do not lie on that grid: the inverse returns
            them to its nearest cell.)
        centred: x sits in the middle of its cell, y = x + (u − ½)/bins, so samples keep their mean brightness.
        density: a `Flow` of u in (0, 1), given x as its context: `Flow(Sigmoid().inv >> steps, StandardNormal())`.

    Raises:
        ValueError: for bins that are not positive, or a density on all reals.

    Example:
        >>> y, logdet = Dequantize(256)(torch.full((1, 3, 4, 4), 7 / 256))
        >>> bool(((y >= 7 / 256) & (y < 8 / 256)).all()), logdet.shape
        (True, torch.Size([1]))
    """

    constant_logdet = True

    def __init__(self, bins: float, centred: bool = False, density: Flow | None = None) -> None:
        super().__init__()
        check_numbers("Dequantize", "(0, inf)", bins=bins)
        if density is not None and not isinstance(density, Flow):
            raise TypeError(f"Dequantize: density must be a Flow of numbers in (0, 1), got {density!r}")
        self.bins = bins
        self.centred = centred
        self.density = density
        if density is None:
            return
        self.constant_logdet = False
        self._draws = True  # its log-det depends on what: `Reversible` can't go through it again
        if facts(density.bijector).domain is constraints.real and isinstance(density.base, StandardNormal):
            raise ValueError("Dequantize: density must be of numbers in (0, 1): begin its bijector with Sigmoid().inv")

    def extra_repr(self) -> str:
        """Bins and centring."""
        return f"{self.bins}" + (", centred=True" if self.centred else "")

    def forward(self, x: Tensor, context: Value = None, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Adds noise.

        `noise` is u, uniform in [0, 1) and of x's shape; with a density, the latents that it makes u of. None draws it.
        """
        if noise is not None and self.density is None and noise.shape != x.shape:
            raise ValueError(f"Dequantize: noise {tuple(noise.shape)} for x {tuple(x.shape)}")
        logdet = self._logdet(x)
        if self.density is not None:
            u, log_q = self.density.sample_like(x, x, noise)
            u, logdet = self._in_its_cell(u, x), logdet - log_q
        else:
            u = self._in_its_cell(torch.rand_like(x), x) if noise is None else noise
        return x + (u - 0.5 if self.centred else u) / self.bins, logdet

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Returns to the grid."""
        cells = y * self.bins + (0.5 if self.centred else 0.0)
        levels = (cells + 2 * self._rounding(y)).floor()
        x, logdet = levels / self.bins, -self._logdet(y)
        if self.density is not None:
            edge = self._rounding(y)
            logdet = logdet + self.density.log_prob((cells - levels).clamp(min=edge, max=1 - edge), x)
        return x, logdet

    def _in_its_cell(self, u: Tensor, x: Tensor) -> Tensor:
        edge = 5 * self._rounding(x)
        return u.clamp(min=edge if self.centred else None, max=1 - edge)

    def _rounding(self, x: Tensor) -> Tensor:
        """An ulp of the grey level x·bins, in cells: rounding must not carry a number into another cell."""
        return (torch.finfo(x.dtype).eps * (x.abs() * self.bins + 1)).clamp_max(0.05)

    def _logdet(self, x: Tensor) -> Tensor:
        return x.new_full((x.shape[0],), -math.log(self.bins) * math.prod(x.shape[1:]))
