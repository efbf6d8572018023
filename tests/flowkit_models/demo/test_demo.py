"""The demo: its functions without a browser, for every kind of model."""

import dataclasses
import io
import math
import os
import re
import signal
import socket
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import support
import torch
from PIL import Image, UnidentifiedImageError
from scenes import OPTIONS, draws_of, make_photo, saved

import flowkit_models
from flowkit_models.cli import main
from flowkit_models.demo import edits
from flowkit_models.demo import scene as studio
from flowkit_models.demo.callbacks import bundled_files
from flowkit_models.demo.tasks import Tasks, painted_mask
from flowkit_models.images.convert import to_float, to_uint8
from flowkit_models.images.image_file import read_image
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.inference.editing import diversity_map, resample_mask
from flowkit_models.metrics.full_reference import consistency, psnr
from flowkit_models.models import checkpoint_file
from flowkit_models.models.bundled import SHIPPED


def state_of(calls, checkpoint, photo):
    return calls.draw("me", photo, checkpoint, *OPTIONS)["state"]


def pixels(pictures):
    return torch.stack([read_image(image) for image, _ in pictures])


def array(path):
    return read_image(path).permute(1, 2, 0).numpy().astype(int)


def test_draws_are_those_of_upscale(calls, checkpoint, photo):
    shown = calls.draw("me", photo, checkpoint, *OPTIONS)
    model = flowkit_models.load(checkpoint).eval()
    hr = read_image(photo)[None, :, :72, 4:100]
    lr = bicubic_resize(hr, Fraction(1, 4))
    with torch.no_grad():
        expected = to_uint8(model.upscale(to_float(lr), 4, 0.1, torch.Generator().manual_seed(3))[:, 0])
    assert torch.equal(pixels(shown["draws"]), expected)
    agreement = consistency(expected, lr.expand(4, -1, -1, -1)).tolist()
    assert [caption for _, caption in shown["draws"]] == [f"draw {i + 1}: {x:.1f} dB" for i, x in enumerate(agreement)]
    fidelity = psnr(expected, hr.expand(4, -1, -1, -1)).tolist()
    assert f"| draw 4 | {agreement[3]:.2f} | {fidelity[3]:.2f} |" in shown["scores"]
    assert torch.equal(pixels(shown["references"])[2], hr[0])
    spread = diversity_map(expected[:, None])
    assert f"mean {spread.mean():.2f}" in shown["legend"]
    assert "of 104 × 72 pixels was cut to 96 × 72, from row 0 and column 4" in shown["notes"]
    assert "HR images have 96 × 72 pixels." in shown["notes"]
    assert shown["references"][0][1] == "LR, 24 × 18 pixels"
    # the file, under a name that says how it was made
    file = shown["download"]["value"]
    assert file.endswith("a_photo_tau0.1_seed3_draw1.png")
    assert torch.equal(read_image(file), expected[0])
    assert torch.equal(read_image(calls.pick("me", shown["state"], 2)["value"]), expected[2])
    assert draws_of(checkpoint, photo).latents[1][0].std().item() == pytest.approx(1, abs=0.1)


def test_only_the_last_files_are_kept(calls, hcflow, photo, monkeypatch):
    monkeypatch.setattr("flowkit_models.demo.callbacks.KEPT", 2)
    shown = calls.draw("me", photo, hcflow, *OPTIONS)
    last = [calls.pick("me", shown["state"], i)["value"] for i in (1, 2)]
    assert sorted(map(str, calls.folder.rglob("*.png"))) == sorted(last)
    assert len(list(calls.folder.iterdir())) == 2


def test_files_of_a_running_call_stay(calls, monkeypatch):
    monkeypatch.setattr("flowkit_models.demo.callbacks.KEPT", 2)

    class Slow:
        def run(self, session, checkpoint, name, folder, progress=None):
            for _ in range(5 if session == "slow" else 0):
                calls.run("quick", "", "draw")
            return Path(folder).is_dir()

    calls.runner = Slow()
    assert calls.run("slow", "", "draw")
    assert len(list(calls.folder.iterdir())) == 2


@pytest.mark.parametrize("inside", ["", "cache/0a9f/", "tmp_x1/"])
def test_errors_name_the_file_and_not_where_the_page_keeps_it(calls, inside):
    def run(session, checkpoint, name, *arguments, progress=None):
        raise ValueError(f"{calls.folder}/{inside}16, wide.png: bad, unlike /elsewhere/x/y.png")

    calls.runner.run = run
    with pytest.raises(calls.gr.Error, match=r"^'16, wide.png: bad, unlike /elsewhere/x/y.png'$"):
        calls.draw("me", "x.png", "", *OPTIONS)


def test_one_draw_has_no_diversity(calls, hcflow, photo):
    shown = calls.draw("me", photo, hcflow, *OPTIONS[:-1], 1)
    assert shown["heat"] is None
    assert "draw two at least" in shown["legend"]


def test_kinds_of_photograph(checkpoint, photo):
    model = studio.open_model(checkpoint)
    names = [name for _, name in studio.kinds(model)]
    assert names == (["bicubic", "model", "lr"] if model.makes_lr else ["bicubic", "lr"])
    scene = studio.make_scene(model, photo, "lr", 512)
    assert scene.hr is None
    assert torch.equal(scene.lr[0], to_float(read_image(photo)))
    draws = studio.make_draws(scene, 0.1, 0, 2)
    assert draws.images.shape == (2, 3, 288, 416)
    assert "PSNR" not in studio.scores(draws)
    assert edits.subjects(draws) == ["draw 1", "draw 2"]
    if model.makes_lr:
        scene = studio.make_scene(model, photo, "model", 512)
        assert torch.equal(scene.lr, model.downscale(scene.hr))
    else:
        with pytest.raises(ValueError, match="makes no LR image"):
            studio.make_scene(model, photo, "model", 512)


@pytest.mark.parametrize(("centre", "corner"), [((0, 0), (0, 0)), ((0.5, 0.5), (20, 52)), ((1, 1), (40, 104))])
def test_large_photographs_are_cut_or_shrunk(hcflow, tmp_path, centre, corner):
    model = studio.open_model(hcflow)
    large = make_photo(tmp_path / "large.png", 104, 168)
    (top, left), whole = corner, read_image(large)
    cut = studio.make_scene(model, large, side=64, centre=centre)
    assert torch.equal(to_uint8(cut.hr[0]), whole[:, top : top + 64, left : left + 64])
    assert f"cut to 64 × 64, from row {top} and column {left}" in cut.notes[0]
    shrunk = studio.make_scene(model, large, side=64, fit="shrink")
    assert shrunk.hr.shape == (1, 3, 40, 64)
    assert "was shrunk from 168 × 104 to 64 × 40 pixels" in shrunk.notes[0]
    assert studio.make_scene(model, large, "lr", 64, centre=centre).lr.shape == (1, 3, 16, 16)
    assert studio.make_scene(model, large, side=512).notes == ()


def test_heat_map_colours():
    values = torch.tensor([[-1.0, 0.0, 0.2, 1.0, 7.0]])
    low, high = studio.COLOURS[0].tolist(), studio.COLOURS[-1].tolist()
    assert studio.coloured(values)[:, 0].T.tolist() == [low, low, studio.COLOURS[1].tolist(), high, high]


class TestBrush:
    def test_region(self, checkpoint, photo):
        draws = draws_of(checkpoint, photo)
        everywhere = torch.ones(1, 1, 72, 96, dtype=torch.bool)
        with torch.no_grad():
            lr, model = draws.scene.lr, draws.scene.model
            other = to_uint8(model.upscale(lr, 1, 0.3, torch.Generator().manual_seed(8))[0, 0])
            cold = to_uint8(model.upscale(lr, 1, 0.0)[0, 0])
            warm = to_uint8(model.upscale(lr, temperature=0.3, latents=draws.latents[1])[0, 0])
        found = {
            "redraw": edits.change_region(draws, "draw 2", everywhere, "redraw", 0.3, 8),
            "zero": edits.change_region(draws, "draw 2", everywhere, "zero"),
            "temperature": edits.change_region(draws, "draw 2", everywhere, "temperature", 0.3),
            "scale": edits.change_region(draws, "draw 2", everywhere, "scale", factor=3.0),
        }
        for name, expected in (("redraw", other), ("zero", cold), ("temperature", warm), ("scale", warm)):
            assert (found[name].int() - expected.int()).abs().max() <= 1, name
        unchanged = edits.change_region(draws, "draw 2", everywhere, "scale", factor=1.0)
        assert (unchanged.int() - draws.images[1].int()).abs().max() <= 1

    def test_only_chosen_levels(self, hcflow, photo):
        draws = draws_of(hcflow, photo)
        mask = torch.zeros(1, 1, 72, 96, dtype=torch.bool)
        mask[..., :8, :8] = True
        one, both, two = (
            edits.change_region(draws, "draw 1", mask, "zero", levels=levels) for levels in ([0], [0, 1], None)
        )
        assert torch.equal(both, two)
        assert not torch.equal(one, both)
        with pytest.raises(ValueError, match="at least one level"):
            edits.change_region(draws, "draw 1", mask, levels=[])

    def test_a_photograph(self, checkpoint, photo):
        draws = draws_of(checkpoint, photo)
        mask = torch.ones(1, 1, 72, 96, dtype=torch.bool)
        same = edits.change_region(draws, edits.HR, mask, "scale", factor=1.0)
        assert (same.int() - to_uint8(draws.scene.hr[0]).int()).abs().max() <= 1

    def test_paint_becomes_a_mask(self):
        layer = np.zeros((20, 40, 4), np.uint8)
        layer[5:10, 8:12] = (0, 200, 180, 150)
        written = io.BytesIO()
        Image.fromarray(layer).save(written, "PNG")
        mask = painted_mask([written.getvalue()], 40, 80)
        assert torch.equal(resample_mask(mask, 20, 40)[0, 0], torch.from_numpy(layer[..., 3] > 0))
        assert not painted_mask([], 4, 4).any()

    def test_only_png_is_paint(self):
        with pytest.raises(UnidentifiedImageError):
            painted_mask([b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"], 4, 4)


class TestPaste:
    @pytest.mark.parametrize("name", ["draw 1", edits.HR])
    def test_paste(self, calls, checkpoint, photo, tmp_path, name):
        source = make_photo(tmp_path / "other.png", 64, 80, 7)
        draws = draws_of(checkpoint, photo)
        given = ("me", state_of(calls, checkpoint, photo), name, source, 32, 0, 100, 50, 0)
        pasted, made, caption, download = calls.paste(*given, 0.1, "position", 0.0, 0)
        patch = read_image(source)[:, :32, 48:80].permute(1, 2, 0).numpy()
        assert np.array_equal(array(pasted)[20:52, :32], patch)
        assert np.array_equal(array(made), array(download["value"]))
        before, after = map(float, re.findall(r"consistency ([\d.]+) dB", caption))
        assert after > before or not draws.scene.model.makes_lr  # an untrained SRFlow does not know its LR image
        # with nothing done to the latents, and the patch's own LR image, it is the paste, but for what is around it
        same = array(calls.paste(*given, 0.1, "none", 1.0, 0)[1])
        assert np.abs(same - array(pasted))[36:40, :8].mean() < np.abs(array(made) - array(pasted)).mean()

    def test_a_patch_as_large_as_the_smaller_image(self, calls, hcflow, photo, tmp_path):
        source = make_photo(tmp_path / "small.png", 24, 30, 7)
        state = state_of(calls, hcflow, photo)
        pasted, *_ = calls.paste("me", state, "draw 1", source, 96, 50, 50, 100, 100, 0.1, "all", 0, 0)
        assert np.array_equal(array(pasted)[48:, 72:], array(source)[:, 3:27])

    def test_a_click_says_where(self, calls, photo):
        assert calls.place("me", photo, (26, 54)) == (75, 25)


class TestWay:
    @pytest.mark.parametrize("way", ["spherical", "linear"])
    def test_ends(self, calls, checkpoint, photo, way):
        draws, state = draws_of(checkpoint, photo), state_of(calls, checkpoint, photo)
        ends = (draws.images[0], to_uint8(draws.scene.hr[0]))
        for t, expected in zip((0, 1), ends, strict=True):
            image, caption, _ = calls.way("me", state, "draw 1", edits.HR, t, way)
            assert np.abs(array(image) - expected.permute(1, 2, 0).numpy()).max() <= 1
        assert caption.startswith("0% draw 1, 100% HR photograph · consistency")
        strip = calls.strip("me", state, "draw 1", "draw 2", way)
        assert [caption for _, caption in strip] == ["t = 0", "t = 0.25", "t = 0.5", "t = 0.75", "t = 1"]
        steps = pixels(strip).double()
        assert [(steps[i] - steps[0]).abs().mean().item() for i in range(1, 5)] == sorted(
            (steps[i] - steps[0]).abs().mean().item() for i in range(1, 5)
        )


def test_what_is_impossible_is_said(calls, checkpoint, photo):
    model = studio.open_model(checkpoint)
    said = calls.draw("me", photo, checkpoint, "lr", *OPTIONS[1:])["possible"]
    assert "load it as HR" in said
    assert ("makes no LR image of its own" in said) == (not model.makes_lr)
    assert ("learns no density" in said) == (type(model).__name__ == "IRN")
    opened = calls.open("me", checkpoint, "model")
    assert ("makes no LR image" in opened["model"]) == (not model.makes_lr)
    assert opened["kind"]["value"] == ("model" if model.makes_lr else "bicubic")


def test_tau_starts_at_what_the_checkpoint_recommends(calls, tmp_path):
    """Its own note, or else what suits its kind; draws at τ = 0 are one image, and that is said."""
    noted, plain = str(tmp_path / "noted.safetensors"), saved("hcflow_sr_x4_small", tmp_path)
    model, rescaling = flowkit_models.load(plain), saved("irn_x4_small", tmp_path)
    config = dataclasses.asdict(model.config)
    checkpoint_file.save(noted, model.state_dict(), "HCFlow", config, {"temperature": "0.35"})
    for checkpoint, tau in ((noted, 0.35), (plain, 0.8), (rescaling, 1.0), (str(SHIPPED), 0.0)):
        opened = calls.open("me", checkpoint, "bicubic")
        assert [opened[f"{name}temperature"]["value"] for name in ("", "brush_", "paste_")] == [tau] * 3
        assert opened["opened"] == checkpoint


def test_the_models_of_the_package_are_offered(calls, hcflow, tmp_path, monkeypatch):
    """In words, each at its τ; a rescaling model gets LR images of its own; another checkpoint is none of them."""
    (tmp_path / "bundled").mkdir()
    support.bundle(tmp_path / "bundled", some_sr="hcflow_sr_x4_small", some_rescaling="irn_x4")
    monkeypatch.setattr("flowkit_models.models.bundled.folder", lambda: tmp_path / "bundled")
    names = ["some_rescaling", "some_sr"]
    rescaling, sr = (str(tmp_path / "bundled" / f"{name}.safetensors") for name in names)
    assert bundled_files() == {rescaling: "some_rescaling: tests", sr: "some_sr: tests"}
    opened = calls.open("me", rescaling, "bicubic")
    assert (opened["bundled"], opened["temperature"]["value"], opened["kind"]["value"]) == (rescaling, 0, "model")
    opened = calls.open("me", sr, "bicubic")
    assert (opened["bundled"], opened["temperature"]["value"], opened["kind"]["value"]) == (sr, 0.3, "bicubic")
    assert calls.open("me", hcflow, "lr")["bundled"] is None
    assert calls.open("me", "some_sr", "lr")["temperature"]["value"] == 0.3


def test_another_worker_makes_the_same_draws_or_says_that_the_checkpoint_changed(calls, hcflow, photo):
    shown = calls.draw("me", photo, hcflow, *OPTIONS)
    calls.runner.tasks = Tasks(96, "cpu", math.inf)
    picked = calls.pick("me", shown["state"], 1)["value"]
    assert torch.equal(read_image(picked), read_image(shown["draws"][1][0]))
    os.utime(hcflow, ns=(1, 1))
    calls.runner.tasks = Tasks(96, "cpu", math.inf)
    with pytest.raises(Exception, match="changed since these draws were made"):
        calls.pick("me", shown["state"], 0)


def test_nothing_differs_at_zero(calls, hcflow, photo):
    shown = calls.draw("me", photo, hcflow, "bicubic", "cut", 50, 50, 0, 3, 2)
    assert "all draws are the same image" in shown["notes"]
    layer = io.BytesIO()
    Image.new("RGBA", (96, 72), (0, 200, 180, 150)).save(layer, "PNG")
    brush = ("me", shown["state"], "draw 1", [layer.getvalue()], "redraw")
    assert "the same image" in calls.brush(*brush, 0, 1, 1, [0, 1])[1]
    assert "the same image" not in calls.brush(*brush, 0.5, 1, 1, [0, 1])[1]


def test_a_temperature_above_one_is_warned_of(calls, hcflow, photo):
    for temperature, said in ((1, False), (1.1, True)):
        options = (*OPTIONS[:4], temperature, *OPTIONS[5:])
        notes = calls.draw("me", photo, hcflow, *options)["notes"]
        assert ("⚠ τ = 1.1 is above 1: noise prevails over detail." in notes) == said


def test_nothing_happens_by_itself_without_a_photograph(calls):
    assert calls.redraw("me", None, "", *OPTIONS) == {}
    assert len(calls.move_way("me", None, "draw 1", "draw 2", 0.5, "linear")) == 3


def broken(folder):
    """Checkpoints and photographs that are none."""
    (folder / "text.safetensors").write_text("no checkpoint")
    (folder / "text.png").write_text("no photograph")
    make_photo(folder / "tiny.png", 3, 3)
    model = flowkit_models.load(saved("hcflow_sr_x4_small", folder))
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    model.save(folder / "nan.safetensors")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda c, f, d: c.draw("me", None, d, *OPTIONS), "load a photograph first"),
        (lambda c, f, d: c.draw("me", f"{f}/a photo.png", "", *OPTIONS), "checkpoint: no such file"),
        (lambda c, f, d: c.draw("me", f"{f}/a photo.png", f"{f}/none.pth", *OPTIONS), "none.pth: no such file"),
        (lambda c, f, d: c.draw("me", f"{f}/a photo.png", f"{f}/text.safetensors", *OPTIONS), "text.safetensors: "),
        (lambda c, f, d: c.draw("me", f"{f}/a photo.png", f"{f}/nan.safetensors", *OPTIONS), "not finite"),
        (lambda c, f, d: c.draw("me", f"{f}/text.png", d, *OPTIONS), "text.png: not an image"),
        (lambda c, f, d: c.draw("me", f"{f}/tiny.png", d, *OPTIONS), "3 × 3 pixels, too small"),
        (lambda c, f, d: c.open("me", f"{f}/none.pth", "lr"), "none.pth: no such file"),
        (lambda c, f, d: c.pick("me", None, 0), "load a photograph and draw first"),
        (lambda c, f, d: c.paste("me", None, None, None, *[0] * 9), "load a photograph and draw first"),
        (
            lambda c, f, d: c.paste("me", state_of(c, d, f"{f}/a photo.png"), "draw 1", None, *[0] * 9),
            "is taken from first",
        ),
        (
            lambda c, f, d: c.brush("me", state_of(c, d, f"{f}/a photo.png"), "draw 1", [], "zero", 0, 0, 0, [0]),
            "nothing is painted",
        ),
        (
            lambda c, f, d: c.way("me", state_of(c, d, f"{f}/a photo.png"), "draw 9", "draw 1", 0.5, "linear"),
            "no draw 9",
        ),
    ],
)
def test_errors_are_one_line(calls, hcflow, photo, tmp_path, ask, message):
    import gradio as gr  # noqa: PLC0415 - an extra

    broken(tmp_path)
    with pytest.raises(gr.Error) as error:
        ask(calls, tmp_path, hcflow)
    assert message in error.value.message
    assert "\n" not in error.value.message
    assert not error.value.print_exception


class TestCommandLine:
    def test_bad_options(self, hcflow, tmp_path, capsys):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            bad = {
                ("--model", f"{tmp_path}/none.pth"): "none.pth: no such file",
                ("--model", hcflow, "--side", "8"): "--side must be at least 32 pixels",
                ("--model", hcflow, "--workers", "0"): "--workers must be above 0",
                ("--model", hcflow, "--time-limit", "nan"): "--time-limit must be above 0",
                ("--model", hcflow, "--port", port): f"127.0.0.1:{port} can't be listened on",
                ("--model", hcflow, "--port", "99999"): "choose another --port",
                ("--model", hcflow, "--device", "quantum"): "--device quantum: not on this machine",
            }
            for options, message in bad.items():
                assert main(["demo", *options]) == 1
                said = capsys.readouterr().err
                assert said.startswith("flowkit: ")
                assert message in said
                assert said.count("\n") == 1

    def test_without_gradio(self, hcflow, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "gradio", None)
        monkeypatch.setattr(signal, "signal", lambda *a: None)
        monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # both are put back after the test
        monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "")
        assert main(["demo", "--model", hcflow, "--port", "0"]) == 1
        said = capsys.readouterr().err
        assert said.startswith("flowkit: the demo needs gradio")
        assert said.endswith('pip install "flowkit-torch[demo]"\n')

    def test_help(self, capsys):
        assert main(["demo", "--help"]) == 0
        said = capsys.readouterr().out
        for option in (
            "--model",
            "--host",
            "--allow",
            "--port",
            "--max-upload",
            "--time-limit",
            "--memory",
            "--device",
        ):
            assert option in said
        assert "share" not in said
