"""Reversible: the same map and gradients as its chain, without keeping the activations."""

import pytest
import torch
from examples import step
from hypothesis import given
from hypothesis import strategies as st

from flowkit import ActNorm, Affine, Chain, Coupling, Reversible, Split
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
