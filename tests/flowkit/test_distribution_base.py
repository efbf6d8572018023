"""Distributions of torch as bases: shapes, supports, generators, temperatures, and that they move with the flow."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.distributions as d
from test_vector_bases import chi_squared_of
from torch import Tensor

from flowkit import ActNorm, Flow, Permutation, Squeeze
from flowkit.distribution_base import DistributionBase
from flowkit.tree import map_leaves

ZERO, ONE = torch.zeros(2), torch.ones(2)


def families() -> list[Any]:
    return [
        d.Normal(ZERO, ONE),
        d.Independent(d.Laplace(ZERO, ONE), 1),
        d.MultivariateNormal(ZERO, torch.tensor([[2.0, 0.5], [0.5, 1.0]])),
        d.Gamma(2 * ONE, ONE),
        d.Beta(2 * ONE, 3 * ONE),
        d.Uniform(ZERO, ONE),
        d.LogNormal(ZERO, ONE),
        d.StudentT(3 * ONE),
        d.TransformedDistribution(
            d.Normal(ZERO, ONE), [d.SigmoidTransform(), d.ExpTransform().inv, d.AffineTransform(1.0, 2.0)]
        ),
        d.MixtureSameFamily(d.Categorical(ONE), d.Independent(d.Normal(torch.randn(2, 2), torch.ones(2, 2)), 1)),
    ]


each_family = pytest.mark.parametrize("base", families(), ids=lambda base: type(base).__name__)


@each_family
def test_its_density_is_summed_over_a_latent(base: Any) -> None:
    torch.manual_seed(0)
    z = base.sample((5,))
    expected = base.log_prob(z)
    flow = Flow(Permutation(2), base)
    torch.testing.assert_close(flow.log_prob(flow.decode(z)), expected if expected.ndim == 1 else expected.sum(1))
    assert flow.sample((3, 4)).shape == (3, 4, 2)


@each_family
def test_outside_of_the_support_there_is_no_density_and_no_nan(base: Any) -> None:
    flow = Flow(ActNorm(2), base)
    x = torch.tensor([[-3.0, 0.5], [0.5, -3.0], [0.5, 0.5], [7.0, 7.0], [1.5, 1.5]], requires_grad=True)
    log_prob = flow.log_prob(x)
    inside = base.support.check(x)
    inside = inside if inside.ndim == 1 else inside.all(1)
    assert torch.equal(log_prob.isfinite(), inside)
    assert bool((log_prob[~inside] == -math.inf).all())
    assert torch.autograd.grad(log_prob[inside].sum() + 0 * x.sum(), x)[0].isfinite().all()
    gradient = torch.autograd.grad(flow.log_prob(x).sum(), flow.bijector.log_scale)[0]
    assert gradient.isfinite().all()
    assert not flow.log_prob(torch.full((1, 2), math.nan)).isfinite().any()


@pytest.mark.parametrize(
    "base",
    [base for base in families() if not isinstance(base, d.Gamma | d.Beta)],
    ids=lambda base: type(base).__name__,
)
def test_a_generator_draws_or_says_why_not(base: Any) -> None:
    flow = Flow(Permutation(2), base)
    state = torch.get_rng_state()
    try:
        first, second = (flow.sample(4, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    except ValueError as error:
        assert "has no inverse distribution function (icdf)" in str(error)  # noqa: PT017
        assert type(base).__name__ in str(error)  # noqa: PT017
        assert isinstance(base, d.StudentT | d.MixtureSameFamily)
        return
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "base",
    [d.Laplace(0.5, 2.0), d.Uniform(0.0, 1.0), d.LogNormal(0.0, 0.5), d.Gamma(2.0, 1.0)],
    ids=lambda base: type(base).__name__,
)
def test_draws_follow_the_density(base: Any) -> None:
    torch.manual_seed(0)
    generator = None if isinstance(base, d.Gamma) else torch.Generator().manual_seed(0)
    drawn = DistributionBase(base).sample(torch.empty(20_000, 1), generator=generator)
    chi_squared_of(drawn[:, 0], lambda x: DistributionBase(base).log_prob(x[:, None]).exp())


def test_draws_of_a_correlated_normal_from_a_generator() -> None:
    covariance = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    flow = Flow(Permutation(2), d.MultivariateNormal(torch.tensor([1.0, -1.0]), covariance))
    z = flow.encode(flow.sample(50_000, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(z.T.cov(), covariance, atol=0.03, rtol=0)
    torch.testing.assert_close(z.mean(0), torch.tensor([1.0, -1.0]), atol=0.03, rtol=0)


@each_family
def test_a_temperature_is_for_locations_and_scales(base: Any) -> None:
    flow = Flow(Permutation(2), base)
    inner = base.base_dist if isinstance(base, d.Independent) else base
    if isinstance(inner, d.Normal | d.Laplace | d.MultivariateNormal | d.StudentT):
        torch.testing.assert_close(flow.encode(flow.sample(3, temperature=0)), inner.loc.expand(3, 2))
        return
    with pytest.raises(ValueError, match="is no location-scale family, so its temperature must be 1, got 0"):
        flow.sample(3, temperature=0)


@each_family
def test_it_moves_with_the_flow(base: Any) -> None:
    flow = Flow(Permutation(2), base)
    x = flow.sample(1)
    single = flow.log_prob(x)
    twin = copy.deepcopy(flow).double()
    assert twin.sample(3).dtype == torch.float64
    log_prob = twin.log_prob(x.double())
    assert log_prob.dtype == torch.float64
    torch.testing.assert_close(log_prob, single.double(), rtol=1e-5, atol=1e-6)
    assert flow.sample(3).dtype == torch.float32  # the copy went, the flow stayed
    assert flow.state_dict().keys() == {"bijector.order", "bijector.back"} & flow.state_dict().keys()
    meta = copy.deepcopy(flow).to("meta")
    assert meta.base.place.is_meta


def test_one_without_a_shape_is_of_any_shape() -> None:
    flow = Flow(Squeeze(), d.Normal(0.0, 1.0), shape=(1, 4, 4))
    x = torch.randn(3, 1, 4, 4)
    torch.testing.assert_close(flow.log_prob(x), d.Normal(0.0, 1.0).log_prob(x).flatten(1).sum(1))
    assert flow.sample(2).shape == (2, 1, 4, 4)
    pair = (torch.randn(3, 2), torch.randn(3, 1))
    assert DistributionBase(d.Normal(0.0, 1.0)).log_prob(pair).shape == (3,)
    drawn = DistributionBase(d.Normal(0.0, 1.0)).sample(pair)
    assert map_leaves(lambda z: z.shape, drawn) == (torch.Size([3, 2]), torch.Size([3, 1]))


def test_draws_carry_gradients() -> None:
    loc = torch.zeros(2, requires_grad=True)
    Flow(ActNorm(2), d.Normal(loc, ONE)).sample(4).sum().backward()
    assert torch.equal(loc.grad, torch.full((2,), 4.0))
    gamma = Flow(ActNorm(2), d.Beta(2 * ONE, ONE))
    assert gamma.has_rsample
    assert not Flow(ActNorm(2), families()[-1]).has_rsample


def test_what_is_no_base() -> None:
    with pytest.raises(ValueError, match="Poisson is discrete and has no density"):
        Flow(ActNorm(2), d.Poisson(ONE))
    with pytest.raises(TypeError, match="the base must be a module or a torch distribution, got str"):
        Flow(ActNorm(2), "normal")
    with pytest.raises(ValueError, match=r"has the shape \(3,\), the latent \(5, 2\)"):
        Flow(ActNorm(2), d.Normal(torch.zeros(3), 1.0)).log_prob(torch.zeros(5, 2))


def test_parameters_inside_are_followed() -> None:
    """A distribution on a parameter of somebody's is evaluated at its value now, as torch has it."""
    scale: Tensor = torch.tensor([1.0, 1.0], requires_grad=True)
    flow = Flow(Permutation(2), d.Normal(ZERO, scale))
    for _ in range(2):
        flow.log_prob(torch.ones(3, 2)).sum().backward()
    assert scale.grad is not None


@pytest.mark.parametrize("family", range(len(families())))
def test_no_rows_and_rows_of_nan(family: int) -> None:
    flow = Flow(ActNorm(2), families()[family])
    assert flow.log_prob(torch.zeros(0, 2)).shape == (0,)
    assert flow.sample(0).shape == (0, 2)
    assert flow.log_prob(torch.tensor([[math.nan, 0.5]])).isnan()


def test_nan_has_no_density_between_bounds() -> None:
    odd = torch.tensor([[math.nan, 0.5], [0.5, 0.5], [math.nan, 2.0]])
    for base in (d.Uniform(ZERO, ONE), d.Uniform(0.0, 1.0), d.Independent(d.Uniform(ZERO, ONE), 1)):
        assert Flow(ActNorm(2), base).log_prob(odd).isnan().tolist() == [True, False, True]
