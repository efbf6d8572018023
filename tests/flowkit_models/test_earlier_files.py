"""Files written before checkpoints held their config as a tensor and as a purpose: they open as they did.

tests/data/before_config_tensor was written by commit 7a87c67: checkpoints of tiny models, what they made of an LR image
at τ = 0, latents of a photograph (`flowkit encode`), and an LR image (`flowkit downscale`).
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import flowkit_models
from flowkit_models.cli import main
from flowkit_models.cli.model import checksum, open_model
from flowkit_models.cli.options import Upscale
from flowkit_models.images import photo_file
from flowkit_models.images.provenance import made_by
from flowkit_models.spandrel import Loader

EARLIER = Path(__file__).parents[1] / "data" / "before_config_tensor"
PURPOSE = {"hcflow_sr": "sr", "hcflow_rescale": "rescaling", "srflow": "sr", "irn": "rescaling"}


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@torch.no_grad()
@pytest.mark.parametrize("name", PURPOSE)
def test_checkpoints(name) -> None:
    path = EARLIER / f"{name}.safetensors"
    assert "flowkit.config" not in load_file(path)
    model, expected = flowkit_models.load(path), load_file(EARLIER / "upscaled.safetensors")
    assert model.config.purpose == PURPOSE[name]
    assert float((model.upscale(expected["lr"], temperature=0.0)[0] - expected[name]).abs().max()) < 1e-6
    found = Loader(temperature=0.0).load_from_file(path)
    assert float((found(expected["lr"]) - expected[name]).abs().max()) < 1e-6


@pytest.mark.parametrize("name", PURPOSE)
def test_convert_adds_the_config_and_nothing_else(name, tmp_path, capfd) -> None:
    source, target = EARLIER / f"{name}.safetensors", tmp_path / "new.safetensors"
    assert main(["convert", str(source), str(target)]) == 0
    before, after = load_file(source), load_file(target)
    assert set(after) - set(before) == {"flowkit.config"}
    weights = [key for key in before if not key.endswith(".initialized")]  # a flag that loading sets
    assert all(torch.equal(after[key], before[key]) for key in weights)
    assert checksum(flowkit_models.load(target)) == checksum(flowkit_models.load(source))
    with safe_open(source, "pt") as old, safe_open(target, "pt") as new:
        assert old.metadata().get("temperature") == new.metadata().get("temperature")


@pytest.mark.parametrize("name", ["hcflow_sr", "srflow"])
@pytest.mark.parametrize("saved_anew", [False, True])
def test_latents(name, saved_anew, tmp_path, capfd) -> None:
    model = EARLIER / f"{name}.safetensors"
    if saved_anew:
        flowkit_models.load(model).save(tmp_path / "model.safetensors")
        model = tmp_path / "model.safetensors"
    latents = shutil.copy(EARLIER / f"{name}_latents.safetensors", tmp_path / "latents.safetensors")
    assert main(["decode", "-m", str(model), str(latents), "-o", str(tmp_path / "photo.png")]) == 0
    assert np.array_equal(pixels(tmp_path / "photo.png"), pixels(EARLIER / "photo.png"))


def test_the_lr_image_still_names_its_model(tmp_path, capfd) -> None:
    opened = open_model(Upscale(files=[], model=EARLIER / "irn.safetensors", device="cpu"))
    assert opened.rescales
    assert made_by(photo_file.read_photo(EARLIER / "irn_lr.png").header) == opened.checksum
    assert (
        main(
            [
                "downscale",
                "-m",
                str(EARLIER / "irn.safetensors"),
                str(EARLIER / "photo.png"),
                "-o",
                str(tmp_path / "lr.png"),
            ]
        )
        == 0
    )
    assert np.array_equal(pixels(tmp_path / "lr.png"), pixels(EARLIER / "irn_lr.png"))
