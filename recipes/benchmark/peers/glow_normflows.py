"""Glow with two levels of four steps, in normflows."""

from typing import Any

from normflows import MultiscaleFlow
from normflows.distributions import DiagGaussian
from normflows.flows import GlowBlock, Merge, Squeeze


def build(size: int = 32, levels: int = 2, steps: int = 4, **block: Any) -> MultiscaleFlow:
    """Levels of steps (ActNorm, 1×1 convolution, coupling) and unsqueeze, in the direction of sampling."""
    block = {"hidden_channels": 64, "net_actnorm": True, **block}
    flows, base = [], []
    for i in reversed(range(levels)):  # coarsest first; half of the channels of the others are a latent
        channels, side = 12 * 2**i, size // 2 ** (i + 1)
        flows.append([*(GlowBlock(channels, **block) for _ in range(steps)), Squeeze()])
        base.append(DiagGaussian((channels if not base else channels // 2, side, side), trainable=False))
    return MultiscaleFlow(base, flows, [Merge() for _ in base[1:]], class_cond=False)


if __name__ == "__main__":
    import torch

    x = torch.rand(16, 3, 32, 32)
    flow = build()
    flow.log_prob(x, None)  # the first batch sets ActNorm, whichever direction it goes
    print(flow.log_prob(x, None).mean(), flow.sample(5, temperature=0.7)[0].shape)
