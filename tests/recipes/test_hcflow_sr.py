"""The recipe, end to end at toy size, and what it says to bad input before any training starts."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import flowkit_models
from flowkit_models.images import read_image

RECIPE = Path(__file__).parents[2] / "recipes" / "hcflow_sr.py"


@pytest.fixture
def recipe(monkeypatch):
    """The recipe as a module, with small test photographs."""
    spec = importlib.util.spec_from_file_location("hcflow_sr", RECIPE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "hcflow_sr", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    photos = {name: x[:, 100:164, 100:180] for name, x in module.test_photos().items()}
    monkeypatch.setattr(module, "test_photos", lambda: photos)
    return module


@pytest.fixture
def folder(tmp_path) -> Path:
    """A user's folder: colour, gray, RGBA, small, truncated, and not an image."""
    data = tmp_path / "photos"
    data.mkdir()
    noise = torch.randint(256, (70, 90, 4), dtype=torch.uint8).numpy()
    Image.fromarray(noise[..., :3]).save(data / "colour.png")
    Image.fromarray(noise[..., 0]).save(data / "gray.png")
    Image.fromarray(noise).save(data / "alpha.png")
    Image.fromarray(noise[:20, :20, :3]).save(data / "small.png")
    content = (data / "colour.png").read_bytes()
    (data / "truncated.png").write_bytes(content[: len(content) // 2])
    (data / "text.jpg").write_text("no image")
    return data


def test_end_to_end_on_own_photographs(recipe, folder, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    arguments = [
        "--data",
        str(folder),
        "--out",
        str(out),
        "--steps",
        "4",
        "--draws",
        "2",
        "--batch",
        "2",
        "--seed",
        "3",
    ]
    with pytest.warns(UserWarning, match="skipped") as warned:
        assert recipe.run(arguments) == 0
    said = " ".join(str(w.message) for w in warned)
    assert all(name in said for name in ("small.png", "truncated.png", "text.jpg"))
    assert "3 photographs; 4 steps" in capsys.readouterr().out

    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["bicubic"].keys() >= {"psnr", "ssim"}
    assert metrics["tau_0"].keys() >= {"psnr", "ssim"}
    assert metrics["tau_0.8"].keys() >= {"psnr", "ssim", "diversity"}
    assert metrics["tau_0.8"]["diversity"] > 0
    assert metrics["roundtrip_max_error"] < 1e-4
    assert all(isinstance(metrics[key], float) for key in ("lr_psnr", "consistency", "bits_per_dim"))
    assert metrics["protocol"]["steps"] == 4

    config = json.loads((out / "config.json").read_text())
    assert (config["steps"], config["seed"], config["lr"]) == (4, 3, recipe.PRESETS["small"].lr)
    for name in ("best", "last"):
        model = flowkit_models.load(out / f"{name}.safetensors")
        assert model.upscale(torch.rand(1, 3, 5, 4)).shape == (1, 1, 3, 20, 16)
    for name in ("samples", "curve"):
        assert min(read_image(out / f"{name}.png").shape[1:]) > 300


def test_same_seed_same_weights(recipe, folder, tmp_path) -> None:
    states = []
    for name in ("a", "b"):
        with pytest.warns(UserWarning, match="skipped"):
            recipe.run(["--data", str(folder), "--out", str(tmp_path / name), "--steps", "2", "--draws", "1"])
        states.append(flowkit_models.load(tmp_path / name / "last.safetensors").state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_paper_preset_is_the_published_setting(recipe) -> None:
    config = recipe.parse(["--preset", "paper", "--steps", "10"])
    assert (config.steps, config.batch, config.crop, config.lr) == (10, 16, 160, 2.5e-4)
    assert (config.nll_weight, config.pixel_weight) == (1.0, 0.0)


def test_paper_preset_initialises_from_data_and_trains_by_likelihood(recipe, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(recipe.MODEL, "paper", "hcflow_sr_x4_small")
    arguments = ["--preset", "paper", "--device", "cpu", "--steps", "2", "--batch", "2", "--crop", "32", "--draws", "1"]
    assert recipe.run([*arguments, "--out", str(tmp_path)]) == 0
    buffers = flowkit_models.load(tmp_path / "last.safetensors").named_buffers()
    assert all(bool(flag) for name, flag in buffers if name.endswith("initialized"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "{tmp}/missing"], "missing"),
        (["--data", "{tmp}/empty"], "empty"),
        (["--data", "{tmp}/small"], "none of its images can be used"),
        (["--out", "{tmp}/file/out"], "file"),
        (["--crop", "66"], "must be a multiple of scale 4"),
        (["--crop", "4000"], "do not fit into photos"),
        (["--steps", "0"], "steps"),
        (["--batch", "0"], "batch"),
        (["--device", "cuda:99"], "cuda"),
    ],
)
@pytest.mark.filterwarnings("ignore:skipped")
def test_bad_input_is_one_line_before_training(arguments, message, recipe, tmp_path, monkeypatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "small").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "small" / "a.png")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(recipe, "train", lambda *a, **k: pytest.fail("training started"))
    arguments = [a.format(tmp=tmp_path) for a in arguments]
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "out")]
    said = recipe.run(arguments)
    assert isinstance(said, str)
    assert said.startswith("error: ")
    assert message in said
    assert "\n" not in said.strip()


def test_help_shows_every_option_with_its_default() -> None:
    wide = {**os.environ, "COLUMNS": "200"}
    result = subprocess.run([sys.executable, RECIPE, "--help"], capture_output=True, text=True, check=True, env=wide)
    for option in (
        "--preset",
        "--data",
        "--out",
        "--steps",
        "--batch",
        "--crop",
        "--lr",
        "--seed",
        "--device",
    ):
        assert option in result.stdout
    assert "default: 64" in result.stdout
    assert "pixels" in result.stdout


def test_unknown_option_is_an_error() -> None:
    result = subprocess.run([sys.executable, RECIPE, "--step", "3"], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "--step" in result.stderr
