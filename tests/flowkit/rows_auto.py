"""Rows of the registry: autoregressive maps, and couplings on masks."""

import torch
from example import Example

from flowkit import Affine, Autoregressive, RationalQuadratic
from flowkit.nets import MADE

VECTOR = (0,)


def label(x: torch.Tensor) -> torch.Tensor:
    return torch.randn(len(x), 3)


ROWS = [
    Example(
        "autoregressive",
        lambda: Autoregressive(MADE(4, 2, 6, 1, context_features=3), Affine("softplus"), [2, 0, 3, 1]),
        4,
        VECTOR,
        context=label,
    ),
    Example(
        "autoregressive spline, jacobi",
        lambda: Autoregressive(MADE(4, 8, 6, 1, residual=False), RationalQuadratic(3, 3.0), inverse="jacobi"),
        4,
        VECTOR,
    ),
    Example(
        "inverse autoregressive",
        lambda: Autoregressive(MADE(4, 2, 6, 1), Affine("soft"), inverse="jacobi").inv,
        4,
        VECTOR,
    ),
]
