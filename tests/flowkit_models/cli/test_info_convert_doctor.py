"""The commands info, convert and doctor, as a command line calls them."""

import json
import math
import os

import pytest
import torch
import tyro

import flowkit_models
from flowkit_models.cli import main
from flowkit_models.cli.dispatch import function_of
from flowkit_models.cli.options import Convert, Doctor, Info
from flowkit_models.images.image_file import write_image
from flowkit_models.models.checkpoint_file import read_about
from flowkit_models.models.factory import read_weights

SIZES = {"steps": 1, "conditional_steps": 1, "blocks": ((0, 0), (0, 0)), "features": 4, "growth": 4, "hidden": 4}


def tiny_flow():
    torch.manual_seed(0)
    return flowkit_models.create("hcflow_sr_x4_small", **SIZES, conditional_hidden=4)


def call(command, *arguments):
    options = tyro.cli(command, args=[str(argument) for argument in arguments])
    return function_of(options)(options)


def convert(*arguments):
    return call(Convert, *arguments)


def as_json(capsys, command, *arguments):
    code = call(command, *arguments, "--json")
    return code, json.loads(capsys.readouterr().out)


def moved(model):
    """No weight is zero by accident."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return model


@pytest.fixture
def published(tmp_path):
    """A small SRFlow under the published names, whose taps nobody can know, and the model."""
    torch.manual_seed(0)
    model = moved(flowkit_models.create("srflow_x4_small", transitions=2, unused=True))
    torch.save({"model": model.official_state_dict()}, tmp_path / "small.pth")
    return tmp_path / "small.pth", model


def test_from_published_names_and_back(published, tmp_path, capsys) -> None:
    path, model = published
    with pytest.raises(ValueError, match="name their indices"):
        convert(path, tmp_path / "ours.safetensors")
    assert not (tmp_path / "ours.safetensors").exists()
    assert convert(path, tmp_path / "ours.safetensors", "--taps", 0, 2, "--quant", 256) == 0
    assert "bit for bit" in capsys.readouterr().out
    ours = flowkit_models.load(tmp_path / "ours.safetensors")
    assert (ours.config.taps, ours.config.quant) == ((0, 2), 256)
    assert convert(tmp_path / "ours.safetensors", tmp_path / "again.pth") == 0
    assert "taps=(0, 2)" in capsys.readouterr().out
    assert not list(tmp_path.glob(".*"))
    state = model.official_state_dict()
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert list(again) == list(state)
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_the_notes_of_training_are_kept(tmp_path) -> None:
    tiny_flow().save(tmp_path / "a.safetensors", step="7", run="{}")
    assert convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors") == 0
    assert read_about(tmp_path / "b.safetensors") == read_about(tmp_path / "a.safetensors")


def test_nothing_is_overwritten_unasked(tmp_path) -> None:
    tiny_flow().save(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_text("precious")
    with pytest.raises(FileExistsError, match="--overwrite"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_text() == "precious"
    assert convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--overwrite") == 0
    assert read_weights(tmp_path / "b.safetensors")[1]["model"] == "HCFlow"


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_a_full_disk_names_the_target(tmp_path, ending) -> None:
    resource = pytest.importorskip("resource")
    flowkit_models.create("irn_x2", blocks=(1,), growth=16).save(tmp_path / "a.safetensors")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match=f"b{ending}"):
            convert(tmp_path / "a.safetensors", tmp_path / f"b{ending}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_longest_name_that_a_folder_takes(tmp_path) -> None:
    flowkit_models.create("hcflow_sr_x4_small").save(tmp_path / "a.safetensors")
    name = "n" * (os.pathconf(tmp_path, "PC_NAME_MAX") - len(".safetensors"))
    assert main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / f"{name}.safetensors")]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.safetensors", f"{name}.safetensors"]


def test_a_target_that_makes_no_sense(tmp_path) -> None:
    tiny_flow().save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="says the format"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.ckpt")
    with pytest.raises(FileNotFoundError, match="no folder"):
        convert(tmp_path / "a.safetensors", tmp_path / "none" / "b.pth")
    with pytest.raises(
        ValueError, match=r"a\.safetensors: .*official network has"
    ):  # Haar levels in an SR model are ours alone
        convert(tmp_path / "a.safetensors", tmp_path / "b.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_copy_that_differs_gets_no_name(tmp_path, monkeypatch) -> None:
    tiny_flow().save(tmp_path / "a.safetensors")
    save = flowkit_models.ImageFlow.save

    def careless(model, path, **about):
        model.flow.levels[0].body.parts[1].bias.data[0] = -0.0
        save(model, path, **about)
        model.flow.levels[0].body.parts[1].bias.data[0] = 0.0

    monkeypatch.setattr(flowkit_models.ImageFlow, "save", careless)
    with pytest.raises(ValueError, match=r"would differ .*levels.0.body.parts.1.bias"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_info_of_ours(tmp_path, capsys) -> None:
    model = tiny_flow()
    path = tmp_path / "last.safetensors"
    options = {"preset": "small", "betas": [0.9, 0.99], "data": None, "name": "[bold]"}
    model.save(path, step="7", run=json.dumps({"options": options, "sizes": {}}), temperature="0.8")
    code, told = as_json(capsys, Info, path, "--size", 6, 4)
    assert code == 0
    assert (told["family"], told["scale"], told["purpose"]) == ("HCFlow", 4, "super-resolution")
    assert told["file"] == {
        "path": str(path),
        "format": "flowkit",
        "bytes": path.stat().st_size,
        "tensors": len(model.state_dict()),
        "dtypes": ["float32"],
    }
    assert told["parameters_total"] == sum(p.numel() for p in model.parameters())
    assert told["latents"] == [list(shape) for shape in model.latent_shapes(6, 4)]
    assert told["training"] == {"step": 7, "temperature": 0.8, "run": {"options": options}}
    assert told["config"]["squeeze"] == "haar"
    assert "layers" not in told
    assert call(Info, path, "--layers") == 0
    table = capsys.readouterr().out
    for words in ("HCFlow ×4", "one draw", "levels.0.body.parts.0", "options.preset", "[0.9, 0.99]", "[bold]"):
        assert words in table
    assert "options.data" not in table


def test_info_of_a_published_one(published, capsys) -> None:
    path = published[0]
    code, told = as_json(capsys, Info, path, "--taps", 0, 2, "--layers")
    assert code == 0
    assert told["file"]["format"] == "published"
    assert told["training"] == {}
    assert told["config"]["taps"] == [0, 2]
    assert told["further_draw"]["per_hr_pixel"] < told["draw"]["per_hr_pixel"]
    assert told["layers"][-1].split()[:2] == ["total", "Hierarchy"]


def test_the_doctor_s_exit_code(tmp_path, capsys) -> None:
    path = tmp_path / "a.safetensors"
    model = moved(flowkit_models.create("irn_x4_small", blocks=(1, 1), growth=4))
    model.save(path)
    torch.manual_seed(0)
    write_image(tmp_path / "a.png", torch.rand(3, 21, 30))
    code, told = as_json(capsys, Doctor, path, tmp_path / "a.png")
    assert (code, told["verdict"]) == (0, "ok")
    assert len(told["layers"]) == 6
    assert told["latents"][0]["shape"] == [45, 5, 7]
    assert call(Doctor, path, "--noise", "--crop", 16) == 0
    text = capsys.readouterr().out
    assert "levels.0.body.parts.5" in text
    assert "ok   round trip:" in text
    model.flow.levels[0].body.parts[1].net.last.bias.data[0] = 1e30
    model.save(path)
    code, told = as_json(capsys, Doctor, path, "--noise")
    assert (code, told["verdict"]) == (1, "bad")


def test_the_doctor_opens_what_load_refuses(tmp_path, capsys) -> None:
    model = tiny_flow()
    model.flow.levels[1].body.parts[2].weight.data[0, 0] = math.nan
    model.save(tmp_path / "a.safetensors")
    assert call(Doctor, tmp_path / "a.safetensors") == 1
    text = capsys.readouterr().out
    assert text.startswith("bad  weights: not finite: flow.levels.1.body.parts.2.weight\n      → go back")


def test_the_doctor_s_crop(tmp_path) -> None:
    tiny_flow().save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="--crop 3: this model takes multiples of 4"):
        call(Doctor, tmp_path / "a.safetensors", "--crop", 3)
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        call(Doctor, tmp_path / "b.safetensors")


def test_a_source_is_never_the_target(tmp_path) -> None:
    tiny_flow().save(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").symlink_to(tmp_path / "a.safetensors")
    for target in ("a.safetensors", "b.safetensors"):
        with pytest.raises(ValueError, match=f"{target}: is the source itself"):
            convert(tmp_path / "a.safetensors", tmp_path / target, "--overwrite")
