"""The Gaussian that a conditional flow of affine layers is: mean and matrix in place of the chain."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """Multivariate normal densities of vectors, one at each position: x = mean + matrix·z, z standard normal.

    Attributes:
        mean: (B, D, *spatial).
        matrix: (B, D, D, *spatial); not symmetric, nor triangular.
    """

    mean: Tensor
    matrix: Tensor

    def covariance(self) -> Tensor:
        """matrix·matrixᵀ, (B, D, D, *spatial)."""
        return torch.einsum("bij...,bkj...->bik...", self.matrix, self.matrix)

    def at(self, z: Tensor) -> Tensor:
        """The vectors of standard-normal ones, (B, D, *spatial): a draw is one product."""
        return self.mean + torch.einsum("bij...,bj...->bi...", self.matrix, z)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of vectors (B, D, *spatial), in nats, at each position: (B, *spatial)."""
        matrix = self.matrix.movedim((1, 2), (-2, -1))
        z = torch.linalg.solve(matrix, (x - self.mean).movedim(1, -1))
        constant = z.shape[-1] * math.log(2 * math.pi)
        return -(z.square().sum(-1) + constant) / 2 - torch.linalg.slogdet(matrix).logabsdet
