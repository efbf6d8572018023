"""A small HCFlow ×4 (Liang et al., ICCV 2021), in flowkit."""

from torch import nn

from flowkit import (
    ActNorm,
    Affine,
    Chain,
    CoarseToFine,
    Coupling,
    Flow,
    Hierarchy,
    Injector,
    InvertibleConv1x1,
    Level,
    Near,
    Squeeze,
)
from flowkit.nets import FCN, ZeroConv2d

WIDTH = 16  # of the features


def steps(channels: int, given: int = 0) -> Chain:
    """Two steps of ActNorm, 1×1 convolution and a coupling that sees `given` channels of context."""
    half = channels // 2
    parts: list[nn.Module] = []
    for _ in range(2):
        net = FCN(half, 2 * (channels - half), context_channels=given)
        parts += [ActNorm(channels), InvertibleConv1x1(channels), Coupling(net, half, Affine("atan"))]
    return Chain(*parts)


def level(channels: int, keep: int) -> Level:
    """Eq. (4): the body splits y_l and a_l; eq. (5): steps and a learned prior make z_l of a_l, given features."""
    details = channels - keep
    prior = Injector(ZeroConv2d(WIDTH, 2 * details), Affine("exp", "scale_first", inverted=True))
    return Level(Squeeze() >> steps(channels), keep, steps(details, WIDTH) >> prior)


def features(channels: int) -> nn.Module:
    """What the features of a level are made with."""
    return nn.Sequential(
        nn.Conv2d(channels, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()
    )


def build() -> Flow:
    """Eq. (1), x ↔ (y, z), with features from coarse to fine (eq. (5)), and y near y* (eq. (3))."""
    given = CoarseToFine([features(6 + WIDTH), features(3)])
    return Flow(Hierarchy([level(12, keep=6), level(24, keep=3)], given), Near(std=0.01))


if __name__ == "__main__":
    import torch

    import flowkit

    hr, lr = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 8, 8)
    flow = build()
    flowkit.initialize(flow, hr)  # ActNorm, also in the networks
    print(flow.log_prob(hr, lr).mean(), flow.sample(2, lr, temperature=0.8).shape)
