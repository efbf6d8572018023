"""The demo: its functions without a browser, for every kind of model; and its page in headless Chromium."""

import math
import re
import signal
import socket
import sys
from fractions import Fraction

import browser
import numpy as np
import pytest
import support
import torch
from PIL import Image

import flowkit_models
from flowkit_models.cli import main
from flowkit_models.demo import edits
from flowkit_models.demo import scene as studio
from flowkit_models.demo.callbacks import Callbacks, painted_mask
from flowkit_models.images.convert import to_float, to_uint8
from flowkit_models.images.image_file import read_image, write_image
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.inference.editing import diversity_map, resample_mask
from flowkit_models.metrics.full_reference import consistency, psnr

SIZES = {
    "hcflow_sr_x4_small": {**support.SIZES, "conditional_hidden": 4},
    "srflow_x4_small": {"steps": 1, "blocks": 1, "taps": (0,), "features": 4, "growth": 4, "hidden": 4},
    "irn_x4_small": {"blocks": (1, 1), "growth": 4},
}
OPTIONS = ("bicubic", "cut", 50, 50, 0.1, 3, 4)  # kind, fit, row, column, τ, seed, n


@pytest.fixture(params=SIZES)
def checkpoint(request, tmp_path):
    return saved(request.param, tmp_path)


@pytest.fixture
def hcflow(tmp_path):
    return saved("hcflow_sr_x4_small", tmp_path)


def saved(name, folder):
    torch.manual_seed(0)
    path = folder / f"{name}.safetensors"
    model = flowkit_models.create(name, **SIZES[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    model.save(path)
    return str(path)


@pytest.fixture
def photo(tmp_path):
    return make_photo(tmp_path / "a photo.png", 72, 104)


def make_photo(path, height, width, seed=0):
    rough = torch.rand(3, -(-height // 8), -(-width // 8), generator=torch.Generator().manual_seed(seed))
    write_image(path, bicubic_resize(rough, 8)[:, :height, :width])
    return str(path)


@pytest.fixture
def calls(tmp_path):
    pytest.importorskip("gradio", reason="the demo needs gradio: pip install flowkit-torch[demo]")
    (tmp_path / "out").mkdir()
    return Callbacks(tmp_path / "out", 96, "cpu")


def draws_of(checkpoint, photo, kind="bicubic", temperature=0.1):
    return studio.make_draws(studio.make_scene(studio.open_model(checkpoint), photo, kind, 96), temperature, 3, 4)


def pixels(pictures):
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image, _ in pictures])


def test_draws_are_those_of_upscale(calls, checkpoint, photo):
    shown = calls.draw(photo, checkpoint, *OPTIONS)
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
    assert "of 72 × 104 pixels was cut to 72 × 96, from row 0 and column 4" in shown["notes"]
    # the file, under a name that says how it was made
    file = shown["download"]["value"]
    assert file.endswith("a_photo_tau0.1_seed3_draw1.png")
    assert torch.equal(read_image(file), expected[0])
    assert torch.equal(read_image(calls.pick(shown["state"], 2)["value"]), expected[2])
    assert shown["state"].latents[1][0].std().item() == pytest.approx(1, abs=0.1)


def test_only_the_last_files_are_kept(calls, hcflow, photo, monkeypatch):
    monkeypatch.setattr("flowkit_models.demo.callbacks.KEPT", 2)
    shown = calls.draw(photo, hcflow, *OPTIONS)
    last = [calls.pick(shown["state"], i)["value"] for i in (1, 2)]
    assert sorted(map(str, calls.folder.rglob("*.png"))) == sorted(last)


def test_one_draw_has_no_diversity(calls, hcflow, photo):
    shown = calls.draw(photo, hcflow, *OPTIONS[:-1], 1)
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
    assert "was shrunk from 104 × 168 to 40 × 64 pixels" in shrunk.notes[0]
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
        mask = painted_mask({"layers": [layer], "background": None}, 40, 80)
        assert torch.equal(resample_mask(mask, 20, 40)[0, 0], torch.from_numpy(layer[..., 3] > 0))
        assert not painted_mask(None, 4, 4).any()


class TestPaste:
    @pytest.mark.parametrize("name", ["draw 1", edits.HR])
    def test_paste(self, calls, checkpoint, photo, tmp_path, name):
        source = make_photo(tmp_path / "other.png", 64, 80, 7)
        draws = draws_of(checkpoint, photo)
        given = (draws, name, source, 32, 0, 100, 50, 0)
        pasted, made, caption, download = calls.paste(*given, 0.1, "position", 0.0, 0)
        patch = read_image(source)[:, :32, 48:80].permute(1, 2, 0).numpy()
        assert np.array_equal(np.array(pasted)[20:52, :32], patch)
        assert np.array_equal(np.array(made), read_image(download["value"]).permute(1, 2, 0).numpy())
        before, after = map(float, re.findall(r"consistency ([\d.]+) dB", caption))
        assert after > before or not draws.scene.model.makes_lr  # an untrained SRFlow does not know its LR image
        # with nothing done to the latents, and the patch's own LR image, it is the paste, but for what is around it
        same = np.array(calls.paste(*given, 0.1, "none", 1.0, 0)[1]).astype(int)
        assert np.abs(same - np.array(pasted))[36:40, :8].mean() < np.abs(np.array(made).astype(int) - pasted).mean()

    def test_a_patch_as_large_as_the_smaller_image(self, calls, hcflow, photo, tmp_path):
        source = make_photo(tmp_path / "small.png", 24, 30, 7)
        pasted, *_ = calls.paste(draws_of(hcflow, photo), "draw 1", source, 96, 50, 50, 100, 100, 0.1, "all", 0, 0)
        assert np.array_equal(np.array(pasted)[48:, 72:], read_image(source)[:, :, 3:27].permute(1, 2, 0).numpy())

    def test_a_click_says_where(self, calls, photo):
        assert calls.place(photo, (26, 54)) == (75, 25)


class TestWay:
    @pytest.mark.parametrize("way", ["spherical", "linear"])
    def test_ends(self, calls, checkpoint, photo, way):
        draws = draws_of(checkpoint, photo)
        ends = (draws.images[0], to_uint8(draws.scene.hr[0]))
        for t, expected in zip((0, 1), ends, strict=True):
            image, caption, _ = calls.way(draws, "draw 1", edits.HR, t, way)
            assert np.abs(np.array(image).astype(int) - expected.permute(1, 2, 0).numpy()).max() <= 1
        assert caption.startswith("0% draw 1, 100% HR photograph · consistency")
        strip = calls.strip(draws, "draw 1", "draw 2", way)
        assert [caption for _, caption in strip] == ["t = 0", "t = 0.25", "t = 0.5", "t = 0.75", "t = 1"]
        steps = pixels(strip).double()
        assert [(steps[i] - steps[0]).abs().mean().item() for i in range(1, 5)] == sorted(
            (steps[i] - steps[0]).abs().mean().item() for i in range(1, 5)
        )


def test_what_is_impossible_is_said(calls, checkpoint, photo):
    model = studio.open_model(checkpoint)
    said = calls.draw(photo, checkpoint, "lr", *OPTIONS[1:])["possible"]
    assert "load it as HR" in said
    assert ("makes no LR image of its own" in said) == (not model.makes_lr)
    assert ("learns no density" in said) == (type(model).__name__ == "IRN")
    about, choices = calls.open(checkpoint, "model")
    assert ("makes no LR image" in about) == (not model.makes_lr)
    assert choices["value"] == ("model" if model.makes_lr else "bicubic")


def test_nothing_happens_by_itself_without_a_photograph(calls):
    assert calls.redraw(None, "", *OPTIONS) == {}
    assert len(calls.move_way(None, "draw 1", "draw 2", 0.5, "linear")) == 3


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
        (lambda c, f, d: c.draw(None, d, *OPTIONS), "load a photograph first"),
        (lambda c, f, d: c.draw(f"{f}/a photo.png", "", *OPTIONS), "checkpoint: no such file"),
        (lambda c, f, d: c.draw(f"{f}/a photo.png", f"{f}/none.pth", *OPTIONS), "none.pth: no such file"),
        (lambda c, f, d: c.draw(f"{f}/a photo.png", f"{f}/text.safetensors", *OPTIONS), "text.safetensors: "),
        (lambda c, f, d: c.draw(f"{f}/a photo.png", f"{f}/nan.safetensors", *OPTIONS), "not finite"),
        (lambda c, f, d: c.draw(f"{f}/text.png", d, *OPTIONS), "text.png: not an image"),
        (lambda c, f, d: c.draw(f"{f}/tiny.png", d, *OPTIONS), "3 × 3 pixels, too small"),
        (lambda c, f, d: c.open(f"{f}/none.pth", "lr"), "none.pth: no such file"),
        (lambda c, f, d: c.pick(None, 0), "load a photograph and draw first"),
        (lambda c, f, d: c.paste(None, None, None, *[0] * 9), "load a photograph and draw first"),
        (lambda c, f, d: c.paste(draws_of(d, f"{f}/a photo.png"), "draw 1", None, *[0] * 9), "is taken from first"),
        (
            lambda c, f, d: c.brush(draws_of(d, f"{f}/a photo.png"), "draw 1", None, "zero", 0, 0, 0, [0]),
            "nothing is painted",
        ),
        (lambda c, f, d: c.way(draws_of(d, f"{f}/a photo.png"), "draw 9", "draw 1", 0.5, "linear"), "no draw 9"),
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
        for option in ("--model", "--host", "--port", "--side", "--device"):
            assert option in said
        assert "share" not in said


def test_page_in_a_browser(hcflow, photo, tmp_path):
    """Load a photograph, move τ, see other draws, download one, edit; on a wide and on a narrow screen, offline."""
    if browser.chromium() is None:
        pytest.skip("no Chromium is installed: apt install chromium")
    with browser.serve(hcflow, "--side", "96") as address, browser.opened(address) as (page, asked):
        page.set_input_files("#photo input[type=file]", photo)
        page.wait_for_selector("#draws img >> nth=3")
        page.wait_for_selector("text=draw 4:")
        sources = [image.get_attribute("src") for image in page.locator("#draws img").all()]
        first = fetched(page, sources[0], tmp_path)

        # τ moves: other images
        page.locator("#tau input[type=number]").fill("0.1")
        page.locator("#tau input[type=number]").press("Tab")
        page.wait_for_function("old => !document.querySelector('#draws img')?.src.endsWith(old)", arg=sources[0])
        second = fetched(page, page.locator("#draws img").first.get_attribute("src"), tmp_path)
        assert first.shape == second.shape == (3, 72, 96)
        assert (first.int() - second.int()).abs().double().mean() > 1

        # a download, of full resolution, equal to what the model draws
        page.wait_for_selector("text=Download draw 1 (PNG, 72 × 96 pixels)")
        with page.expect_download() as info:
            page.locator("#download").click()
        assert info.value.suggested_filename == "a_photo_tau0.1_seed0_draw1.png"
        info.value.save_as(tmp_path / "download.png")
        with Image.open(tmp_path / "download.png") as image:
            assert (image.format, image.size) == ("PNG", (96, 72))
        expected = draws_of(hcflow, photo).scene
        assert torch.equal(read_image(tmp_path / "download.png"), studio.make_draws(expected, 0.1, 0).images[0])
        assert torch.equal(second, read_image(tmp_path / "download.png"))

        # a brushed region
        page.get_by_role("tab", name="Edit").click()
        page.wait_for_timeout(1000)  # the editor fits its canvas into the tab
        browser.paint(page, [(0.4, 0.45), (0.6, 0.55)])
        page.locator("#brush").click()
        page.wait_for_selector("#brush_result img")
        assert re.search(r"[\d.]+% of draw 1 changed · consistency", page.locator("body").inner_text())

        # errors are shown
        page.get_by_role("tab", name="Interpolate").click()
        page.locator("#interpolate").click()
        page.wait_for_selector("#strip img >> nth=4")
        page.get_by_role("button", name="Checkpoint").click()
        page.locator("#checkpoint textarea, #checkpoint input").first.fill("nowhere.pth")
        page.locator("#checkpoint textarea, #checkpoint input").first.press("Enter")
        page.wait_for_selector("text=nowhere.pth: no such file")

        # nothing is wider than a phone, and nobody else was asked for anything
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert {url.removeprefix("blob:").split("?")[0][: len(address)] for url in asked} == {address}
        html = page.content()
        assert not re.findall(
            r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?:https?:)?//(?!127\.0\.0\.1)[^"]*', html
        )
        policy = page.request.get(address).headers["content-security-policy"]
        assert "default-src 'self'" in policy


def fetched(page, url, folder):
    (folder / "fetched.png").write_bytes(page.request.get(url).body())
    return read_image(folder / "fetched.png")
