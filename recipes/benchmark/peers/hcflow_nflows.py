"""A small HCFlow ×4 (Liang et al., ICCV 2021), in nflows."""

import math

import torch
import torch.nn.functional as F
from nflows.distributions import ConditionalDiagonalNormal
from nflows.flows import Flow
from nflows.nn.nets import ConvResidualNet
from nflows.transforms import (
    ActNorm,
    AffineCouplingTransform,
    CompositeTransform,
    OneByOneConvolution,
    SqueezeTransform,
    Transform,
)
from nflows.utils import create_mid_split_binary_mask
from torch import Tensor, nn

WIDTH = 16  # of the features
KEEP = (6, 3)  # channels of y_l, finest first


class Prior(Transform):
    """nflows has no map whose parameters come from the context alone: the learned prior of eq. (5)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Conv2d(WIDTH, 2 * channels, 3, padding=1)
        nn.init.zeros_(self.net.weight)
        nn.init.zeros_(self.net.bias)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Standardises."""
        mean, log_std = self.net(context).chunk(2, 1)
        return (inputs - mean) * (-log_std).exp(), -log_std.flatten(1).sum(1)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scales and shifts."""
        mean, log_std = self.net(context).chunk(2, 1)
        return inputs * log_std.exp() + mean, log_std.flatten(1).sum(1)


def steps(channels: int, given: int | None = None) -> list[Transform]:
    """Two steps of ActNorm, 1×1 convolution and a coupling that sees `given` channels of context."""
    parts: list[Transform] = []
    for _ in range(2):
        mask = create_mid_split_binary_mask(channels)
        coupling = AffineCouplingTransform(
            mask, lambda i, o: ConvResidualNet(i, o, 64, context_channels=given, num_blocks=1)
        )
        parts += [ActNorm(channels), OneByOneConvolution(channels), coupling]
    return parts


def features(channels: int) -> nn.Module:
    """What the features of a level are made with."""
    return nn.Sequential(
        nn.Conv2d(channels, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()
    )


class Hierarchy(Transform):
    """nflows has no hierarchy with conditional latents: eq. (1), (4) and (5), with y and z flattened to one vector."""

    def __init__(self, widths: tuple[int, ...] = (6 + WIDTH, 3)) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(CompositeTransform([SqueezeTransform(), *steps(c)]) for c in (12, 24))
        self.latents = nn.ModuleList(CompositeTransform([*steps(c, WIDTH), Prior(c)]) for c in (6, 21))
        self.nets = nn.ModuleList(features(c) for c in widths)

    def features(self, i: int, y: Tensor, coarser: list[Tensor], context: Tensor | None) -> Tensor:
        """Eq. (5): c_l from y_l and the coarser features."""
        return self.nets[i](torch.cat([y, *(F.interpolate(c, y.shape[2:]) for c in coarser)], 1))

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fine to coarse through the bodies, then the details coarse to fine."""
        y, logdet = inputs, inputs.new_zeros(len(inputs))
        kept, details = [], []
        for body, keep in zip(self.bodies, KEEP, strict=True):
            h, term = body(y)
            y, a = h[:, :keep], h[:, keep:]
            kept.append(y)
            details.append(a)
            logdet = logdet + term
        values, coarser = [y.flatten(1)], []
        for i in (1, 0):
            coarser.insert(0, self.features(i, kept[i], coarser, context))
            z, term = self.latents[i](details[i], coarser[0])
            values.append(z.flatten(1))
            logdet = logdet + term
        return torch.cat(values, 1), logdet

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Coarse to fine; the sizes are those of the LR image."""
        h, w = context.shape[2:]
        y, *z = inputs.split([3 * h * w, 21 * h * w, 6 * 4 * h * w], 1)
        y = y.unflatten(1, (3, h, w))
        z = [z[0].unflatten(1, (21, h, w)), z[1].unflatten(1, (6, 2 * h, 2 * w))]
        logdet, coarser = inputs.new_zeros(len(inputs)), []
        for i in (1, 0):
            coarser.insert(0, self.features(i, y, coarser, context))
            a, term = self.latents[i].inverse(z[1 - i], coarser[0])
            y, more = self.bodies[i].inverse(torch.cat([y, a], 1))
            logdet = logdet + term + more
        return y, logdet


def near(lr: Tensor) -> Tensor:
    """Eq. (3): mean and log-deviation of y around y*, and of a standard normal z, as one vector."""
    mean = lr.flatten(1)
    log_std = torch.full_like(mean, math.log(0.01))
    z = mean.new_zeros(len(mean), 15 * mean.shape[1])
    return torch.cat([mean, z, log_std, z], 1)


def build(size: int = 32) -> Flow:
    """Eq. (2): the hierarchy and its base."""
    return Flow(Hierarchy(), ConditionalDiagonalNormal([3 * size * size], near))


if __name__ == "__main__":
    hr, lr = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 8, 8)
    flow = build()
    flow.log_prob(hr, lr)  # in train mode the first batch sets ActNorm
    print(flow.log_prob(hr, lr).mean(), flow.sample(2, lr).shape)  # no temperature
