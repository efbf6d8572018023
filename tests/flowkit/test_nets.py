"""Conditioner networks: their start, their contexts, and the official zero convolution."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flowkit import Additive, Affine, Coupling, MixtureLogistic
from flowkit.kinds import Kind
from flowkit.nets import CNN, FCN, MLP, ActNormConv2d, DenseBlock, ZeroConv2d, with_context
from flowkit.testing import perturb


def test_zero_conv_is_the_official_one(golden: Any) -> None:
    g = golden("hcflow_components").part("convzeros.")
    net = ZeroConv2d(4, 6)
    net.load_state_dict({"weight": g["weight"], "bias": g["bias"], "log_scale": g["logs"].flatten()})
    torch.testing.assert_close(net(g["in"]), g["out"])


@pytest.mark.parametrize(
    ("net", "kind", "shape"),
    [
        (MLP(2, 4), Affine("tanh"), (3, 4)),
        (MLP(2, 18, depth=1), MixtureLogistic(3, offset=0), (3, 4)),
        (FCN(2, 4), Affine("atan"), (3, 4, 5, 6)),
        (FCN(2, 4, init_std=0.05), Affine("exp"), (3, 4, 5, 6)),
        (DenseBlock(2, 2), Additive(), (3, 4, 5, 6)),
        (DenseBlock(2, 4, 8), Affine("tanh", "scale_first"), (3, 4, 5, 6)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_a_coupling_starts_as_the_identity(net: nn.Module, kind: Kind, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    y, logdet = Coupling(net, 2, kind)(x)
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(logdet, torch.zeros(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("net", [MLP(2, 4), FCN(2, 4), DenseBlock(2, 4)], ids=lambda net: type(net).__name__)
def test_the_first_gradient_step_leaves_the_identity(net: nn.Module) -> None:
    x = torch.randn(3, 4) if isinstance(net, MLP) else torch.randn(3, 4, 5, 6)
    y, logdet = Coupling(net, 2, Affine())(x)
    (y.square().sum() - logdet.sum()).backward()
    assert sum(float(p.grad.abs().sum()) for p in net.parameters() if p.grad is not None) > 0


def test_actnorm_conv_is_a_convolution_and_then_an_actnorm() -> None:
    net = perturb(ActNormConv2d(3, 5, 3))
    x = torch.randn(2, 3, 4, 6)
    bias, scale = net.bias.view(-1, 1, 1), net.log_scale.exp().view(-1, 1, 1)
    torch.testing.assert_close(net(x), (F.conv2d(x, net.weight, padding=1) + bias) * scale)
    torch.testing.assert_close(net.statistics_input(x), F.conv2d(x, net.weight, padding=1))


@pytest.mark.parametrize(
    "net",
    [MLP(2, 4, context_features=3), FCN(2, 4, context_channels=3), DenseBlock(2, 4, context_channels=3)],
    ids=lambda net: type(net).__name__,
)
def test_the_context_is_seen_and_required(net: nn.Module) -> None:
    perturb(net)
    size = () if isinstance(net, MLP) else (4, 4)
    passive, context = torch.randn(2, 2, *size), torch.randn(2, 3, *size)
    assert not torch.allclose(net(passive, context), net(passive, context + 1))
    torch.testing.assert_close(net(passive, context.double()), net(passive, context))
    with pytest.raises(ValueError, match=r"expected a context with 3 channels.*, got None"):
        net(passive)
    with pytest.raises(ValueError, match=r"expected a context with 3 channels.*, got \(2, 2"):
        net(passive, context[:, :2])


@pytest.mark.parametrize("net", [MLP(2, 4), FCN(2, 4), DenseBlock(2, 4)], ids=lambda net: type(net).__name__)
def test_a_net_without_context_channels_ignores_it(net: nn.Module) -> None:
    size = () if isinstance(net, MLP) else (4, 4)
    passive = torch.randn(2, 2, *size)
    assert torch.equal(net(passive, torch.randn(2, 9)), net(passive))


def test_a_context_of_another_image_size() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2, 4, 4\).*\(2, 3, 2, 2\)|\(2, 3, 2, 2\).*\(2, 2, 4, 4\)"):
        FCN(2, 4, context_channels=3)(torch.zeros(2, 2, 4, 4), torch.zeros(2, 3, 2, 2))


def test_with_context_joins_passive_first() -> None:
    joined = with_context(torch.zeros(1, 2), torch.ones(1, 3), 3)
    assert joined.tolist() == [[0, 0, 1, 1, 1]]


def test_widths() -> None:
    assert FCN(3, 10, 7, 4)(torch.zeros(2, 3, 5, 6), torch.zeros(2, 4, 5, 6)).shape == (2, 10, 5, 6)
    assert DenseBlock(3, 10, 7, 4)(torch.zeros(2, 3, 5, 6), torch.zeros(2, 4, 5, 6)).shape == (2, 10, 5, 6)
    assert MLP(3, 10, 7, 3, 4)(torch.zeros(2, 3), torch.zeros(2, 4)).shape == (2, 10)
    assert [tuple(p.shape) for p in MLP(3, 10, 7, 1).parameters()] == [(7, 3), (7,), (10, 7), (10,)]


def test_inner_layers_start_small() -> None:
    torch.manual_seed(0)
    expected = 0.1 * (2 / (64 * 9 + 64 * 9)) ** 0.5
    assert float(ActNormConv2d(64, 64, 3).weight.std().detach()) == pytest.approx(expected, rel=0.02)
    assert float(ActNormConv2d(64, 64, 3, 0.05).weight.std().detach()) == pytest.approx(0.05, rel=0.02)


@pytest.mark.parametrize(
    "net", [FCN(2, 4, context_channels=3), DenseBlock(2, 4, context_channels=3), CNN(2, 4, context_channels=3)]
)
def test_a_vector_is_the_same_at_every_pixel(net: nn.Module) -> None:
    perturb(net)
    passive, vector = torch.randn(2, 2, 4, 5), torch.randn(2, 3)
    expected = net(passive, vector[:, :, None, None].expand(2, 3, 4, 5))
    torch.testing.assert_close(net(passive, vector), expected)
    torch.testing.assert_close(net(passive, vector[:, :, None, None]), expected)


@pytest.mark.parametrize("net", [MLP(2, 4, context_features=3), FCN(2, 4, context_channels=3)])
def test_labels_are_told_to_become_numbers(net: nn.Module) -> None:
    passive = torch.randn(2, 2) if isinstance(net, MLP) else torch.randn(2, 2, 4, 4)
    with pytest.raises(ValueError, match=r"class labels \(2,\) int64 .*one_hot"):
        net(passive, torch.tensor([0, 1]))
