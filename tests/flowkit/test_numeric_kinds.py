"""Kinds that stand on `NumericKind`: each formula against numpy, the start, the tails, wrong arguments."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flowkit import (
    Bernstein,
    Coupling,
    DeepDenseSigmoid,
    DeepSigmoid,
    Gaussianization,
    MixtureLogistic,
    Monotonic,
    NumericKind,
    SumOfSquares,
)
from flowkit.integrals import _fejer
from flowkit.nets import MLP

KINDS: list[Any] = [
    DeepSigmoid(3),
    DeepDenseSigmoid(3, 2),
    SumOfSquares(3, 2),
    Bernstein(5),
    Gaussianization(3),
    Monotonic(4),
]
each = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
X = np.linspace(-4, 4, 9)


def image(kind: NumericKind, p: np.ndarray, x: np.ndarray = X) -> tuple[np.ndarray, np.ndarray]:
    """y and log-slopes of one column of numbers with the same parameters."""
    raw = torch.tensor(p).expand(len(x), 1, -1)
    y, logdet = kind.forward(torch.tensor(x)[:, None], raw)
    return y[:, 0].numpy(), logdet.numpy()


def draws(kind: NumericKind, spread: float = 0.7) -> np.ndarray:
    numbers: np.ndarray = spread * np.random.default_rng(0).normal(size=kind.parameters)
    return numbers


def sigmoid(x: np.ndarray) -> np.ndarray:
    result: np.ndarray = 1 / (1 + np.exp(-x))
    return result


def softplus(raw: np.ndarray) -> np.ndarray:
    """1 at 0, at least 1e-3."""
    result: np.ndarray = 1e-3 + np.log1p(np.exp(raw + math.log(math.expm1(0.999))))
    return result


def softmax(logits: np.ndarray) -> np.ndarray:
    weights: np.ndarray = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return weights


@each
def test_parameters_are_counted(kind: NumericKind) -> None:
    counts = {"DeepSigmoid": 9, "DeepDenseSigmoid": 33, "SumOfSquares": 10, "Bernstein": 6, "Gaussianization": 9}
    assert kind.parameters == counts.get(type(kind).__name__, 14)


def test_deep_sigmoid_is_its_formula() -> None:
    kind = DeepSigmoid(3)
    p = draws(kind)
    mixed = (softmax(p[6:]) * sigmoid(softplus(p[:3]) * X[:, None] + p[3:6] + np.array([-0.1, 0, 0.1]))).sum(-1)
    np.testing.assert_allclose(image(kind, p)[0], np.log(mixed / (1 - mixed)), rtol=1e-9)


def test_deep_dense_sigmoid_is_its_formula() -> None:
    kind = DeepDenseSigmoid(2, 2)
    p = draws(kind)
    apart = np.array([-1.0, 1.0])
    first = sigmoid(softplus(p[:2]) * X[:, None] + p[2:4] + 0.1 * apart)
    w = softmax(p[4:8].reshape(2, 2) + np.outer(apart, apart))
    h = first @ w.T
    h = np.log(h / (1 - h))
    u = softmax(p[12:16].reshape(2, 2))
    second = sigmoid(softplus(p[8:10]) * (h @ u.T) + p[10:12] + 0.1 * apart)
    mixed = second @ softmax(p[16:18])
    np.testing.assert_allclose(image(kind, p)[0], np.log(mixed / (1 - mixed)), rtol=1e-9)


def test_sum_of_squares_is_its_formula() -> None:
    kind = SumOfSquares(2, 3)
    p = draws(kind)
    coefficients = p[1:].reshape(2, 4) + np.array([[1, -0.1, 0, 0], [1, 0.1, 0, 0]])
    polynomials = [np.polynomial.Polynomial(row) for row in coefficients]
    slope = 1e-3 + 0.999 * (polynomials[0] ** 2 + polynomials[1] ** 2) / 2
    y, log_slope = image(kind, p)
    np.testing.assert_allclose(y, p[0] + slope.integ()(X), rtol=1e-11)
    np.testing.assert_allclose(log_slope, np.log(slope(X)), rtol=1e-9, atol=1e-12)


def test_bernstein_is_its_formula_inside_and_a_line_outside() -> None:
    kind = Bernstein(3, bound=5.0)
    p = draws(kind)
    theta = p[0] - 5 + 10 / 3 * np.concatenate([[0], softplus(p[1:]).cumsum()])
    u = (X + 5) / 10
    expected = sum(math.comb(3, k) * theta[k] * u**k * (1 - u) ** (3 - k) for k in range(4))
    np.testing.assert_allclose(image(kind, p)[0], expected, rtol=1e-11)
    y, log_slope = image(kind, p, np.array([5.0, 7.0]))
    np.testing.assert_allclose(y[1] - y[0], 2 * softplus(p[3:])[0], rtol=1e-11)
    np.testing.assert_allclose(log_slope, np.log(softplus(p[3:])).repeat(2), rtol=1e-11)


def test_gaussianization_makes_its_mixture_gaussian() -> None:
    kind = Gaussianization(3)
    p = torch.tensor(draws(kind))
    x = torch.tensor(X).double()
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=p[:3]),
        torch.distributions.Normal(p[3:6] + torch.tensor([-0.1, 0, 0.1], dtype=torch.float64), p[6:].exp()),
    )
    normal = torch.distributions.Normal(0.0, 1.0)
    y, log_slope = image(kind, p.numpy())
    np.testing.assert_allclose(normal.cdf(torch.tensor(y)), mixture.cdf(x), rtol=1e-10)
    np.testing.assert_allclose(log_slope, mixture.log_prob(x) - normal.log_prob(torch.tensor(y)), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.float64, 1e-9)])
def test_gaussianization_is_right_a_thousand_deviations_out(dtype: torch.dtype, tolerance: float) -> None:
    """One narrow component is an affine map, y = (x − μ)/s: no logarithm of a tail may lose it."""
    kind = Gaussianization(1)
    x = torch.tensor([-10.0, -1.0, -0.05, 0.0, 0.3, 10.0], dtype=dtype)[:, None].requires_grad_()
    p = torch.tensor([0.0, 0.0, math.log(0.01)], dtype=dtype).expand(6, 1, 3)
    y, logdet = kind.forward(x, p)
    torch.testing.assert_close(y, 100 * x, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(logdet, torch.full_like(logdet, math.log(100)), rtol=tolerance, atol=tolerance)
    assert torch.autograd.grad(y.sum() + logdet.sum(), x)[0].isfinite().all()


def test_monotonic_is_its_formula() -> None:
    kind = Monotonic(3)
    p = draws(kind)
    u, b, v = p[2:5] + 1, p[5:8] + np.array([-2, 0, 2]), p[8:]

    def slope(t: np.ndarray) -> np.ndarray:
        return softplus((v * np.tanh(u * t[..., None] + b)).sum(-1) + p[1])

    y, log_slope = image(kind, p)
    np.testing.assert_allclose(log_slope, np.log(slope(X)), rtol=1e-9, atol=1e-12)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    expected = p[0] + X / 2 * (slope(X[:, None] / 2 * (1 + nodes)) * weights).sum(-1)
    np.testing.assert_allclose(y, expected, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_fejers_rule_is_exact_for_polynomials_below_its_size(n: int) -> None:
    points, weights = _fejer(n, torch.zeros(1).double())
    for power in range(n):
        assert float((weights * points**power).sum()) == pytest.approx(1 / (power + 1), abs=1e-13)


@each
def test_zero_parameters_are_the_identity_or_nearly(kind: NumericKind) -> None:
    x = np.linspace(-3, 3, 25)
    y, log_slope = image(kind, np.zeros(kind.parameters), x)
    exact = isinstance(kind, Bernstein | Monotonic)
    np.testing.assert_allclose(y, x, atol=1e-9 if exact else 0.07)
    np.testing.assert_allclose(log_slope, 0, atol=1e-9 if exact else 0.07)


@pytest.mark.parametrize("kind", [*KINDS, Gaussianization(1), Gaussianization(4), MixtureLogistic(2)], ids=str)
def test_gradients_at_zero_are_the_slopes_there(kind: Any) -> None:
    """The median of a new mixture, where its tails meet: zeros are frequent in data, and latents at temperature 0."""
    x, p = torch.zeros(1, 1).double().requires_grad_(), torch.zeros(1, 1, kind.parameters).double()
    for way in (kind.forward, kind.inverse):
        image, log_slope = way(x, p)
        slope, curve = (torch.autograd.grad(out, x, retain_graph=True)[0] for out in (image, log_slope))
        torch.testing.assert_close(slope[0].log(), log_slope, rtol=1e-9, atol=1e-9)
        beside = [way(x.detach() + step, p)[1] for step in (-1e-5, 1e-5)]
        torch.testing.assert_close(curve[0], (beside[1] - beside[0]) / 2e-5, rtol=1e-5, atol=1e-7)


def test_bernstein_of_the_largest_degree_is_finite_in_float32() -> None:
    kind = Bernstein(100)
    x = torch.linspace(-6, 6, 13)[:, None].requires_grad_()
    y, logdet = kind.forward(x, torch.zeros(13, 1, kind.parameters))
    torch.testing.assert_close(y, x, atol=1e-4, rtol=0)
    assert torch.autograd.grad(y.sum() + logdet.sum(), x)[0].isfinite().all()


@each
def test_no_two_parts_are_alike_after_two_steps_from_the_start(kind: NumericKind) -> None:
    """Where parts start alike, a network whose last layer is zero leaves them one for ever."""
    torch.manual_seed(0)
    x = torch.cat([torch.randn(200, 2) - 2, torch.randn(200, 2) + 2])
    net = MLP(1, kind.parameters, 8)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(2):
        y, logdet = Coupling(net, 1, kind)(x)
        optimizer.zero_grad()
        (y.square().sum(1) / 2 - logdet).mean().backward()
        optimizer.step()
    raw = net(x[:1, :1])[0].detach()
    for part in parts_of(kind, raw):
        distances = torch.cdist(part, part) + torch.eye(len(part))
        assert bool(distances.min() > 1e-7)


def parts_of(kind: Any, raw: Tensor) -> list[Tensor]:
    """Rows of parameters that play the same role."""
    if isinstance(kind, DeepSigmoid | Gaussianization):
        return [raw.view(3, -1).T]
    if isinstance(kind, DeepDenseSigmoid):
        k = kind.units
        return [
            raw[: 2 * k].view(2, k).T,
            raw[2 * k : 2 * k + k * k].view(k, k),
            raw[-3 * k - k * k : -k - k * k].view(2, k).T,
        ]
    if isinstance(kind, SumOfSquares):
        return [raw[1:].view(kind.squares, -1)]
    if isinstance(kind, Monotonic):
        return [raw[2:].view(3, -1).T]
    return [raw[1:, None]]


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wild_parameters_and_far_numbers_are_finite_and_come_back(kind: NumericKind, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    p = (2 * torch.randn(300, 1, kind.parameters)).to(dtype).requires_grad_()
    x = (4 * torch.randn(300, 1)).to(dtype)
    x[:4, 0] = torch.tensor([1e6, -1e6, 10.0, -5.0])
    y, logdet = kind.forward(x, p)
    back, inverse = kind.inverse(y.detach().requires_grad_(), p)
    for numbers in (y, logdet, back, inverse, *torch.autograd.grad((y + back).sum() + (logdet + inverse).sum(), p)):
        assert numbers.isfinite().all()
    again = kind.forward(back, p)[0]
    torch.testing.assert_close(again, y, rtol=1e-3 if dtype == torch.float32 else 1e-9, atol=1e-3)
    nan = kind.forward(torch.full((1, 1), math.nan, dtype=dtype), p[:1])[0]
    assert nan.isnan().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeepSigmoid(0), "units must be at least 1, got 0"),
        (lambda: DeepSigmoid(2, offset=-1.0), r"offset must be a number in \[0, inf\), got -1.0"),
        (lambda: DeepDenseSigmoid(2, 0), "layers must be at least 1, got 0"),
        (lambda: SumOfSquares(0, 2), "squares must be at least 1, got 0"),
        (lambda: SumOfSquares(2, -1), "degree must be at least 0, got -1"),
        (lambda: SumOfSquares(2, 2, floor=1.0), r"floor must be a number in \[0, 1\), got 1.0"),
        (lambda: Bernstein(0), "degree must be at least 1, got 0"),
        (lambda: Bernstein(101), "degree must be at most 100, got 101"),
        (lambda: Bernstein(3, bound=0.0), "bound must be positive, got 0.0"),
        (lambda: Gaussianization(0), "components must be at least 1, got 0"),
        (lambda: Monotonic(0), "hidden must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_chain_of_them_is_written_with_its_arguments() -> None:
    assert str(DeepSigmoid(3)) == "DeepSigmoid(units=3)"
    assert "DeepDenseSigmoid(units=2, layers=3)" in nn.Module.__repr__(Coupling(MLP(1, 1), 1, DeepDenseSigmoid(2, 3)))
