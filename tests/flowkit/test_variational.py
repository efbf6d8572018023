"""Objectives and importance sampling on targets whose answers are known."""

import copy
import math
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

import flowkit
from flowkit import ActNorm, Box, Flow, StandardNormal, fit, objectives
from flowkit.objectives import alpha_divergence, forward_kl, importance, reverse_kl
from flowkit.testing import perturb

LOG_Z = 3.7


class Mixture(nn.Module):
    """Base of four normals, so that a flow can be a density of four modes."""

    def __init__(self, means: torch.Tensor, std: float) -> None:
        super().__init__()
        self.means, self.std = means, std
        self.shape = (means.shape[1],)

    def log_prob(self, z, context=None):
        each = Normal(self.means, self.std).log_prob(z[:, None]).sum(2)
        return each.logsumexp(1) - math.log(len(self.means))

    def sample(self, like, context=None, temperature=1.0, generator=None):
        which = torch.randint(len(self.means), (len(like),), generator=generator)
        return self.means.to(like)[which] + self.std * torch.randn(like.shape, generator=generator, dtype=like.dtype)


FOUR = 3 * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def affine(shift, log_scale, base=None):
    layer = flowkit.ActNorm(len(shift)).double()
    layer.log_scale.data = -torch.as_tensor(log_scale, dtype=torch.float64)
    layer.bias.data = -torch.as_tensor(shift, dtype=torch.float64)
    return flowkit.Flow(layer, flowkit.StandardNormal() if base is None else base)


def some_flow(context=0):
    torch.manual_seed(0)
    parts = []
    for flip in (False, True):
        net = flowkit.nets.MLP(1, 4, 8, context_features=context)
        parts.append(flowkit.Coupling(net, 1, flowkit.Affine("tanh"), flip=flip))
    return perturb(flowkit.Flow(flowkit.Chain(flowkit.ActNorm(3), parts[0]), flowkit.StandardNormal())).double()


def banana(x):
    """exp of a normal in (x0, x1 − x0²), times Z."""
    return Normal(0, 1).log_prob(x[:, 0]) + Normal(0, 0.5).log_prob(x[:, 1] - x[:, 0] ** 2) + LOG_Z


def four_modes(x):
    return Mixture(FOUR, 0.6).log_prob(x) + LOG_Z


@pytest.mark.parametrize("flow", [some_flow(), affine([1.0, -2.0], [0.3, 0.0], Mixture(FOUR, 0.5))])
def test_where_the_flow_is_the_target_all_is_exact(flow) -> None:
    def target(x):
        return flow.log_prob(x) + LOG_Z

    found = importance(flow, target, 64, generator=generator())
    torch.testing.assert_close(found.log_weights, torch.full((64,), LOG_Z, dtype=torch.float64), atol=1e-10, rtol=0)
    assert float(found.log_z) == pytest.approx(LOG_Z, abs=1e-10)
    assert float(found.ess) == pytest.approx(64, abs=1e-8)
    assert float(found.pareto_k) == -math.inf
    assert float(reverse_kl(flow, target, 64).detach()) == pytest.approx(-LOG_Z, abs=1e-10)
    for alpha in (-0.5, 0, 0.5, 1, 2):
        assert float(alpha_divergence(flow, target, 64, alpha).detach()) == pytest.approx(0, abs=1e-10)


def gradient(flow, loss):
    loss.backward()
    return torch.cat([p.grad.flatten() for p in flow.parameters()])


def test_the_path_gradient_vanishes_draw_by_draw_where_the_flow_is_the_target() -> None:
    target_flow = some_flow().requires_grad_(False)
    for n in (1, 5):
        flow = some_flow()
        assert gradient(flow, reverse_kl(flow, target_flow.log_prob, n, path=True)).abs().max() < 1e-10
        flow = some_flow()
        assert gradient(flow, reverse_kl(flow, target_flow.log_prob, n)).abs().max() > 1e-2
        for alpha in (0.5, 1, 2):
            flow = some_flow()
            assert gradient(flow, alpha_divergence(flow, target_flow.log_prob, n, alpha, path=True)).abs().max() < 1e-10


def kl(p, q):
    return float(torch.distributions.kl_divergence(p, q))


P = MultivariateNormal(torch.tensor([0.4, -0.3]).double(), torch.diag(torch.tensor([0.8, 1.1]).double()) ** 2)
Q = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())


def renyi(alpha):
    """Log ∫ pᵅ q¹⁻ᵅ over α(α − 1), of two diagonal normals."""
    mean, var = P.mean, P.variance
    var_star = 1 / (alpha / var + (1 - alpha))
    mean_star = var_star * alpha * mean / var
    exponent = mean_star**2 / var_star - alpha * mean**2 / var
    log_integral = 0.5 * (var_star.log() - alpha * var.log() + exponent).sum()
    return float(log_integral / (alpha * (alpha - 1)))


@pytest.mark.parametrize("path", [False, True])
@pytest.mark.parametrize(
    ("alpha", "known"), [(0, kl(Q, P)), (1, kl(P, Q)), (0.5, renyi(0.5)), (1.5, renyi(1.5)), (-0.5, renyi(-0.5))]
)
def test_divergences_of_two_normals(alpha, known, path) -> None:
    flow = affine([0.0, 0.0], [0.0, 0.0])
    runs = torch.stack([alpha_divergence(flow, P.log_prob, 4000, alpha, None, path, generator(s)) for s in range(8)])
    error = float(runs.detach().std() / math.sqrt(8))
    assert abs(float(runs.detach().mean()) - known) < 3 * error + 1e-3
    assert known > 0.1
    assert error < 0.05 * known


@pytest.mark.parametrize("path", [False, True])
@pytest.mark.parametrize("alpha", [0, 0.5, 1, 1.5, None])
def test_gradients_are_those_of_the_divergence(alpha, path) -> None:
    """Against finite differences of the known value in the mean of q, by symmetry that of p."""
    flow = affine([0.0, 0.0], [0.0, 0.0])

    def loss(seed):
        if alpha is None:
            return reverse_kl(flow, lambda x: P.log_prob(x) + LOG_Z, 4000, path=path, generator=generator(seed))
        return alpha_divergence(flow, P.log_prob, 4000, alpha, path=path, generator=generator(seed))

    grads = torch.stack([torch.autograd.grad(loss(seed), flow.bijector.bias)[0] for seed in range(8)])

    def value(bias):
        q = MultivariateNormal(-bias, torch.eye(2).double())
        if alpha in (0, None):
            return torch.distributions.kl_divergence(q, P)
        if alpha == 1:
            return torch.distributions.kl_divergence(P, q)
        var_star = 1 / (alpha / P.variance + (1 - alpha))
        mean = P.mean + bias
        return (
            0.5
            * (var_star * (alpha * mean / P.variance) ** 2 - alpha * mean**2 / P.variance).sum()
            / (alpha * (alpha - 1))
        )

    known = torch.func.grad(value)(torch.zeros(2).double())
    error = grads.std(0) / math.sqrt(8)
    assert ((grads.mean(0) - known).abs() < 3 * error + 5e-3).all()
    assert (known.abs() > 0.1).all()


def test_alpha_divergence_is_never_negative_and_knows_no_z() -> None:
    flow = affine([0.3, 0.0], [0.2, -0.1])
    for alpha in (-1.0, 0, 0.3, 1, 2, 4.0):
        one, other = (
            alpha_divergence(flow, lambda x, c=c: four_modes(x) + c, 7, alpha, generator=generator()).detach()
            for c in (0.0, 100.0)
        )
        assert float(one) > 0
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match=r"alpha_divergence: alpha must be finite, got nan"):
        alpha_divergence(flow, four_modes, 7, math.nan)


@pytest.mark.parametrize(
    ("target", "flow"),
    [
        (banana, affine([0.0, 1.0], [0.3, 0.7])),
        (four_modes, affine([0.0, 0.0], [1.2, 1.2])),
        (four_modes, affine([0.2, -0.1], [0.1, 0.1], Mixture(FOUR, 0.8))),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_log_z_lies_within_three_standard_errors(target, flow, seed) -> None:
    n = 20000
    found = importance(flow, target, n, generator=generator(seed))
    error = math.sqrt(1 / float(found.ess) - 1 / n)
    assert error < 0.05
    assert abs(float(found.log_z) - LOG_Z) < 3 * error
    assert 0 < float(found.ess) < n
    assert float(found.pareto_k) < 0.7


def test_ess_is_that_of_the_weights_divergence() -> None:
    """E[w]²/E[w²], known for two normals: exp(−2·D₂) with D₂ = log(n/ESS)/2."""
    n = 100_000
    narrow = MultivariateNormal(P.mean, P.covariance_matrix / 2)
    found = importance(affine([0.0, 0.0], [0.0, 0.0]), narrow.log_prob, n, generator=generator())
    var_star = 1 / (2 / narrow.variance - 1)
    exponent = var_star * (2 * narrow.mean / narrow.variance) ** 2 - 2 * narrow.mean**2 / narrow.variance
    known = float(torch.exp(-0.5 * (var_star.log() - 2 * narrow.variance.log() + exponent).sum()))
    assert float(found.ess) / n == pytest.approx(known, rel=0.02)
    assert float(found.log_z) == pytest.approx(0, abs=3 * math.sqrt((1 / known - 1) / n))
    half = alpha_divergence(affine([0.0, 0.0], [0.0, 0.0]), narrow.log_prob, n, 2, generator=generator())
    assert float(half.detach()) == pytest.approx(math.log(n / float(found.ess)) / 2)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_k_of_pareto_weights(k) -> None:
    u = torch.rand(8, 20000, generator=generator(), dtype=torch.float64)
    found = torch.tensor([objectives._pareto_k(-k * row.log()) for row in u])
    assert abs(float(found.mean()) - k) < 0.05


def test_pareto_k_where_there_is_no_tail() -> None:
    assert math.isnan(objectives._pareto_k(torch.zeros(24).double()))
    assert objectives._pareto_k(torch.zeros(25).double()) == -math.inf
    lonely = torch.zeros(100).double()
    lonely[3] = 5
    assert objectives._pareto_k(lonely) == math.inf
    bounded = torch.rand(5000, generator=generator(), dtype=torch.float64)  # of uniform weights k is −1
    assert objectives._pareto_k(bounded.log()) < -0.5


def test_a_target_that_the_flow_misses() -> None:
    flow = affine([0.0, 0.0], [0.0, 0.0])
    found = importance(flow, lambda x: torch.where(x[:, 0] > 0, Q.log_prob(x), -math.inf), 4000, generator=generator())
    assert float(found.log_z) == pytest.approx(math.log(0.5), abs=0.05)
    nothing = importance(flow, lambda x: x.new_full((len(x),), -math.inf), 100)
    assert float(nothing.log_z) == -math.inf
    assert float(nothing.ess) == 0
    with pytest.raises(ValueError, match=r"importance: the weights of 5 of 5 draws are NaN or infinite"):
        importance(flow, lambda x: x.new_full((len(x),), math.nan), 5)
    with pytest.raises(ValueError, match=r"the target must return \(5,\), a log-density for each row.*got \(5, 1\)"):
        reverse_kl(flow, lambda x: x[:, :1], 5)
    with pytest.raises(ValueError, match=r"reverse_kl: n must be at least 1, got 0"):
        reverse_kl(flow, Q.log_prob, 0)


def test_contexts_have_numbers_of_their_own() -> None:
    torch.manual_seed(0)
    net = flowkit.nets.MLP(1, 4, 8, context_features=1)
    flow = perturb(flowkit.Flow(flowkit.Coupling(net, 1, flowkit.Affine("tanh")), flowkit.StandardNormal(), (3,)))
    flow, context = flow.double(), torch.tensor([[0.0], [2.0]]).double()
    offsets = torch.tensor([1.0, -2.0]).double()

    def target(x):  # all contexts of the first draw first
        draws = len(x) // 2
        return flow.log_prob(x, context.repeat(draws, 1)) + offsets.repeat(draws)

    found = importance(flow, target, 30, context)
    assert found.log_weights.shape == (30, 2)
    torch.testing.assert_close(found.log_z, offsets, atol=1e-10, rtol=0)
    torch.testing.assert_close(found.ess, torch.full((2,), 30.0).double())
    assert found.pareto_k.shape == (2,)
    assert float(reverse_kl(flow, target, 30, context).detach()) == pytest.approx(0.5)
    assert float(reverse_kl(flow, target, 30, context, path=True).detach()) == pytest.approx(0.5)
    for alpha in (0, 1, 2):
        assert float(alpha_divergence(flow, target, 30, alpha, context).detach()) == pytest.approx(0, abs=1e-10)


def test_forward_kl_weights_rows() -> None:
    flow = some_flow()
    x = torch.randn(4, 3, generator=generator()).double()
    each = -flow.log_prob(x)
    torch.testing.assert_close(forward_kl(flow, x), each.mean())
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0])
    torch.testing.assert_close(forward_kl(flow, x, weights), (each[1] + 3 * each[2]) / 4)
    with pytest.raises(ValueError, match=r"forward_kl: weights must be \(4,\), one a row, got \(4, 1\)"):
        forward_kl(flow, x, weights[:, None])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({1: -1.0}, "they are not in row 1$"),
        ({0: math.nan, 3: math.inf}, "they are not in rows 0, 3$"),
        ({1: 0.0, 2: 0.0}, "all are 0$"),
    ],
)
def test_forward_kl_refuses_weights_that_are_none(change: dict[int, float], words: str) -> None:
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0])
    for row, value in change.items():
        weights[row] = value
    with pytest.raises(ValueError, match="^forward_kl: weights must be finite, not negative and not all 0; " + words):
        forward_kl(some_flow(), torch.zeros(4, 3).double(), weights)


def test_what_no_objective_takes_is_one_line() -> None:
    flow, x, target = some_flow(), torch.zeros(4, 3).double(), lambda x: x.sum(1)
    drawing: list[Any] = [reverse_kl, importance, partial(alpha_divergence, alpha=1.0)]
    with pytest.raises(TypeError, match=r"forward_kl: Linear has no log_prob; pass a flowkit\.Flow"):
        forward_kl(torch.nn.Linear(3, 3), x)
    with pytest.raises(TypeError, match="forward_kl: weights must be a tensor of real numbers, one a row, got "):
        forward_kl(flow, x, [1.0] * 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"forward_kl: needs at least one row of x, got \(0, 3\)"):
        forward_kl(flow, x[:0])
    for objective in drawing:
        with pytest.raises(TypeError, match=r"Linear has no log_prob and no sample_and_log_prob; pass a flowkit\.Flow"):
            objective(torch.nn.Linear(3, 3), target, 10)
        with pytest.raises(TypeError, match="the target must be a function of x, got "):
            objective(flow, x, 10)
        with pytest.raises(TypeError, match=r"n must be a whole number, got 10\.5"):
            objective(flow, target, 10.5)
        with pytest.raises(ValueError, match="n must be at least 1, got 0"):
            objective(flow, target, 0)
    with pytest.raises(TypeError, match="alpha_divergence: alpha must be a number, got 'half'"):
        alpha_divergence(flow, target, 10, "half")  # type: ignore[arg-type]


def test_reverse_kl_trains_a_flow_to_the_banana() -> None:
    torch.manual_seed(0)
    parts = [flowkit.ActNorm(2)]
    for flip in (False, True, False):
        parts.append(flowkit.Coupling(flowkit.nets.MLP(1, 2, 32), 1, flowkit.Affine("tanh", clamp=2.0), flip=flip))
    flow = flowkit.Flow(flowkit.Chain(*parts), flowkit.StandardNormal())
    adam = torch.optim.Adam(flow.parameters(), 1e-2)
    draws = generator()
    for _ in range(300):
        adam.zero_grad()
        reverse_kl(flow, banana, 128, path=True, generator=draws).backward()
        adam.step()
    found = importance(flow, banana, 4000, generator=draws)
    assert float(found.ess) > 0.9 * 4000
    assert float(found.log_z) == pytest.approx(LOG_Z, abs=0.02)


def test_parameters_that_no_gradient_of_draws_reaches_are_told() -> None:
    """The score of a mixture's logits has mean zero: they would learn nothing, and nobody would see it."""
    flow = flowkit.Flow(flowkit.ActNorm(2), flowkit.Mixture(3, 2))

    def target(x: torch.Tensor) -> torch.Tensor:
        return -x.square().sum(1)

    for objective in (reverse_kl, partial(alpha_divergence, alpha=0.5)):
        with pytest.warns(UserWarning, match="draws of the base Mixture carry no gradients to all of its parameters"):
            objective(flow, target, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alpha_divergence(flow, target, 8, 1.0)  # its gradient is that of log q alone
        importance(flow, target, 8)
        flow.base.requires_grad_(False)
        reverse_kl(flow, target, 8)


@pytest.mark.parametrize("alpha", [0.99, 0.9999, 1 - 1e-9, 1 + 1e-9, 1.0001, 1.001, 1.1, -1e-9, 1e-9, 1e-6])
def test_orders_beside_0_and_1_are_as_those(alpha: float) -> None:
    limit = round(alpha)
    found = {}
    for order in (alpha, float(limit)):
        flow = Flow(ActNorm(2), StandardNormal())
        target = MultivariateNormal(torch.ones(2), torch.eye(2)).log_prob
        value = alpha_divergence(flow, target, 20_000, order, generator=torch.Generator().manual_seed(0))
        value.backward()
        found[order] = (float(value.detach()), flow.bijector.bias.grad)
    (value, slope), (expected, its) = found[alpha], found[float(limit)]
    assert value == pytest.approx(expected, abs=0.02)
    assert value >= 0
    assert (slope - its).abs().max() < 0.3  # of about 1; other estimates of one mean


@pytest.mark.parametrize("path", [False, True])
@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_divergences_from_a_target_that_is_0_somewhere(alpha: float, path: bool) -> None:
    flow = Flow(ActNorm(2), StandardNormal())
    box = Box(torch.full((2,), -2.0), torch.full((2,), 2.0))
    value = alpha_divergence(flow, box.log_prob, 1000, alpha, path=path, generator=torch.Generator().manual_seed(0))
    value.backward()
    assert all(bool(p.grad.isfinite().all()) for p in flow.parameters())
    if alpha <= 0:  # mass where the target has none
        assert value == math.inf
        return
    found = importance(flow, box.log_prob, 1000, generator=torch.Generator().manual_seed(0))
    assert 0 < value < 1
    if alpha == 2:
        assert float(value.detach()) == pytest.approx(math.log(1000 / float(found.ess)) / 2, abs=1e-5)


@pytest.mark.parametrize(
    "weights",
    [
        torch.full((64,), 2000.0, dtype=torch.float16),
        torch.full((64,), 3e38),
        torch.full((64,), 1e-44),
        torch.full((64,), 1e300, dtype=torch.float64),
    ],
)
def test_the_scale_of_weights_does_not_matter(weights: Tensor) -> None:
    flow, x = Flow(ActNorm(2), StandardNormal()), torch.randn(64, 2)
    torch.testing.assert_close(forward_kl(flow, x, weights), forward_kl(flow, x))
    starts = [fit(copy.deepcopy(flow), x, epochs=2, weights=w).train for w in (weights, None)]
    assert starts[0] == pytest.approx(starts[1], rel=1e-5)
