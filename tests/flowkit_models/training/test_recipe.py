"""First weights of a recipe: a preset's, or in the sizes of the run or of the stage that they go on from."""

import dataclasses
import io
import json
import os
import signal
import sys
import time
import warnings
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

import flowkit_models
from flowkit_models.metrics.features import FeatureNet
from flowkit_models.training import folder_lock, recipe
from flowkit_models.training.objective import Objective
from flowkit_models.training.objectives.hcflow import SRWeights, SuperResolution
from flowkit_models.training.objectives.linf import AnyScale, AnyScaleWeights
from flowkit_models.training.options import Options
from flowkit_models.training.recipe import command_line, fresh_model, initial_model, run
from flowkit_models.training.signals import Stopped

NAME = "hcflow_sr_x4_small"


def test_weights_are_the_seeds(tmp_path) -> None:
    weights = [fresh_model(NAME, Options(out=tmp_path, seed=seed)).state_dict() for seed in (1, 1, 2)]
    same = [all(torch.equal(weights[0][name], other[name]) for name in other) for other in weights]
    assert same == [True, True, False]


def test_a_resumed_run_keeps_its_sizes(tmp_path) -> None:
    """Those of an older flowkit, whose preset was another and whose config had fewer fields."""
    preset = flowkit_models.create(NAME).config
    sizes = {**dataclasses.asdict(preset), "prior": "exp", "blocks": [[0, 0], [1, 1]]}
    del sizes["purpose"]
    (tmp_path / "config.json").write_text(json.dumps({"sizes": sizes}))
    resumed, new = (Options(out=tmp_path, resume=resume) for resume in (True, False))
    assert fresh_model(NAME, resumed).config == preset  # there is no state to go on from
    (tmp_path / "state.pt").touch()
    assert fresh_model(NAME, resumed).config == dataclasses.replace(preset, prior="exp", blocks=((0, 0), (1, 1)))
    assert fresh_model(NAME, resumed, hidden=8).config.hidden == 8
    assert fresh_model(NAME, new).config == preset


def test_another_network_is_an_option(tmp_path) -> None:
    line = ["--out", str(tmp_path), "--network", "hidden", "8", "blocks", "[[0, 0], [1, 1]]", "prior", '"exp"']
    options = command_line(Options, {(): Options()}, (), line, None)
    preset = flowkit_models.create(NAME).config
    made = dataclasses.replace(preset, hidden=8, blocks=((0, 0), (1, 1)), prior="exp")
    assert fresh_model(NAME, options).config == made
    assert fresh_model(NAME, options, hidden=4).config.hidden == 4
    with pytest.raises(ValueError, match=r"--network .*exp.*words.*expected"):
        fresh_model(NAME, Options(out=tmp_path, network={"prior": "exp"}))
    with pytest.raises(ValueError, match=r"HCFlow has no option 'width'; it has .*hidden"):
        fresh_model(NAME, Options(out=tmp_path, network={"width": "3"}))


@pytest.mark.parametrize(("given", "told"), [({}, False), ({"networks": "bf16"}, True), ({"autocast": "bf16"}, True)])
def test_bf16_that_is_slow_is_told_before_training(tmp_path, monkeypatch, given, told) -> None:
    monkeypatch.setattr(recipe, "bf16_warning", lambda device: "warning: slow")
    monkeypatch.setattr(recipe, "train", lambda *_, **__: SimpleNamespace(skipped=0))
    console = Console(file=io.StringIO())
    objective, samples = Objective(flowkit_models.create(NAME)), SimpleNamespace(names=["a.png"], size=64)
    recipe.fit(objective, samples, Options(out=tmp_path, **given), None, console)
    assert ("warning: slow" in console.file.getvalue()) is told


class Classifier(FeatureNet):
    """Features of images with a smallest side, without the weights of any."""

    def __init__(self, smallest: int) -> None:
        torch.nn.Module.__init__(self)
        self.smallest = smallest


def super_resolution(**networks: torch.nn.Module) -> SuperResolution:
    weights = SRWeights(perceptual="features" in networks, lpips="distance" in networks)
    return SuperResolution(flowkit_models.create(NAME), weights, **networks)


@pytest.mark.parametrize(
    ("objective", "crop", "enough"),
    [
        (lambda: super_resolution(features=Classifier(16)), 12, 16),
        (lambda: super_resolution(distance=torch.nn.Sequential(Classifier(31))), 32, 36),  # three are cut off
        (lambda: super_resolution(features=Classifier(16), distance=Classifier(16)), 16, 20),
        # the factor of a batch may be 1, its HR crops then as large as the LR ones
        (
            lambda: AnyScale(flowkit_models.create("linf_small"), AnyScaleWeights(perceptual=1.0), Classifier(16)),
            48,
            64,
        ),
    ],
)
def test_crops_too_small_for_a_loss_are_told_before_training(objective, crop, enough, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(recipe, "train", lambda *_, **__: SimpleNamespace(skipped=0))
    made, console = objective(), Console(file=io.StringIO())

    def start(crop: int) -> None:
        options = Options(out=tmp_path, crop=crop)
        crops = options.any_scale_crops(4) if isinstance(made, AnyScale) else options.crops(4)
        recipe.fit(made, crops, options, None, console)

    with pytest.raises(
        ValueError, match=rf"^--crop {crop}: the networks of the losses need HR crops of .*; try {enough}$"
    ):
        start(crop)
    start(enough)


def test_a_stage_starts_from_a_model_of_its_sizes_whatever_bounds_its_priors(tmp_path) -> None:
    flowkit_models.create(NAME, prior="exp").save(tmp_path / "earlier.safetensors")
    like = flowkit_models.create(NAME)
    assert initial_model(tmp_path / "earlier.safetensors", like, ("nll",), "plain", "float32").config.prior == "exp"
    larger = flowkit_models.create(NAME, hidden=32)
    with pytest.raises(ValueError, match="another model than this preset's"):
        initial_model(tmp_path / "earlier.safetensors", larger, ("nll",), "plain", "float32")


@pytest.mark.parametrize("option", ["--data", "--test", "--out", "--init"])
def test_an_empty_path_is_a_usage_error(option, capsys) -> None:
    for line in ([option, ""], [f"{option}="]):
        with pytest.raises(SystemExit) as stop:
            command_line(Options, {(): Options()}, (), line, None)
        assert stop.value.code == 2
        assert capsys.readouterr().err.startswith(f"error: {option}: its value is empty")


@pytest.fixture
def handlers():
    """After a stop, `run` leaves signals ignored: the process ends."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def wait_for(*numbers):
    """Work outside the loop, in which signals come."""
    for number in numbers:
        os.kill(os.getpid(), number)
        time.sleep(0.01)
    raise AssertionError("not stopped")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_outside_the_loop_is_one_line_and_a_code(handlers, number, code, tmp_path, capsys) -> None:
    def main():
        Options(out=tmp_path).folder()
        wait_for(number)

    with pytest.raises(Stopped) as stopped:
        run(main)
    assert stopped.value.code == code
    said = capsys.readouterr().err
    assert said == f"{number.name}: stopped; nothing is half-written, and --resume goes on with the run\n"
    assert not list(tmp_path.iterdir())
    os.kill(os.getpid(), signal.SIGINT)  # a second one changes nothing


def test_handlers_come_back_after_a_recipe(handlers) -> None:
    assert run(lambda: None) == 0
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_ctrl_c_twice_in_the_loop_is_a_code(handlers, capsys) -> None:
    def main():
        raise KeyboardInterrupt

    with pytest.raises(Stopped) as stopped:
        run(main)
    assert (stopped.value.code, "SIGINT: stopped at once" in capsys.readouterr().err) == (130, True)


def test_warnings_are_lines_and_come_once(monkeypatch, capsys) -> None:
    formatted = warnings.formatwarning

    def show(*about, **more):  # as Python does where no test collects warnings
        sys.stderr.write(warnings.formatwarning(*about[:4]))

    monkeypatch.setattr(warnings, "showwarning", show)

    def main():
        for text in ("skipped a.png:\ntruncated", "skipped b.png", "skipped a.png:\ntruncated"):
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn(text, stacklevel=1)

    assert run(main) == 0
    assert capsys.readouterr().err == "warning: skipped a.png: truncated\nwarning: skipped b.png\n"
    assert warnings.formatwarning is formatted


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_pipe_with_few_characters_gets_others_in_their_place(monkeypatch, encoding) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert run(lambda: print("τ ━ 雪")) == 0
    stream.seek(0)
    assert stream.read() == "? ? ?\n"


def test_a_folder_is_locked_until_the_recipe_ends(tmp_path) -> None:
    def main():
        Options(out=tmp_path).folder()
        assert (tmp_path / folder_lock.NAME).exists()

    assert run(main) == 0
    assert not (tmp_path / folder_lock.NAME).exists()
