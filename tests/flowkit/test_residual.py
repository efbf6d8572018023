"""Residual flows: estimates of the log-det and its gradient, the stated bound, the fixed point and where it isn't."""

import math

import pytest
import torch
from torch import Tensor, nn

from flowkit import ODE, Flow, Residual, StandardNormal
from flowkit.nets import CNN, MLP, WithTime, lipschitz
from flowkit.residual import terms_for
from flowkit.testing import perturb


class Times(nn.Module):
    """Multiplies by a matrix, or by a number."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return x @ self.matrix.T if self.matrix.ndim else self.matrix * x


def steep(bound: float, features: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return lipschitz(perturb(MLP(features, features, 16), 4.0), bound).double()


def exact_and_estimate(bound: float = 0.8) -> tuple[Residual, Residual]:
    net = steep(bound)
    return Residual(net, bound), Residual(net, bound, exact=0)


@pytest.mark.parametrize("training", [True, False])
def test_the_estimate_is_unbiased(training: bool) -> None:
    exact, estimate = exact_and_estimate()
    x = torch.randn(1, 4).double()
    with torch.no_grad():
        true = float(exact(x)[1])
        estimate.train(training)
        each = torch.cat([estimate(x.expand(200, -1))[1] for _ in range(100)])
    batches = each.view(100, 200).mean(1)  # a roulette is shared by a batch
    assert abs(float(batches.mean()) - true) < 3 * float(batches.std()) / 10 + 0.01 * 4 * (not training)
    assert abs(true) > 0.1
    assert float(each.std()) > 1e-3


@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_is_unbiased(training: bool) -> None:
    exact, estimate = exact_and_estimate()
    estimate.train(training)
    x = torch.randn(1, 4).double()
    weight = exact.net.layers[1 + 1].parametrizations.weight.original
    (true,) = torch.autograd.grad(exact(x)[1].sum(), weight)
    each = torch.stack([torch.autograd.grad(estimate(x.expand(50, -1))[1].mean(), weight)[0] for _ in range(300)])
    error = (each.mean(0) - true).norm()
    assert float(error) < 3 * float((each - true).square().sum((1, 2)).mean().sqrt()) / 300**0.5
    assert float(error) < 0.3 * float(true.norm())


def test_the_roulette_and_the_neumann_series_of_a_multiple_which_no_probe_blurs() -> None:
    torch.manual_seed(0)
    a, x = -0.4, torch.zeros(1, 20).double()
    b = Residual(Times(torch.tensor(a).double()), 0.4, exact=0, error=1e-6)
    each = []
    for _ in range(1000):
        logdet = b(x)[1] / 20
        (slope,) = torch.autograd.grad(logdet.sum(), b.net.matrix)
        each.append(torch.stack([logdet[0].detach(), slope]))
    drawn, exact = torch.stack(each), torch.tensor([math.log1p(a), 1 / (1 + a)]).double()
    assert ((drawn.mean(0) - exact).abs() < 4 * drawn.std(0) / 1000**0.5).all()
    assert (4 * drawn.std(0) / 1000**0.5 < torch.tensor([0.01, 0.1])).all()
    logdet = b.eval()(x)[1] / 20
    (slope,) = torch.autograd.grad(logdet.sum(), b.net.matrix)
    torch.testing.assert_close(torch.stack([logdet[0].detach(), slope]), exact, atol=1e-4, rtol=0)


def test_the_gradient_of_x_is_unbiased() -> None:
    exact, estimate = exact_and_estimate()
    x = torch.randn(1, 4).double().requires_grad_()
    (true,) = torch.autograd.grad(exact(x)[1].sum(), x)
    many = x.expand(20000, -1).detach().requires_grad_()
    (each,) = torch.autograd.grad(estimate.eval()(many)[1].sum(), many)
    torch.testing.assert_close(each.mean(0), true[0], atol=4 * float(each.std(0).max()) / 20000**0.5 + 0.01, rtol=0)


@pytest.mark.parametrize("error", [0.3, 0.01])
@pytest.mark.parametrize("sign", [-1, 1])
def test_in_evaluation_the_series_is_as_long_as_its_error_says(error: float, sign: int) -> None:
    b = Residual(Times(torch.tensor(0.97 * sign).double()), 0.97, exact=0, error=error).eval()
    x = torch.zeros(3, 20).double()
    missed = (b(x)[1] / 20 - math.log1p(0.97 * sign)).abs()
    assert float(missed.max().detach()) <= error
    if sign < 0:  # the worst case: one term fewer is not enough
        n = terms_for(0.97, error)
        assert -math.log1p(-0.97) - sum(0.97**k / k for k in range(1, n)) > error


def test_twenty_terms_are_what_the_docs_say_they_are() -> None:
    assert -math.log1p(-0.97) - sum(0.97**k / k for k in range(1, 21)) == pytest.approx(0.43, abs=0.005)


def test_a_probe_that_is_given_makes_it_a_map() -> None:
    _, b = exact_and_estimate()
    b.eval()
    x, noise = torch.randn(5, 4).double(), torch.randint(2, (5, 4)).double() * 2 - 1
    y, logdet = b(x, noise=noise)
    back, inverse = b.inverse(y, noise=noise)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(inverse, -logdet)
    assert torch.equal(b(x, noise=noise)[1], logdet)


def test_images_of_many_numbers() -> None:
    torch.manual_seed(0)
    b = Residual(lipschitz(perturb(CNN(3, 3, 8), 3.0), 0.9), 0.9, error=0.05)
    x = torch.randn(2, 3, 8, 8)
    y, logdet = b(x)
    assert (y.shape, logdet.shape) == (x.shape, (2,))
    (y.sum() + logdet.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in b.parameters())
    with torch.no_grad():
        torch.testing.assert_close(b.inverse(y)[0], x, atol=1e-4, rtol=0)
        many = b.eval()(x[:1].expand(100, -1, -1, -1))[1]
        true = Residual(b.net, 0.9, exact=192)(x[:1])[1]
    assert abs(float(many.mean() - true)) < 3 * float(many.std()) / 10 + 0.05 * 192


def test_the_inverse_of_a_steep_contraction_converges_and_has_its_gradient() -> None:
    matrix = -0.97 * torch.eye(20).double()
    b = Residual(Times(matrix), 0.97, exact=20)
    y = torch.randn(3, 20).double().requires_grad_()
    x, logdet = b.inverse(y)
    torch.testing.assert_close(x, y / 0.03, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logdet, torch.full_like(logdet, -20 * math.log(0.03)), rtol=1e-9, atol=1e-9)
    x.sum().backward()
    torch.testing.assert_close(y.grad, torch.full_like(y, 1 / 0.03), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("factor", [-1.0, 1.0, 3.0, 1e30])
def test_the_inverse_of_what_is_no_contraction_raises(factor: float) -> None:
    b = Residual(Times(torch.tensor(factor)))
    with pytest.raises(RuntimeError, match="Residual: the inverse did not converge in 1000 iterations"):
        b.inverse(torch.ones(2, 3))


def test_too_few_iterations_raise() -> None:
    b = Residual(steep(0.9), 0.9, iterations=3)
    with pytest.raises(RuntimeError, match="did not converge in 3 iterations"):
        b.inverse(torch.randn(2, 4).double())


def test_a_row_that_is_not_finite_does_not_keep_others_from_converging() -> None:
    b = Residual(steep(0.5), 0.5)
    y = torch.randn(3, 4).double()
    expected = b.inverse(y)[0]
    y[1, 2] = torch.nan
    torch.testing.assert_close(b.inverse(y)[0][[0, 2]], expected[[0, 2]])


def test_weights_are_bounded_once_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    b, calls = Residual(steep(0.9), 0.9), []
    bounded = type(b.net.layers[0].parametrizations.weight[0])
    forward = bounded.forward
    monkeypatch.setattr(bounded, "forward", lambda self, weight: calls.append(1) or forward(self, weight))
    b.inverse(torch.randn(2, 4).double())
    assert len(calls) == 3


def test_the_density_integrates_to_one() -> None:
    flow = Flow(Residual(steep(0.9, 2), 0.9), StandardNormal(), shape=(2,)).double()
    axis = torch.linspace(-12, 12, 301).double()
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = flow.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert float(mass) == pytest.approx(1, abs=1e-3)
    assert flow.sample(7).shape == (7, 2)


def test_draws_share_a_context() -> None:
    net = lipschitz(perturb(MLP(2, 2, 8, context_features=3)), 0.8)
    b, x, context = Residual(net, 0.8), torch.randn(6, 2), torch.randn(3, 3)
    torch.testing.assert_close(b(x, context), b(x, context.repeat(2, 1)))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"bound must be a number in \(0, 1\), got 1"):
        Residual(nn.Identity(), 1)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        Residual(nn.Identity(), iterations=0)
    with pytest.raises(ValueError, match=r"Residual: the net returned \(2, 1\) float32 for x \(2, 2\) float32"):
        Residual(MLP(2, 1))(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"Residual: noise \(2, 1\) for x \(2, 2\)"):
        Residual(MLP(2, 2), exact=0)(torch.ones(2, 2), noise=torch.ones(2, 1))


def test_estimates_are_not_averaged_as_densities() -> None:
    """The mean of exp(log p + noise) is above p: bits of k draws would fall below the true ones."""
    x = torch.randn(3, 20)
    for exact in (16, 20):
        net = lipschitz(MLP(20, 20, hidden=8), 0.9)
        flow = Flow(Residual(net, 0.9, exact=exact), StandardNormal(), shape=(20,))
        assert flow.bits_per_dim(x).shape == (3,)
        if exact == 20:
            torch.testing.assert_close(flow.bits_per_dim(x, k=3), flow.bits_per_dim(x))
            continue
        with pytest.raises(ValueError, match=r"the mean of k densities would count its noise .* take k=1"):
            flow.bits_per_dim(x, k=3)
    field = WithTime(MLP(21, 20, hidden=8))
    for divergence in ("exact", "hutchinson"):
        ode = Flow(ODE(field, divergence, "euler", steps=2), StandardNormal(), shape=(20,))  # type: ignore[arg-type]
        if divergence == "exact":
            assert ode.bits_per_dim(x, k=2).shape == (3,)
        else:
            with pytest.raises(ValueError, match="take k=1"):
                ode.bits_per_dim(x, k=2)
