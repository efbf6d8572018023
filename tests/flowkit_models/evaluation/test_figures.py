"""Pictures: curves against the temperature, models side by side, sheets of samples."""

import sys

import pytest
import torch
from support import tiny_flow

from flowkit_models.data.image_pair import Pair, make_pairs
from flowkit_models.evaluation import figures
from flowkit_models.evaluation.figures import comparison_sheet, save, temperature_curves, with_psnr
from flowkit_models.images.convert import luma, to_float
from flowkit_models.images.image_file import read_image
from flowkit_models.metrics.full_reference import psnr


@pytest.fixture
def pairs() -> dict[str, Pair]:
    photos = {name: (torch.rand(3, 32, 40) * 255).to(torch.uint8) for name in ("a.png", "b")}
    return make_pairs(photos, 4)


def test_pictures(pairs, tmp_path, monkeypatch) -> None:
    model = tiny_flow().eval()
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path: (drawn.append(figure), save(figure, path)))
    rows = [{"temperature": tau, "psnr": 20 - tau, "diversity": tau} for tau in (0.0, 1.0)]
    curves = {"one": [rows, rows], "far": [[{**row, "psnr": 0.0} for row in rows]]}
    shown = {"psnr": "PSNR", "lpips": "LPIPS", "diversity": "diversity"}
    temperature_curves(curves, tmp_path / "all.png", shown)
    temperature_curves(curves, tmp_path / "zoomed.png", shown, zoom=["one"])
    axes = drawn[1].axes
    assert [axis.get_title() for axis in axes] == ["PSNR", "diversity", "", ""]
    assert [axis.get_xlabel() for axis in axes] == ["", "", "τ", "τ"]
    assert [len(axis.lines) for axis in axes] == [2, 2, 1, 1]
    assert axes[2].get_ylabel() == "without far"
    comparison_sheet({"one": model, "two": model}, pairs, tmp_path / "samples.png", 0.9)
    sizes = {name: tuple(read_image(tmp_path / f"{name}.png").shape[1:]) for name in ("all", "zoomed", "samples")}
    assert sizes["all"][1] > 2 * sizes["all"][0]  # two panels: nobody has LPIPS
    assert sizes["zoomed"][0] > 1.5 * sizes["all"][0]
    assert sizes["samples"][0] > 800  # two rows for each of two images


def test_a_sheet_at_temperature_zero_shows_its_image_once(pairs, tmp_path, monkeypatch) -> None:
    shown = []
    monkeypatch.setattr(figures, "draw_sheet", lambda rows, *_: shown.append(rows))
    for tau in (0.0, 0.5):
        figures.sample_sheet(tiny_flow().eval(), pairs, tmp_path / "samples.png", tau, 2)
    assert [{len(row) for row in rows.values()} for rows in shown] == [{4}, {6}]


def test_the_note_is_the_psnr_of_the_8_bit_image(pairs) -> None:
    pair = pairs["b"]
    image = to_float(pair.hr) * 0.9
    rounded = (255 * image).round().byte()
    assert with_psnr("t", image, pair, 4).note == f"{psnr(rounded, pair.hr, 4).item():.2f} dB"
    assert (
        with_psnr("t", image, pair, 4, on_luma=True).note
        == f"{psnr(luma(rounded), luma(pair.hr), 4).item():.2f} dB (Y)"
    )
    assert with_psnr("t", image, pair, 16).note == "nan dB"


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r'pictures need matplotlib: pip install "flowkit-torch\[metrics\]"'):
        figures.new_figure(1, 1)
