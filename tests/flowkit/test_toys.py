"""Toy densities: they integrate to one, and their draws follow them."""

import math

import pytest
import torch

import flowkit
from flowkit.toys import TOYS

each = pytest.mark.parametrize("name", TOYS)


def generator():
    return torch.Generator().manual_seed(0)


def grid(side=5.0, count=200):
    """Midpoints of cells, and the area of one."""
    points = (torch.arange(count, dtype=torch.float64) + 0.5) * (2 * side / count) - side
    return torch.cartesian_prod(points, points), (2 * side / count) ** 2


@each
def test_densities_integrate_to_one(name) -> None:
    x, area = grid()
    total = sum(float(TOYS[name].log_prob(part).exp().sum()) for part in x.split(4000)) * area
    assert total == pytest.approx(1, abs=1e-3)


@each
def test_draws_follow_the_density(name) -> None:
    """χ² of a histogram of 20 × 20 cells against the density's mass in them."""
    toy, n = TOYS[name], 20_000
    x, area = grid()
    mass = (torch.cat([toy.log_prob(part) for part in x.split(4000)]).exp() * area).view(20, 10, 20, 10).sum((1, 3))
    draws = toy(n, generator())
    cells = ((draws + 5) * 2).long()
    counts = torch.zeros(20, 20, dtype=torch.float64)
    counts.index_put_((cells[:, 0], cells[:, 1]), torch.ones(n, dtype=torch.float64), accumulate=True)
    often = mass * n > 5
    chi2 = float(((counts - mass * n)[often] ** 2 / (mass * n)[often]).sum())
    cells_counted = int(often.sum())
    assert abs(chi2 - cells_counted) < 4 * math.sqrt(2 * cells_counted)
    assert float(counts[~often].sum()) < n * float(mass[~often].sum()) + 4 * math.sqrt(n * 0.05) + 5


@each
def test_seeds_shapes_and_random_state(name) -> None:
    toy, state = TOYS[name], torch.get_rng_state()
    x = toy(7, generator())
    assert x.shape == (7, 2)
    assert x.dtype == torch.float32
    assert torch.equal(x, toy(7, generator()))
    assert torch.equal(torch.get_rng_state(), state)
    assert toy(7).shape == (7, 2)
    assert bool(toy.log_prob(x.double()).isfinite().all())
    assert toy.log_prob(x[:0]).shape == (0,)
    assert getattr(flowkit.toys, name) is toy


def test_a_checkerboard_has_white_squares() -> None:
    board = flowkit.toys.checkerboard
    black = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [3.0, -1.0]])
    white = torch.tensor([[1.0, -1.0], [9.0, 9.0], [-5.0, 1.0]])
    assert board.log_prob(black).tolist() == pytest.approx([-math.log(32)] * 3)
    assert board.log_prob(white).tolist() == [-math.inf] * 3


def test_a_flow_learns_moons() -> None:
    torch.manual_seed(0)
    kind = flowkit.RationalQuadratic(8, tail_bound=4.0)
    parts = [flowkit.ActNorm(2)]
    for flip in (False, True, False):
        parts.append(flowkit.Coupling(flowkit.nets.MLP(1, kind.parameters, 32), 1, kind, flip=flip))
    flow = flowkit.Flow(flowkit.Chain(*parts), flowkit.StandardNormal())
    flowkit.fit(flow, flowkit.toys.moons(1500, generator()), epochs=10, lr=2e-2)
    x = flowkit.toys.moons(2000, torch.Generator().manual_seed(1))
    with torch.no_grad():
        divergence = float((flowkit.toys.moons.log_prob(x) - flow.log_prob(x)).mean())
    assert 0 < divergence < 0.3
