"""Glow with two levels of four steps, in nflows."""

from functools import partial
from typing import Any

from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.nn.nets import ConvResidualNet
from nflows.transforms import (
    ActNorm,
    AffineCouplingTransform,
    CompositeTransform,
    MultiscaleCompositeTransform,
    OneByOneConvolution,
    SqueezeTransform,
    Transform,
)
from nflows.utils import create_mid_split_binary_mask

RESNET = partial(ConvResidualNet, hidden_channels=64, num_blocks=1)


def step(channels: int, net: Any) -> Transform:
    """ActNorm, 1×1 convolution, coupling."""
    coupling = AffineCouplingTransform(create_mid_split_binary_mask(channels), net)
    return CompositeTransform([ActNorm(channels), OneByOneConvolution(channels), coupling])


def build(size: int = 32, levels: int = 2, steps: int = 4, net: Any = RESNET) -> Flow:
    """Levels of a squeeze and steps; half of the channels of all but the last are a latent. Latents are flattened."""
    transform = MultiscaleCompositeTransform(levels)
    for i in range(levels):
        channels, side = 12 * 2**i, size // 2 ** (i + 1)
        level = CompositeTransform([SqueezeTransform(), *(step(channels, net) for _ in range(steps))])
        transform.add_transform(level, (channels, side, side))
    return Flow(transform, StandardNormal([3 * size * size]))


if __name__ == "__main__":
    import torch

    x = torch.rand(16, 3, 32, 32)
    flow = build()
    flow.log_prob(x)  # in train mode the first batch sets ActNorm
    print(flow.log_prob(x).mean(), flow.sample(5).shape)  # no temperature
