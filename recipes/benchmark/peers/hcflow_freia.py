"""A small HCFlow ×4 (Liang et al., ICCV 2021), in FrEIA."""

import math

import torch
import torch.nn.functional as F
from FrEIA.framework import SequenceINN
from FrEIA.modules import ActNorm, AffineCouplingOneSided, ConditionalAffineTransform, Fixed1x1Conv, IRevNetDownsampling
from torch import Tensor, nn

WIDTH = 16  # of the features
KEEP = (6, 3)  # channels of y_l, finest first
STD = 0.01  # of y around y*


def net(inputs: int, outputs: int) -> nn.Module:
    """FrEIA brings no networks."""
    last = nn.Conv2d(64, outputs, 3, padding=1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Conv2d(inputs, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU(), last)


def prior(inputs: int, outputs: int) -> nn.Module:
    """The network of a learned prior, which starts as a standard normal."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def steps(inn: SequenceINN, given: tuple[int, ...] | None = None) -> None:
    """Two steps of ActNorm, 1×1 convolution (fixed) and a coupling that sees a context of the shape `given`."""
    for _ in range(2):
        channels = inn.shapes[-1][0]
        inn.append(ActNorm)
        inn.append(Fixed1x1Conv, M=torch.linalg.qr(torch.randn(channels, channels))[0])
        inn.append(
            AffineCouplingOneSided, None if given is None else 0, given, subnet_constructor=net, split_len=channels // 2
        )


def body(channels: int, size: int) -> SequenceINN:
    """Squeeze and steps."""
    inn = SequenceINN(channels, size, size)
    inn.append(IRevNetDownsampling)
    steps(inn)
    return inn


def latent(channels: int, size: int) -> SequenceINN:
    """Eq. (5): steps and a learned prior make z_l of a_l, given features."""
    inn, given = SequenceINN(channels, size, size), (WIDTH, size, size)
    steps(inn, given)
    inn.append(ConditionalAffineTransform, 0, given, subnet_constructor=prior, clamp=5.0)
    return inn


def features(channels: int) -> nn.Module:
    """What the features of a level are made with."""
    return nn.Sequential(
        nn.Conv2d(channels, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()
    )


class HCFlow(nn.Module):
    """A condition in a GraphINN comes from outside, not from one of its nodes: so eq. (1), (4) and (5) by hand."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.bodies = nn.ModuleList([body(3, size), body(6, size // 2)])
        self.latents = nn.ModuleList([latent(6, size // 2), latent(21, size // 4)])
        self.nets = nn.ModuleList([features(6 + WIDTH), features(3)])

    def features(self, i: int, y: Tensor, coarser: list[Tensor]) -> Tensor:
        """Eq. (5): c_l from y_l and the coarser features."""
        return self.nets[i](torch.cat([y, *(F.interpolate(c, y.shape[2:]) for c in coarser)], 1))

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """Fine to coarse through the bodies, then the details coarse to fine: y, z (coarsest first) and log-det."""
        y, logdet = x, x.new_zeros(len(x))
        kept, details = [], []
        for inn, keep in zip(self.bodies, KEEP, strict=True):
            h, term = inn(y)
            y, a = h[:, :keep], h[:, keep:]
            kept.append(y)
            details.append(a)
            logdet = logdet + term
        z, coarser = [], []
        for i in (1, 0):
            coarser.insert(0, self.features(i, kept[i], coarser))
            latent, term = self.latents[i](details[i], [coarser[0]])
            z.append(latent)
            logdet = logdet + term
        return y, z, logdet

    def decode(self, y: Tensor, z: list[Tensor]) -> Tensor:
        """Coarse to fine."""
        coarser: list[Tensor] = []
        for i in (1, 0):
            coarser.insert(0, self.features(i, y, coarser))
            a = self.latents[i](z[1 - i], [coarser[0]], rev=True)[0]
            y = self.bodies[i](torch.cat([y, a], 1), rev=True)[0]
        return y

    def log_prob(self, x: Tensor, lr: Tensor) -> Tensor:
        """Eq. (2) and (3): y is near y*, z is standard normal."""
        y, z, logdet = self.encode(x)
        u = torch.cat([((y - lr) / STD).flatten(1), *(part.flatten(1) for part in z)], 1)
        normal = -0.5 * (u**2 + math.log(2 * math.pi)).sum(1)
        return normal - math.log(STD) * lr[0].numel() + logdet

    def sample(self, n: int, lr: Tensor, temperature: float = 1.0) -> Tensor:
        """Draws n images for each LR image."""
        y = lr.repeat(n, 1, 1, 1)
        z = [temperature * torch.randn(len(y), *inn.shapes[-1], dtype=y.dtype) for inn in reversed(self.latents)]
        y = y + temperature * STD * torch.randn_like(y)
        return self.decode(y, z).unflatten(0, (n, -1))


def build(size: int = 32) -> HCFlow:
    """The size of an image is a part of the model."""
    return HCFlow(size)


if __name__ == "__main__":
    hr, lr = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 8, 8)
    flow = build()
    flow.log_prob(hr, lr)  # the first batch sets ActNorm, whichever direction it goes
    print(flow.log_prob(hr, lr).mean(), flow.sample(2, lr, temperature=0.8).shape)
