"""What the tests of the recipes share: recipes as modules, small photographs, a user's folder."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from flowkit_models.data.sample_photos import test_photos as photographs

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def recipe(monkeypatch):
    """Opens a recipe as a module, with small test photographs and without TensorBoard's slow import."""
    photos = {name: x[:, 100:164, 100:180] for name, x in photographs().items()}
    monkeypatch.setattr("flowkit_models.training.options.test_photos", lambda: photos)
    monkeypatch.setattr("flowkit_models.training.report.CALIBRATION", 4)  # photographs, each some seconds

    def opened(name: str):
        spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return opened


@pytest.fixture
def train(recipe, monkeypatch):
    """Runs a recipe with options as a command line gives them; returns what its exit says.

    Unless `scored`, it ends after training, without its table and pictures.
    """

    def run(name: str, *options: str, scored: bool = False):
        module = recipe(name)
        if not scored:
            finish = "finish_sr" if hasattr(module, "finish_sr") else "finish_rescaling"
            monkeypatch.setattr(module, finish, lambda *a, **_: None)
            for validation in ("HeldOut", "HeldOutPrior", "HeldOutRescaling"):
                monkeypatch.setattr(
                    f"flowkit_models.training.validation.{validation}.__call__", lambda *a: {"score": 0.0}
                )
        return module.run(lambda: module.main(module.parse([*options, "--device", "cpu", "--no-tensorboard"])))

    return run


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
