"""The training loop: rates, averages, checkpoints, and losses that are not finite."""

import math

import pytest
import torch
from rich.console import Console

import flowkit_models
from flowkit_models.training import Schedule, train

SIZES = {"steps": 1, "conditional_steps": 1, "blocks": ((0, 0), (0, 0)), "features": 4, "hidden": 4}


def batches():
    while True:
        hr = torch.rand(1, 3, 8, 8)
        yield hr, hr[..., ::4, ::4]


def run(tmp_path, steps, losses=None, validate=lambda model: 1.0, **options):
    torch.manual_seed(0)
    model = flowkit_models.create("hcflow_sr_x4_small", **SIZES)

    def nll(model, batch):
        return model.nll(*batch).mean(), {"bits_per_dim": 1.0}

    schedule = Schedule(steps, 1e-3, max(1, steps // 2), **options)
    with (tmp_path / "log").open("w") as log:
        return model, train(model, batches(), losses or nll, validate, schedule, tmp_path, Console(file=log))


def test_published_milestones_halve_from_their_own_iteration() -> None:
    schedule = Schedule(300_000, 2.5e-4, 5000, milestones=(150_000, 225_000))
    assert [schedule.rate(step) for step in (1, 149_999, 150_000, 225_000)] == [1, 1, 0.5, 0.25]


def test_cosine_warms_up_and_ends_low() -> None:
    schedule = Schedule(1000, 1e-3, 100)
    assert schedule.rate(1) == pytest.approx(0.05, rel=1e-3)
    assert schedule.rate(20) > 0.99
    assert schedule.rate(1000) == pytest.approx(0.01)


def test_history_best_and_last(tmp_path) -> None:
    scores = iter([30.0, 20.0])
    model, trained = run(tmp_path, 4, validate=lambda m: next(scores), average=0.0)
    assert [row["step"] for row in trained.history] == [1, 2, 3, 4]
    assert [row.get("psnr") for row in trained.history] == [None, 30.0, None, 20.0]
    best, last = (flowkit_models.load(tmp_path / f"{n}.safetensors").state_dict() for n in ("best", "last"))
    assert any(not torch.equal(best[key], last[key]) for key in best)
    # without averaging, what is saved last is what was trained
    assert all(torch.allclose(value, last[key]) for key, value in model.named_parameters())
    assert "30.00 dB held out" in (tmp_path / "log").read_text()


def test_a_step_that_is_not_finite_changes_nothing(tmp_path) -> None:
    calls = iter(range(100))

    def losses(model, batch):
        bad = next(calls) == 1
        return model.nll(*batch).mean() * (math.nan if bad else 1.0), {"bits_per_dim": 1.0}

    _, trained = run(tmp_path, 4, losses)
    assert trained.skipped == 1
    assert all(bool(p.isfinite().all()) for p in trained.model.parameters())


def test_too_many_in_a_row_stop_the_run(tmp_path) -> None:
    def losses(model, batch):
        return model.nll(*batch).mean() * math.nan, {"bits_per_dim": 1.0}

    with pytest.raises(FloatingPointError, match="20 times in a row"):
        run(tmp_path, 50, losses)
