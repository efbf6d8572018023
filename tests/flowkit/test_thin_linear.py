"""The thin linear layer is torch's at any size and in every way to differentiate; its products are the wide ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

from flowkit.nets import MADE, MLP, ResidualMLP
from flowkit.nets.thin_linear import Linear, linear

WIDTHS = st.sampled_from((1, 2, 3, 5, 8, 9, 12, 13, 40, 300))


def numbers(rows: int, inputs: int, outputs: int) -> tuple[Tensor, ...]:
    """x, weight and bias, in float64."""
    generator = torch.Generator().manual_seed(rows)
    sizes = ((rows, inputs), (outputs, inputs), (outputs,))
    return tuple(torch.randn(size, dtype=torch.float64, generator=generator).requires_grad_() for size in sizes)


@given(rows=st.sampled_from((0, 1, 2, 7, 300, 2000)), inputs=WIDTHS, outputs=WIDTHS)
@example(rows=300, inputs=3, outputs=600)
@example(rows=300, inputs=600, outputs=8)
def test_value_and_gradients_are_those_of_torch(rows: int, inputs: int, outputs: int) -> None:
    given_ = numbers(rows, inputs, outputs)
    found, expected = linear(*given_), F.linear(*given_)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous()  # who calls a net may take views of its result
    seed = torch.randn_like(expected)
    torch.testing.assert_close(torch.autograd.grad(found, given_, seed), torch.autograd.grad(expected, given_, seed))
    with torch.no_grad():
        torch.testing.assert_close(linear(*given_), expected)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # inside torch.func.jvp
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 600), (600, 8)])
@pytest.mark.parametrize("way", [torch.func.jvp, torch.autograd.functional.hvp], ids=["jvp", "hvp"])
def test_forward_mode_and_second_derivatives(way: Callable[..., Any], inputs: int, outputs: int) -> None:
    at = numbers(300, inputs, outputs)
    along = tuple(map(torch.randn_like, at))
    found, expected = (way(lambda *n, f=f: torch.sin(f(*n)).sum(), at, along) for f in (linear, F.linear))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 600), (600, 8)])
def test_an_ensemble_s_weights_at_once(inputs: int, outputs: int) -> None:
    x, weight, bias = (n.detach() for n in numbers(300, inputs, outputs))
    found = torch.vmap(lambda w: linear(x, w, bias))(torch.stack((weight, -weight)))
    torch.testing.assert_close(found, torch.stack((F.linear(x, weight, bias), F.linear(x, -weight, bias))))


class Products(TorchDispatchMode):
    """Columns of the result of each matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.columns: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.columns.append(out.shape[1])
        return out


@pytest.mark.parametrize(
    "net", [MLP(4, 8, 128), ResidualMLP(4, 8, 128), MADE(4, 2, hidden=128)], ids=lambda net: type(net).__name__
)
def test_no_product_of_a_coupling_s_net_has_few_columns(net: nn.Module) -> None:
    x = torch.randn(1024, 4, requires_grad=True)
    with Products() as seen:
        net(x).sum().backward()
    assert len(seen.columns) >= 9
    assert min(seen.columns) >= 128


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (Linear(4, 128), torch.randn(7, 4)),
        (Linear(8, 8), torch.randn(20_000, 8)),
        (Linear(600, 8, bias=False), torch.randn(300, 600)),
        (Linear(600, 8).bfloat16(), torch.randn(300, 600).bfloat16()),
    ],
    ids=["few rows", "square", "no bias", "bfloat16"],
)
def test_other_products_are_as_torch_makes_them(layer: nn.Linear, x: Tensor) -> None:
    with Products() as seen:
        layer(x)
    assert seen.columns == [layer.out_features]
    assert isinstance(layer, nn.Linear)


def test_a_graph_takes_every_batch() -> None:
    torch.compiler.reset()
    layer = torch.compile(Linear(4, 128), backend="eager", fullgraph=True, dynamic=True)
    layer(torch.randn(300, 4))
    with torch.compiler.set_stance("fail_on_recompile"):
        layer(torch.randn(5, 4))


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 128), (128, 128), (128, 92), (128, 8)])
def test_a_graph_s_product_is_the_same_and_its_result_contiguous(inputs: int, outputs: int) -> None:
    torch.compiler.reset()
    compiled = torch.compile(linear, backend="aot_eager", fullgraph=True)
    given_ = numbers(300, inputs, outputs)
    result, expected = compiled(*given_), F.linear(*given_)
    torch.testing.assert_close(result, expected)
    assert result.is_contiguous()
    seed = torch.randn_like(expected)
    torch.testing.assert_close(torch.autograd.grad(result, given_, seed), torch.autograd.grad(expected, given_, seed))


def test_in_a_graph_a_result_narrower_than_x_is_made_transposed() -> None:
    torch.compiler.reset()
    shapes: list[tuple[int, ...]] = []

    def record(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        shapes.extend(n.meta["val"].shape for n in graph.graph.nodes if n.target is torch.ops.aten.addmm.default)
        return make_boxed_func(graph.forward)

    with torch.no_grad():
        for widths in ((128, 92), (92, 128), (128, 128)):
            torch.compile(linear, backend=aot_autograd(fw_compiler=record))(*numbers(300, *widths))
    assert shapes == [(92, 300), (300, 128), (300, 128)]
