"""`flowkit export`, as a command line calls it."""

import subprocess
import sys
from pathlib import Path

import pages
import pytest
import torch

import flowkit_models
from flowkit_models.cli import main
from flowkit_models.cli.dispatch import SUBCOMMANDS
from flowkit_models.data import sample_photos
from flowkit_models.images.image_file import read_image, write_image

TINY = {"steps": 1, "conditional_steps": 1, "blocks": ((0, 0), (0, 0)), "features": 4, "hidden": 4, "growth": 4}


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    flowkit_models.create("hcflow_sr_x4_small", **TINY, conditional_hidden=4).save(tmp_path / "tiny.safetensors")
    return "tiny.safetensors"


class Exported:
    """Stands for a program, which takes long to make: off by a thousandth."""

    def __init__(self, model, temperature, half) -> None:
        self.model = model

    def module(self):
        return lambda lr: self.model.upscale(lr, temperature=0)[0] + 1e-3


def test_what_is_written_is_tried(checkpoint, capsys, monkeypatch) -> None:
    assert "Export" in SUBCOMMANDS
    monkeypatch.setattr("flowkit_models.cli.export.program_of", Exported)
    monkeypatch.setattr("flowkit_models.cli.export.write", lambda program, path, to: path.write_text(to))
    assert main(["export", checkpoint, "--to", "pt2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("tiny.pt2: torch.export, ")
    assert "HCFlow ×4 of lr; the program is within 1e-03" in said

    assert main(["export", checkpoint, "--to", "pt2"]) == 1
    assert "tiny.pt2: is there already; --overwrite replaces it" in capsys.readouterr().err


@pytest.mark.slow
def test_a_program_is_written_and_runs(checkpoint, capsys) -> None:
    assert main(["export", checkpoint, "--to", "pt2"]) == 0
    assert "HCFlow ×4 of lr; the program is within" in capsys.readouterr().out
    lr = torch.rand(1, 3, 5, 8)
    expected = flowkit_models.load(checkpoint).upscale(lr, temperature=0)[0]
    torch.testing.assert_close(torch.export.load("tiny.pt2").module()(lr), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.docs
def test_the_pages_script_runs_it_where_there_is_no_flowkit(checkpoint) -> None:
    """What it writes is what `flowkit upscale` writes, within a grey level, though its tiles are cut otherwise."""
    (script,) = (b.code for b in pages.blocks(pages.ROOT / "docs/command.md") if "python enlarge.py" in b.code)
    without = "import sys\nfor name in ('flowkit', 'flowkit_models', 'torch'):\n    sys.modules[name] = None\n"
    Path("enlarge.py").write_text(without + script)
    write_image("photo.png", sample_photos.test_photos()["chelsea"][:, :80, :230])
    assert main(["export", checkpoint]) == 0
    subprocess.run([sys.executable, "enlarge.py", "tiny.onnx", "photo.png", "large.png"], check=True)
    assert main(["upscale", "photo.png", "-m", checkpoint, "--temperature", "0", "--device", "cpu"]) == 0
    made, expected = (read_image(name).int() for name in ("large.png", "photo_x4.png"))
    assert made.shape == expected.shape == (3, 320, 920)
    assert (made - expected).abs().max() <= 1


def test_a_missing_package_is_named_before_the_work(checkpoint, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr("flowkit_models.cli.export.program_of", None)
    assert main(["export", checkpoint]) == 1
    assert 'ONNX files need onnx: pip install "flowkit-torch[export]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "nowhere/tiny.onnx"], "nowhere/tiny.onnx: there is no folder nowhere"),
        (["-o", "tiny.safetensors", "--overwrite"], "is the checkpoint itself"),
        (["--temperature", "-1"], "temperature must be at least 0"),
        (["-o", "tiny.pt2"], "tiny.pt2: ends like a program of torch.export, and would be ONNX: add --to pt2"),
        (
            ["-o", "TINY.ONNX", "--to", "pt2"],
            "TINY.ONNX: ends like ONNX, and would be a program of torch.export: add --to onnx",
        ),
    ],
)
def test_what_makes_no_sense_is_one_line(checkpoint, arguments, said, capsys) -> None:
    assert main(["export", checkpoint, *arguments]) == 1
    assert said in capsys.readouterr().err
