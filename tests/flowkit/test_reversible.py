"""Reversible: the same map and gradients as its chain, without keeping the activations."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from examples import step
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from flowkit import (
    ActNorm,
    Affine,
    Augment,
    Bijector,
    Chain,
    Coupling,
    Dequantize,
    Flow,
    Injector,
    InvertibleConv1x1,
    Reversible,
    Slice,
    Split,
    StandardNormal,
)
from flowkit.elementwise import Sigmoid
from flowkit.nets import ConvResNet
from flowkit.testing import perturb


def grads(b, x, context, inverse):
    x, context = x.clone().requires_grad_(), context.clone().requires_grad_()
    b.zero_grad()
    y, logdet = b.inverse(x, context) if inverse else b(x, context)
    (y.square().sum() + 3 * logdet.sum()).backward()
    return [y, logdet, x.grad, context.grad, *(p.grad for p in b.parameters())]


@given(seed=st.integers(0, 2**16), inverse=st.booleans())
def test_same_values_and_gradients_as_the_chain(seed, inverse) -> None:
    torch.manual_seed(seed)
    shared = step(4, 3)
    chain = perturb(Chain(shared, step(4), shared)).double()  # a part used twice collects both gradients
    x, context = torch.randn(2, 4, 3, 5).double(), torch.randn(2, 3, 3, 5).double()
    expected, got = grads(chain, x, context, inverse), grads(Reversible(chain), x, context, inverse)
    for a, e in zip(got, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)


def saved_bytes(b, x) -> int:
    sizes = {}

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in b.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        b(x)
    return sum(size for place, size in sizes.items() if place not in own)


def test_what_is_saved_does_not_grow_with_depth() -> None:
    x = torch.randn(2, 4, 16, 16)
    few, many = ([step(4) for _ in range(k)] for k in (2, 8))
    assert saved_bytes(Reversible(Chain(*many)), x) == saved_bytes(Reversible(Chain(*few)), x) <= x.nbytes
    assert saved_bytes(Chain(*many), x) > 3 * saved_bytes(Chain(*few), x)


def test_autocast_is_the_same_on_the_way_back() -> None:
    torch.manual_seed(0)
    chain = perturb(step(4, 3) >> step(4))
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 8, 8)
    results = []
    for b in (chain, Reversible(chain)):
        b.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y, logdet = b(x, context)
        (y.square().sum() + logdet.sum()).backward()
        results.append([p.grad.clone() for p in chain.parameters()])
    for a, e in zip(*results, strict=True):
        torch.testing.assert_close(a, e, rtol=0.03, atol=0.03 * float(e.abs().max()) + 1e-6)


def test_class_labels_and_a_tensor_given_twice_as_context() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.label = torch.nn.Embedding(5, 2)

        def forward(self, passive, context):
            label, a, b = context
            return self.label(label) + 0.1 * (a * b).sum(1, keepdim=True) * passive.sum(1, keepdim=True)

    torch.manual_seed(0)
    chain = Chain(Coupling(Net(), 1, Affine("tanh")), Coupling(Net(), 1, Affine("tanh"), flip=True)).double()
    label, x = torch.tensor([1, 4, 1]), torch.randn(3, 2).double()
    results = []
    for b in (chain, Reversible(chain)):
        c = torch.ones(3, 2).double().requires_grad_()
        b.zero_grad()
        y, logdet = b(x, (label, c, c))
        (y.square().sum() + logdet.sum()).backward()
        results.append([c.grad, *(p.grad.clone() for p in chain.parameters())])
    for a, e in zip(*results, strict=True):
        torch.testing.assert_close(a, e)


def test_a_tree_is_refused() -> None:
    with pytest.raises(ValueError, match="Reversible: its parts must map a tensor to a tensor"):
        Reversible(ActNorm(4) >> Split(1))(torch.randn(2, 4))


def shared_chain() -> Chain:
    """Couplings and linear runs; two layers share a weight."""
    torch.manual_seed(0)
    one, other = step(4), step(4)
    other[1].weight = one[1].weight
    return perturb(one >> other).double()


def target(b: Any, x: Tensor) -> Tensor:
    y, logdet = b(x)
    return y.square().sum() + 3 * logdet.sum()


def test_under_functional_call_gradients_are_those_at_its_parameters() -> None:
    chain, x = shared_chain(), torch.randn(2, 4, 3, 5).double()
    names = [name for name, _ in chain.named_parameters()]
    results = []
    for b in (chain, Reversible(chain)):
        new = {name: (0.7 * dict(chain.named_parameters())[name].detach()).requires_grad_() for name in names}
        scaled = {name: value * 1.5 for name, value in new.items()}  # no leaves
        before = {id(p) for p in chain.parameters()}
        out = torch.func.functional_call(
            Flow(b, StandardNormal()), {f"bijector.{n}": v for n, v in scaled.items()}, (x,)
        )
        results.append(torch.autograd.grad(out.sum(), list(new.values()), allow_unused=True))
        assert {id(p) for p in chain.parameters()} == before
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def exchanged(b: nn.Module) -> None:
    for p in b.parameters():
        p.data = 1.5 * p.data


def frozen(b: nn.Module) -> None:
    b.requires_grad_(False)


def shorter(b: nn.Module) -> None:
    del b.parts[0]


@pytest.mark.parametrize("change", [exchanged, frozen, shorter])
def test_what_changes_before_the_backward_pass_changes_no_gradient(change: Callable[[nn.Module], None]) -> None:
    torch.manual_seed(0)
    shared = step(4)
    chain = perturb(Chain(shared, step(4), shared)).double()
    x = torch.randn(2, 4, 3, 5).double().requires_grad_()
    expected = torch.autograd.grad(target(chain, x), [x, *chain.parameters()])
    b = Reversible(chain)
    loss, parameters = target(b, x), list(chain.parameters())
    change(b)
    wanted = [x] if change is frozen else [x, *parameters]
    for got, want in zip(torch.autograd.grad(loss, wanted, allow_unused=True), expected, strict=False):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    assert set(parameters) >= set(b.parameters())  # the chain is as it was


def test_a_parameter_changed_in_place_is_an_error() -> None:
    b, x = Reversible(step(4)), torch.randn(2, 4, 3, 5)
    for part in range(3):
        loss = target(b, x)
        with torch.no_grad():
            next(b[part].parameters()).mul_(1.1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_a_network_replaced_inside_a_part_is_an_error() -> None:
    b, other = Reversible(step(4)), step(4)
    loss = target(b, torch.randn(2, 4, 3, 5))
    b[2].net = other[2].net
    with pytest.raises(RuntimeError, match="Reversible: a module was replaced inside a part"):
        loss.backward()


class Normed(nn.Module):
    """A net whose buffers matter, and change as it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, passive: Tensor, context: Any = None) -> Tensor:
        return self.layers(passive)


@pytest.mark.parametrize("training", [True, False])
def test_buffers_and_modes_are_those_of_the_forward_pass(training: bool) -> None:
    torch.manual_seed(0)
    plain = Chain(*(Coupling(Normed(), 1, Affine("tanh"), flip) for flip in (False, True)))
    plain = perturb(plain.double()).train(training)
    x, b = torch.randn(6, 2).double(), Reversible(copy.deepcopy(plain))
    expected = torch.autograd.grad(target(plain, x), list(plain.parameters()))
    loss = target(b, x)
    b.train(not training)  # e.g. validation in between
    b(x + 1)
    after = [t.clone() for t in b.buffers()]
    for got, want in zip(torch.autograd.grad(loss, list(b.parameters())), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)
    assert all(m.training != training for m in b.modules())
    assert all(torch.equal(p, q) for p, q in zip(b.buffers(), after, strict=True))  # it counts no batch


def test_a_stateful_parametrization_is_the_same_on_the_way_back() -> None:
    torch.manual_seed(0)
    chain = perturb(Chain(ActNorm(3), InvertibleConv1x1(3))).double()
    nn.utils.parametrizations.spectral_norm(chain[1], "weight")  # one power iteration a call
    x, results = torch.randn(6, 3).double(), []
    for b in (copy.deepcopy(chain), Reversible(copy.deepcopy(chain))):
        loss = target(b, x)
        results.append([loss, *torch.autograd.grad(loss, list(b.parameters()))])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_a_hook_on_a_gradient_acts_once() -> None:
    torch.manual_seed(0)
    chain, x, results = perturb(step(4)), torch.randn(2, 4, 3, 5), []
    for b in (copy.deepcopy(chain), Reversible(copy.deepcopy(chain))):
        for p in b.parameters():
            p.register_hook(lambda gradient: gradient / 2)
        results.append(torch.autograd.grad(target(b, x), list(b.parameters())))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_second_derivatives_are_refused_in_one_line() -> None:
    b, x = Reversible(step(4)), torch.randn(2, 4, 3, 5, requires_grad=True)
    for which in (0, 1):
        out = b(x)[which].sum()
        with pytest.raises(RuntimeError, match=r"Reversible: no second derivatives .* use Chain\(\*reversible\)"):
            torch.autograd.grad(out, x, create_graph=True)
    (gradient,) = torch.autograd.grad(Chain(*b)(x)[0].square().sum(), x, create_graph=True)
    gradient.square().sum().backward()  # what it says helps


def draws_its_noise() -> Bijector:
    density = Flow(Sigmoid().inv >> Injector(nn.Conv2d(4, 8, 1), Affine("soft")), StandardNormal())
    return Dequantize(4, density=density)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Coupling(ConvResNet(2, 4, 6, 1, dropout=0.5), 2, Affine()),
        lambda: Augment(StandardNormal(), 2),
        lambda: Slice(2, StandardNormal(), 2),
        draws_its_noise,
    ],
    ids=["dropout", "augment", "slice", "dequantize"],
)
def test_what_would_draw_other_numbers_on_the_way_back_is_refused(make: Callable[[], Bijector]) -> None:
    b, x = Reversible(step(4) >> make()), torch.rand(2, 4, 3, 5)
    with pytest.raises(ValueError, match=r"would draw other numbers on the way back, .* use Chain\(\*reversible\)"):
        b(x)
    with torch.no_grad():
        b(x)  # there is no way back
    if isinstance(b.eval()[-1], Coupling):
        b(x)[0].sum().backward()  # no dropout any more


def test_backward_twice_with_retained_graph() -> None:
    b, x = Reversible(step(4)), torch.randn(2, 4, 3, 5)
    loss = target(b, x)
    first = torch.autograd.grad(loss, list(b.parameters()), retain_graph=True)
    for got, want in zip(torch.autograd.grad(loss, list(b.parameters())), first, strict=True):
        assert torch.equal(got, want)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it after a graph break
def test_compiled_training_has_the_same_gradients() -> None:
    torch.compiler.reset()
    b, x = Reversible(step(4)), torch.randn(2, 4, 3, 5)
    expected = torch.autograd.grad(target(b, x), list(b.parameters()))
    got = torch.autograd.grad(target(torch.compile(b, backend="eager"), x), list(b.parameters()))
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e)
