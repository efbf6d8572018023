"""Base densities against torch.distributions and the official numbers."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from flowkit import ActNorm, Affine, Flow, Injector, Latents, Near, StandardNormal
from flowkit.bases import draw, round_straight_through
from flowkit.tree import map_leaves

STD = math.exp(-6)


def value() -> Latents:
    return Latents(torch.randn(2, 3, 4, 4), (torch.randn(2, 5, 4, 4), torch.randn(2, 1, 8, 8)))


def total(log_density: torch.Tensor) -> torch.Tensor:
    return log_density.flatten(1).sum(1)


def test_standard_normal_is_a_normal_on_every_number() -> None:
    v = value()
    normal = Normal(0.0, 1.0)
    torch.testing.assert_close(StandardNormal().log_prob(v.y), total(normal.log_prob(v.y)))
    expected = sum(total(normal.log_prob(leaf)) for leaf in (v.y, *v.z))
    torch.testing.assert_close(StandardNormal().log_prob(v), expected)
    torch.testing.assert_close(StandardNormal().log_prob(Latents(None, v.z)), expected - total(normal.log_prob(v.y)))


def test_near_is_a_normal_around_the_context() -> None:
    v = map_leaves(torch.Tensor.double, value())
    target = v.y + STD * torch.randn_like(v.y)
    around = total(Normal(target, STD).log_prob(v.y))
    torch.testing.assert_close(Near().log_prob(v.y, target), around)
    torch.testing.assert_close(Near().log_prob(Latents(v.y, ()), target), around)
    torch.testing.assert_close(Near().log_prob(v, target), around + StandardNormal().log_prob(v.z))
    torch.testing.assert_close(Near(0.1).log_prob(v.y, target), total(Normal(target, 0.1).log_prob(v.y)))


def test_the_official_gaussian_is_an_injector_before_a_standard_normal(golden: Any) -> None:
    g = golden("hcflow_components").part("gauss.")
    prior = Injector(nn.Identity(), Affine("exp", "scale_first", inverted=True))
    z, logdet = prior(g["x"], torch.stack([g["mean"], g["logs"]], 2).flatten(1, 2))
    torch.testing.assert_close(StandardNormal().log_prob(z) + logdet, g["logp"])


def test_rounding_is_the_official_one_with_its_gradient(golden: Any) -> None:
    g = golden("hcflow_components").part("quant.")
    x = g["in"].clone().requires_grad_()
    rounded = round_straight_through(x)
    torch.testing.assert_close(rounded, g["out"])
    upstream = torch.arange(len(x), dtype=x.dtype)
    gradient = torch.autograd.grad(rounded, x, upstream)[0]
    torch.testing.assert_close(gradient, g["grad_for_upstream_arange"])


def test_near_with_levels_looks_at_the_rounded_y() -> None:
    y = torch.tensor([[0.5001, -0.3, 1.7]], requires_grad=True)
    target = torch.tensor([[0.5, 0.0, 1.0]])
    rounded = torch.tensor([[128 / 255, 0.0, 1.0]])
    log_prob = Near(levels=255).log_prob(y, target)
    torch.testing.assert_close(log_prob, Near().log_prob(rounded, target))
    gradient = torch.autograd.grad(log_prob.sum(), y)[0]
    torch.testing.assert_close(gradient, (target - rounded) / STD**2)


def test_samples_have_the_shapes_and_the_spread_that_are_asked_for() -> None:
    torch.manual_seed(0)
    like = Latents(torch.zeros(400, 3, 4, 4), (torch.zeros(400, 5, 4, 4),))
    target = torch.rand(400, 3, 4, 4)
    for temperature in (0.5, 1.0):
        drawn = Near(0.01).sample(like, target, temperature)
        assert isinstance(drawn, Latents)
        assert float((drawn.y - target).std()) == pytest.approx(0.01 * temperature, rel=0.05)
        assert float(drawn.z[0].std()) == pytest.approx(temperature, rel=0.05)
    assert Near().sample(like.y, target).shape == like.y.shape
    assert StandardNormal().sample(Latents(None, like.z)).y is None


def test_at_temperature_zero_the_mode_is_drawn() -> None:
    v, target = value(), torch.rand(2, 3, 4, 4)
    drawn = Near().sample(v, target, temperature=0.0)
    assert torch.equal(drawn.y, target)
    assert not any(z.any() for z in drawn.z)


def test_one_seed_one_draw() -> None:
    v = value()
    first, second = (StandardNormal().sample(v, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.y, second.y)
    assert torch.equal(first.z[1], second.z[1])
    assert torch.equal(first.y, draw(v.y, torch.Generator().manual_seed(3)))  # left to right: y comes first
    assert draw(v.y.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("context", "got"),
    [
        (None, "NoneType"),
        (torch.zeros(2, 3), r"\(2, 3\)"),
        (torch.zeros(1, 3, 4, 4), r"\(1, 3"),
        ((), "tuple"),
    ],
)
def test_near_needs_a_context_of_the_shape_of_y(context: Any, got: str) -> None:
    message = r"Near: expected the context y\* of shape \(2, 3, 4, 4\), got " + got
    with pytest.raises(ValueError, match=message):
        Near().log_prob(value(), context)
    with pytest.raises(ValueError, match=message):
        Near().sample(value(), context)


def test_near_says_so_when_there_is_no_y() -> None:
    v = Latents(None, value().z)
    with pytest.raises(ValueError, match="Near"):
        Near().log_prob(v, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="Near"):
        Near().sample(v, torch.zeros(2, 3))


def test_near_needs_a_width() -> None:
    with pytest.raises(ValueError, match="std must be positive, got 0"):
        Near(0.0)


def test_near_takes_a_plain_pair() -> None:
    y, z = torch.randn(2, 3), torch.randn(2, 4)
    near, target = Near(0.1), torch.zeros(2, 3)
    assert torch.equal(near.log_prob((y, z), target), near.log_prob(Latents(y, (z,)), target))
    drawn = near.sample((y, z), target, temperature=0.0)
    assert torch.equal(drawn[0], target)


def test_a_y_star_of_another_dtype() -> None:
    y, target = torch.randn(2, 3), torch.randn(2, 3).double()
    assert Near(0.1).log_prob(y, target).dtype == torch.float32
    assert Near(0.1).sample(y, target).dtype == torch.float32
    flow = Flow(ActNorm(3), Near(0.1))
    assert flow.sample(2, target, temperature=0).dtype == torch.float32


def test_a_value_without_a_tensor_has_no_density() -> None:
    with pytest.raises(ValueError, match="StandardNormal: there is no tensor in the value"):
        StandardNormal().log_prob(())
