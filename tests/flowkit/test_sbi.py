"""A flowkit flow in sbi: neural posterior estimation of a model whose posterior is known."""

import pytest
import torch
from torch.distributions import MultivariateNormal

import flowkit
from flowkit.sbi import Standardize

pytest.importorskip("sbi", reason="an extra: pip install flowkit-torch[sbi]")

MIX = torch.tensor([[1.0, 0.5], [-0.4, 1.2], [0.8, -0.3]])
NOISE = 0.5


def build(features, context):
    """Two couplings of each half; splines would do as well."""
    parts = []
    for flip in (False, True, False, True):
        net = flowkit.nets.MLP(1, 2 * (features - 1), 32, context_features=context)
        parts.append(flowkit.Coupling(net, 1, flowkit.Affine("tanh", clamp=3.0), flip=flip))
    return flowkit.Chain(*parts)


def splines(features, context):
    kind = flowkit.RationalQuadratic(4, tail_bound=4.0)
    parts = []
    for flip in (False, True):
        net = flowkit.nets.MLP(1, kind.parameters * (features - 1), 16, context_features=context)
        parts.append(flowkit.Coupling(net, 1, kind, flip=flip))
    return flowkit.Chain(*parts)


def simulate(count):
    """θ ~ N(0, 1), x = A θ + noise: the posterior is Gaussian."""
    theta = torch.randn(count, 2)
    return theta, theta @ MIX.T + NOISE * torch.randn(count, 3)


def known_posterior(x):
    precision = torch.eye(2) + MIX.T @ MIX / NOISE**2
    covariance = precision.inverse()
    return covariance @ MIX.T @ x / NOISE**2, covariance


def an_estimator(make=build):
    from flowkit.sbi import estimator  # noqa: PLC0415

    torch.manual_seed(0)
    found = estimator(make)(*simulate(200))
    with torch.no_grad():
        for p in found.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return found


@pytest.mark.filterwarnings("ignore:Maximum number of epochs:UserWarning")  # enough for the tolerances below
def test_the_posterior_is_found(tmp_path, monkeypatch) -> None:
    from sbi.inference import NPE  # noqa: PLC0415

    from flowkit.sbi import estimator  # noqa: PLC0415

    monkeypatch.chdir(tmp_path)  # sbi writes logs
    torch.manual_seed(0)
    prior = MultivariateNormal(torch.zeros(2), torch.eye(2))
    inference = NPE(prior, density_estimator=estimator(build), show_progress_bars=False)
    inference.append_simulations(*simulate(4000))
    trained = inference.train(training_batch_size=200, learning_rate=3e-3, max_num_epochs=12)
    posterior = inference.build_posterior(trained)
    x = torch.tensor([[0.9, -0.7, 0.6]])
    draws = posterior.sample((4000,), x=x, show_progress_bars=False)
    mean, covariance = known_posterior(x[0])
    assert torch.allclose(draws.mean(0), mean, atol=0.06)
    assert torch.allclose(draws.T.cov(), covariance, atol=0.04)
    # not met by the prior
    assert float((mean.abs()).max()) > 0.3
    assert float(covariance.diagonal().max()) < 0.5
    known = MultivariateNormal(mean, covariance).log_prob(draws)
    assert float((posterior.log_prob(draws, x=x) - known).mean().abs()) < 0.1


@pytest.mark.parametrize("make", [build, splines])
def test_densities_are_those_of_the_draws(make) -> None:
    found = an_estimator(make)
    conditions = torch.randn(3, 3)
    draws, log_prob = found.sample_and_log_prob((2, 4), conditions)
    assert draws.shape == (2, 4, 3, 2)
    assert log_prob.shape == (2, 4, 3)
    again = found.log_prob(draws.flatten(0, 1), conditions)
    assert torch.allclose(again, log_prob.flatten(0, 1), atol=1e-4)
    assert torch.allclose(found.loss(draws[0, 0], conditions), -log_prob[0, 0], atol=1e-4)


def test_the_density_integrates_to_one() -> None:
    found = an_estimator()
    side = torch.linspace(-8, 8, 161)
    grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).view(-1, 1, 2)
    with torch.no_grad():
        total = found.log_prob(grid, torch.zeros(1, 3)).exp().sum() * (16 / 160) ** 2
    assert float(total) == pytest.approx(1, abs=0.01)


def test_conditions_are_standardised_and_embedded() -> None:
    from flowkit.sbi import estimator  # noqa: PLC0415

    torch.manual_seed(0)
    theta = torch.randn(100, 2)
    x = 50 + 7 * torch.randn(100, 4, 3)
    found = estimator(build, torch.nn.Flatten())(theta, x)
    assert found.condition_shape == (4, 3)
    embedded = found.embedding_net(x)
    assert embedded.shape == (100, 12)
    assert torch.allclose(embedded.mean(0), torch.zeros(12), atol=1e-4)
    assert found.sample((5,), x[:2]).shape == (5, 2, 2)


def test_shapes_that_do_not_fit() -> None:
    found = an_estimator()
    with pytest.raises(ValueError, match="condition"):
        found.log_prob(torch.zeros(4, 2), torch.zeros(4, 5))
    with pytest.raises(ValueError, match="input"):
        found.log_prob(torch.zeros(4, 3), torch.zeros(4, 3))


@pytest.mark.filterwarnings("ignore:Maximum number of epochs:UserWarning")
def test_a_bounded_prior_leaks_exactly_nothing(tmp_path, monkeypatch) -> None:
    """The posterior is uniform, cut off by the edge: a flow without the prior puts mass beyond it."""
    from sbi.inference import NPE  # noqa: PLC0415
    from sbi.utils import BoxUniform  # noqa: PLC0415

    from flowkit.sbi import estimator  # noqa: PLC0415

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    prior = BoxUniform(torch.tensor([0.0, -2.0]), torch.tensor([1.0, 3.0]))
    theta = prior.sample((1500,))
    x = theta + 0.2 * torch.randn(1500, 2)
    shares = {}
    for name, its in (("bounded", prior), ("free", None)):
        inference = NPE(prior, density_estimator=estimator(build, prior=its), show_progress_bars=False)
        trained = inference.append_simulations(theta, x).train(training_batch_size=250, max_num_epochs=3)
        draws = trained.sample((20_000,), torch.tensor([[0.02, 2.9]]))[:, 0]
        shares[name] = float(prior.log_prob(draws).isfinite().float().mean())
        if name == "bounded":
            outside = torch.tensor([[[-0.1, 0.0]], [[0.5, 3.5]]])
            assert (trained.log_prob(outside, torch.zeros(1, 2)) == -torch.inf).all()
            posterior = inference.build_posterior(trained)
            assert posterior.leakage_correction(torch.tensor([[0.02, 2.9]]), num_rejection_samples=2000) == 1
    assert shares["bounded"] == 1
    assert shares["free"] < 0.9


def test_simulations_outside_of_the_prior_are_named() -> None:
    from flowkit.sbi import estimator  # noqa: PLC0415

    theta = torch.tensor([[0.5, 0.5], [1.5, 0.5], [0.5, -0.5]])
    with pytest.raises(ValueError, match=r"simulations \[1, 2\] lie outside of the prior's support"):
        estimator(build, prior=torch.distributions.constraints.unit_interval)(theta, torch.zeros(3, 2))


def test_a_prior_on_the_simplex() -> None:
    from flowkit.sbi import estimator  # noqa: PLC0415

    torch.manual_seed(0)
    prior = torch.distributions.Dirichlet(torch.ones(3))
    found = estimator(build, prior=prior)(prior.sample((50,)), torch.randn(50, 2))
    draws = found.sample((5,), torch.randn(4, 2))
    assert draws.shape == (5, 4, 3)
    torch.testing.assert_close(draws.sum(2), torch.ones(5, 4))
    assert found.log_prob(draws, torch.randn(4, 2)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, 123.456, 0.0])
def test_constants_are_only_shifted(value: float, dtype: torch.dtype) -> None:
    x = torch.full((1000, 1), value, dtype=dtype)
    standardize = Standardize(x)
    assert standardize.std == 1
    assert not standardize(x).any()
    x = torch.cat([x, torch.randn(1000, 1, dtype=dtype)], 1)
    out = Standardize(x)(x)
    assert not out[:, 0].any()
    torch.testing.assert_close(out[:, 1].std(correction=0), torch.ones((), dtype=dtype))
