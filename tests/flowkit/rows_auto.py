"""Rows of the registry: autoregressive maps, and couplings on masks."""

import torch
from example import Example

from flowkit import Affine, Autoregressive, Checkerboard, Coupling, InvertibleConv1x1, RationalQuadratic, Reversible
from flowkit.nets import CNN, FCN, MADE, MLP

VECTOR, IMAGE = (0,), (2,)


def label(x: torch.Tensor) -> torch.Tensor:
    return torch.randn(len(x), 3)


def pixels(x: torch.Tensor) -> torch.Tensor:
    return torch.randn(len(x), 3, *x.shape[2:])


def reversible_masks() -> Reversible:
    """Both masks flipped, with draws that share a context."""
    on_pixels = Coupling(FCN(4, 8, 6, context_channels=3), Checkerboard(1), Affine("tanh"), flip=True)
    on_channels = Coupling(CNN(1, 6, 6), [0, 3, 2], Affine("tanh"), flip=True)
    return Reversible(on_pixels >> InvertibleConv1x1(4) >> on_channels)


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
    Example("listed coupling", lambda: Coupling(MLP(2, 16, 6), [3, 1], RationalQuadratic(3, 3.0)), 4, VECTOR),
    Example("checkerboard", lambda: Coupling(CNN(2, 4, 6), Checkerboard(), Affine("tanh")), 2, IMAGE),
    Example("reversible masks", reversible_masks, 4, IMAGE, context=pixels),
]
