"""The loop, in one process: what it writes, resumes, skips and refuses."""

import json
import math
import re

import pytest
import torch
from safetensors import safe_open
from support import Adversarial, InPhases, Noise, Summed, initialize, run, settings, tiny_flow, validate

import flowkit_models
from flowkit_models.training.distributed import start_processes
from flowkit_models.training.logs import read_log
from flowkit_models.training.optim import Adam
from flowkit_models.training.state import load_state
from flowkit_models.training.trainer import train


def weights(result):
    return result.model.state_dict()


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def of_kind(out, kind):
    return [row for row in read_log(out / "log.jsonl") if row["kind"] == kind]


@pytest.mark.parametrize("kind", ["summed", "phases", "adversarial"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, kind) -> None:
    whole = run(tmp_path / "whole", kind)
    for steps in (1, 2, 5, 8):
        parts = run(tmp_path / "parts", kind, steps=steps, resume=True)
    assert whole.step == parts.step == 8
    assert equal(weights(whole), weights(parts))
    assert of_kind(tmp_path / "whole", "train") == of_kind(tmp_path / "parts", "train")
    states = [load_state(tmp_path / name / "state.pt") for name in ("whole", "parts")]
    assert equal(states[0]["objective"], states[1]["objective"])  # the discriminator and its statistics as well


def test_carried_gradients_matter_and_are_saved(tmp_path) -> None:
    """Without them, the first phase after a resume would see another gradient."""
    run(tmp_path / "a", "phases", steps=3)
    state = load_state(tmp_path / "a" / "state.pt")
    assert len(state["gradients"]["model"]) == len(list(tiny_flow().parameters()))
    run(tmp_path / "b", steps=3)
    assert not load_state(tmp_path / "b" / "state.pt")["gradients"]["model"]


def test_the_first_turn_adds_to_what_the_last_one_left(tmp_path) -> None:
    class Linear(InPhases):
        """The gradients of the two phases by one weight are 2 and 3."""

        def forward(self, phase, batch, draws, step, image=None):
            weight = self.model.get_parameter("flow.levels.0.body.parts.1.bias")[0]
            return super().forward(phase, batch, draws, step)._replace(loss=weight * (2 if phase == "nll" else 3))

    train(Linear(tiny_flow()), Noise(), settings(steps=3), tmp_path)
    norms = [(row["nll_grad_norm"], row["pixel_grad_norm"]) for row in of_kind(tmp_path, "train")]
    assert norms == [(2, 3), (5, 3), (5, 3)]


def test_accumulation_changes_nothing_but_rounding(tmp_path) -> None:
    results = [run(tmp_path / str(n), dtype=torch.float64, batch=8, accumulate=n, steps=3) for n in (1, 2)]
    assert all(torch.allclose(weights(results[0])[n], w, atol=1e-9, rtol=0) for n, w in weights(results[1]).items())
    logs = [{**of_kind(tmp_path / str(n), "train")[-1], "kind": 0} for n in (1, 2)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)


def test_what_a_run_writes(tmp_path) -> None:
    scores = iter([1.0, 3.0, 2.0])
    seen = []

    def scored(model, step):
        assert not model.training
        seen.append((step, [p.clone() for p in model.parameters()]))
        return {"score": next(scores), "psnr": 20.0 + step}

    result = run(tmp_path / "run", steps=5, validate_every=2, validate=scored)
    assert (result.step, result.best, result.skipped) == (5, 3.0, 0)
    assert [step for step, _ in seen] == [2, 4, 5]
    for name, (step, expected) in (("best", seen[1]), ("last", seen[2])):
        path = tmp_path / "run" / f"{name}.safetensors"
        assert all(torch.equal(a, b) for a, b in zip(expected, flowkit_models.load(path).parameters(), strict=True))
        with safe_open(path, "pt") as file:
            assert file.metadata()["step"] == str(step)
            assert json.loads(file.metadata()["run"])["training"]["batch"] == 4
    rows = of_kind(tmp_path / "run", "train")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0].keys() == {"kind", "step", "loss", "nll", "pixel", "bits_per_dim", "grad_norm", "model_rate"}
    assert [row["score"] for row in of_kind(tmp_path / "run", "validation")] == [1, 3, 2]
    shown = (tmp_path / "run.txt").read_text()
    assert "step 4: " in shown
    for part in (
        "bits/dim, 24.00 dB held out, ",
        " it/s, ",
        " GiB, ",
        " left; score 3.0000, psnr 24.0000, the best so far",
    ):
        assert part in shown


def test_without_an_average_the_model_itself_is_kept(tmp_path) -> None:
    objective = Summed(tiny_flow())
    result = train(objective, Noise(), settings(steps=2, average=0.0, log_every=2), tmp_path, initialize=initialize)
    assert result.model is objective.model
    assert result.best == -math.inf
    assert not (tmp_path / "best.safetensors").exists()
    assert [row["step"] for row in of_kind(tmp_path, "train")] == [2]
    assert all(p.requires_grad and p.grad is None for p in objective.parameters())


def test_only_what_a_turn_trains_takes_gradients(tmp_path) -> None:
    seen = set()

    class Watched(Adversarial):
        def forward(self, phase, batch, draws, step, image=None):
            network = self.discriminator if phase == "discriminator" else self.model
            learning = {id(p) for p in self.parameters() if p.requires_grad}
            seen.add((phase, learning == {id(p) for p in network.parameters()}, self.model.training))
            return super().forward(phase, batch, draws, step, image)

    options = {"validate": validate, "initialize": initialize}
    train(Watched(tiny_flow()), Noise(), settings(steps=4, validate_every=1, average=0.0), tmp_path, **options)
    assert seen == {(phase.name, True, True) for phase in Watched.phases}


def test_each_rate_is_used_in_its_step(tmp_path) -> None:
    run(tmp_path / "run", steps=7)
    assert [row["model_rate"] for row in of_kind(tmp_path / "run", "train")] == [1e-3] * 5 + [5e-4] * 2


def test_mixed_precision_trains(tmp_path) -> None:
    plain, mixed = (run(tmp_path / p, precision=p, steps=3) for p in ("no", "bf16"))
    assert not equal(weights(plain), weights(mixed))
    assert mixed.skipped == 0


def test_the_loss_scale_of_float16_is_lowered_and_kept(tmp_path, monkeypatch) -> None:
    """With torch's scaler on the CPU; accelerate has none there."""
    scalers = []

    def start(settings):
        processes = start_processes(settings)
        processes.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**116, growth_interval=3)
        scalers.append(processes.scaler)
        return processes

    monkeypatch.setattr("flowkit_models.training.trainer.start_processes", start)
    whole = run(tmp_path / "whole", steps=16)
    rows = of_kind(tmp_path / "whole", "skipped")
    assert 1 <= len(rows) <= 12
    assert re.fullmatch(r"all: .* \(at loss scale 8\.30767e\+34\)", rows[0]["why"])
    for steps in (2, 9, 16):
        parts = run(tmp_path / "parts", steps=steps, resume=True)
    assert equal(weights(whole), weights(parts))
    assert scalers[0].get_scale() == scalers[-1].get_scale() < 2.0**116


# --- numbers that are not finite


def test_a_broken_sample_is_named_and_changes_nothing(tmp_path) -> None:
    result = run(tmp_path / "run", "adversarial", bad=(17, 18), steps=6)
    assert (result.step, result.skipped) == (6, 1)
    [row] = of_kind(tmp_path / "run", "skipped")
    assert row == {"kind": "skipped", "step": 5, "why": "nll: hr of samples 17, 18 is not finite"}
    assert "step 5: skipped, nll: hr of samples 17, 18" in (tmp_path / "run.txt").read_text()
    assert all(bool(w.isfinite().all()) for w in weights(result).values())


@pytest.mark.parametrize("step", [2, 5])  # of the discriminator alone, and of all phases
def test_a_skipped_step_leaves_weights_and_statistics_alone(tmp_path, step) -> None:
    states = []
    for steps in (step - 1, step):
        run(tmp_path / str(steps), "adversarial", bad=(4 * step - 1,), steps=steps)
        states.append(load_state(tmp_path / str(steps) / "state.pt"))
    assert (states[0]["counters"]["skipped"], states[1]["counters"]["skipped"]) == (0, 1)
    for part in ("objective", "averaged"):
        assert equal(states[0][part], states[1][part])


def planted(name, value):
    """Breaks a weight after the fifth step."""

    def poison(model, step):
        if step == 5:
            model.get_parameter(name).data.fill_(value)
        return validate(model, step) if step < 5 else {"score": 0.0}

    return poison


def test_a_broken_weight_ends_the_run_and_the_last_good_state_stays(tmp_path) -> None:
    poison = planted("flow.levels.0.body.parts.2.weight", math.nan)
    expected = (
        r"step 8: 3 iterations in a row were not finite; all: weight model\.flow\.levels\.0\.body\.parts\.2\.weight "
        r"is not finite; .*state\.pt has step 5"
    )
    with pytest.raises(FloatingPointError, match=expected):
        run(tmp_path / "run", validate=poison, average=0.0, patience=3, steps=20)
    state = load_state(tmp_path / "run" / "state.pt")
    assert state["counters"]["step"] == 5
    assert all(bool(w.isfinite().all()) for w in state["objective"].values())
    flowkit_models.load(tmp_path / "run" / "last.safetensors")  # which refuses weights that are not finite


def test_an_exploding_scale_is_named(tmp_path) -> None:
    poison = planted("flow.levels.0.body.parts.1.log_scale", 200.0)
    expected = r"all: the output of model\.flow\.levels\.0\.body\.parts\.1 \(ActNorm\) is not finite"
    with pytest.raises(FloatingPointError, match=expected):
        run(tmp_path / "run", validate=poison, average=0.0, patience=2, steps=20)


def test_an_infinite_gradient_does_not_hide_behind_the_clipping(tmp_path) -> None:
    class Steep(Summed):
        def forward(self, phase, batch, draws, step, image=None):
            bias = self.model.get_parameter("flow.levels.0.body.parts.1.bias")
            return Summed.forward(self, phase, batch, draws, step)._replace(loss=(bias[0] * 0).sqrt().sum())

    with pytest.raises(
        FloatingPointError, match=r"the gradient of model\.flow\.levels\.0\.body\.parts\.1\.bias is not"
    ):
        train(Steep(tiny_flow()), Noise(), settings(patience=1), tmp_path)


def test_a_good_step_ends_the_streak(tmp_path) -> None:
    bad = [4 * step for step in range(12) if step % 3]  # two of three
    assert run(tmp_path / "run", bad=bad, steps=12, patience=3).skipped == 8


# --- what is refused


def test_a_model_is_not_initialised_from_a_broken_batch(tmp_path) -> None:
    with pytest.raises(ValueError, match="can't initialise the model from the first batch: hr of sample 2 is not"):
        run(tmp_path / "run", bad=(2,))


def test_another_config_is_refused(tmp_path) -> None:
    def start(lr=1e-3, resume=True, steps=1, **config):
        own = settings(steps=steps, model=Adam(lr))
        objective = Summed(tiny_flow())
        return train(objective, Noise(), own, tmp_path, config={"options": config}, resume=resume)

    start(out="a", crop=64)
    with pytest.raises(ValueError, match=r"holds a run already"):
        start(out="a", crop=64, resume=False)
    with pytest.raises(ValueError, match=r"another config: training\.model\.lr was 0\.001 and is 0\.002$"):
        start(2e-3, out="a", crop=64)
    with pytest.raises(ValueError, match=r"another config: --crop was 64 and is 32$"):
        start(out="b", crop=32, steps=2)
    assert start(out="b", crop=64, steps=2).step == 2


def test_a_truncated_state_is_refused(tmp_path) -> None:
    run(tmp_path / "run", steps=1)
    path = tmp_path / "run" / "state.pt"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"state\.pt: damaged, truncated"):
        run(tmp_path / "run", steps=2, resume=True)


def test_the_state_of_another_objective_is_refused(tmp_path) -> None:
    run(tmp_path / "run", "adversarial", steps=1)
    with pytest.raises(ValueError, match=r"state\.pt: does not fit this objective \(.*discriminator") as refused:
        run(tmp_path / "run", "summed", steps=2, resume=True)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("sharded", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_sharded_training_is_refused(tmp_path, monkeypatch, sharded) -> None:
    monkeypatch.setenv(sharded, "true")
    with pytest.raises(ValueError, match=f"{sharded} is set: sharded training is not supported"):
        run(tmp_path / "run", steps=1)


def test_fp16_does_not_carry_gradients(tmp_path) -> None:
    with pytest.raises(ValueError, match="fp16: gradients at different loss scales"):
        run(tmp_path / "run", "phases", precision="fp16")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"average": 1.0}, "average must be in"),
        ({"precision": "half"}, "precision must be"),
        ({"batch": 4, "accumulate": 3}, r"batch 4 must be a multiple of processes × accumulate, 1 × 3"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", **changes)


def test_a_validation_needs_a_score(tmp_path) -> None:
    with pytest.raises(ValueError, match='must return a "score"'):
        run(tmp_path / "run", steps=1, validate=lambda model, step: {"psnr": 30.0})


def test_processes_that_are_not_joined_are_noticed(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")
    monkeypatch.setattr("flowkit_models.training.distributed.torch.accelerator.is_available", lambda: True)
    with pytest.raises(ValueError, match="1 of 2 processes is not supported: start with torchrun"):
        run(tmp_path / "run", cpu=False)
