"""The resampled base: its density integrates to one, its draws follow it, its normaliser is what it says."""

import copy
import math

import pytest
import torch
from test_vector_bases import chi_squared_of
from torch import nn

from flowkit import ActNorm, Flow, Normal, Resampled, StandardNormal
from flowkit.nets import MLP


def ring(truncation: int, features: int = 1) -> Resampled:
    """Accepts far from 0."""
    torch.manual_seed(0)
    net = MLP(features, 1, 16)
    nn.init.normal_(net.layers[-1].weight, std=4.0)
    base = Resampled(net, Normal(features), truncation).double().eval()
    with torch.no_grad():
        base.base.mean.add_(0.3)
    base.normalize(400_000, torch.Generator().manual_seed(0))
    return base


@pytest.mark.parametrize("truncation", [1, 2, 5, 100])
def test_the_density_integrates_to_one_and_draws_follow_it(truncation: int) -> None:
    base = ring(truncation)
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        assert float(base.log_prob(x).exp().sum() * 16 / 4000) == pytest.approx(1, abs=2e-3)
        drawn = base.sample(torch.empty(20_000, 1, dtype=torch.float64), generator=torch.Generator().manual_seed(2))
        chi_squared_of(drawn[:, 0], lambda x: base.log_prob(x[:, None]).exp())
        if truncation > 1:  # and it is another density than the proposal's
            assert float((base.log_prob(x) - base.base.log_prob(x)).abs().max()) > 0.5


def test_the_error_of_the_normaliser_is_stated() -> None:
    base = ring(5)
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        exact = float((base.base.log_prob(x).exp() * base.net(x)[:, 0].sigmoid()).sum() * 16 / 4000)
    misses = []
    for seed in range(20):
        error = base.normalize(2000, torch.Generator().manual_seed(seed))
        misses.append((math.log(float(base.normalizer)) - math.log(exact)) / error)
    assert 0.6 < torch.tensor(misses).square().mean().sqrt() < 1.5


def test_training_moves_the_normaliser_and_evaluation_does_not() -> None:
    base = ring(5).train()
    before, z = base.normalizer.clone(), torch.randn(8, 1).double()
    base.log_prob(z).sum().backward()
    assert base.normalizer != before
    assert (base.normalizer - before).abs() < 0.05
    assert base.net.layers[-1].bias.grad.abs().sum() > 0
    base.eval()
    before = base.normalizer.clone()
    base.log_prob(z)
    assert base.normalizer == before
    assert copy.deepcopy(base).log_prob(z).equal(base.log_prob(z))


def test_densities_stay_finite_where_the_net_is_sure() -> None:
    for bias in (-200.0, 200.0):
        base = ring(100)
        nn.init.zeros_(base.net.layers[-1].weight)
        nn.init.constant_(base.net.layers[-1].bias, bias)
        base.normalize(1000)
        z = torch.randn(8, 1, dtype=torch.float64, requires_grad=True)
        log_prob = base.log_prob(z)
        torch.testing.assert_close(log_prob, base.base.log_prob(z))  # all alike: the proposal's
        assert torch.autograd.grad(log_prob.sum(), z)[0].isfinite().all()


def test_what_it_can_be_made_of() -> None:
    with pytest.raises(ValueError, match="Resampled: StandardNormal states no shape"):
        Resampled(MLP(2, 1), StandardNormal())
    with pytest.raises(ValueError, match="truncation must be at least 1, got 0"):
        Resampled(MLP(2, 1), Normal(2), 0)
    with pytest.raises(ValueError, match="draws must be at least 1"):
        Resampled(MLP(2, 1), Normal(2), draws=0)
    with pytest.raises(ValueError, match="normalize: draws must be at least 1, got 0"):
        Resampled(MLP(2, 1), Normal(2)).normalize(0)
    normal = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    flow = Flow(ActNorm(2), Resampled(MLP(2, 1, 8), normal))
    assert flow.sample((3, 2)).shape == (3, 2, 2)
    assert torch.equal(*(flow.sample(4, generator=torch.Generator().manual_seed(5)) for _ in range(2)))
    with pytest.raises(ValueError, match="temperature of the base Resampled must be 1"):
        flow.sample(2, temperature=0.5)
