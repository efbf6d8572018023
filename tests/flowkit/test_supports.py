"""Maps onto the supports of torch's constraints and distributions."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.distributions as d
from torch.distributions import constraints

from flowkit import ActNorm, Chain, Coupling, Flow, MixtureLogistic, Normal, StandardNormal, biject_to
from flowkit.nets import MLP
from flowkit.testing import check_bijector, perturb

LOW, HIGH = torch.tensor([0.0, -5.0]), torch.tensor([1.0, 100.0])
SETS = {
    "reals": constraints.real_vector,
    "unit interval": constraints.unit_interval,
    "interval": constraints.interval(LOW, HIGH),
    "positive": constraints.positive,
    "above": constraints.greater_than(LOW),
    "below": constraints.less_than(HIGH),
    "independent": constraints.independent(constraints.interval(LOW, HIGH), 1),
    "cat": constraints.cat(
        [constraints.positive, constraints.independent(constraints.interval(-1.0, 1.0), 1)], -1, [1, 1]
    ),
    "stack": constraints.stack([constraints.positive, constraints.real], -1),
}


@pytest.mark.parametrize("name", list(SETS))
def test_it_is_a_bijector_onto_the_set(name: str) -> None:
    torch.manual_seed(0)
    b, x = biject_to(SETS[name]), torch.randn(5, 2)
    check_bijector(b, x)
    assert (b >> b.inv >> ActNorm(2)).out_channels == 2
    for dtype in (torch.float32, torch.float64):
        moved = copy.deepcopy(b).to(dtype)
        far = moved(200 * torch.randn(50, 2, dtype=dtype))[0].clamp(-1e30, 1e30)
        assert moved.inverse(far)[1].isfinite().all(), "inside, never on a bound"
        if moved.codomain is not None:
            assert moved.codomain.check(far).all()


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_log_dets_are_those_of_torch(scale: float) -> None:
    x = scale * torch.randn(5, 2, dtype=torch.float64)
    for name in ("unit interval", "interval", "positive", "above", "below"):
        b, t = biject_to(SETS[name]).double(), d.biject_to(SETS[name])
        y, logdet = b(x)
        torch.testing.assert_close(y, t(x).double(), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(logdet, t.log_abs_det_jacobian(x, t(x)).sum(1).double(), atol=1e-6, rtol=1e-6)


def priors() -> dict[str, Any]:
    return {
        "uniform": d.Independent(d.Uniform(LOW, HIGH), 1),
        "gamma": d.Gamma(2 * torch.ones(2), 1.0),
        "beta": d.Beta(2 * torch.ones(2), 3.0),
        "dirichlet": d.Dirichlet(2 * torch.ones(2)),
        "pareto": d.Pareto(torch.tensor([1.0, 2.0]), 3.0),
    }


@pytest.mark.parametrize("name", list(priors()))
def test_a_flow_on_a_support_is_zero_outside_and_draws_inside(name: str) -> None:
    prior = priors()[name]
    b = biject_to(prior)
    free = 1 if name == "dirichlet" else 2
    net = MLP(1, 6, 8)
    middle = perturb(Chain(ActNorm(2), Coupling(net, 1, MixtureLogistic(2)))) if free == 2 else perturb(ActNorm(1))
    flow = Flow(b.inv >> middle, StandardNormal(), shape=(2,) if free == 2 else None)
    base = flow if free == 2 else Flow(flow.bijector, Normal(1))
    x = base.sample(20_000, temperature=5.0, generator=torch.Generator().manual_seed(0))
    assert prior.support.check(x).all()
    assert base.log_prob(x).isfinite().all()
    outside = torch.tensor([[-1.0, 0.5], [0.5, -7.0], [0.2, 0.2], [-math.inf, 0.5]], requires_grad=True)
    away = ~prior.support.check(outside)
    away = away if away.ndim == 1 else away.any(1)
    log_prob = base.log_prob(outside)
    assert torch.equal(log_prob == -math.inf, away)
    assert torch.autograd.grad(log_prob[:3].sum(), outside)[0].isfinite().all()


def test_a_density_on_a_bounded_support_integrates_to_one() -> None:
    torch.manual_seed(0)
    flow = perturb(
        Flow(biject_to(d.Uniform(LOW, HIGH)).inv >> Coupling(MLP(1, 6, 8), 1, MixtureLogistic(2)), Normal(2))
    )
    u = (torch.arange(600) + 0.5) / 600
    grid = torch.cartesian_prod(LOW[0] + u * (HIGH - LOW)[0], LOW[1] + u * (HIGH - LOW)[1])
    with torch.no_grad():
        mass = flow.log_prob(grid).exp().mean() * (HIGH - LOW).prod()
    assert float(mass) == pytest.approx(1, abs=1e-3)


def test_a_simplex_has_a_number_less() -> None:
    b, x = biject_to(constraints.simplex), torch.randn(5, 3, dtype=torch.float64)
    y, logdet = b(x)
    torch.testing.assert_close(y.sum(1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(b.inverse(y)[0], x)
    torch.testing.assert_close(b.inverse(y)[1], -logdet)
    square = torch.autograd.functional.jacobian(lambda x: b(x[None])[0][0, :-1], x[0])
    torch.testing.assert_close(logdet[0], square.slogdet().logabsdet)
    both = biject_to(constraints.cat([constraints.simplex, constraints.positive], -1, [3, 2]))
    assert (both.in_channels, both.out_channels) == (4, 5)
    flow = Flow(both.inv, Normal(4))
    assert flow.sample(6).shape == (6, 5)
    torch.testing.assert_close(flow.sample(6)[:, :3].sum(1), torch.ones(6))


def test_other_sets_of_torch() -> None:
    b = biject_to(constraints.corr_cholesky)
    y, logdet = b(torch.randn(4, 3))
    assert (y.shape, logdet.shape) == ((4, 3, 3), (4,))


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (constraints.nonnegative_integer, "is discrete"),
        (d.Poisson(torch.ones(2)), "is discrete"),
        (constraints.symmetric, "no map of the reals onto"),
    ],
)
def test_what_no_map_reaches(target: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"biject_to: .*{text}"):
        biject_to(target)


def test_coordinates_may_be_bounded_on_different_sides() -> None:
    inf = math.inf
    ends = torch.tensor([[0.0, -inf, 2.0, -inf], [1.0, 3.0, inf, inf]])
    b = biject_to(constraints.interval(*ends))
    check_bijector(b, torch.randn(2, 4))
    y = b(100 * torch.randn(50, 4))[0]
    assert constraints.interval(*ends).check(y).all()
    outside = b.inverse(torch.tensor([[0.5, 4.0, 3.0, 0.0], [0.5, 1.0, 3.0, 0.0]]))[1]
    assert outside.isfinite().tolist() == [False, True]
    torch.testing.assert_close(
        biject_to(constraints.greater_than(torch.tensor([0.0, -inf])))(torch.ones(1, 2))[0], torch.tensor([[math.e, 1]])
    )


def test_what_is_no_set() -> None:
    with pytest.raises(TypeError, match="biject_to: expected a constraint or a distribution of torch, got str"):
        biject_to("positive")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="depends on a distribution's parameters"):
        biject_to(constraints.dependent)


@pytest.mark.parametrize("bound", [0.0, 1e-30, -3.0, 1.6e9, -1.6e9, 1e30])
def test_no_number_rounds_onto_a_bound_however_large(bound: float) -> None:
    """In float32 1.6e9 + 1 is 1.6e9."""
    for target in (constraints.greater_than(bound), constraints.less_than(bound)):
        b = biject_to(target)
        y, _ = b(torch.tensor([[-200.0, -20.0, 0.0, 3.0]]))
        assert target.check(y).all()
        assert b.inverse(y)[1].isfinite().all()
