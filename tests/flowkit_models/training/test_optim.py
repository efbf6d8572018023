"""Optimisers: rates at the milestones by hand, the order of clipping, classic weight decay, unknown parameters."""

import math

import pytest
import torch
from support import Adversarial, Summed, tiny_flow
from torch import nn

from flowkit_models.training.optim import Adam, Cosine, Milestones, Optimizer, make_optimizers


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # reference: the milestone's own iteration is already halved
        (Milestones((150_000, 225_000)), {1: 1, 149_999: 1, 150_000: 0.5, 224_999: 0.5, 225_000: 0.25}),
        # IRN: the scheduler is stepped after the optimiser
        (Milestones((100_000, 200_000), inclusive=False), {100_000: 1, 100_001: 0.5, 200_000: 0.5, 200_001: 0.25}),
        (Milestones((2,), gamma=0.1), {1: 1, 2: 0.1}),
        (Milestones(), {1: 1, 10**6: 1}),
        (Cosine(1000), {1: 0.05, 20: 0.999, 500: 0.505, 1000: 0.01, 2000: 0.01}),
        (Cosine(10, warmup=0, floor=0.0), {5: 0.5, 10: 0}),
    ],
)
def test_rates_by_iteration(schedule, expected) -> None:
    adam = Adam(2.0, schedule=schedule)
    assert {step: adam.rate(step) for step in expected} == pytest.approx(
        {step: 2 * rate for step, rate in expected.items()}, rel=2e-3, abs=1e-12
    )


def optimizer(settings, gradient):
    module = nn.Module()
    module.weight = nn.Parameter(torch.zeros(len(gradient)))
    module.weight.grad = torch.tensor(gradient)
    return Optimizer("model", module, settings)


def test_gradients_are_clipped_by_value_and_then_by_norm() -> None:
    one = optimizer(Adam(1.0, clip_value=3.0, clip_norm=1.0), [300.0, -4.0])
    one.step(one.norm())
    # ±3, then the norm √18 becomes 1; the other order would leave the ratio 75
    assert torch.allclose(one.gradients["model.weight"], torch.tensor([1.0, -1.0]) / math.sqrt(2), rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [(Adam(1.0, clip_norm=1.0), [0.6, 0.8]), (Adam(1.0, clip_value=3.5), [3.0, 3.5]), (Adam(1.0), [3.0, 4.0])],
)
def test_either_clipping_may_be_off(settings, expected) -> None:
    one = optimizer(settings, [3.0, 4.0])
    assert float(one.norm()) == 5
    one.step(one.norm())
    assert torch.allclose(one.gradients["model.weight"], torch.tensor(expected), rtol=1e-5)


def test_weight_decay_is_added_to_the_gradient() -> None:
    one = optimizer(Adam(0.1, weight_decay=1.0), [0.0])
    one.parameters["model.weight"].data.fill_(2.0)
    one.step(one.norm())
    # the gradient is 2; Adam's first step is lr·sign. Decoupled decay would have moved by lr·2
    assert one.parameters["model.weight"].item() == pytest.approx(1.9, rel=1e-6)


def test_parameters_without_a_gradient_stay() -> None:
    one = optimizer(Adam(0.1), [1.0])
    one.step(one.norm())
    one.zero_grad()
    before = one.parameters["model.weight"].clone()
    one.step(one.norm())  # momentum alone would move it
    assert torch.equal(one.parameters["model.weight"], before)


def test_an_overflowing_norm_is_not_finite() -> None:
    assert not optimizer(Adam(1.0), [3e38, 3e38]).norm().isfinite()


@pytest.mark.parametrize("changes", [{"lr": 0.0}, {"lr": 1.0, "clip_norm": 0.0}, {"lr": 1.0, "clip_value": math.nan}])
def test_numbers_that_make_no_sense(changes) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Adam(**changes)


def test_a_turn_needs_what_it_trains() -> None:
    with pytest.raises(ValueError, match="trains a discriminator"):
        make_optimizers(Adversarial(tiny_flow()), {"model": Adam(1.0), "discriminator": None})


def test_parameters_that_nobody_trains_are_named() -> None:
    objective = Summed(tiny_flow())
    objective.features = nn.Conv2d(3, 2, 1)
    with pytest.raises(ValueError, match=r"features\.weight: requires gradients, but no phase trains it"):
        make_optimizers(objective, {"model": Adam(1.0), "discriminator": None})
    objective.features.requires_grad_(False)
    assert list(make_optimizers(objective, {"model": Adam(1.0), "discriminator": None})) == ["model"]
