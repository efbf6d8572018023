"""The command line itself: help, usage errors, checkpoints that can't be opened, packages that are missing."""

import dataclasses
import importlib
import os
import pickle
import subprocess
import sys

import pytest
import torch
from command_files import save, tree
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flowkit_models import cli as command
from flowkit_models.cli import options
from flowkit_models.cli.dispatch import SUBCOMMANDS


@pytest.mark.parametrize("name", ["upscale", "downscale", "restore", "encode", "decode"])
def test_help(name, flowkit):
    ran = flowkit("--help")
    assert ran.code == 0
    assert any(f"• {name}" in line for line in ran.out)
    ran = flowkit(name, "--help")
    assert ran.code == 0
    assert any("-m FILE, --model FILE" in line for line in ran.out)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["upsacle", "x.png"],
        ["upscale", "x.png", "--tiel", "3"],
        ["upscale", "x.png", "--tile", "large"],
        ["upscale", "x.png", "--tile", "-1"],
        ["upscale", "x.png", "--tile", "8"],
        ["upscale", "x.png", "--draws", "0"],
        ["upscale", "x.png", "--draws", "2", "--temperature", "0"],
        ["upscale", "x.png", "--temperature", "-1"],
        ["upscale", "x.png", "--temperature", "nan"],
        ["upscale", "x.png", "--seed", "-1"],
        ["upscale", "x.png", "--quality", "0"],
        ["upscale", "x.png", "--format", "bmp"],
        ["upscale", "x.png", "--precision", "fp8"],
        ["downscale", "x.png", "--tile", "3"],
        ["upscale"],
        ["encode"],
        ["decode"],
        ["upscale", "a.png", "b.png", "-o", "c.png"],
    ],
)
def test_usage_errors(arguments, flowkit, monkeypatch):
    monkeypatch.setattr("flowkit_models.cli.batch.read_photo", lambda _: pytest.fail("a picture was read"))
    ran = flowkit(*arguments)
    assert ran.code == 2
    assert ran.err
    assert ran.out == []


class Hostile:
    def __reduce__(self):
        return (os.mkdir, ("hostile_was_here",))


def nan(state):
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    return {**state, name: torch.full_like(state[name], float("nan"))}


CHECKPOINTS = {
    "missing.safetensors": lambda path, whole: None,
    "folder.safetensors": lambda path, whole: path.mkdir(),
    "empty.safetensors": lambda path, whole: path.write_bytes(b""),
    "empty.pth": lambda path, whole: path.write_bytes(b""),
    "text.pth": lambda path, whole: path.write_text("weights"),
    "picture.pth": lambda path, whole: save(path, format="PNG"),
    "cut.safetensors": lambda path, whole: path.write_bytes(whole.read_bytes()[:-100]),
    "cut_head.safetensors": lambda path, whole: path.write_bytes(whole.read_bytes()[:100]),
    "cut.pth": lambda path, whole: (torch.save(load_file(whole), path), path.write_bytes(path.read_bytes()[:-100])),
    "linear.pth": lambda path, whole: torch.save(torch.nn.Linear(3, 3).state_dict(), path),
    "linear.safetensors": lambda path, whole: save_file(torch.nn.Linear(3, 3).state_dict(), path),
    "code.pth": lambda path, whole: path.write_bytes(pickle.dumps(Hostile())),
    "code_in_zip.pth": lambda path, whole: torch.save({"a": torch.zeros(1), "b": Hostile()}, path),
    "nan.safetensors": lambda path, whole: save_file(nan(load_file(whole)), path, metadata(whole)),
    "family.safetensors": lambda path, whole: save_file(load_file(whole), path, {**metadata(whole), "model": "GAN"}),
    "future.safetensors": lambda path, whole: save_file(load_file(whole), path, {**metadata(whole), "flowkit": "99"}),
    "short.safetensors": lambda path, whole: save_file(dict(list(load_file(whole).items())[1:]), path, metadata(whole)),
}


def metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_that_is_none(name, tmp_path, flowkit, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    CHECKPOINTS[name](tmp_path / name, checkpoint())
    picture = save(tmp_path / "x.png")
    before = tree(tmp_path)
    monkeypatch.setattr(
        "flowkit_models.cli.batch.read_photo", lambda _: pytest.fail("a picture was read before the model")
    )
    ran = flowkit("upscale", "-m", tmp_path / name, picture)
    assert ran.code == 1
    assert len(ran.err) == 1, ran.err
    assert ran.err[0].startswith(f"flowkit: {tmp_path / name}: ")
    assert tree(tmp_path) == before


def test_no_weights_with_the_package(tmp_path, flowkit, monkeypatch):
    monkeypatch.setattr("flowkit_models.cli.model.SHIPPED", tmp_path / "none.safetensors")
    ran = flowkit("upscale", save(tmp_path / "x.png"))
    assert ran.code == 1
    assert ran.err == ["flowkit: no weights came with this package: name a checkpoint with -m"]


@pytest.mark.parametrize("device", ["cuda:77", "tpu", "quantum"])
def test_devices_that_are_not_there(device, tmp_path, upscale):
    ran = upscale("--device", device, save(tmp_path / "x.png"))
    assert ran.code == 1
    assert ran.err[0].startswith(f"flowkit: --device {device}: not on this machine; there is ")


def test_without_its_packages(capsys, monkeypatch, tmp_path, checkpoint):
    monkeypatch.setitem(sys.modules, "pyvips", None)
    assert command.main(["upscale", "-m", str(checkpoint()), str(save(tmp_path / "x.png"))]) == 1
    err = capsys.readouterr().err
    assert err == f'{tmp_path}/x.png: pictures need pyvips: pip install "flowkit-torch[cli]"\n'
    monkeypatch.delitem(sys.modules, "flowkit_models.cli.options")
    monkeypatch.delattr("flowkit_models.cli.options")
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert command.main(["--help"]) == 2
    assert capsys.readouterr().err == 'flowkit: the command needs tyro: pip install "flowkit-torch[cli]"\n'


def test_without_the_package_that_draws_bars(capsys, monkeypatch, checkpoint):
    monkeypatch.delitem(sys.modules, "flowkit_models.cli.info", raising=False)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert command.main(["info", str(checkpoint())]) == 2
    assert capsys.readouterr().err == 'flowkit: the command needs rich: pip install "flowkit-torch[cli]"\n'


def test_as_a_process_of_its_own(tmp_path, checkpoint):
    path = save(tmp_path / "x.png")
    run = [sys.executable, "-m", "flowkit_models.cli", "upscale", "-m", str(checkpoint()), str(path)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1 done, 0 skipped, 0 failed in ")


@pytest.mark.slow
def test_a_process_of_its_own_that_fails(tmp_path, checkpoint):
    path = save(tmp_path / "x.png")
    save(tmp_path / "x_x4.png")
    run = [sys.executable, "-m", "flowkit_models.cli", "upscale", "-m", str(checkpoint()), str(path)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_help_needs_no_torch():
    code = (
        "import sys; from flowkit_models.cli import main;"
        "assert main(['upscale', '--help']) == main(['prepare', '--help']) == 0;"
        "assert not {'torch', 'numpy', 'pyvips', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_each_subcommand_has_options_and_a_function():
    for kind, (module, function) in SUBCOMMANDS.items():
        assert dataclasses.is_dataclass(getattr(options, kind))
        assert callable(getattr(importlib.import_module(f"flowkit_models.cli.{module}"), function))
        assert module != function, "which of the two an import gives would depend on the order"
