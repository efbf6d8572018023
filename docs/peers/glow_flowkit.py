"""Glow with two levels of four steps, in flowkit."""

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


def step(channels: int) -> Bijector:
    """ActNorm, 1×1 convolution, coupling."""
    half = channels // 2
    coupling = Coupling(FCN(half, channels), keep=half, kind=Affine("sigmoid"))
    return ActNorm(channels) >> InvertibleConv1x1(channels, "plu") >> coupling


def level(channels: int, keep: int | None = None) -> Level:
    """Squeeze and four steps; what is not kept is a latent."""
    return Level(Chain(Squeeze(), *(step(channels) for _ in range(4))), keep)


def build(size: int = 32) -> Flow:
    """Two levels; the size is needed for samples only."""
    return Flow(Hierarchy([level(12, keep=6), level(24)]), StandardNormal(), shape=(3, size, size))


if __name__ == "__main__":
    import torch

    import flowkit

    x = torch.rand(16, 3, 32, 32)
    flow = build()
    flowkit.initialize(flow, x)  # ActNorm, also in the networks
    print(flow.log_prob(x).mean(), flow.sample(5, temperature=0.7).shape)
