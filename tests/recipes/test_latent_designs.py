"""The comparison of the designs, end to end at toy size: alike but for two arguments, resumable design by design."""

import dataclasses
import json

import pytest
from PIL import Image

import flowkit_models
from flowkit_models.data.sample_photos import test_photos as photographs
from flowkit_models.images.image_file import read_image

TINY = ("--steps", "2", "--batch", "2", "--crop", "16", "--draws", "2", "--taus", "0.5")
HERE = ("--device", "cpu", "--no-tensorboard")


@pytest.fixture
def comparison(recipe, monkeypatch):
    """The recipe as a module, with one small test photograph."""
    module = recipe("latent_designs")
    photos = {"coffee": photographs()["coffee"][:, 200:240, 100:164]}
    monkeypatch.setattr("flowkit_models.training.options.test_photos", lambda: photos)
    return module


@pytest.fixture
def start(comparison, tmp_path):
    """Runs the recipe on a piece of a photograph, with options as a command line gives them."""
    data = tmp_path / "photos"
    data.mkdir()
    piece = photographs()["chelsea"][:, 50:150, 100:250]
    Image.fromarray(piece.permute(1, 2, 0).numpy()).save(data / "piece.png")

    def run(*options: str):
        arguments = [*TINY, *HERE, "--data", str(data), "--out", str(tmp_path / "out"), *options]
        return comparison.run(lambda: comparison.main(comparison.parse(arguments)))

    return run


def test_the_designs_are_those_of_table_1(comparison) -> None:
    base = flowkit_models.create("hcflow_sr_x4_small")
    sizes, counts = {}, {}
    for design in comparison.DESIGNS:
        model = flowkit_models.create("hcflow_sr_x4_small", **comparison.matched(design, "small"))
        fields = dataclasses.asdict(model.config).items()
        sizes[design] = {name for name, value in fields if value != getattr(base.config, name)}
        counts[design] = sum(p.numel() for p in model.parameters())
        assert model.makes_lr == (design not in ("case1", "case2"))
    assert sizes["hcflow"] == set()
    assert all(changed <= {"given", "keep_lr", "conditional_hidden"} for changed in sizes.values())
    assert max(counts.values()) < 1.01 * min(counts.values())


def test_paper_preset_is_the_published_setting(comparison) -> None:
    config = comparison.parse(["--preset", "paper", "--steps", "10"])
    assert (config.steps, config.batch, config.crop, config.lr, config.loss.pixel) == (10, 16, 160, 2.5e-4, 0)


def test_paper_preset_starts_from_data(comparison, start, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(comparison.MODEL, "paper", "hcflow_sr_x4_small")
    assert start("--preset", "paper", "--designs", "case2") == 0
    model = flowkit_models.load(tmp_path / "out" / "paper" / "case2" / "seed0" / "last.safetensors")
    assert all(bool(flag) for name, flag in model.named_buffers() if name.endswith("initialized"))


def test_end_to_end_and_design_by_design(start, tmp_path, capsys) -> None:
    out = tmp_path / "out" / "small"
    assert start("--designs", "case1", "--seeds", "0", "1") == 0
    assert "done before" not in capsys.readouterr().out
    (out / "case1" / "seed1" / "scores.json").unlink()  # as if killed before the scores
    weights = (out / "case1" / "seed1" / "last.safetensors").read_bytes()
    assert start("--designs", "case1", "case3", "--seeds", "0", "1") == 0
    said = capsys.readouterr().out
    assert said.count("done before") == 1
    assert "goes on after step 2" in said
    assert (out / "case1" / "seed1" / "last.safetensors").read_bytes() == weights

    table = json.loads((out / "table.json").read_text())
    case1, case3 = table["summary"]["case 1"], table["summary"]["case 3"]
    assert len(case1["psnr"]["values"]) == 2
    assert case1["psnr"]["values"][0] != case1["psnr"]["values"][1]  # the seeds differ
    assert "lr_psnr" in case3
    assert "lr_psnr" not in case1
    assert case3["psnr"]["mean"] > case1["psnr"]["mean"]
    assert {row["temperature"] for row in table["runs"]["case3"][0]["temperatures"]} == {0.0, 0.5, 0.9}
    assert all(run["scores"]["roundtrip_max_error"] < 1e-4 for runs in table["runs"].values() for run in runs)
    lines = (out / "table.md").read_text().splitlines()
    assert lines[0].startswith("|  | PSNR ↑ | SSIM ↑ |")
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["bicubic", "case 1", "case 3"]
    for name in ("tau", "samples"):
        assert min(read_image(out / f"{name}.png").shape[1:]) > 300


def test_other_photographs_are_not_done_before(start, tmp_path, capsys) -> None:
    assert start("--designs", "case1") == 0
    assert start("--designs", "case1") == 0
    assert "done before" in capsys.readouterr().out
    (tmp_path / "photos" / "piece.png").write_bytes((tmp_path / "photos" / "piece.png").read_bytes() + b"more")
    said = start("--designs", "case1")
    assert "done before" not in capsys.readouterr().out
    assert "piece.png" in said  # a run goes on with its own photographs alone


def test_other_scores_of_a_run_need_no_training(start, tmp_path, capsys) -> None:
    assert start("--designs", "case4") == 0
    assert start("--designs", "case4", "--taus", "0.2") == 0
    assert "done before" not in capsys.readouterr().out
    scores = json.loads((tmp_path / "out" / "small" / "case4" / "seed0" / "scores.json").read_text())
    assert [row["temperature"] for row in scores["temperatures"]] == [0.0, 0.2, 0.9]
    said = start("--designs", "case4", "--lr", "0.01")
    assert "can't resume with another config: --lr was 0.001 and is 0.01" in said
    assert start("--designs", "case4", "--lr", "0.01", "--overwrite") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds",), "--seeds"),
        (("--seeds", "1", "1"), "--seeds: name at least one, and each once"),
        (("--draws", "1"), "--draws must be at least 2"),
        (("--temperature", "0"), "--temperature above 0"),
        (("--steps", "0"), "steps"),
    ],
)
def test_bad_input_is_one_line(start, options, message) -> None:
    said = start(*options)
    assert said.startswith("error: ")
    assert message in said
    assert "\n" not in said
