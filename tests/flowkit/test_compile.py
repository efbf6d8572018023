"""torch.compile takes every row of the registry in both directions, in one graph."""

from dataclasses import replace

import pytest
import torch
from example import Example
from examples import EXAMPLES, case, of_new_parts

from flowkit import ODE
from flowkit.nets import FCN, WithTime
from flowkit.testing import laws

# seconds each: the code of "coarse to fine" or "residual" but for a line, or an unrolled root; in the slow run only
SLOW = {
    "glow",
    "inverse of glow",
    "independent",
    "single scale",
    "srflow-like",
    "coarse to fine from lr",
    "external",
    "no y, from lr",
    "deep sigmoid",
    "sum of squares",
    "monotonic",
    "gaussianization",
    "bernstein",
    "deep dense sigmoid",
    "adaptive ode",
    "residual on images",
}
# two steps instead of four: half as long
LIGHTER = {"ode": lambda: ODE(WithTime(FCN(3, 2, 4, 3)), solver="rk4", steps=2)}
QUICK = [replace(e, make=LIGHTER.get(e.name, e.make)) for e in EXAMPLES if e.name not in SLOW]


def rows(examples: list[Example]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("example", examples, ids=lambda example: example.name)


def compiled(example: Example, backend: str) -> None:
    its = case(example, seed=0, batch=2, dims=max(d for d in example.dims if d < 3), size=(2, 2))
    laws.compiled(its.b.eval(), its.x, its.context, backend)


@pytest.mark.parametrize("example", of_new_parts(QUICK))
def test_no_graph_break(example: Example) -> None:
    compiled(example, "eager")


@rows(EXAMPLES)
@pytest.mark.slow
def test_inductor(example: Example) -> None:
    compiled(example, "inductor")


def test_every_slow_row_exists() -> None:
    assert {example.name for example in EXAMPLES} >= SLOW


def test_the_law_sees_a_graph_break() -> None:
    class Breaks(torch.nn.Module):
        def forward(self, x: torch.Tensor, context: object = None) -> tuple[torch.Tensor, torch.Tensor]:
            return (x if float(x.sum()) > 0 else x + 0), x.new_zeros(len(x))

        inverse = forward

    with pytest.raises(AssertionError, match="Breaks breaks the law: compiles \\(forward\\)"):
        laws.compiled(Breaks(), torch.randn(2, 2), backend="eager")
