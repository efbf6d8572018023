"""Continuous flows: linear fields in closed form, the divergence and its estimate, solvers, flow matching."""

import itertools
import sys

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from flowkit import ODE, Flow, StandardNormal, flow_matching
from flowkit.nets import FCN, MLP, WithTime
from flowkit.testing import perturb

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")


class Linear(nn.Module):
    """v = A·x over the channels."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, x: Tensor, t: Tensor, context: object = None) -> Tensor:
        return torch.einsum("oc,bc...->bo...", self.matrix, x)


class Field(nn.Module):
    """A velocity written as a function of x, t and the context."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, t: Tensor, context: object = None) -> Tensor:
        return self.function(x, t, context)


@pytest.fixture
def matrix() -> Tensor:
    return 0.5 * torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("solver", [*ADAPTIVE, "rk4", "midpoint", "euler"])
def test_a_linear_field_is_a_matrix_exponential(solver: str, matrix: Tensor) -> None:
    tolerance = 1e-4 if solver == "adaptive_heun" else 1e-7
    b = ODE(Linear(matrix), solver=solver, rtol=tolerance, atol=tolerance, steps=200)
    x = torch.randn(4, 3).double()
    y, logdet = b(x)
    allowed = {"euler": 2e-2, "midpoint": 1e-5}.get(solver, 10 * tolerance)
    torch.testing.assert_close(y, x @ (-matrix).matrix_exp().T, rtol=allowed, atol=allowed)
    torch.testing.assert_close(logdet, -matrix.trace().expand(4))
    back, inverse = b.inverse(y)
    torch.testing.assert_close(back, x, rtol=2 * allowed, atol=2 * allowed)
    torch.testing.assert_close(inverse, -logdet)


def test_images_and_no_pixels_alike(matrix: Tensor) -> None:
    b = ODE(Linear(matrix))
    x = torch.randn(2, 3, 2, 3).double()
    y, logdet = b(x)
    torch.testing.assert_close(y, torch.einsum("oc,bchw->bohw", (-matrix).matrix_exp(), x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logdet, -6 * matrix.trace().expand(2))


@pytest.mark.parametrize("solver", ["dopri5", "rk4"])
def test_gradients_are_those_of_the_closed_form(solver: str, matrix: Tensor) -> None:
    x = torch.randn(4, 3).double()
    b = ODE(Linear(matrix), solver=solver, rtol=1e-8, atol=1e-8, steps=50)
    y, logdet = b(x)
    (y.square().sum() + logdet.sum()).backward()
    exact = matrix.clone().requires_grad_()
    ((x @ (-exact).matrix_exp().T).square().sum() - 4 * exact.trace()).backward()
    torch.testing.assert_close(b.net.matrix.grad, exact.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", ["dopri5", "rk4"])
def test_data_are_at_time_one(solver: str) -> None:
    shapes = set()

    def velocity(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        shapes.add(tuple(t.shape))
        return 3 * t[:, None] ** 2 * context

    b = ODE(Field(velocity), solver=solver)
    x, context = torch.randn(5, 2), torch.randn(5, 2)
    torch.testing.assert_close(b(x, context)[0], x - context)
    torch.testing.assert_close(b.inverse(x, context)[0], x + context)
    assert shapes == {(5,)}


def test_draws_share_a_context() -> None:
    b = ODE(Field(lambda x, t, context: context), solver="rk4")
    x, context = torch.randn(6, 2), torch.randn(3, 2)
    torch.testing.assert_close(b(x, context)[0], x - context.repeat(2, 1))


def test_hutchinsons_estimate_is_unbiased_and_sees_its_probe(matrix: Tensor) -> None:
    b, exact = (ODE(Linear(matrix), divergence, "rk4") for divergence in ("hutchinson", "exact"))
    x = torch.randn(8, 3).double()
    probes = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3))).double()
    y, logdet = b(x, noise=probes)
    torch.testing.assert_close(logdet, -torch.einsum("bi,ij,bj->b", probes, matrix, probes))
    torch.testing.assert_close(logdet.mean(), exact(x)[1].mean())
    torch.testing.assert_close(y, exact(x)[0])
    torch.testing.assert_close(b.inverse(y, noise=probes)[1], -logdet)


def test_probes_are_drawn_anew_and_are_signs(matrix: Tensor) -> None:
    torch.manual_seed(0)
    b = ODE(Linear(matrix), "hutchinson", "rk4")
    logdet = b(torch.zeros(100, 3).double())[1]
    possible = b(torch.zeros(8, 3).double(), noise=torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3))))[1]
    assert torch.isclose(logdet[:, None], possible).any(1).all()
    assert not torch.equal(logdet, b(torch.zeros(100, 3).double())[1])


def test_an_image_has_the_log_det_that_its_probes_average_to() -> None:
    torch.manual_seed(0)
    net = perturb(WithTime(FCN(3, 2, 4)), 0.5)
    x = torch.randn(1, 2, 2, 2)
    exact = ODE(net, solver="rk4", steps=4)(x)[1]
    many = ODE(net, "hutchinson", "rk4", steps=4)(x.expand(2000, -1, -1, -1))[1]
    many, exact = many.detach(), exact.detach()
    assert abs(float(many.mean() - exact)) < 3 * float(many.std()) / 2000**0.5
    assert float(many.std()) > 1e-3


def test_the_error_of_a_sample_does_not_grow_with_its_company() -> None:
    b = ODE(Field(lambda x, t, context: (20 * x).sin()), rtol=1e-6, atol=1e-6)
    x = torch.cat([torch.full((1, 1), 0.1), torch.zeros(999, 1)]).double()
    fine = ODE(b.net, rtol=1e-11, atol=1e-11)(x[:1])[0]
    for many in (1, 1000):
        assert abs(float(b(x[:many])[0][0] - fine)) < 1e-5


def test_on_fake_tensors_and_under_compile_the_steps_are_fixed() -> None:
    b = ODE(perturb(WithTime(MLP(3, 2, 8))))
    with FakeTensorMode(allow_non_fake_inputs=True):
        y, logdet = b(torch.empty(5, 2))
        assert (y.shape, logdet.shape) == ((5, 2), (5,))
    x = torch.randn(5, 2)
    graph = torch.compile(ODE(b.net, steps=3), backend="eager", fullgraph=True)
    torch.testing.assert_close(graph(x), ODE(b.net, solver="rk4", steps=3)(x))
    flow = Flow(b, StandardNormal(), shape=(2,))
    assert flow.sample(7).shape == (7, 2)


def test_half_precision_contexts_and_autocast_change_nothing() -> None:
    b = ODE(perturb(WithTime(MLP(3, 2, 8))), solver="rk4")
    x = torch.randn(5, 2)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(b(x), b(x.clone()))
        y = b(x)[0]
    torch.testing.assert_close(y, b(x)[0])


def test_without_torchdiffeq_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(
        ImportError, match=r'ODE: solver \'dopri5\' needs torchdiffeq: pip install "flowkit-torch\[ode\]"'
    ):
        ODE(nn.Identity())
    ODE(nn.Identity(), solver="rk4")


def test_errors() -> None:
    with pytest.raises(ValueError, match='divergence must be "exact" or "hutchinson", got \'trace\''):
        ODE(nn.Identity(), "trace")
    with pytest.raises(ValueError, match=r'solver must be "dopri5", .* or "rk4", got \'rk5\''):
        ODE(nn.Identity(), solver="rk5")
    with pytest.raises(ValueError, match="rtol must be positive, got 0"):
        ODE(nn.Identity(), rtol=0)
    with pytest.raises(ValueError, match=r"ODE: the net returned \(2, 2\) float32 for x \(2, 3\) float32"):
        ODE(Field(lambda x, t, context: x[:, 1:]))(torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"ODE: noise \(2, 1\) for x \(2, 3\)"):
        ODE(Field(lambda x, t, context: x), "hutchinson")(torch.randn(2, 3), noise=torch.ones(2, 1))
    with pytest.raises(RuntimeError, match=r"ODE: dopri5 did not arrive at t = 0 .* not finite in rows \[0, 1\]"):
        ODE(Field(lambda x, t, context: x / 0))(torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="the velocity overflows or changes too fast"):
        ODE(Field(lambda x, t, context: -(x**3)))(torch.full((2, 3), 100.0))  # from t = 1 back to 0: a pole


@pytest.mark.parametrize("solver", [*ADAPTIVE, "rk4"])
def test_a_row_that_is_not_finite_takes_no_other_with_it(solver: str, matrix: Tensor) -> None:
    b = ODE(Linear(matrix), solver=solver, rtol=1e-4, atol=1e-4)
    x = torch.randn(4, 3).double()
    x[1, 0], x[3, 2] = torch.nan, torch.inf
    x.requires_grad_()
    y, logdet = b(x)
    alone = b(x[::2])
    assert not y[1::2].isfinite().any(1).any()
    torch.testing.assert_close((y[::2], logdet[::2]), alone)
    (slope,) = torch.autograd.grad(y[::2].sum() + logdet[::2].sum(), x)
    assert slope[::2].isfinite().all()


def test_a_context_that_is_not_finite_is_named() -> None:
    b = ODE(Field(lambda x, t, context: x * context))
    context = torch.ones(4, 1)
    context[2] = torch.nan
    with pytest.raises(RuntimeError, match=r"the velocity is not finite in rows \[2\]: look at their context"):
        b(torch.ones(4, 3), context)


def test_flow_matching_is_zero_for_the_true_velocity_of_one_point() -> None:
    x1, sigma = torch.randn(1, 3).double(), 0.1
    rest = 1 - sigma

    def velocity(x: Tensor, t: Tensor, context: object) -> Tensor:
        return (x1 - rest * x) / (1 - rest * t[:, None])

    loss = flow_matching(Field(velocity), x1.expand(50, -1), sigma=sigma)
    torch.testing.assert_close(loss, torch.zeros(50).double())


def test_flow_matching_in_closed_form() -> None:
    seen = []

    def velocity(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        seen.append((x, t))
        return context

    x1, x0, context = torch.randn(3, 4, 2, 3, 3)
    t = torch.tensor([0.0, 0.3, 1.0, 0.5])
    loss = flow_matching(Field(velocity), x1, x0, 0.2, context, t)
    torch.testing.assert_close(loss, (context - (x1 - 0.8 * x0)).square().flatten(1).mean(1))
    each = t.view(-1, 1, 1, 1)
    torch.testing.assert_close(seen[0][0], (1 - 0.8 * each) * x0 + each * x1)
    assert torch.equal(seen[0][1], t)


def test_flow_matching_draws_from_its_generator() -> None:
    net, x1 = perturb(WithTime(MLP(3, 2, 8))), torch.randn(4, 2)
    state = torch.get_rng_state()
    one, other = (flow_matching(net, x1, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(flow_matching(net, x1), flow_matching(net, x1))


def test_flow_matching_errors() -> None:
    net = Field(lambda x, t, context: x[:, :1])
    with pytest.raises(ValueError, match=r"sigma must be a number in \[0, 1\], got 2"):
        flow_matching(net, torch.ones(2, 2), sigma=2)
    with pytest.raises(ValueError, match=r"x0 \(2, 1\) and t \(2,\) for x1 \(2, 2\)"):
        flow_matching(net, torch.ones(2, 2), torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"the net returned \(2, 1\) float32"):
        flow_matching(net, torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"x1 must be floating-point numbers, got \(2, 2\) int64"):
        flow_matching(net, torch.ones(2, 2).long())


def test_flow_matching_takes_times_and_noise_in_the_dtype_of_the_data() -> None:
    net, x, t = WithTime(MLP(3, 2)), torch.randn(5, 2), torch.rand(5)
    noise = torch.randn(5, 2)
    expected = flow_matching(net, x, noise, t=t)
    torch.testing.assert_close(flow_matching(net, x, noise.double(), t=t.double()), expected)
