"""The weights that come with the package: what their files say, their lookup, and that they make pictures."""

import json
import shutil
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
import support
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open

import flowkit_models
from flowkit_models.data.image_pair import Pair, make_pairs
from flowkit_models.data.pairs import find_pairs, read_pair
from flowkit_models.data.sample_photos import test_photos as photographs
from flowkit_models.images.convert import luma, to_float, to_uint8
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.metrics.full_reference import psnr
from flowkit_models.models.bundled import SHIPPED, folder, list_bundled, rescaling_model
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


ALL = list(list_bundled())


def test_they_are_small() -> None:
    sizes = [file.stat().st_size for file in folder().glob("*.safetensors")]
    assert sizes
    assert max(sizes) <= 8e6
    assert sum(sizes) <= 24e6


@pytest.mark.parametrize("name", ALL)
def test_a_file_says_what_it_is(name) -> None:
    path = folder() / f"{name}.safetensors"
    about = read_about(path)
    assert 0 <= float(about["temperature"]) <= 1
    assert about["recipe"].startswith("python recipes/")
    assert about["license"] == "Apache-2.0"
    assert "CREDITS.md" in about["data"]
    assert all(about[key] for key in ("training", "scores", "use", "step"))
    assert json.loads(about["run"])["options"]["preset"]
    assert not any(f'"/{root}' in text for text in about.values() for root in ("home", "root", "tmp", "work", "mnt"))
    with safe_open(path, "pt") as file:
        assert "flowkit.config" in file.keys()  # noqa: SIM118
    scale = flowkit_models.load(name).scale
    assert str(list_bundled()[name]) == f"×{scale}, τ = {about['temperature']}: {about['use']}"


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """Tiny models in the place of those that come with the package, in an empty working directory."""
    (tmp_path / "bundled").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr("flowkit_models.models.bundled.folder", lambda: tmp_path / "bundled")
    monkeypatch.chdir(tmp_path / "here")
    support.bundle(tmp_path / "bundled", sr_x4="hcflow_sr_x4_small", other_x4="irn_x4", other_x2="irn_x2")
    return tmp_path / "bundled"


def test_a_bare_name_is_looked_up_where_no_file_is_called_so(bundled, tmp_path) -> None:
    assert list(list_bundled()) == ["other_x2", "other_x4", "sr_x4"]
    assert str(list_bundled()["sr_x4"]) == "×4, τ = 0.3: tests"
    assert type(flowkit_models.load("sr_x4")).__name__ == "HCFlow"
    assert type(flowkit_models.load(Path("other_x2"))).__name__ == "IRN"
    shutil.copy(bundled / "other_x4.safetensors", "sr_x4")
    assert type(flowkit_models.load("sr_x4")).__name__ == "IRN"


@pytest.mark.parametrize("name", ["sr_x5", "none/sr_x4", "sr_x4.safetensors", "sr_x4.v2", "../bundled/sr_x4", "sr_x4/"])
def test_only_a_bare_name_is_looked_up(name, bundled) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        flowkit_models.load(name)
    lists = "these are other_x2, other_x4, sr_x4" in str(raised.value)
    assert lists == (name == "sr_x5")
    assert "\n" not in str(raised.value)


def test_the_default_for_rescaling(bundled) -> None:
    assert rescaling_model(4).stem == "other_x4"
    assert rescaling_model(2).stem == "other_x2"
    with pytest.raises(FileNotFoundError, match=r"^no ×3 model comes with this package: name a checkpoint with -m$"):
        rescaling_model(3)
    (bundled / "other_x4.safetensors").unlink()
    assert rescaling_model(4).stem == "sr_x4"  # which makes LR images too
    for file in bundled.iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match="no ×4 model"):
        rescaling_model(4)


def test_the_first_of_them(model) -> None:
    about = read_about(SHIPPED)
    assert folder() / "hcflow_x4.safetensors" == SHIPPED
    assert about["recipe"].startswith("python recipes/hcflow_sr.py --preset shipped-x4")
    assert json.loads(about["run"])["options"]["preset"] == "shipped-x4"


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


def unlike_photographs(size: int) -> dict[str, torch.Tensor]:
    """LR images (1, 3, size, size): noise, 1-bit noise, a checkerboard, pure red dots, black, white, text."""
    noise = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    board = ((torch.arange(size)[:, None] + torch.arange(size)) % 2).float().expand(1, 3, size, size)
    red = noise.round() * torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    page = Image.new("RGB", (size, size), "white")
    ImageDraw.Draw(page).multiline_text((0, 0), "Sphinx of\nblack\nquartz,\njudge", "black")
    text = torch.from_numpy(np.array(page)).movedim(-1, 0)[None] / 255
    names = ("noise", "bits", "board", "red", "black", "white", "text")
    images = (noise, noise.round(), board, red, torch.zeros_like(noise), torch.ones_like(noise), text)
    return dict(zip(names, images, strict=True))


@pytest.mark.parametrize("size", [24, pytest.param(48, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [name for name, model in list_bundled().items() if model.purpose == "sr"])
def test_samples_are_pictures_on_images_unlike_photographs(name, size) -> None:
    """A learned deviation acts exponentially: where it runs away, so does the image, at τ = 0 as well (∞ · 0)."""
    model = flowkit_models.load(name)
    likely = max(list_bundled()[name].temperature, 0.2)
    generator = torch.Generator().manual_seed(0)
    for what, lr in unlike_photographs(size).items():
        with torch.no_grad():
            mode, *samples = (
                model.decode(lr, tuple(tau * z for z in model.draw(lr, generator))) for tau in (0.0, likely, 0.5, 1.0)
            )
        assert all(image.isfinite().all() for image in (mode, *samples)), what
        far = [float((image.clamp(0, 1) - mode.clamp(0, 1)).abs().mean()) for image in samples]
        assert far[0] < 0.1, f"{what}: {far[0]:.3f} of the range from τ = 0"
        assert far[-1] < 0.5, f"{what}: {far[-1]:.3f} of the range from τ = 0"


@pytest.mark.parametrize("size", [24, pytest.param(48, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [name for name, model in list_bundled().items() if model.purpose == "rescaling"])
def test_round_trips_are_pictures_on_images_unlike_photographs(name, size) -> None:
    model, recommended = flowkit_models.load(name), list_bundled()[name].temperature
    generator = torch.Generator().manual_seed(0)
    for what, lr in unlike_photographs(size).items():
        with torch.no_grad():
            hr = bicubic_resize(lr, model.scale).clamp(0, 1)
            small = model.downscale(hr)
            again = [model.upscale(small, 1, tau, generator)[0] for tau in (recommended, 0.0, 1.0)]
        assert all(image.isfinite().all() for image in (small, *again)), what
        assert float((again[0] - hr).abs().mean()) < 0.2, what
        if what in ("black", "white", "text"):  # of noise and dots, what bicubic makes is no measure
            assert float((small - lr).abs().mean()) < 0.1, what


def test_the_wheel_carries_them() -> None:
    """Hatch packs what lies in the packages that are listed, but for what git ignores and what is excluded."""
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("an installed package: there is no pyproject.toml beside it")
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert folder().relative_to(ROOT).parts[0] in build["targets"]["wheel"]["packages"]
    assert not any("exclude" in part for part in (build, *build["targets"].values()))
    for file in folder().iterdir():
        assert subprocess.run(["git", "check-ignore", "-q", str(file)], cwd=ROOT, check=False).returncode != 0
