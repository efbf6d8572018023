"""What a layer of a flow of vectors costs beside its network: operations are counted, since a clock tells little."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flowkit import Affine, Autoregressive, Chain, Coupling, Flow, InvertibleConv1x1, RationalQuadratic, StandardNormal
from flowkit.kinds import Kind
from flowkit.nets import MADE, MLP


class Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        return func(*args, **(kwargs or {}))


def flow(kind: Kind, layers: int, parametrization: str = "plu") -> Flow:
    torch.manual_seed(0)
    steps = [
        part
        for i in range(layers)
        for part in (
            InvertibleConv1x1(4, parametrization),  # type: ignore[arg-type]
            Coupling(MLP(2, kind.parameters_of(2), 8), 2, kind, flip=i % 2 == 1),
        )
    ]
    return Flow(Chain(*steps), StandardNormal(), shape=(4,))


def each(kind: Kind, call: Callable[[Flow], object]) -> float:
    """Operations for each further step, a matrix and a coupling."""
    counts = []
    for layers in (2, 4):
        its = flow(kind, layers)
        call(its)
        with Count() as count:
            call(its)
        counts.append(count.operations)
    return (counts[1] - counts[0]) / 2


@torch.no_grad()
def sample(its: Flow) -> object:
    return its.sample(16)


def train(its: Flow) -> object:
    its.log_prob(torch.ones(16, 4)).mean().backward()
    return its.zero_grad()


@pytest.mark.parametrize(
    ("kind", "call", "most"),
    [
        (Affine("tanh"), sample, 19),
        (Affine("tanh"), train, 90),
        (RationalQuadratic(4), sample, 90),
        (RationalQuadratic(4), train, 250),
    ],
    ids=["affine, sample", "affine, train", "spline, sample", "spline, train"],
)
def test_a_further_layer_adds_few_operations(kind: Kind, call: Callable[[Flow], object], most: int) -> None:
    """The network's are 8, and 32 with its backward pass."""
    assert each(kind, call) <= most


@pytest.mark.parametrize(("kind", "most"), [(Affine("softplus"), 15), (RationalQuadratic(4), 88)], ids=["affine", "rq"])
def test_a_further_number_of_an_autoregressive_draw_adds_few_operations(kind: Kind, most: int) -> None:
    """The network's are 8. A pass of it has as many, and all of them over all numbers."""
    counts = []
    for features in (4, 8):
        b = Autoregressive(MADE(features, kind.parameters, 8, 1, residual=False), kind)
        with torch.no_grad():
            b.inverse(torch.ones(16, features))
            with Count() as count:
                b.inverse(torch.ones(16, features))
        counts.append(count.operations)
    assert (counts[1] - counts[0]) / 4 <= most, counts


@pytest.mark.parametrize("parametrization", ["plu", "lu", "householder", "qr", "svd", "expm", "cayley"])
def test_matrices_made_together_are_those_made_one_by_one(parametrization: str) -> None:
    its = flow(Affine("tanh"), 3, parametrization).double()
    for p in its.parameters():
        p.data += 0.1 * torch.randn_like(p)
    x = torch.randn(5, 4, dtype=torch.float64)
    y, logdet = its.bijector(x)
    back, undone = its.bijector.inverse(y)
    expected, its_logdet = x, torch.zeros(5, dtype=torch.float64)
    for part in its.bijector:
        expected, term = part(expected)
        its_logdet = its_logdet + term
    torch.testing.assert_close((y, logdet), (expected, its_logdet))
    torch.testing.assert_close((back, undone), (x, -its_logdet))
