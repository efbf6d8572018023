"""Glow with two levels of four steps, in flowkit."""

from typing import Any

from flowkit import (
    ActNorm,
    Affine,
    Bijector,
    Chain,
    Coupling,
    Flow,
    Hierarchy,
    InvertibleConv1x1,
    Level,
    Squeeze,
    StandardNormal,
)
from flowkit.nets import FCN


def step(channels: int, net: Any = FCN, floor: float = 1e-4, conv: Any = "plu") -> Bijector:
    """ActNorm, 1×1 convolution, coupling."""
    half = channels // 2
    coupling = Coupling(net(half, channels), half, Affine("sigmoid", floor=floor))
    return ActNorm(channels) >> InvertibleConv1x1(channels, conv) >> coupling


def build(size: int = 32, levels: int = 2, steps: int = 4, **options: Any) -> Flow:
    """Levels of a squeeze and steps; what is not kept is a latent. The size is needed for samples only."""
    parts = []
    for channels in (12 * 2**i for i in range(levels)):
        body = Chain(Squeeze(), *(step(channels, **options) for _ in range(steps)))
        parts.append(Level(body, keep=channels // 2 if len(parts) < levels - 1 else None))
    return Flow(Hierarchy(parts), StandardNormal(), shape=(3, size, size))


if __name__ == "__main__":
    import torch

    import flowkit

    x = torch.rand(16, 3, 32, 32)
    flow = build()
    flowkit.initialize(flow, x)  # ActNorm, also in the networks
    print(flow.log_prob(x).mean(), flow.sample(5, temperature=0.7).shape)
