"""Glow with two levels of four steps, in nflows."""

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


def step(channels: int) -> Transform:
    """ActNorm, 1×1 convolution, coupling."""
    mask = create_mid_split_binary_mask(channels)
    coupling = AffineCouplingTransform(mask, lambda i, o: ConvResidualNet(i, o, 64, num_blocks=1))
    return CompositeTransform([ActNorm(channels), OneByOneConvolution(channels), coupling])


def level(channels: int) -> Transform:
    """Squeeze and four steps."""
    return CompositeTransform([SqueezeTransform(), *(step(channels) for _ in range(4))])


def build(size: int = 32) -> Flow:
    """Two levels; half of the first one's channels are a latent. Latents are flattened."""
    transform = MultiscaleCompositeTransform(2)
    transform.add_transform(level(12), (12, size // 2, size // 2))
    transform.add_transform(level(24), (24, size // 4, size // 4))
    return Flow(transform, StandardNormal([3 * size * size]))


if __name__ == "__main__":
    import torch

    x = torch.rand(16, 3, 32, 32)
    flow = build()
    flow.log_prob(x)  # in train mode the first batch sets ActNorm
    print(flow.log_prob(x).mean(), flow.sample(5).shape)  # no temperature
