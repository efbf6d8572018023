"""RealNVP on the plane, in FrEIA."""

import math

import torch
from FrEIA.framework import SequenceINN
from FrEIA.modules import ActNorm, AffineCouplingOneSided, FixedLinearTransform
from torch import Tensor, nn


def net(inputs: int, outputs: int) -> nn.Module:
    """FrEIA brings no networks."""
    last = nn.Linear(64, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), last)


def build() -> SequenceINN:
    """Six times ActNorm, a coupling and a swap of the two numbers."""
    inn = SequenceINN(2)
    for _ in range(6):
        inn.append(ActNorm)
        inn.append(AffineCouplingOneSided, subnet_constructor=net)
        inn.append(FixedLinearTransform, M=torch.eye(2).flip(0))
    return inn


def log_prob(inn: SequenceINN, x: Tensor) -> Tensor:
    """FrEIA brings no base densities."""
    z, logdet = inn(x)
    return -0.5 * (z**2 + math.log(2 * math.pi)).sum(1) + logdet


def sample(inn: SequenceINN, n: int) -> Tensor:
    """Draws n points."""
    return inn(torch.randn(n, 2), rev=True)[0]


if __name__ == "__main__":
    x = torch.randn(256, 2)
    inn = build()
    inn(x)  # the first batch sets ActNorm, whichever direction it goes
    print(log_prob(inn, x).mean(), sample(inn, 5).shape)
