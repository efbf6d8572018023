"""Bases of vectors: densities that integrate to one, draws that follow them, temperatures, supports."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowkit import ActNorm, Box, Flow, Mixture, Normal, Permutation, StandardNormal, StudentT
from flowkit.testing import perturb


def moved(base: nn.Module) -> Any:
    return perturb(base, 0.2).double()


def bases() -> dict[str, Any]:
    torch.manual_seed(3)
    return {
        "box": Box(torch.tensor([-2.0, 0.0]), torch.tensor([1.0, 0.5])).double(),
        "normal": moved(Normal(2)),
        "student": moved(StudentT(2)),
        "heavy": StudentT(2, df=3.0).double(),
        "mixture": moved(Mixture(3, 2)),
    }


@pytest.mark.parametrize("name", list(bases()))
def test_a_density_integrates_to_one(name: str) -> None:
    """On a grid that is dense in the middle; what lies beyond ±e¹⁰ of Student's t with ν = 3 is below 1e-10."""
    u = torch.linspace(-1, 1, 801, dtype=torch.float64)
    edges = (10 * u).sinh() * 1e-2 if name != "box" else 4 * u
    middle, width = (edges[1:] + edges[:-1]) / 2, edges.diff()
    grid = torch.cartesian_prod(middle, middle)
    mass = bases()[name].log_prob(grid).exp() * torch.cartesian_prod(width, width).prod(1)
    assert float(mass.sum().detach()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", list(bases()))
@pytest.mark.parametrize("seeded", [True, False])
def test_draws_follow_the_density(name: str, seeded: bool) -> None:
    """χ² of 20,000 draws of the first feature in 16 cells of equal mass, by quadrature of the density."""
    base = bases()[name]
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1) if seeded else None
    drawn = base.sample(torch.empty(20_000, 2, dtype=torch.float64), None, 1.0, generator)[:, 0].detach()
    chi_squared_of(drawn, lambda x: marginal(base, x))


def chi_squared_of(drawn: Tensor, density: Any, cells: int = 16) -> None:
    u = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    edges = (6 * u).sinh() * 0.15
    mass = density((edges[1:] + edges[:-1]) / 2) * edges.diff()
    cumulative = torch.cat([torch.zeros(1), mass.cumsum(0)]) / mass.sum()
    places = torch.searchsorted(edges, drawn.double().contiguous()).clamp(1, len(edges) - 1)
    levels = cumulative[places]
    counts = torch.histc(levels, cells, 0, 1)
    expected = len(drawn) / cells
    assert float(((counts - expected).square() / expected).sum()) < 37.7  # 0.1 % of χ² with 15 degrees of freedom


def marginal(base: Any, x: Tensor) -> Tensor:
    """Density of the first feature up to a factor: at the second one's centre, which says nothing of the first."""
    if isinstance(base, Mixture):
        each = torch.distributions.Normal(base.means[:, 0], base.log_stds[:, 0].exp()).log_prob(x[:, None]).exp()
        return (each * base.logits.softmax(0)).sum(1).detach()
    other = torch.full_like(x, 0.25)
    return base.log_prob(torch.stack([x, other], 1)).exp().detach()


def test_densities_are_those_of_torch() -> None:
    z = torch.randn(5, 2, dtype=torch.float64)
    base = bases()["student"]
    expected = torch.distributions.StudentT(base.df).log_prob(z).sum(1)
    torch.testing.assert_close(base.log_prob(z), expected)
    base = bases()["normal"]
    expected = torch.distributions.Normal(base.mean, base.log_std.exp()).log_prob(z).sum(1)
    torch.testing.assert_close(base.log_prob(z), expected)
    torch.testing.assert_close(StudentT(3).df, torch.full((3,), 30.0))
    assert torch.equal(Normal(3).log_prob(torch.ones(1, 3)), StandardNormal().log_prob(torch.ones(1, 3)))


def test_a_mixture_is_that_of_torch() -> None:
    base, z = bases()["mixture"], torch.randn(5, 2, dtype=torch.float64)
    d = torch.distributions
    each = d.Independent(d.Normal(base.means, base.log_stds.exp()), 1)
    torch.testing.assert_close(
        base.log_prob(z), d.MixtureSameFamily(d.Categorical(logits=base.logits), each).log_prob(z)
    )


def test_the_components_of_a_mixture_are_not_alike() -> None:
    means = Mixture(4, 1, classes=3).means.detach().flatten(1)
    assert float((means.unsqueeze(1) - means.unsqueeze(2)).abs().add(torch.eye(4)).min()) > 0
    base = Mixture(2, 1)
    torch.optim.SGD(base.parameters(), 0.1).step(lambda: backward(-base.log_prob(torch.randn(64, 1)).mean()))
    assert not torch.equal(base.means[0], base.means[1])


def backward(loss: Tensor) -> float:
    loss.backward()
    return float(loss.detach())


def test_a_class_has_a_mixture_of_its_own() -> None:
    torch.manual_seed(0)
    flow = Flow(ActNorm(2), Mixture(2, 2, classes=3))
    labels = torch.tensor([0, 2, 1, 1])
    z = torch.randn(4, 2)
    for i, label in enumerate(labels):
        alone = Mixture(2, 2)
        alone.load_state_dict({name: p[label] for name, p in flow.base.state_dict().items()})
        torch.testing.assert_close(flow.log_prob(z, labels)[i], alone.log_prob(z[i : i + 1])[0])
    with torch.no_grad():
        flow.base.means.copy_(10 * torch.arange(3.0).view(3, 1, 1).expand(3, 2, 2))
    drawn = flow.sample(200, labels)
    assert drawn.shape == (200, 4, 2)
    assert torch.equal((drawn.mean((0, 2)) / 10).round().long(), labels)


@pytest.mark.parametrize("context", [None, torch.zeros(2), torch.zeros(3, dtype=torch.long), torch.tensor([0, 3])])
def test_labels_of_a_mixture(context: Any) -> None:
    text = "labels, integers \\(2,\\), got|labels must be 0 to 2"
    with pytest.raises(ValueError, match=text):
        Mixture(2, 2, classes=3).log_prob(torch.zeros(2, 2), context)


@pytest.mark.parametrize("name", ["normal", "student", "mixture"])
def test_a_temperature_scales_about_the_means(name: str) -> None:
    base, like = bases()[name], torch.empty(2000, 2, dtype=torch.float64)
    hot, cold, frozen = (base.sample(like, None, t, torch.Generator().manual_seed(0)) for t in (1.0, 0.5, 0.0))
    torch.testing.assert_close(cold - frozen, 0.5 * (hot - frozen))
    centres = {"normal": base.mean if name == "normal" else None, "mixture": getattr(base, "means", None)}.get(name)
    if centres is None:
        assert not frozen.any()
    else:
        gaps = (frozen.unsqueeze(1) - centres.view(1, -1, 2)).abs().amax(2).amin(1)
        assert float(gaps.max().detach()) < 1e-12


def test_a_box_has_no_temperature_and_edges() -> None:
    box = Box(0, torch.tensor([1.0, 2.0]))
    z = torch.tensor([[0.5, 1.5], [1.5, 1.5], [0.0, 2.0], [math.nan, 1.0], [-math.inf, 0.0]], requires_grad=True)
    log_prob = box.log_prob(z)
    torch.testing.assert_close(
        log_prob, -torch.tensor([math.log(2), math.inf, math.log(2), math.nan, math.inf]), equal_nan=True
    )
    assert torch.autograd.grad(log_prob[:2].sum(), z)[0][:3].eq(0).all()
    with pytest.raises(ValueError, match=r"temperature of the base Box must be 1, got 0\.5"):
        Flow(ActNorm(2), box).sample(2, temperature=0.5)
    with pytest.raises(ValueError, match=r"Box: low must be below high, and finite, got \[0.0, 1.0\] and \[1.0, 1.0\]"):
        Box(torch.tensor([0.0, 1.0]), 1.0)
    assert Box(-1.0, 1.0).log_prob((torch.zeros(2, 3), torch.zeros(2, 1, 4, 4))).shape == (2,)
    drawn = Flow(Permutation(2), box.double()).sample(1000)
    assert drawn.dtype == torch.float64
    assert bool((box.log_prob(Flow(Permutation(2), box).encode(drawn)) > -math.inf).all())


@pytest.mark.parametrize(
    "make", [lambda: Normal(3), lambda: StudentT(3), lambda: Mixture(2, 3), lambda: Box(0, torch.ones(3))]
)
def test_a_latent_of_another_shape(make: Any) -> None:
    with pytest.raises(ValueError, match=r"the base has the shape \(3,\), the latent is \(5, 2\)"):
        make().log_prob(torch.zeros(5, 2))


def test_numbers_that_make_no_base() -> None:
    with pytest.raises(ValueError, match="degrees of freedom must be positive"):
        StudentT(2, df=0.0)
    with pytest.raises(ValueError, match=r"df must be a number or \(2,\), got \(3,\)"):
        StudentT(2, df=torch.ones(3))
    for low, high, text in ((0.0, math.inf, "and finite"), (torch.zeros(2), torch.ones(3), "must be of one shape")):
        with pytest.raises(ValueError, match=f"Box: low .*{text}"):
            Box(low, high)
    with pytest.raises(ValueError, match="features must be at least 1"):
        Normal(0)
    with pytest.raises(ValueError, match="components must be at least 1"):
        Mixture(0, 2)


def test_draws_carry_gradients_and_state_loads() -> None:
    for base in (Normal((2, 3)), StudentT((2, 3)), Mixture(2, (2, 3))):
        drawn = base.sample(torch.empty(5, 2, 3))
        assert drawn.shape == (5, 2, 3)
        drawn.square().sum().backward()
        assert all(
            p.grad is not None and bool(p.grad.isfinite().all()) for n, p in base.named_parameters() if n != "logits"
        )
        other = perturb(type(base)(*((2, (2, 3)) if isinstance(base, Mixture) else ((2, 3),))))
        other.load_state_dict(base.state_dict())
        z = torch.randn(4, 2, 3)
        assert torch.equal(other.log_prob(z), base.log_prob(z))
    fixed = StudentT(2, df=5.0)
    assert not list(fixed.parameters())
    assert "fixed" in fixed.state_dict()
