"""Contractions: the bound holds whatever the weights, and is close; nets without a known bound are refused."""

import copy

import pytest
import torch
from torch import nn

import flowkit
from flowkit.nets import CNN, MLP, lipschitz
from flowkit.nets.contractions import _norm


def wild(net, scale=3.0):
    """Every weight moved far."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(scale * torch.randn_like(p))
    return net.double()


def steepest(net, x):
    """The spectral norms of a net's Jacobians at the rows of x."""
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda v: net(v[None])[0], row) for row in x])
    return torch.linalg.matrix_norm(jacobian.flatten(1, x.ndim - 1).flatten(2), 2)


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (MLP(3, 3, 16), (3,)),
        (nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 3)), (3,)),
        (CNN(2, 2, 6), (2, 4, 5)),
        (nn.Sequential(nn.Conv1d(2, 4, 5, padding=2), nn.ELU(), nn.Conv1d(4, 2, 2, padding=1)), (2, 6)),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", dilation=1), (2, 5, 5)),
        (nn.Conv3d(2, 2, 3, padding=1), (2, 3, 3, 3)),
    ],
)
@pytest.mark.parametrize("scale", [0.02, 3.0])
def test_the_bound_holds_at_any_weights(net, shape, scale) -> None:
    net = wild(lipschitz(copy.deepcopy(net), 0.9), scale)
    torch.manual_seed(1)
    x = torch.randn(6, *shape, dtype=torch.float64)
    far = x + 10 * torch.randn_like(x)
    assert float(steepest(net, x).max()) <= 0.9
    assert bool(((net(x) - net(far)).flatten(1).norm(dim=1) <= 0.9 * (x - far).flatten(1).norm(dim=1)).all())


def test_norms_of_matrices_are_exact_and_those_of_convolutions_close() -> None:
    torch.manual_seed(0)
    for shape in ((5, 3), (3, 5), (4, 4)):
        weight = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(_norm(weight), torch.linalg.matrix_norm(weight, 2))
    for size in (1, 2, 3, 5):
        weight = torch.randn(3, 4, size, size, dtype=torch.float64)
        frequencies = torch.fft.fft2(weight, (96, 96)).flatten(2).movedim(2, 0)
        ratio = float(_norm(weight) / torch.linalg.matrix_norm(frequencies, 2).max())
        assert 0.9999 < ratio < 1.08


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (2, 3, 3), (2, 2, 3, 2)])
def test_the_gradient_of_the_norm(shape) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_norm, weight)


def test_small_weights_stay_and_zeros_learn() -> None:
    plain, net = MLP(2, 2, 8), lipschitz(MLP(2, 2, 8), 0.9)
    weights = [0.1 * layer.weight.detach() for layer in plain.layers if isinstance(layer, nn.Linear)]
    linear = [layer for layer in net.layers if isinstance(layer, nn.Linear)]
    for layer, weight in zip(linear, weights, strict=True):
        layer.weight = weight
        assert torch.equal(layer.weight, weight)
    assert float(linear[-1].weight.detach().abs().max()) == 0
    net(torch.randn(4, 2)).sum().backward()
    assert float(linear[-1].parametrizations.weight.original.grad.abs().max()) > 0


def test_a_context_is_no_part_of_the_bound() -> None:
    net = wild(lipschitz(MLP(2, 2, 8, context_features=1), 0.5))
    context = torch.randn(1, 1, dtype=torch.float64)
    x = torch.randn(5, 2, dtype=torch.float64)
    assert float(steepest(lambda v: net(v, context), x).max()) <= 0.5
    assert not torch.allclose(net(x[:1], context), net(x[:1], context + 9))


def test_under_autocast_norms_are_in_full_precision() -> None:
    net = wild(lipschitz(nn.Linear(4, 4), 0.9)).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net.weight, lipschitz_weight(net))


def lipschitz_weight(net):
    with torch.autocast("cpu", enabled=False):
        return net.weight


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (flowkit.nets.DenseBlock(2, 2), "no bound is known for DenseBlock"),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout()), r"no bound is known for Dropout\(p=0.5"),
        (nn.Conv2d(2, 2, 3, stride=2), "no bound is known for Conv2d"),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), "no bound is known for Conv2d"),
        (nn.Sequential(nn.LeakyReLU(2.0), nn.Linear(2, 2)), "no bound is known for LeakyReLU"),
        (lipschitz(nn.Linear(2, 2)), "is parametrized already"),
        (nn.ReLU(), "ReLU has no weights"),
    ],
)
def test_nets_without_a_known_bound(net, words) -> None:
    with pytest.raises(ValueError, match=words):
        lipschitz(net)


def test_bounds_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="bound must be positive, got 0"):
        lipschitz(nn.Linear(2, 2), 0)
