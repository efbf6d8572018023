"""The divergence check: silent in ordinary runs, and a lost one is stopped with its last good state kept."""

import math

import pytest
import torch
from support import Noise, Summed, initialize, settings, tiny_flow, validate

from flowkit_models.training.divergence import LASTING, WINDOW, DivergenceCheck
from flowkit_models.training.logs import read_log
from flowkit_models.training.optim import Adam
from flowkit_models.training.state import load_state
from flowkit_models.training.trainer import train


def said(losses, factor=20.0):
    check = DivergenceCheck(factor)
    return [step for step, loss in enumerate(losses, 1) if check(step, {"loss": loss})]


def noisy(losses, spread, seed=0):
    noise = torch.randn(len(losses), generator=torch.Generator().manual_seed(seed)).exp().tolist()
    return [x + spread * e for x, e in zip(losses, noise, strict=True)]


@pytest.mark.parametrize(
    "losses",
    [
        [8 - 12 * step / 1000 for step in range(1000)],  # a likelihood that goes through zero
        [0.02 + 0.3 * math.exp(-step / 20) for step in range(1000)],
        [0.02 if step % 4 else 0.5 for step in range(1000)],
        [0.01 + 0.1 * min(1, step / 3) for step in range(1000)],  # weights that a new optimiser stirs up
        [0.0] * 100,
    ],
    ids=["through zero", "falling", "of two terms", "stirred up", "zero"],
)
def test_ordinary_losses_are_not_far_for_long(losses) -> None:
    check, longest = DivergenceCheck(20.0), 0
    for step, loss in enumerate(noisy(losses, 0.05 * max(losses)), 1):
        check(step, {"loss": loss})
        longest = max(longest, check.streak)
    assert longest < LASTING


@pytest.mark.parametrize("good", [1, 2, 5, 50, 1000])
def test_a_loss_that_is_lost_is_far_and_stays_so(good) -> None:
    lost = [100.0 * 10 ** (step % 7) for step in range(300)]
    assert said(noisy([1 - step / 1000 for step in range(good)], 0.05) + lost) == list(range(good + 1, good + 301))


def test_an_outlier_starts_no_streak_and_leaves_no_trace() -> None:
    check = DivergenceCheck(20.0)
    for step, loss in enumerate([1.0, 1.1, 1e6, 0.9, 1e6], 1):
        check(step, {"loss": loss})
    assert (check.streak, check.began, check.past["loss"]) == (1, 5, [1.0, 1.1, 0.9])


def test_losses_of_different_terms_are_kept_apart() -> None:
    check = DivergenceCheck(20.0)
    for step in range(1, 81):
        check(step, {"with likelihood" if step % 4 == 1 else "without": 4e9 if step % 4 == 1 and step > 20 else 0.3})
    assert (check.streak, check.began) == (15, 21)


def test_the_past_is_bounded_and_kept() -> None:
    check, other = DivergenceCheck(20.0), DivergenceCheck(20.0)
    for step in range(1, 2 * WINDOW):
        check(step, {"loss": 1.0 + step % 2})
    check(999, {"loss": 1e9})
    assert len(check.past["loss"]) == WINDOW
    other.load_state_dict(check.state_dict())
    assert other.state_dict() == check.state_dict()
    assert (other.streak, other.began) == (1, 999)


def test_zero_switches_it_off() -> None:
    assert not said([1.0, 1e9, 1e20], factor=0.0)


class Lost(Summed):
    """Weights that eight steps at too high a rate have made are lost."""

    def forward(self, phase, batch, draws, step, image=None):
        outcome = super().forward(phase, batch, draws, step)
        return outcome._replace(loss=outcome.loss * (1e6 if step > 8 and self.rate > 5e-4 else 1.0))


def start(out, lr, **changes):
    objective = Lost(tiny_flow())
    objective.rate = lr
    changes = {"steps": 20, "patience": 6, "save_every": 2, "validate_every": 100, "model": Adam(lr), **changes}
    options = {"config": {"options": {"lr": lr}}, "initialize": initialize, "validate": validate, "resume": True}
    return train(objective, Noise(), settings(**changes), out, **options)


def test_a_lost_run_leaves_a_state_from_before_and_goes_on_at_a_lower_rate(tmp_path) -> None:
    expected = (
        r"step 14: the run has diverged; the loss .* far above its own past, .* 6 times in a row \(.*nll .*\); .*"
    )
    with pytest.raises(FloatingPointError, match=expected + r".*state\.pt has step 6; --resume with a smaller --lr"):
        start(tmp_path, 1e-3)
    assert load_state(tmp_path / "state.pt")["counters"]["step"] == 6  # the weights of step 8 made the loss of step 9
    assert read_log(tmp_path / "log.jsonl")[-1]["kind"] == "failed"
    with pytest.raises(ValueError, match=r"another config: training\.batch was 4 and is 8$"):
        start(tmp_path, 1e-4, batch=8)
    assert start(tmp_path, 1e-4, steps=7).step == 7
    with pytest.raises(ValueError, match=r"another config: --lr was 0\.0001 and is 0\.001$"):
        start(tmp_path, 1e-3)  # the failure is over
    assert start(tmp_path, 1e-4).step == 20
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl") if row["kind"] == "train"] == list(range(1, 21))


def test_a_run_that_is_lost_from_the_start_saves_nothing(tmp_path) -> None:
    class Early(Lost):
        def forward(self, phase, batch, draws, step, image=None):
            return super().forward(phase, batch, draws, 99 if step > 1 else 1)

    objective = Early(tiny_flow())
    objective.rate = 1.0
    with pytest.raises(FloatingPointError, match=r"step 4: .* no state was saved yet; start anew: --overwrite and"):
        train(objective, Noise(), settings(save_every=2, patience=3), tmp_path, initialize=initialize)
    assert not (tmp_path / "state.pt").exists()
