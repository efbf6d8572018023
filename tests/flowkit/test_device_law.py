"""The device law: on fake CUDA tensors every map runs on the device alone, no copy from or to it, no value read.

There need be no GPU. Exempt by name is what the docs name: initialisation reads values, once.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from example import Example
from examples import EXAMPLES, Case, case
from on_device import READS, on_the_device, stays
from torch import Tensor

import flowkit
from flowkit import Affine, Coupling, Flow, Hierarchy, Level, Near, Reversible, Squeeze, StandardNormal, nets
from flowkit.tree import Value, leaves, map_leaves

ENGINE = torch.cuda.is_available()
"""Whether autograd can walk back there: it asks the driver, on fake tensors too."""


def both_ways(its: Case) -> None:
    with on_the_device(its.b, its.x, its.context) as (b, given, context):
        value = map_leaves(Tensor.requires_grad_, given)
        for method in (b, b.inverse):
            y, logdet = method(value, context)
            stays((y, logdet))
            if ENGINE:
                sum(leaf.sum() for leaf in (*leaves(y), logdet)).backward()
            value = map_leaves(lambda leaf: leaf.detach().requires_grad_(), y)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_bijectors(example: Example) -> None:
    its = case(example, 0, 2, max(d for d in example.dims if d < 3), (2, 2))
    if not ENGINE and any(isinstance(part, flowkit.ODE | flowkit.Residual) for part in its.b.modules()):
        pytest.skip("autograd, by which it differentiates its net, asks for a CUDA driver even on fake tensors")
    both_ways(its)


IMAGE, VECTOR = torch.randn(2, 2, 4, 4), torch.randn(2, 2)
NETS: dict[str, Callable[[], Any]] = {
    "MLP": lambda: (nets.MLP(2, 4), VECTOR),
    "MADE": lambda: (nets.MADE(2, 4), VECTOR),
    "ResidualMLP": lambda: (nets.ResidualMLP(2, 4, 8), VECTOR),
    "Interleave": lambda: (nets.Interleave(nets.MLP(2, 1), nets.MLP(2, 1)), VECTOR),
    "WithTime": lambda: (nets.WithTime(nets.MLP(3, 2)), VECTOR),
    "FCN": lambda: (nets.FCN(2, 4, 8), IMAGE),
    "CNN": lambda: (nets.CNN(2, 4, 8), IMAGE),
    "DenseBlock": lambda: (nets.DenseBlock(2, 4, 4), IMAGE),
    "ConvResNet": lambda: (nets.ConvResNet(2, 4, 8), IMAGE),
    "UNet": lambda: (nets.UNet(2, 4, 8), IMAGE),
    "ViT": lambda: (nets.ViT(2, 4, 8, 1, 2), IMAGE),
    "CausalViT": lambda: (nets.CausalViT(2, 4, 8, 1, 2), IMAGE),
    "lipschitz": lambda: (nets.lipschitz(nets.CNN(2, 2, 4)), IMAGE),
    "LocalFourier": lambda: (nets.LocalFourier(2, 4, 4, 8), IMAGE),
}
PARTS = {"ActNormConv2d", "ExactConv2d", "MaskedLinear", "ZeroConv2d"}
"""Layers of the others."""


@pytest.mark.parametrize("name", NETS)
def test_nets(name: str) -> None:
    net, x = NETS[name]()
    with on_the_device(net, x, torch.rand(2)) as (net, x, t):
        more = {"WithTime": (t,), "LocalFourier": (t.view(1, 2, 1), (0.5, 0.5))}.get(name, ())
        stays(net(x, *more))


def test_every_net_is_tried() -> None:
    public = {name for name in nets.__all__ if isinstance(getattr(nets, name), type)}
    assert public - PARTS <= set(NETS)


def glow(near: bool = False) -> Hierarchy:
    def step(channels: int) -> flowkit.Bijector:
        net = nets.FCN(channels // 2, channels, 4)
        return (
            flowkit.ActNorm(channels) >> flowkit.InvertibleConv1x1(channels) >> Coupling(net, channels // 2, Affine())
        )

    return Hierarchy([Level(Squeeze() >> step(8), 4), Level(Squeeze() >> step(16), 2 if near else None)])


def vectors() -> flowkit.Bijector:
    parts = (flowkit.ActNorm(4), flowkit.InvertibleConv1x1(4, "plu"), Coupling(nets.MLP(2, 4), 2, Affine()))
    return Reversible(flowkit.Chain(*parts))


FLOWS: dict[str, Callable[[], Any]] = {
    "vectors": lambda: (Flow(vectors(), StandardNormal()), torch.randn(3, 4), None),
    "images": lambda: (Flow(glow(), StandardNormal(), shape=(2, 8, 8)), torch.randn(3, 2, 8, 8), None),
    "images near y*": lambda: (Flow(glow(True), Near(0.1)), torch.randn(3, 2, 8, 8), torch.randn(3, 2, 2, 2)),
    "tarflow": lambda: (
        Flow(flowkit.tarflow(1, (4, 4), 2, 2, 8, 1), StandardNormal(), shape=(1, 4, 4)),
        torch.randn(3, 1, 4, 4),
        None,
    ),
    "jet": lambda: (
        Flow(Reversible(flowkit.jet(1, (4, 4), 2, 6, 8, 1)), StandardNormal(), shape=(1, 4, 4)),
        torch.randn(3, 1, 4, 4),
        None,
    ),
    "mixture": lambda: (Flow(vectors(), flowkit.Mixture(3, 4)), torch.randn(3, 4), None),
    "a distribution": lambda: (
        Flow(vectors(), torch.distributions.Laplace(torch.zeros(4), torch.ones(4))),
        torch.randn(3, 4),
        None,
    ),
}


@pytest.mark.parametrize("name", FLOWS)
def test_flows(name: str) -> None:
    flow, x, context = FLOWS[name]()
    with on_the_device(flow, x, context) as (flow, x, context):
        stays(flow.log_prob(x, context))
        stays(flow.decode(flow.encode(x, context), context))
        stays(flow.bits_per_dim(x, context))
        with torch.no_grad():
            stays(flow.sample_and_log_prob(2, context))
            stays(flow.sample(2, context))


def test_initialisation_reads_values_once() -> None:
    """It must know which channels are constant or not finite, before it writes: the host read that the docs name."""
    with on_the_device(vectors(), torch.randn(8, 4)) as (b, x), pytest.raises(READS):
        flowkit.initialize(b, x)


class Copies(flowkit.ActNorm):
    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        return super().forward(x + torch.tensor([1.0, 2.0, 3.0, 4.0], device=x.device), context)


class Reads(flowkit.ActNorm):
    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        return super().forward(x if float(x.sum()) > 0 else x + 0, context)


def test_the_law_sees_copies_and_reads() -> None:
    with pytest.raises(AssertionError, match=r"Copies copies between devices: .*_to_copy"):
        both_ways(Case(Copies(4), torch.randn(2, 4), None, 0))
    with pytest.raises(READS):
        both_ways(Case(Reads(4), torch.randn(2, 4), None, 0))
