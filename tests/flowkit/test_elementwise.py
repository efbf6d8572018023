"""Fixed maps of single numbers: exact in the tails, −inf outside their sets, fused where they are linear."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import flowkit
from flowkit import ActNorm, Affine, Bijector, Chain, Elementwise, Flow, InvertibleConv1x1, StandardNormal
from flowkit.elementwise import (
    Asinh,
    Cdf,
    Exp,
    Leaky,
    Matrix,
    Scale,
    Shift,
    Sigmoid,
    SignedPower,
    SinhArcsinh,
    Softplus,
    Tanh,
)
from flowkit.fusion import runs_of


def number(value: float) -> Tensor:
    return torch.full((1, 1), value, dtype=torch.float64)


FAR = {
    # y and log slope at x = −40 and at x = 40, from the formulas to 17 digits
    "sigmoid": (Sigmoid(), (math.exp(-40), -40.0), (1.0, -40.0)),
    "sigmoid of a box": (Sigmoid(-2.0, 0.0), (-2.0, math.log(2) - 40), (-2 * math.exp(-40), math.log(2) - 40)),
    "exp": (Exp(), (math.exp(-40), -40.0), (math.exp(40), 40.0)),
    "softplus": (Softplus(), (math.exp(-40), -40.0), (40.0, -math.exp(-40))),
    "tanh": (Tanh(), (-1.0, 2 * math.log(2) - 80), (1.0, 2 * math.log(2) - 80)),
    "asinh": (Asinh(), (-math.asinh(40), -0.5 * math.log(1601)), (math.asinh(40), -0.5 * math.log(1601))),
    "sinh-arcsinh": (
        SinhArcsinh(0.0, 2.0),
        (-80 * math.sqrt(1601), math.log(2) + math.log(3201) - 0.5 * math.log(1601)),
        (80 * math.sqrt(1601), math.log(2) + math.log(3201) - 0.5 * math.log(1601)),
    ),
    "cdf": (Cdf(torch.distributions.Normal(0.0, 4.0)).double(), (7.619853024160526e-24, -52.30523289), None),
}


@pytest.mark.parametrize("name", FAR)
def test_values_and_slopes_are_exact_far_out(name: str) -> None:
    b, *ends = FAR[name]
    for x, expected in zip((-40.0, 40.0), ends, strict=True):
        if expected is None:
            continue
        y, slope = b(number(x))
        torch.testing.assert_close(y, number(expected[0]), rtol=1e-13, atol=0)
        torch.testing.assert_close(slope, number(expected[1])[0], rtol=1e-9 if name == "cdf" else 1e-15, atol=1e-30)


@pytest.mark.parametrize("b", [Sigmoid(), Sigmoid(-3.0, 0.0), Exp(), Softplus()], ids=repr)
@pytest.mark.parametrize("x", [-40.0, -30.0, 3.0])
def test_the_inverse_is_exact_wherever_y_is_not_on_the_bound(b: Bijector, x: float) -> None:
    if b.codomain.lower_bound != 0:
        x = -x  # the exact end of this one is the upper
    back, slope = b.inverse(b(number(x))[0])
    torch.testing.assert_close(back, number(x), rtol=1e-13, atol=0)
    torch.testing.assert_close(slope, -b(number(x))[1], rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    "b", [Sigmoid(), Sigmoid(-3.0, 1.0, 0.05), Exp(), Softplus(), Tanh(), Asinh(), SinhArcsinh(0.0, 2.0)], ids=repr
)
def test_gradients_at_zero_are_the_slopes_there(b: Bijector) -> None:
    """Where a formula changes from one tail's to the other's: zeros are latents at temperature 0."""
    x = number(0.0).requires_grad_()
    y, slope = b(x)
    back, inverse = b.inverse(y)
    torch.testing.assert_close(torch.autograd.grad(y, x, retain_graph=True)[0][0].log(), slope)
    torch.testing.assert_close(torch.autograd.grad(back, x, retain_graph=True)[0][0], torch.ones(1).double())
    torch.testing.assert_close(inverse, -slope)


def test_tanh_is_flat_at_both_infinities() -> None:
    for x in (math.inf, -math.inf):
        y, slope = Tanh()(number(x))
        assert y == math.copysign(1, x)
        assert slope == -math.inf


OUTSIDE: list[tuple[Bijector, list[float]]] = [
    (Sigmoid().inv, [0.0, 1.0, -0.1, 2.0, math.inf, -math.inf]),
    (Sigmoid(-1.0, 2.0).inv, [-1.0, 2.0, 7.0]),
    (Sigmoid(margin=0.05).inv, [-0.06, 1.06]),
    (Exp().inv, [0.0, -1.0, math.inf]),
    (Softplus().inv, [0.0, -1.0]),
    (Tanh().inv, [1.0, -1.0, 3.0]),
    (Cdf(torch.distributions.Uniform(0.0, 2.0)), [0.0, 2.0, -1.0, 5.0]),
    (Cdf(torch.distributions.Exponential(1.0)), [0.0, -2.0]),
    (Cdf(torch.distributions.Normal(0.0, 1.0)).inv, [0.0, 1.0, 1.5]),
    (SignedPower(2.0), [0.0]),
    (SignedPower(0.5).inv, [0.0]),
]


@pytest.mark.parametrize(("b", "values"), OUTSIDE, ids=lambda v: repr(v) if isinstance(v, Bijector) else "")
def test_outside_or_on_the_bound_the_density_is_zero_with_finite_gradients(b: Bijector, values: list[float]) -> None:
    net = flowkit.Coupling(flowkit.nets.MLP(1, 2, hidden=4), 1, flowkit.Affine("exp"))
    flow = Flow(b.double() >> net.double(), StandardNormal())
    for value in values:
        x = torch.tensor([[0.5, 0.5], [0.5, value], [value, value]], dtype=torch.float64, requires_grad=True)
        y, _ = b(x)
        assert y.isfinite().all()
        log_prob = flow.log_prob(x)
        assert log_prob[0].isfinite()
        assert log_prob[1:].tolist() == [-math.inf, -math.inf]
        wrt = [x, *net.parameters()]
        gradients = torch.autograd.grad((y.sum() + log_prob.sum()), wrt)
        assert all(g.isfinite().all() for g in gradients)


def test_a_number_that_is_none_stays_so() -> None:
    y, logdet = Sigmoid().inv(torch.tensor([[math.nan, 0.5]]))
    assert y[0, 0].isnan()
    assert logdet.isnan().all()


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_a_logit_in_front_changes_no_probability_of_a_cell(margin: float) -> None:
    """A uniform density through a logit and back is 1 on the unit interval, so a grey level keeps its bits."""
    grid = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    logistic = Cdf(torch.distributions.Normal(0.0, 2.0)).double()  # any density of the logits
    x = grid[:, None]
    z, logdet = Sigmoid(margin=margin).inv(x)
    density = (logdet + logistic(z)[1]).exp()
    ends = Sigmoid(margin=margin).inv(torch.tensor([[0.25], [0.5]], dtype=torch.float64))[0]
    cell = logistic(ends)[0].diff(dim=0).item()  # what the density of logits gives the cell [¼, ½]
    got = density[(grid > 0.25) & (grid < 0.5)].sum().item() / 4000
    assert got == pytest.approx(cell, abs=1e-6)
    torch.testing.assert_close(Flow(Sigmoid().inv >> Sigmoid(), _Flat()).bits_per_dim(x), torch.zeros(4000).double())


class _Flat(torch.nn.Module):
    def log_prob(self, value: Tensor, context: object = None) -> Tensor:
        return value.new_zeros(len(value))


def test_the_margin_is_realnvps() -> None:
    x = torch.rand(5, 3, dtype=torch.float64)
    z, logdet = Sigmoid(margin=0.05).inv(x)
    squeezed = 0.05 + 0.9 * x
    torch.testing.assert_close(z, squeezed.logit())
    expected = (math.log(0.9) - squeezed.log() - (1 - squeezed).log()).sum(1)
    torch.testing.assert_close(logdet, expected)
    assert Sigmoid(margin=0.05).inv(torch.tensor([[0.0, 1.0]]))[1].isfinite().all()


def test_channels_have_bounds_of_their_own() -> None:
    b = Sigmoid(torch.tensor([0.0, -1.0]), torch.tensor([1.0, 3.0]))
    y = b(torch.zeros(2, 2, 3, 3))[0]
    assert y[:, 0].unique().tolist() == [0.5]
    assert y[:, 1].unique().tolist() == [1.0]
    with pytest.raises(ValueError, match=r"Sigmoid\(.*expected 2 channels"):
        b(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sigmoid(1.0, 1.0), "low must be below high"),
        (lambda: Sigmoid(margin=0.5), "margin must be at least 0 and below 0.5"),
        (lambda: Leaky(0.0), "Leaky: slope must be positive"),
        (lambda: SignedPower(-1.0), "SignedPower: power must be positive"),
        (lambda: SinhArcsinh(tail=torch.tensor([1.0, -1.0])), "SinhArcsinh: tail must be positive"),
        (lambda: Sigmoid(torch.zeros(2), torch.ones(3)), "Sigmoid: high has 3 channels, not 2"),
        (lambda: Scale(0.0), "Scale: scale must be finite and not 0"),
        (lambda: Shift(math.inf), "Shift: shift must be finite"),
        (lambda: Matrix(torch.ones(2, 2)), "Matrix: matrix is singular"),
        (lambda: Matrix(torch.ones(2, 3)), r"Matrix: matrix must be \(C, C\)"),
        (lambda: Matrix(torch.eye(2), torch.ones(3)), r"Matrix: bias must be a number or \(C,\)"),
        (lambda: Cdf(torch.distributions.Gamma(1.0, 1.0)), "Cdf: Gamma has no cdf and icdf"),
        (lambda: Cdf(torch.distributions.Poisson(1.0)), "Cdf: the support of Poisson"),
        (lambda: Cdf(torch.distributions.Normal(torch.zeros(2, 2), 1.0)), "Cdf: the distribution must be of numbers"),
    ],
)
def test_what_makes_no_map_is_refused(make: Callable[[], Bijector], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_fixed_linear_maps_fuse_with_their_neighbours_and_change_nothing() -> None:
    torch.manual_seed(0)
    scale, shift = torch.tensor([2.0, -0.5, 1.5]), torch.tensor([100.0, -3.0, 0.1])
    parts = [
        Shift(-shift),
        Matrix(torch.randn(3, 3), shift),
        Scale(scale),
        ActNorm(3),
        InvertibleConv1x1(3),
        Shift(shift),
    ]
    chain = Chain(*parts).double()
    assert [len(run) for run in runs_of(chain.parts)] == [6]
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64) + shift.double()[:, None, None]
    y, logdet = x, torch.zeros(2, dtype=torch.float64)
    for part in chain.parts:
        y, term = part(y)
        logdet = logdet + term
    torch.testing.assert_close(chain(x), (y, logdet))
    torch.testing.assert_close(chain.inverse(y), (x, -logdet))


def test_a_shift_that_cancels_a_large_mean_stays_exact_in_float32() -> None:
    x = 1e4 + torch.randn(50, 2, 3, 3)
    chain = Shift(-1e4 * torch.ones(2)) >> InvertibleConv1x1(2)
    wide = copy.deepcopy(chain).double()
    torch.testing.assert_close(chain(x)[0].double(), wide(x.double())[0], rtol=0, atol=1e-5)


def test_a_distribution_moves_with_its_module() -> None:
    b = Cdf(torch.distributions.Normal(torch.tensor([0.1, 0.2]), 1.0)).double()
    assert b.distribution.loc.dtype == torch.float64
    assert b(torch.zeros(1, 2, dtype=torch.float64))[0].dtype == torch.float64
    log_normal = copy.deepcopy(Cdf(torch.distributions.LogNormal(0.5, 0.8)).double())
    x = torch.tensor([[0.3], [2.0], [9.0]], dtype=torch.float64)
    y, logdet = log_normal(x)
    torch.testing.assert_close(log_normal.inverse(y), (x, -logdet))
    assert y.dtype == torch.float64


def test_a_learned_map_of_some_channels_lets_the_others_pass() -> None:
    b = Elementwise(Affine("exp", "scale_first"), [3, 1])
    x = torch.randn(5, 4)
    assert torch.equal(b(x)[0], x)  # zero parameters
    with torch.no_grad():
        b.raw.copy_(torch.tensor([1.0, math.log(2), -1.0, math.log(3)]))  # (shift, log scale) of channel 3, then of 1
    y, logdet = b(x)
    torch.testing.assert_close(y, x * torch.tensor([1.0, 3.0, 1.0, 2.0]) + torch.tensor([0.0, -1.0, 0.0, 1.0]))
    torch.testing.assert_close(logdet, torch.full((5,), math.log(6)))
    with pytest.raises(ValueError, match=r"Elementwise\(.*there is no channel 3 in \(5, 3\)"):
        b(x[:, :3])
    images = b(torch.randn(2, 4, 3, 5))[1]
    torch.testing.assert_close(images, torch.full((2,), 15 * math.log(6)))


@pytest.mark.parametrize("channels", [0, [], [1, 1], [-1]])
def test_channels_of_a_learned_map_are_there_and_different(channels: int | list[int]) -> None:
    with pytest.raises(ValueError, match="Elementwise: channels must be"):
        Elementwise(Affine(), channels)


def test_channels_of_a_learned_map_are_whole_numbers() -> None:
    with pytest.raises(TypeError, match=r"Elementwise: channels must be whole numbers, got \[0.5\]"):
        Elementwise(Affine(), [0.5])  # type: ignore[list-item]
