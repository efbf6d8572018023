"""Models that come with the package, as the command picks them: by style, by name, and for rescaling by scale."""

import json

import numpy as np
import pytest
import support
from command_files import noise, opened, save, tree
from PIL import Image

from flowkit_models.models.bundled import list_bundled
from flowkit_models.models.words import STYLES


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a picture, and tiny models in the place of those that come with the package."""
    (tmp_path / "bundled").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr("flowkit_models.models.bundled.folder", lambda: tmp_path / "bundled")
    monkeypatch.chdir(tmp_path / "here")
    support.bundle(
        tmp_path / "bundled", hcflow_x4_plusplus="hcflow_sr_x4_small", rescale_x4="irn_x4", rescale_x2="irn_x2"
    )
    save(tmp_path / "here" / "p.png", noise(16, 24))
    return tmp_path / "here"


def test_a_style_is_a_model(here, flowkit):
    assert flowkit("upscale", "p.png", "--style", "crisp", "-o", "styled.png").code == 0
    assert flowkit("upscale", "p.png", "-m", "hcflow_x4_plusplus", "-o", "named.png").code == 0
    assert flowkit("upscale", "p.png", "-o", "plain.png").code == 0
    assert np.array_equal(opened("styled.png"), opened("named.png"))
    assert not np.array_equal(opened("styled.png"), opened("plain.png"))


def test_a_style_whose_model_is_not_there(here, flowkit):
    for style in ("photo", "faithful"):
        ran = flowkit("upscale", "p.png", "--style", style)
        assert ran.code == 1
        assert ran.err == [
            f"flowkit: --style {style} takes {STYLES[style]}: no such file, and no model that comes with the package; "
            "these are hcflow_x4_plusplus, rescale_x2, rescale_x4"
        ]
    assert tree(here) == ["p.png"]


def test_what_a_model_made_that_model_opens(here, flowkit):
    for verb in ("downscale", "encode"):
        assert flowkit(verb, "p.png", "-m", "rescale_x2", "-o", f"{verb}.png").code == 0
    assert flowkit("decode", "encode.safetensors", "-o", "again.png").code == 0
    assert np.array_equal(opened("again.png"), opened("p.png"))
    assert flowkit("upscale", "downscale.png").code == 0
    assert flowkit("upscale", "downscale.png", "-m", "rescale_x2", "-o", "named.png").code == 0
    assert np.array_equal(opened("downscale_x2.png"), opened("named.png"))
    # of several makers, none is chosen; a style wins
    assert flowkit("upscale", "downscale.png", "p.png", "-o", "plain").code == 0
    assert flowkit("upscale", "downscale.png", "--style", "crisp", "-o", "styled.png").code == 0
    assert opened("plain/downscale_x4.png").shape == opened("styled.png").shape == (32, 48, 3)


def test_a_factor_that_the_first_model_has_not(here, flowkit):
    ran = flowkit("upscale", "p.png", "--scale", "2.5")
    assert ran.code == 2
    assert "--scale 2.5: hcflow_x4.safetensors is a model of ×4 alone" in ran.err[0]
    support.bundle(here.parent / "bundled", linf_any="linf_small")
    assert flowkit("upscale", "p.png", "--scale", "2.5").code == 0
    assert flowkit("upscale", "p.png", "--size", "31x47").code == 0
    assert any("×1 to ×4" in line for line in flowkit("models").out)
    assert flowkit("info", "linf_any").out[0].startswith("LINF ×1 to ×4, super-resolution")
    assert (opened("p_x2.5.png").shape, opened("p_31x47.png").shape) == ((40, 60, 3), (47, 31, 3))


@pytest.mark.parametrize(
    "line",
    [
        ["upscale", "p.png", "--style", "crisp", "-m", "hcflow_x4_plusplus"],
        ["upscale", "p.png", "--style", "bold"],
        ["upscale", "p.png", "--draws", "2"],
        *([verb, "p.png", "--scale", "2", "-m", "rescale_x2"] for verb in ("downscale", "restore", "encode", "decode")),
    ],
    ids=" ".join,
)
def test_what_excludes_each_other(line, here, flowkit):
    assert flowkit(*line).code == 2
    assert tree(here) == ["p.png"]


@pytest.mark.parametrize(("scale", "size"), [((), (6, 4)), (("--scale", "4"), (6, 4)), (("--scale", "2"), (12, 8))])
def test_rescaling_has_a_model_for_each_scale(scale, size, here, flowkit):
    assert flowkit("downscale", "p.png", *scale).code == 0
    with Image.open("p_lr.png") as small:
        assert small.size == size
    assert flowkit("restore", "p.png", *scale).code == 0
    assert flowkit("encode", "p.png", *scale, "-o", "codes").code == 0
    assert flowkit("decode", "codes/p_lr.safetensors", *scale).code == 0
    assert np.array_equal(opened("codes/p_lr_decoded.png"), opened("p.png"))


@pytest.mark.parametrize("verb", ["downscale", "restore", "encode"])
def test_a_scale_without_a_model(verb, here, flowkit):
    ran = flowkit(verb, "p.png", "--scale", "3")
    assert (ran.code, ran.err) == (1, ["flowkit: no ×3 model comes with this package: name a checkpoint with -m"])


def test_the_list(here, flowkit):
    ran = flowkit("models")
    assert ran.code == 0
    named = [line.split()[0] for line in ran.out if not line.startswith(" ")]
    assert named == ["name", "hcflow_x4_plusplus", "rescale_x2", "rescale_x4"]
    assert ran.out[1].split()[1:] == ["×4", "super-resolution", "0.3", "crisp", "MIT"]
    assert ran.out[2] == "  tests"
    told = json.loads("".join(flowkit("models", "--json").out))["rescale_x2"]
    assert (told["purpose"], told["scale"], told["name"]) == ("rescaling", 2, "rescale_x2")
    assert told["path"].endswith("bundled/rescale_x2.safetensors")


def test_every_command_takes_a_name(here, flowkit):
    assert json.loads("".join(flowkit("info", "rescale_x2", "--json").out))["scale"] == 2
    assert flowkit("doctor", "rescale_x4", "--noise", "--crop", "32").code == 0
    assert flowkit("convert", "rescale_x4", "copy.safetensors").code == 0
    save(here / "set" / "HR" / "a.png", noise(32, 32))
    ran = flowkit("evaluate", "--set", "set", "--systems", "mine=rescale_x4", "--table", "rescaling", "--pictures", "0")
    assert ran.code == 0, ran.err
    assert any(line.startswith("| mine") for line in ran.out)
    for line in ("info x", "doctor x", "convert x y.pth", "evaluate --set set --systems x"):
        ran = flowkit(*line.split())
        assert (ran.code, len(ran.err)) == (1, 1)
        assert "these are hcflow_x4_plusplus, rescale_x2, rescale_x4" in ran.err[0]
    assert "these are hcflow" in flowkit("demo", "-m", "x").err[0]


def test_at_80_columns_a_model_takes_two_lines(flowkit, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = flowkit("models").out
    found = list_bundled()
    assert [line.split()[0] for line in lines[1::2]] == list(found)
    assert [line.strip() for line in lines[2::2]] == [model.use for model in found.values()]
    assert max(map(len, lines)) <= 80
