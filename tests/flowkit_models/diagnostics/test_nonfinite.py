"""Numbers that are not finite are traced to the sample, weight, module or gradient they come from."""

import math

import pytest
import torch
from support import Noise, Summed, noisy, tiny_flow
from torch import nn

import flowkit
from flowkit_models.data.loader import Draws, load_batches
from flowkit_models.diagnostics.nonfinite import find_source
from flowkit_models.training.guard import Guarded, in_batch, in_gradients
from flowkit_models.training.objective import Objective, Outcome


def a_batch(bad=()):
    return next(load_batches(Noise(bad=bad), 4, [1]))


def an_objective(kind=Summed, memory="plain"):
    objective = kind(tiny_flow(memory))
    batch = a_batch()
    flowkit.initialize(objective.model.flow, noisy(batch, Draws(0, batch.index), objective.model))
    return objective


def traced(objective, phase="all"):
    batch = a_batch()
    run = lambda: objective(phase, batch, Draws(0, batch.index), 1)  # noqa: E731
    return find_source(objective, run)


def test_samples() -> None:
    assert in_batch(a_batch()) is None
    assert in_batch(a_batch(bad=(2,))).text == "hr of sample 2 is not finite"
    batch = a_batch()
    batch.lr[1:].fill_(math.inf)
    assert in_batch(batch).text == "lr of samples 1, 2, 3 is not finite"


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    objective = an_objective()
    assert traced(objective) is None
    # and nothing is left behind
    assert not any("inverse" in module.__dict__ or module._forward_hooks for module in objective.modules())


def test_weights() -> None:
    objective = an_objective()
    objective.model.get_parameter("flow.levels.0.body.parts.2.weight").data[0, 0] = math.nan
    assert traced(objective).text == "weight model.flow.levels.0.body.parts.2.weight is not finite"


@pytest.mark.parametrize("memory", ["plain", "lean"])
def test_an_exploding_scale(memory) -> None:
    objective = an_objective(memory=memory)
    objective.model.get_parameter("flow.levels.1.body.parts.1.log_scale").data.fill_(200.0)
    assert traced(objective).text == "the output of model.flow.levels.1.body.parts.1 (ActNorm) is not finite"


class Backwards(Summed):
    """The sampling direction alone."""

    def forward(self, phase, batch, draws, step, image=None):
        sr = self.model.flow.inverse(flowkit.Latents(batch.lr, self.model.draw(batch.lr)))[0]
        return Outcome((sr - batch.hr).abs().mean(), {})


def test_an_exploding_scale_in_the_inverse() -> None:
    objective = an_objective(Backwards)
    objective.model.get_parameter("flow.levels.1.body.parts.1.log_scale").data.fill_(-200.0)
    assert traced(objective).text == "the output of model.flow.levels.1.body.parts.1.inverse (ActNorm) is not finite"


class Plain(Objective):
    """A sum that is said by a function."""

    def __init__(self, function):
        super().__init__(tiny_flow())
        self.discriminator = nn.Linear(3, 1)
        self.function = function

    def forward(self, phase, batch, draws, step, image=None):
        return self.function(self, batch)


def test_what_comes_from_outside_a_module_is_not_blamed_on_it() -> None:
    objective = Plain(lambda self, b: Outcome(self.discriminator(b.hr[:, :, 0, 0] / 0).sum(), {}))
    assert traced(objective).text == "what reaches discriminator (Linear) is not finite"


def test_a_term_of_the_loss() -> None:
    objective = Plain(lambda self, b: Outcome(b.hr.sum().neg().log(), {"a": b.hr.sum(), "b": b.hr.sum().neg().log()}))
    assert traced(objective).text == "the loss is not finite (b)"


def test_gradients() -> None:
    gradients = {"a": torch.ones(2), "b": torch.tensor([1.0, math.inf])}
    assert in_gradients(gradients).text == "the gradient of b is not finite"
    overflowing = {"a": torch.ones(2), "b": torch.tensor([1.0, 3e38])}
    assert in_gradients(overflowing).text == "the norm of the gradients overflows; the largest is that of b"


def guarded(function):
    batch = a_batch()
    module = Guarded(Plain(function))
    return module, module("all", batch, Draws(0, batch.index), 1, None)


def test_an_error_about_such_numbers_is_a_loss_of_nan() -> None:
    """ImageFlow refuses an image that is not finite, wherever it comes from."""

    def again(self, batch):
        sr = self.model.upscale(batch.lr)[0]
        return Outcome(self.model.nll(sr * math.inf * self.discriminator.weight.sum(), batch.lr).mean(), {})

    with pytest.raises(ValueError, match="contains NaN"):  # finite modules: somebody else's error
        guarded(again)

    def spoiled(self, batch):
        self.model.get_parameter("flow.levels.0.body.parts.1.log_scale").data.fill_(-200.0)
        return again(self, batch)

    module, outcome = guarded(spoiled)
    assert outcome.loss.isnan()
    outcome.loss.backward()
    assert all(p.grad is not None for p in module.parameters())
    assert module.source.text.startswith("the output of model.flow.levels.0.body.parts.1.inverse (ActNorm)")


def test_random_numbers_from_anywhere_are_repeated() -> None:
    """So that what they break is found."""
    seen = []

    def unlucky(self, batch):
        seen.append(torch.rand(()).item())
        self.discriminator(torch.full((3,), math.inf) if seen[-1] == seen[0] else torch.zeros(3))
        raise ValueError("contains NaN")

    module, outcome = guarded(unlucky)
    assert outcome.loss.isnan()
    assert len(seen) == 2
    assert module.source.text == "what reaches discriminator (Linear) is not finite"


def test_other_errors_pass() -> None:
    def wrong(self, batch):
        raise ValueError("a shape")

    with pytest.raises(ValueError, match="a shape"):
        guarded(wrong)


def test_what_leaves_the_module_has_no_history() -> None:
    def some(self, batch):
        image = self.discriminator(batch.hr[:, :, 0, 0])
        return Outcome(image.sum(), {"a": image.sum()}, image)

    outcome = guarded(some)[1]
    assert outcome.loss.requires_grad
    assert not outcome.image.requires_grad
    assert not outcome.logs["a"].requires_grad
