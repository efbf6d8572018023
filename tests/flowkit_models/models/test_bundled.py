"""The weights that come with the package: what the file says of itself, and that they beat bicubic."""

import json
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import flowkit_models
from flowkit_models.data.image_pair import Pair, make_pairs
from flowkit_models.data.pairs import find_pairs, read_pair
from flowkit_models.data.sample_photos import test_photos as photographs
from flowkit_models.images.convert import luma, to_float, to_uint8
from flowkit_models.metrics.full_reference import psnr
from flowkit_models.models.bundled import SHIPPED
from flowkit_models.models.checkpoint_file import read_about

ROOT = Path(flowkit_models.__file__).parents[1]


@pytest.fixture(scope="module")
def model() -> flowkit_models.ImageFlow:
    return flowkit_models.load(SHIPPED)


def gains(model, pairs: dict[str, Pair]) -> list[float]:
    """By how many dB (Y) each image, upscaled at the recommended τ, is nearer to HR than the bicubic one."""
    temperature = float(read_about(SHIPPED)["temperature"])
    generator = torch.Generator().manual_seed(0)
    found = []
    for pair in pairs.values():
        with torch.no_grad():
            image = to_uint8(model.upscale(to_float(pair.lr), 1, temperature, generator)[0])
        ours, bicubic = (psnr(luma(x), luma(pair.hr), 4).item() for x in (image, pair.bicubic))
        found.append(ours - bicubic)
    return found


def test_the_file_says_what_it_is(model) -> None:
    about = read_about(SHIPPED)
    assert SHIPPED.stat().st_size < 4 << 20
    assert 0 <= float(about["temperature"]) <= 1
    assert about["recipe"].startswith("python recipes/hcflow_sr.py --preset shipped-x4")
    assert all(about[key] for key in ("training", "scores", "data"))
    assert json.loads(about["run"])["options"]["preset"] == "shipped-x4"


def test_the_file_holds_its_config_as_a_tensor_too() -> None:
    with safe_open(SHIPPED, "pt") as file:
        assert "flowkit.config" in file.keys()  # noqa: SIM118


def test_its_sizes_are_those_of_the_preset(model) -> None:
    assert model.config == flowkit_models.create("hcflow_shipped_x4").config


def test_it_beats_bicubic_on_photographs_it_never_saw(model) -> None:
    found = gains(model, make_pairs(photographs(), 4))
    assert min(found) > 0.7
    assert sum(found) / len(found) > 1.4


def test_it_beats_bicubic_on_set5(model, shared) -> None:
    found = gains(model, {f.name: Pair.of(*read_pair(f, 4)) for f in find_pairs(shared / "data/benchmarks/Set5", 4)})
    assert len(found) == 5
    assert min(found) > 1.0
    assert sum(found) / 5 > 2.6


@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0])
def test_its_samples_are_pictures_on_images_unlike_photographs(model, temperature) -> None:
    """A learned deviation acts exponentially: where it runs away, so does the image, at τ = 0 as well (∞ · 0)."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, 48, 48, generator=generator)
    board = ((torch.arange(48)[:, None] + torch.arange(48)) % 2).float().expand(1, 3, 48, 48)
    red = noise.round() * torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    for lr in (noise, noise.round(), board, red, torch.zeros_like(noise), torch.ones_like(noise)):
        with torch.no_grad():
            image = model.upscale(lr, 1, temperature, generator)
            mode = model.upscale(lr, temperature=0.0)
        assert image.isfinite().all()
        assert float((image - mode).abs().mean()) < 0.1 * max(temperature / 0.2, 1)


def test_the_wheel_carries_it() -> None:
    """Hatch packs what lies in the packages that are listed, but for what git ignores and what is excluded."""
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("an installed package: there is no pyproject.toml beside it")
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert SHIPPED.relative_to(ROOT).parts[0] in build["targets"]["wheel"]["packages"]
    assert not any("exclude" in part for part in (build, *build["targets"].values()))
    ignored = subprocess.run(["git", "check-ignore", "-q", str(SHIPPED)], cwd=ROOT, check=False).returncode
    assert ignored != 0
