"""Few long vectors are moved by the factors of a matrix: the same numbers as by the matrix, with less work."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.utils.flop_counter import FlopCounterMode

from flowkit import Chain, Flow, InvertibleConv1x1, StandardNormal
from flowkit.exporting import LogProb, batch_of_any_size, program
from flowkit.linear import LONG
from flowkit.matrices import FORMS
from flowkit.testing import perturb

LENGTH = LONG + 2
FACTORED = [name for name, form in FORMS.items() if form.by_factors]


def conv(parametrization: Any, amount: float = 0.3, length: int = LENGTH) -> InvertibleConv1x1:
    torch.manual_seed(0)
    return perturb(InvertibleConv1x1(length, parametrization), amount)  # type: ignore[return-value]


def derivatives(b: InvertibleConv1x1, x: Tensor, inverse: bool, matrix: bool) -> list[Tensor]:
    """Value, log-det, first derivatives, and those of a number made of these."""
    x = x.clone().requires_grad_()
    y, logdet = b.inverse(x) if inverse else b(x)
    if matrix:
        y = x @ (b.inverse_matrix() if inverse else b.matrix()).mT
    wrt = [x, *b.parameters()]
    first = torch.autograd.grad(y.sin().sum() + (logdet**2).sum(), wrt, create_graph=True)
    second = torch.autograd.grad(sum((g**2).sum() for g in first), wrt)  # type: ignore[arg-type]
    return [y, logdet, *first, *second]


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("length", [LENGTH, LENGTH + 1])  # odd ones have a reflection more than channels
@pytest.mark.parametrize("parametrization", FACTORED)
def test_vectors_by_factors_are_vectors_by_the_matrix(parametrization: str, length: int, inverse: bool) -> None:
    b, x = conv(parametrization, length=length).double(), torch.randn(3, length, dtype=torch.float64)
    torch.testing.assert_close(derivatives(b, x, inverse, False), derivatives(b, x, inverse, True))
    many = x.repeat(length, 1)  # which the matrix moves
    few, all_ = (b.inverse(v) if inverse else b(v) for v in (x, many))
    torch.testing.assert_close(few, tuple(part[:3] for part in all_))


@pytest.mark.parametrize("parametrization", ["plu", "lu"])
def test_few_vectors_cost_no_product_of_matrices(parametrization: str) -> None:
    b, x = conv(parametrization), torch.randn(3, LENGTH)
    for method in (b, b.inverse):
        with FlopCounterMode(display=False) as counter:
            method(x)
        assert counter.get_total_flops() <= 2 * (2 * len(x) + 1) * LENGTH**2  # L, U, and where P puts things


@pytest.mark.parametrize("parametrization", FACTORED)
def test_the_inverse_by_factors_is_at_least_as_exact_as_that_by_the_matrix(parametrization: str) -> None:
    b = conv(parametrization)
    exact = copy.deepcopy(b).double()
    y = torch.randn(3, LENGTH)
    right = torch.linalg.solve(exact.matrix(), y.double().mT).mT
    by_matrix, by_factors = (y @ b.inverse_matrix().mT, b.inverse(y)[0])
    off = [float((x - right).detach().abs().max()) for x in (by_factors, by_matrix)]
    assert off[0] <= off[1] + 2**-23 * float(right.detach().abs().max())
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(b.inverse(y)[0], by_factors)


def test_a_matrix_of_somebodys_own_is_used() -> None:
    class Twice(InvertibleConv1x1):
        def matrix(self) -> Tensor:
            return 2 * super().matrix()

        def log_slope(self) -> Tensor:
            return torch.linalg.slogdet(self.matrix()).logabsdet

    b, x = Twice(LENGTH, "lu"), torch.randn(2, LENGTH)
    torch.testing.assert_close(b(x)[0], 2 * x)
    torch.testing.assert_close(b.inverse(b(x)[0])[0], x, atol=1e-4, rtol=1e-4)
    plain = InvertibleConv1x1(LENGTH, "lu")
    plain.inverse_matrix = lambda: torch.zeros(LENGTH, LENGTH)  # type: ignore[method-assign]
    assert not plain.inverse(x)[0].any()


@pytest.mark.slow
def test_a_program_has_the_matrix_and_takes_any_batch() -> None:
    flow = Flow(Chain(conv("plu")), StandardNormal())
    x = torch.randn(3, LENGTH)
    made = program(LogProb(flow).eval(), (x,), batch_of_any_size(x))
    assert not any("solve" in str(node.target) for node in made.graph.nodes)
    for n in (2, 2 * LENGTH):
        x = torch.randn(n, LENGTH)
        torch.testing.assert_close(made.module()(x), flow.log_prob(x), atol=1e-3, rtol=1e-5)


@pytest.mark.slow
def test_compiled_few_vectors_are_a_graph_and_many_another() -> None:
    flow, counter = Flow(Chain(conv("plu")), StandardNormal()), CompileCounter()
    plain = copy.deepcopy(flow)
    flow.compile(backend=counter, fullgraph=True)
    for n, graphs in ((2, 1), (LENGTH - 1, 1), (LENGTH, 2), (200, 2), (5, 2)):
        x = torch.randn(n, LENGTH)
        torch.testing.assert_close(flow.log_prob(x), plain.log_prob(x))
        assert counter.frame_count == graphs
