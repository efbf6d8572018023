"""Glow with two levels of four steps, in normflows."""

from normflows import MultiscaleFlow
from normflows.distributions import DiagGaussian
from normflows.flows import Flow, GlowBlock, Merge, Squeeze


def level(channels: int) -> list[Flow]:
    """Four steps (ActNorm, 1×1 convolution, coupling) and unsqueeze, in the direction of sampling."""
    return [*(GlowBlock(channels, hidden_channels=64, net_actnorm=True) for _ in range(4)), Squeeze()]


def build(size: int = 32) -> MultiscaleFlow:
    """Two levels, coarsest first; half of the finer one's channels are a latent."""
    base = [DiagGaussian((c, size // s, size // s), trainable=False) for c, s in ((24, 4), (6, 2))]
    return MultiscaleFlow(base, [level(24), level(12)], [Merge()], class_cond=False)


if __name__ == "__main__":
    import torch

    x = torch.rand(16, 3, 32, 32)
    flow = build()
    flow.log_prob(x, None)  # the first batch sets ActNorm, whichever direction it goes
    print(flow.log_prob(x, None).mean(), flow.sample(5, temperature=0.7)[0].shape)
