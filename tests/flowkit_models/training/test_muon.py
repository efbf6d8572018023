"""Muon: orthogonal steps by the SVD, their size, what is a kernel, Adam for the rest, states that go on exactly."""

import math

import pytest
import torch
from torch import nn

from flowkit_models.training.muon import Muon, is_kernel, orthogonal
from flowkit_models.training.optim import Adam, Optimizer


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (3, 16, 16)])
def test_singular_values_become_alike_and_vectors_stay(shape) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    diagonal = u.mT @ orthogonal(1e-3 * matrix) @ vh.mT
    values = diagonal.diagonal(dim1=-2, dim2=-1)
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3
    assert (diagonal - torch.diag_embed(values)).abs().max() < 1e-9


def test_no_gradient_at_all_makes_no_step() -> None:
    assert torch.equal(orthogonal(torch.zeros(8, 9)), torch.zeros(8, 9))


def kernel_of(*shape: int) -> nn.Parameter:
    kernel = nn.Parameter(torch.zeros(shape))
    kernel.grad = torch.randn(shape)
    return kernel


def test_a_step_is_as_large_as_adams_and_goes_along_the_singular_vectors() -> None:
    torch.manual_seed(0)
    kernels = [kernel_of(16, 8, 3, 3), kernel_of(16, 8, 3, 3), kernel_of(64, 8, 1, 1)]
    Muon(kernels, lr=0.5).step()
    for kernel in kernels:
        assert float(kernel.detach().square().mean().sqrt()) == pytest.approx(0.5 * 0.2, rel=0.25)
        u, _, vh = torch.linalg.svd(kernel.grad.flatten(1), full_matrices=False)
        values = (u.mT @ kernel.detach().flatten(1) @ vh.mT).diagonal()
        assert (values < 0).all(), "against the gradient, in each of its directions"


def test_the_second_step_remembers_the_first_gradient() -> None:
    torch.manual_seed(0)
    kernel = kernel_of(8, 8, 3, 3)
    first, muon = kernel.grad.clone(), Muon([kernel], lr=1.0)
    muon.step()
    before = kernel.detach().clone()
    kernel.grad = torch.randn(8, 8, 3, 3)
    muon.step()
    momentum = 0.95 * (0.05 * first) + 0.05 * kernel.grad
    expected = orthogonal((0.05 * kernel.grad + 0.95 * momentum).flatten(1)) * 0.2 * math.sqrt(72)
    assert torch.allclose((before - kernel.detach()).flatten(1), expected, atol=1e-5)


def test_what_a_kernel_is() -> None:
    assert is_kernel(torch.zeros(8, 8, 1, 1))
    assert is_kernel(torch.zeros(16, 3, 3, 3))
    assert not is_kernel(torch.zeros(7, 32, 3, 3))
    assert not is_kernel(torch.zeros(8, 7, 1, 1))
    assert not is_kernel(torch.zeros(64, 64))
    assert not is_kernel(torch.zeros(64))


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))


def trained(optimizer: Optimizer, net: nn.Module, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        net(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        optimizer.set_rate(step)
        optimizer.step(optimizer.norm())


def test_kernels_take_muons_steps_and_all_else_adams() -> None:
    plain, other = network(), network()
    trained(Optimizer("model", plain, Adam(1e-2)), plain, range(1, 2))
    one = Optimizer("model", other, Adam(1e-2, muon=4.0))
    trained(one, other, range(1, 2))
    same = {name: torch.equal(p, dict(plain.named_parameters())[name]) for name, p in other.named_parameters()}
    assert same == {"0.weight": False, "0.bias": True, "2.weight": True, "2.bias": True}
    moved = (other[0].weight - network()[0].weight).detach()
    assert float(moved.square().mean().sqrt()) == pytest.approx(4 * 1e-2 * 0.2, rel=0.25)


def test_a_state_goes_on_exactly() -> None:
    whole, first, second = network(), network(), network()
    settings = Adam(1e-2, muon=2.0, weight_decay=0.1)
    trained(Optimizer("model", whole, settings), whole, range(1, 7))
    before = Optimizer("model", first, settings)
    trained(before, first, range(1, 4))
    second.load_state_dict(first.state_dict())
    after = Optimizer("model", second, settings)
    after.load_state_dict(before.state_dict())
    trained(after, second, range(4, 7))
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, second.get_parameter(name)), name


def test_the_classic_decay_is_added_to_the_gradient() -> None:
    net = network()
    one = Optimizer("model", net, Adam(0.1, muon=1.0, weight_decay=1.0))
    before = net[0].weight.detach().clone()
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    one.step(one.norm())
    assert float((net[0].weight.detach() - before).flatten() @ before.flatten()) < 0


def test_numbers_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="muon must be 0 or more, got -1"):
        Adam(1.0, muon=-1.0)
    with pytest.raises(ValueError, match="closure"):
        Muon([kernel_of(8, 8, 1, 1)], lr=1.0).step(lambda: 0.0)
