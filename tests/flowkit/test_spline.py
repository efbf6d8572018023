"""Rational-quadratic splines: the ones of nflows, and the places where splines go wrong."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from functorch.compile import make_boxed_func
from hypothesis import given
from hypothesis import strategies as st
from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

from flowkit import RationalQuadratic
from flowkit.spline import _Piece


def theirs(x: Tensor, p: Tensor, bins: int, bound: float, inverse: bool) -> tuple[Tensor, Tensor]:
    widths, heights, slopes = p.split([bins, bins, bins - 1], -1)
    y, logdet = unconstrained_rational_quadratic_spline(
        x, widths, heights, slopes, inverse, tails="linear", tail_bound=bound
    )
    return y, logdet.sum(1)


@given(
    seed=st.integers(0, 2**16),
    bins=st.integers(2, 8),
    bound=st.floats(0.5, 5.0),
    spread=st.floats(0.0, 4.0),
)
def test_equals_nflows(seed: int, bins: int, bound: float, spread: float) -> None:
    torch.manual_seed(seed)
    x = 1.5 * bound * torch.randn(5, 4).double()
    p = spread * torch.randn(5, 4, 3 * bins - 1).double()
    kind = RationalQuadratic(bins, bound)
    torch.testing.assert_close(kind.forward(x, p), theirs(x, p, bins, bound, False), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(kind.inverse(x, p), theirs(x, p, bins, bound, True), rtol=1e-6, atol=1e-6)


@given(seed=st.integers(0, 2**16), bins=st.integers(1, 8), spread=st.floats(0.0, 6.0))
def test_comes_back(seed: int, bins: int, spread: float) -> None:
    torch.manual_seed(seed)
    x = torch.randn(5, 4).double()
    p = spread * torch.randn(5, 4, 3 * bins - 1).double()
    y, logdet = RationalQuadratic(bins).forward(x, p)
    back, inverse = RationalQuadratic(bins).inverse(y, p)
    torch.testing.assert_close(back, x, atol=1e-7, rtol=0)
    torch.testing.assert_close(inverse, -logdet, atol=1e-6, rtol=1e-6)


def test_the_layout_of_images_is_that_of_vectors() -> None:
    kind = RationalQuadratic(3)
    x, p = torch.rand(2, 4, 3, 5).double(), torch.randn(2, 4, 8, 3, 5).double()
    y, logdet = kind.forward(x, p)
    one = kind.forward(x[:, :, 1, 2], p[..., 1, 2])[0]
    torch.testing.assert_close(y[:, :, 1, 2], one, rtol=1e-14, atol=1e-15)  # a softmax rounds by its layout
    assert logdet.shape == (2,)


def test_zero_sizes_and_unit_slopes_are_the_identity() -> None:
    p = torch.zeros(1, 9, 11).double()
    p[..., 8:] = math.log(math.expm1(1 - 1e-3))
    x = torch.linspace(-2, 2, 9).double()[None]
    y, logdet = RationalQuadratic(4).forward(x, p)
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(logdet, torch.zeros(1).double(), atol=1e-12, rtol=0)


def test_identity_outside() -> None:
    torch.manual_seed(0)
    kind, p = RationalQuadratic(4, tail_bound=2.0), torch.randn(1, 4, 11)
    x = torch.tensor([[-1e6, -2.001, 2.001, 1e6]])
    for function in (kind.forward, kind.inverse):
        y, logdet = function(x, p)
        assert torch.equal(y, x)
        assert torch.equal(logdet, torch.zeros(1))


def test_hits_its_knots() -> None:
    torch.manual_seed(0)
    kind, p = RationalQuadratic(4), torch.randn(1, 1, 11).double()

    def knots(raw: Tensor) -> np.ndarray:
        sizes = 1e-3 + (1 - 4e-3) * raw.softmax(-1)
        return 2 * np.concatenate([[0], sizes.cumsum(-1)]) - 1

    x, y = knots(p[0, 0, :4]), knots(p[0, 0, 4:8])
    out = kind.forward(torch.tensor(x)[None], p.expand(1, 5, 11))[0]
    np.testing.assert_allclose(out[0], y, atol=1e-12)


def at_the_knots(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Equal sizes put the knots at −1, −½, 0, ½ and 1, exactly."""
    torch.manual_seed(0)
    p = torch.cat([torch.zeros(1, 8, 8), torch.randn(1, 8, 3)], 2).to(dtype).requires_grad_()
    x = torch.tensor([[-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0 + 1e-6, 3.0]], dtype=dtype, requires_grad=True)
    return x, p


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_knots_and_outside(dtype: torch.dtype) -> None:
    x, p = at_the_knots(dtype)
    for function in (RationalQuadratic(4).forward, RationalQuadratic(4).inverse):
        y, logdet = function(x, p)
        for gradient in torch.autograd.grad(y.sum() + logdet.sum(), (x, p)):
            assert gradient.isfinite().all()


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_gradients_at_knots_are_the_slopes_there(direction: str) -> None:
    """Equal grey levels land on knots: a clamp whose gradient is 0 at its bounds would silence them."""
    x, p = at_the_knots(torch.float64)
    y, logdet = getattr(RationalQuadratic(4), direction)(x, p)
    slope = torch.autograd.grad(y.sum(), x)[0]
    assert bool((slope > 0).all())
    torch.testing.assert_close(slope.log().sum(1), logdet)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    x = torch.tensor([[-1.5, -0.61, 0.23, 0.87]]).double().requires_grad_()
    p = torch.randn(1, 4, 11).double().requires_grad_()
    for function in (RationalQuadratic(4).forward, RationalQuadratic(4).inverse):
        assert torch.autograd.gradcheck(function, (x, p), eps=1e-7, atol=1e-5)


def steep(dtype: torch.dtype) -> tuple[RationalQuadratic, Tensor, Tensor]:
    """Bins of the least size beside wide ones, slopes from the least to huge."""
    torch.manual_seed(0)
    p = (12 * torch.randn(400, 5, 23)).to(dtype).requires_grad_()
    y = torch.linspace(-1, 1, 2000).view(400, 5).to(dtype).requires_grad_()
    return RationalQuadratic(8), y, p


def test_discriminants_that_round_below_zero() -> None:
    kind, y, p = steep(torch.float32)
    x, logdet = kind.inverse(y, p)
    assert x.isfinite().all()
    assert logdet.isfinite().all()
    assert float(x.detach().abs().max()) <= 1 + 1e-6
    for gradient in torch.autograd.grad(x.sum() + logdet.sum(), (y, p)):
        assert gradient.isfinite().all()
    back = kind.forward(x, p)[0]
    torch.testing.assert_close(back, y, atol=2e-3, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 3.0, 5.0, 10.0])
def test_float32_has_the_log_slopes_of_float64(scale: float) -> None:
    """Where the right end is steep beside the secant, b is negative, and the other root formula would cancel."""
    torch.manual_seed(0)
    kind = RationalQuadratic(8, tail_bound=3.0)
    p = scale * torch.randn(50_000, 1, kind.parameters)
    y = 6 * torch.rand(50_000, 1) - 3
    for function in (kind.forward, kind.inverse):
        x, logdet = function(y, p)
        x64, logdet64 = function(y.double(), p.double())
        torch.testing.assert_close(x.double(), x64, atol=5e-3, rtol=0)
        torch.testing.assert_close(logdet.double(), logdet64, atol=0.1, rtol=0)


@pytest.mark.parametrize("spread", [10.0, 100.0])
def test_a_flat_end_is_not_overshot(spread: float) -> None:
    """Rounding of y carries theta past the end of a piece that ends flat: the slope there would be negative."""
    torch.manual_seed(1)
    kind = RationalQuadratic(8, tail_bound=3.0)
    p = (spread * torch.randn(20_000, 1, kind.parameters)).requires_grad_()
    y = kind.forward(1.8 * torch.randn(20_000, 1), p)[0].detach().requires_grad_()
    x, logdet = kind.inverse(y, p)
    for numbers in (x, logdet, *torch.autograd.grad(x.sum() + logdet.sum(), (y, p))):
        assert numbers.isfinite().all()


def test_the_root_does_not_cancel_for_a_negative_b() -> None:
    kind = RationalQuadratic(2, 1.0)
    p = torch.tensor([0.0, 0.0, -8.0, 8.0, 10.0]).view(1, 1, 5)
    x = torch.tensor([[-0.001]])
    y, logdet = kind.forward(x, p)
    back, inverse = kind.inverse(y, p)
    torch.testing.assert_close(back, x, rtol=1e-3, atol=0)
    torch.testing.assert_close(inverse, -logdet, rtol=1e-3, atol=0)


def test_a_discriminant_that_is_negative_for_sure() -> None:
    """Slopes 0 and 1 ulp above the piece: b² − 4ac = 4r(1 − r) < 0."""

    def number(value: float) -> Tensor:
        return torch.tensor([value], requires_grad=True)

    piece = _Piece(number(0.0), number(0.0), number(1.0), number(1.0), number(0.0), number(0.0))
    y = number(1 + 2**-23)
    theta = piece.solve(y)
    torch.testing.assert_close(theta, torch.ones(1))
    for gradient in torch.autograd.grad(theta.sum(), (y, piece.left, piece.height)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_visible(value: Any) -> None:
    y = RationalQuadratic(3).forward(torch.tensor([[value]]), torch.zeros(1, 1, 8))[0]
    torch.testing.assert_close(y, torch.tensor([[value]]), equal_nan=True)


@pytest.mark.parametrize("shape", [(6, 3), (5, 2, 3, 4)])
@pytest.mark.parametrize("ends", ["linear", "box", "circular"])
@pytest.mark.parametrize("bins", [1, 4])
@pytest.mark.parametrize("method", ["forward", "inverse"])
def test_a_graph_has_the_same_numbers_and_gradients_and_gathers_none(shape, ends, bins, method) -> None:
    kind = RationalQuadratic(bins, 2.0, ends=ends)
    torch.manual_seed(0)
    x = (2.5 * torch.randn(shape).double()).requires_grad_()
    parameters = torch.randn(*shape[:2], kind.parameters, *shape[2:]).double().requires_grad_()
    names: list[str] = []

    def record(graph, inputs):
        names.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    def gradients(call):
        y, logdet = call(x, parameters)
        total = (y * y.detach().cos()).sum() + torch.where(logdet.isfinite(), logdet, 0.0).sum()
        return y, logdet, *torch.autograd.grad(total, (x, parameters), allow_unused=bins == 1)

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=record, bw_compiler=record)
    expected = gradients(getattr(kind, method))
    for one, other in zip(gradients(torch.compile(getattr(kind, method), backend=backend)), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    assert not [name for name in names if "gather" in name or "scatter_add" in name]
    assert names


def test_a_graph_of_draws_alone_gathers() -> None:
    names: list[str] = []

    def record(graph, inputs):
        names.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    kind = RationalQuadratic(4, 2.0)
    y, parameters = torch.randn(6, 3), torch.randn(6, 3, kind.parameters)
    torch._dynamo.reset()
    with torch.no_grad():
        x, _ = torch.compile(kind.inverse, backend=aot_autograd(fw_compiler=record))(y, parameters)
        torch.testing.assert_close(x, kind.inverse(y, parameters)[0])
    assert [name for name in names if "gather" in name]
