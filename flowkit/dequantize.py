"""The one stochastic map: uniform noise that turns grey levels into densities."""

import math

import torch
from torch import Tensor

from flowkit.bijector import TensorMap
from flowkit.tree import Value


class Dequantize(TensorMap):
    """Spreads each grey level over its cell: y = x + u/bins, u uniform in [0, 1).

    Its log-det is −log(bins) per element: a density of y integrates over the cell to a probability of x. The
    inverse returns to the grid of multiples of 1/bins. (Being stochastic it is exempt from the round-trip law.)

    Args:
        bins: cells per unit; 256 for 8-bit images k/256. (Images k/255 do not lie on that grid: the inverse returns
            them to its nearest cell.)
        centred: x sits in the middle of its cell, y = x + (u − ½)/bins, so samples keep their mean brightness.

    Example:
        >>> y, logdet = Dequantize(256)(torch.full((1, 3, 4, 4), 7 / 256))
        >>> bool(((y >= 7 / 256) & (y < 8 / 256)).all()), logdet.shape
        (True, torch.Size([1]))
    """

    constant_logdet = True

    def __init__(self, bins: float, centred: bool = False) -> None:
        super().__init__()
        if not bins > 0:
            raise ValueError(f"Dequantize: bins must be positive, got {bins}")
        self.bins = bins
        self.centred = centred

    def extra_repr(self) -> str:
        """Bins and centring."""
        return f"{self.bins}" + (", centred=True" if self.centred else "")

    def forward(self, x: Tensor, context: Value = None, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Adds noise. `noise` is u, uniform in [0, 1) and of x's shape; None draws it."""
        if noise is None:
            edge = 5 * self._rounding(x)
            noise = torch.rand_like(x).clamp(min=edge if self.centred else None, max=1 - edge)
        elif noise.shape != x.shape:
            raise ValueError(f"Dequantize: noise {tuple(noise.shape)} for x {tuple(x.shape)}")
        u = noise - 0.5 if self.centred else noise
        return x + u / self.bins, self._logdet(x)

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Returns to the grid."""
        cells = y * self.bins + (0.5 if self.centred else 0.0)
        return (cells + 2 * self._rounding(y)).floor() / self.bins, -self._logdet(y)

    def _rounding(self, x: Tensor) -> Tensor:
        """An ulp of the grey level x·bins, in cells: rounding must not carry a number into another cell."""
        return (torch.finfo(x.dtype).eps * (x.abs() * self.bins + 1)).clamp_max(0.05)

    def _logdet(self, x: Tensor) -> Tensor:
        return x.new_full((x.shape[0],), -math.log(self.bins) * math.prod(x.shape[1:]))
