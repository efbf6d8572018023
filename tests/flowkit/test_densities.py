"""Densities in the plane integrate to one, and draws fill a histogram as the density says: maps and bases together."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import flowkit
from flowkit import (
    ActNorm,
    Affine,
    Autoregressive,
    Bijector,
    Box,
    Coupling,
    Elementwise,
    Flow,
    InvertibleConv1x1,
    Mixture,
    MixtureLogistic,
    Normal,
    Planar,
    Radial,
    RationalQuadratic,
    Residual,
    StandardNormal,
    StudentT,
    Sylvester,
)
from flowkit.distribution_base import DistributionBase
from flowkit.elementwise import Asinh, Cdf, Exp, Leaky, Sigmoid, SinhArcsinh, Softplus, Tanh
from flowkit.kinds import Kind
from flowkit.nets import MADE, MLP, WithTime, lipschitz
from flowkit.testing import perturb

SIDE = 300
"""Points of the grid along an axis."""

CELLS = 6
"""Of the histogram, along an axis."""


def coupling(kind: Kind) -> Bijector:
    parameters = kind.parameters_of(1)
    first = Coupling(MLP(1, parameters, hidden=8), 1, kind)
    return first >> Coupling(MLP(1, parameters, hidden=8), 1, kind, flip=True)


def autoregressive(kind: Kind) -> Bijector:
    return Autoregressive(MADE(2, kind.parameters_of(1), hidden=8), kind)


HALF_LINE = (0.0, math.inf)


@dataclass(frozen=True)
class Density:
    """A flow of two numbers, and where they live: all reals to `reach`, or between two ends."""

    bijector: Callable[[], Bijector]
    base: Callable[[], torch.nn.Module] = StandardNormal
    reach: float = 100.0
    ends: tuple[float, float] | None = None

    def flow(self) -> Flow:
        torch.manual_seed(0)
        body = perturb(ActNorm(2) >> self.bijector() if self.ends is None else self.bijector(), 0.4)
        return Flow(body, self.base(), shape=(2,)).double().eval()

    def axis(self) -> tuple[Tensor, Tensor]:
        """Points and weights: even between two ends, else dense in the middle and ever wider apart."""
        middles = (torch.arange(SIDE, dtype=torch.float64) + 0.5) / SIDE
        if self.ends == HALF_LINE:  # even in log x
            t = -14 + 23 * middles
            return t.exp(), t.exp() * 23 / SIDE
        if self.ends is not None:
            low, high = self.ends
            return low + (high - low) * middles, torch.full((SIDE,), (high - low) / SIDE).double()
        width = math.asinh(self.reach / 0.3)
        t = width * (2 * middles - 1)
        return 0.3 * t.sinh(), 0.3 * t.cosh() * 2 * width / SIDE

    def masses(self, flow: Flow) -> Tensor:
        """What the density gives every cell of the grid, (SIDE, SIDE)."""
        points, weights = self.axis()
        grid = torch.cartesian_prod(points, points)
        log_prob = torch.cat([flow.log_prob(part).detach() for part in grid.split(SIDE * SIDE // 4)])
        return log_prob.exp().view(SIDE, SIDE) * weights[:, None] * weights


ONES = torch.ones(2)
UNIT = (0.0, 1.0)
DENSITIES = {
    "affine coupling": Density(lambda: coupling(Affine("soft"))),
    "spline coupling": Density(lambda: coupling(RationalQuadratic(4, 3.0))),
    "mixture coupling": Density(lambda: coupling(MixtureLogistic(3))),
    "affine autoregressive": Density(lambda: autoregressive(Affine("softplus"))),
    "spline autoregressive": Density(lambda: autoregressive(RationalQuadratic(4, 3.0))),
    "inverse autoregressive": Density(lambda: autoregressive(Affine("softplus")).inv),
    "learned spline": Density(lambda: Elementwise(RationalQuadratic(4, 3.0), 2) >> InvertibleConv1x1(2)),
    "exponential of a matrix": Density(lambda: InvertibleConv1x1(2, "expm")),
    "planar": Density(lambda: Planar(2) >> Planar(2)),
    "inverse of planar": Density(lambda: Planar(2).inv),
    "radial": Density(lambda: Radial(2) >> Radial(2)),
    "sylvester": Density(lambda: Sylvester(2, 2)),
    "residual": Density(lambda: Residual(lipschitz(MLP(2, 2, 8, 1), 0.5), 0.5)),
    "ode": Density(lambda: flowkit.ODE(WithTime(MLP(3, 2, 6, 1)), solver="rk4", steps=4)),
    "sinh-arcsinh": Density(lambda: SinhArcsinh(0.3, 0.8) >> Leaky(0.5)),
    "asinh": Density(Asinh, reach=1e8),
    "tails": Density(lambda: coupling(Affine("tanh")), lambda: StudentT(2, df=3.0), reach=1e6),
    "several modes": Density(lambda: coupling(Affine("tanh")), lambda: perturb(Mixture(4, 2), 1.0)),
    "laplace": Density(
        lambda: InvertibleConv1x1(2, "qr"), lambda: DistributionBase(torch.distributions.Laplace(0.0, 1.0))
    ),
    "unit square": Density(lambda: Sigmoid().inv >> coupling(Affine("soft")), ends=UNIT),
    "margin": Density(lambda: Sigmoid(margin=0.05).inv >> coupling(Affine("soft")), ends=(-0.0556, 1.0556)),
    "tanh": Density(lambda: Tanh().inv >> coupling(Affine("soft")), lambda: Normal(2), ends=(-1.0, 1.0)),
    "box": Density(
        lambda: coupling(RationalQuadratic(4, 2.0, ends="box")), lambda: Box(-2 * ONES, 2 * ONES), ends=(-2, 2)
    ),
    "angles": Density(
        lambda: coupling(RationalQuadratic(4, math.pi, ends="circular")),
        lambda: Box(-math.pi * ONES, math.pi * ONES),
        ends=(-math.pi, math.pi),
    ),
    "positive": Density(lambda: Exp().inv >> coupling(Affine("tanh")), ends=HALF_LINE),
    "softplus": Density(lambda: Softplus().inv >> coupling(Affine("tanh")), ends=HALF_LINE),
    "cdf": Density(lambda: Cdf(torch.distributions.Exponential(1.0)) >> Sigmoid().inv, ends=HALF_LINE),
}


def chi_square(masses: Tensor, points: Tensor, draws: Tensor) -> float:
    """Probability of a histogram as far from the density as that of the draws; cells of few draws are one."""
    cell, edges = [], []
    for marginal in (masses.sum(1), masses.sum(0)):
        inner = torch.arange(1, CELLS, dtype=masses.dtype) / CELLS
        cuts = torch.searchsorted(marginal.cumsum(0), inner)
        edges.append((points[cuts - 1] + points[cuts]) / 2)
        cell.append(torch.bucketize(torch.arange(SIDE), cuts, right=True))
    where = (cell[0][:, None] * CELLS + cell[1]).flatten()
    expected = torch.zeros(CELLS**2, dtype=masses.dtype).index_add(0, where, masses.flatten()) * len(draws)
    found = torch.bucketize(draws[:, 0].contiguous(), edges[0]) * CELLS
    found = found + torch.bucketize(draws[:, 1].contiguous(), edges[1])
    counts = torch.bincount(found, minlength=CELLS**2)
    few = expected < 5
    seen = torch.cat([counts[~few], counts[few].sum()[None]])
    wanted = torch.cat([expected[~few], expected[few].sum()[None]])
    used = wanted > 1
    statistic = ((seen - wanted)[used] ** 2 / wanted[used]).sum()
    return float(torch.special.gammaincc((used.sum() - 1) / 2, statistic / 2))


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density_integrates_to_one_and_draws_follow_it(name: str) -> None:
    density = DENSITIES[name]
    flow = density.flow()
    masses = density.masses(flow)
    assert float(masses.sum()) == pytest.approx(1, abs=1e-3)
    torch.manual_seed(1)
    draws = flow.sample(4000).detach()
    assert chi_square(masses, density.axis()[0], draws) > 1e-3


def test_the_histogram_sees_a_wrong_density() -> None:
    density = DENSITIES["affine coupling"]
    flow = density.flow()
    masses, points = density.masses(flow), density.axis()[0]
    assert chi_square(masses, points, flow.sample(4000, temperature=1.15).detach()) < 1e-6
    assert chi_square(masses, points, flow.sample(4000).detach()[:, [1, 0]]) < 1e-6
