"""The recipe, end to end at toy size through its stages, and what it says to bad input before any training starts."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import flowkit_models
from flowkit_models.images.image_file import read_image
from flowkit_models.models.bundled import folder as folder_of_weights
from flowkit_models.models.checkpoint_file import read_about
from flowkit_models.models.registry import default_temperature
from flowkit_models.training.run_folder import plain

RECIPE = Path(__file__).parents[2] / "recipes" / "hcflow_sr.py"
TOY = ("--steps", "2", "--batch", "2", "--crop", "32", "--draws", "2")


def test_end_to_end_on_own_photographs(train, folder, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    options = ["--data", str(folder), "--out", str(out), "--steps", "4", "--draws", "2", "--batch", "2", "--seed", "3"]
    with pytest.warns(UserWarning, match="skipped") as warned:
        assert train("hcflow_sr", *options, scored=True) == 0
    said = " ".join(str(w.message) for w in warned)
    assert all(name in said for name in ("small.png", "truncated.png", "text.jpg"))
    assert "photographs; 4 steps" in capsys.readouterr().out

    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["bicubic"].keys() >= {"psnr", "ssim"}
    assert metrics["tau_0"].keys() >= {"psnr", "ssim"}
    assert metrics["tau_0.1"].keys() >= {"psnr", "ssim", "diversity"}
    assert metrics["tau_0.1"]["diversity"] > 0
    assert metrics["roundtrip_max_error"] < 1e-4
    assert all(isinstance(metrics[key], float) for key in ("lr_psnr", "consistency", "bits_per_dim"))
    options = json.loads((out / "config.json").read_text())["options"]
    assert (options["steps"], options["seed"], options["preset"], options["stage"]) == (4, 3, "quick", "plus")
    assert metrics["protocol"]["options"]["steps"] == 4
    for name in ("best", "last"):
        model = flowkit_models.load(out / f"{name}.safetensors")
        assert model.upscale(torch.rand(1, 3, 5, 4)).shape == (1, 1, 3, 20, 16)
        assert default_temperature(model, model.notes) == 0.1  # what `flowkit upscale` draws with
    for name in ("samples", "curve"):
        assert min(read_image(out / f"{name}.png").shape[1:]) > 300


def test_same_seed_same_weights_and_resumed_is_uninterrupted(train, tmp_path) -> None:
    states = {}
    for name, steps in (("a", "3"), ("b", "2"), ("b", "3")):
        options = ["--out", str(tmp_path / name), *TOY, "--milestones", "2", "--resume"]
        assert train("hcflow_sr", *options, "--steps", steps) == 0
        states[name] = flowkit_models.load(tmp_path / name / "last.safetensors").state_dict()
    assert all(torch.equal(states["a"][key], states["b"][key]) for key in states["a"])


@pytest.fixture
def features(monkeypatch) -> None:
    """A small network in VGG's place: its weights are not part of the repository."""
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 4, 3).requires_grad_(False)
    network.label = "a convolution"
    monkeypatch.setattr("flowkit_models.metrics.features.VGGFeatures", lambda net, weights: network)


@pytest.mark.parametrize("official", [False, True])
def test_three_stages(official, train, features, tmp_path, capsys) -> None:
    steps = ["--official-steps"] if official else []
    small = ["--preset", "small-x4", *TOY, *steps]
    for stage in ("nll", "plus", "plusplus"):
        extra = ["--critic-first", "1", "--critic-features", "4"] if stage == "plusplus" else []
        assert train("hcflow_sr", *small, *extra, "--stage", stage, "--out", str(tmp_path / stage)) == 0
    rows = [json.loads(line) for line in (tmp_path / "plusplus" / "log.jsonl").read_text().splitlines()]
    first, second = (row for row in rows if row["kind"] == "train")
    assert "gan" not in first  # the discriminator alone
    assert {"nll", "pixel", "perceptual", "gan", "discriminator"} <= second.keys()
    assert "a convolution" in capsys.readouterr().out
    # each stage started from the last weights of the first one
    weights = {s: flowkit_models.load(tmp_path / s / "last.safetensors").state_dict() for s in ("nll", "plus")}
    name = "flow.levels.0.body.parts.2.weight"
    assert not torch.equal(weights["nll"][name], weights["plus"][name])
    assert torch.allclose(weights["nll"][name], weights["plus"][name], atol=0.05)


def test_what_a_stage_may_start_from(train, tmp_path) -> None:
    small = ["--preset", "small-x4", *TOY]
    out = ["--out", str(tmp_path / "plus")]
    assert "run --stage nll first" in train("hcflow_sr", *small, "--stage", "plus", *out)
    assert "starts from scratch" in train("hcflow_sr", *small, "--stage", "nll", "--init", "x.pth", *out)
    assert train("hcflow_sr", *small, "--stage", "plus", "--init", "scratch", *out) == 0
    own = ["--stage", "plus", "--init", str(tmp_path / "plus" / "last.safetensors"), "--out", str(tmp_path / "own")]
    assert train("hcflow_sr", *small, *own) == 0
    model = flowkit_models.create("hcflow_sr_x4_small")
    model.save(tmp_path / "later.safetensors", run=json.dumps({"options": {"stage": "plusplus"}}))
    later = ["--stage", "plus", "--init", str(tmp_path / "later.safetensors"), "--out", str(tmp_path / "again")]
    assert "trained in stage 'plusplus'; this one starts from nll or plus" in train("hcflow_sr", *small, *later)
    flowkit_models.create("hcflow_sr_x4_small", steps=1).save(tmp_path / "other.safetensors")
    other = ["--stage", "plus", "--init", str(tmp_path / "other.safetensors"), "--out", str(tmp_path / "again")]
    assert "another model than this preset's" in train("hcflow_sr", *small, *other)
    state = flowkit_models.create("irn_x4_small").official_state_dict()
    torch.save(state, tmp_path / "irn.pth")
    irn = ["--stage", "plus", "--init", str(tmp_path / "irn.pth"), "--out", str(tmp_path / "again")]
    assert "another model than this preset's" in train("hcflow_sr", *small, *irn)


def test_paper_preset_initialises_from_data_and_trains_by_likelihood(recipe, tmp_path, monkeypatch) -> None:
    module = recipe("hcflow_sr")
    monkeypatch.setitem(module.MODEL, "paper-x4", "hcflow_sr_x4_small")
    options = ["--preset", "paper-x4", *TOY, "--out", str(tmp_path), "--device", "cpu", "--no-tensorboard"]
    assert module.run(lambda: module.main(module.parse(options))) == 0
    buffers = flowkit_models.load(tmp_path / "last.safetensors").named_buffers()
    assert all(bool(flag) for name, flag in buffers if name.endswith("initialized"))
    assert "pixel" not in (tmp_path / "log.jsonl").read_text()


def test_paired_files(train, shared, tmp_path) -> None:
    """LR files instead of LR made from the crop."""
    sets = shared / "data" / "benchmarks" / "Set5"
    options = ["--paired", "--data", str(sets), "--out", str(tmp_path), *TOY]
    assert train("hcflow_sr", *options) == 0
    alone = shutil.copytree(sets / "HR", tmp_path / "alone")
    assert "holds HR files only" in train(
        "hcflow_sr", "--paired", "--data", str(alone), "--out", str(tmp_path / "b"), *TOY
    )
    assert "--paired needs --data" in train("hcflow_sr", "--paired", "--out", str(tmp_path / "b"), *TOY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "{tmp}/missing"], "missing"),
        (["--data", "{tmp}/empty"], "empty"),
        (["--data", "{tmp}/small"], "none of its images can be used"),
        (["--test", "{tmp}/empty"], "empty"),
        (["--out", "{tmp}/file/out"], "file"),
        (["--crop", "66"], "must be a multiple of scale 4"),
        (["--crop", "4000"], "do not fit into photos"),
        (["--steps", "0"], "steps"),
        (["--batch", "0"], "batch"),
        (["--preset", "small-x4", "--stage", "plusplus", "--init", "scratch", "--weights", "{tmp}"], "vgg16 weights"),
    ],
)
@pytest.mark.filterwarnings("ignore:skipped")
def test_bad_input_is_one_line_before_training(arguments, message, train, tmp_path, monkeypatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "small").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "small" / "a.png")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("flowkit_models.training.recipe.train", lambda *a, **k: pytest.fail("training started"))
    monkeypatch.setattr("flowkit_models.metrics.pretrained._URL", "file:///nowhere/")
    arguments = [a.format(tmp=tmp_path) for a in arguments]
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "out")]
    said = train("hcflow_sr", *arguments)
    assert isinstance(said, str)
    assert said.startswith("error: ")
    assert message in said
    assert "\n" not in said.strip()


def test_a_run_that_is_there_is_not_overwritten(train, tmp_path) -> None:
    options = ["--out", str(tmp_path), *TOY]
    assert train("hcflow_sr", *options) == 0
    assert "holds a run already" in train("hcflow_sr", *options)
    refused = train("hcflow_sr", *options, "--resume", "--lr", "1", "--official-steps")
    assert refused.endswith("another config: --lr was 0.001 and is 1.0; --official-steps was False and is True")
    assert train("hcflow_sr", *options, "--overwrite") == 0


def test_help_shows_every_option_with_its_default(recipe) -> None:
    wide = {**os.environ, "COLUMNS": "200"}
    result = subprocess.run([sys.executable, RECIPE, "--help"], capture_output=True, text=True, check=True, env=wide)
    for field in dataclasses.fields(recipe("hcflow_sr").Config):
        assert f"--{field.name.replace('_', '-')}" in result.stdout
    assert "default: 64" in result.stdout
    assert "pixels" in result.stdout


@pytest.mark.parametrize(
    ("name", "stage", "also"),
    [
        # its third run, from the second one's weights; --networks and --tensorboard change no law of the training
        ("hcflow_x4", "plus", {"init", "steps", "batch", "validate_every", "networks", "tensorboard"}),
        ("hcflow_x4_plusplus", "plusplus", {"init", "weights", "networks", "tensorboard"}),
    ],
)
def test_the_preset_is_what_the_shipped_weights_were_trained_with(recipe, name, stage, also) -> None:
    module = recipe("hcflow_sr")
    made = json.loads(read_about(folder_of_weights() / f"{name}.safetensors")["run"])["options"]
    stated = plain(dataclasses.asdict(module.PRESETS["shipped-x4", stage]))
    differing = {key for key in made.keys() | stated.keys() if made.get(key) != stated.get(key)}
    assert differing == {"data", "test", "source_weights", "out"} | also
