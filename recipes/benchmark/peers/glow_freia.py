"""Glow with two levels of four steps, in FrEIA."""

import math
from typing import Any

import torch
from FrEIA.framework import GraphINN, InputNode, Node, OutputNode
from FrEIA.modules import AllInOneBlock, IRevNetDownsampling, Split
from torch import Tensor, nn


def net(inputs: int, outputs: int) -> nn.Module:
    """FrEIA brings no networks."""
    last = nn.Conv2d(64, outputs, 3, padding=1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Conv2d(inputs, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU(), last)


ROTATION = {"learned_householder_permutation": 4}  # for the 1×1 convolution: there is no general one


def build(size: int = 32, levels: int = 2, steps: int = 4, net: Any = net, rotation: Any = ROTATION) -> GraphINN:
    """Levels of a squeeze and steps; half of the channels of all but the last are a latent."""
    nodes, latents = [InputNode(3, size, size)], []
    for i in range(levels):
        nodes.append(Node(nodes[-1], IRevNetDownsampling, {}))
        for _ in range(steps):
            nodes.append(Node(nodes[-1], AllInOneBlock, {"subnet_constructor": net, **rotation}))
        if i < levels - 1:
            nodes.append(Node(nodes[-1], Split, {}))
            latents.append(OutputNode(nodes[-1].out1))
    return GraphINN([*nodes, OutputNode(nodes[-1]), *latents])


def log_prob(inn: GraphINN, x: Tensor) -> Tensor:
    """FrEIA brings no base densities."""
    latents, logdet = inn(x)
    z = torch.cat([latent.flatten(1) for latent in latents], 1)
    return -0.5 * (z**2 + math.log(2 * math.pi)).sum(1) + logdet


def sample(inn: GraphINN, n: int, temperature: float = 1.0) -> Tensor:
    """Draws n images."""
    z = [temperature * torch.randn(n, *shape) for shape in inn.global_out_shapes]
    return inn(z, rev=True)[0]


if __name__ == "__main__":
    x = torch.rand(16, 3, 32, 32)
    inn = build()
    print(log_prob(inn, x).mean(), sample(inn, 5, temperature=0.7).shape)  # AllInOneBlock is not set from data
