"""Models side by side: the sweep over temperatures, tables with their spread, pictures."""

import math

import pytest
import torch

import flowkit_models
from flowkit_models.data.image_pair import make_pairs
from flowkit_models.evaluation import sweep as comparison
from flowkit_models.evaluation.figures import save
from flowkit_models.evaluation.scores import score
from flowkit_models.evaluation.sweep import comparison_sheet, markdown, spread, sweep, table_cells, temperature_curves
from flowkit_models.images.image_file import read_image
from flowkit_models.training.prior_init import fit_priors

SIZES = {"steps": 1, "conditional_steps": 1, "blocks": ((0, 0), (0, 0)), "features": 4, "growth": 4, "hidden": 4}


@pytest.fixture(scope="module")
def tested():
    """A model and test pairs."""
    torch.manual_seed(0)
    model = flowkit_models.create("hcflow_sr_x4_small", **SIZES)
    photos = {name: (torch.rand(3, 32, 40) * 255).to(torch.uint8) for name in ("a.png", "b")}
    pairs = make_pairs(photos, 4)
    hr = photos["a.png"][None] / 255
    fit_priors(model, hr, torch.nn.functional.avg_pool2d(hr, 4))
    return model.eval(), pairs


def difference(a, b):
    return (a - b).abs().mean((1, 2, 3))


def test_a_sweep_gives_the_numbers_of_a_score(tested) -> None:
    model, pairs = tested
    expected = score(model, pairs, 0.9, 3, 5, {"difference": difference})
    rows = sweep(model, pairs, [0.0, 0.9], 3, 5, {"difference": difference})
    assert [row["temperature"] for row in rows] == [0.0, 0.9]
    for name in ("psnr", "consistency", "difference"):
        assert rows[0][name] == pytest.approx(expected["tau_0"][name], rel=1e-6)
        assert rows[1][name] == pytest.approx(expected["tau_0.9"][name], rel=1e-6)
    assert rows[0]["diversity"] == 0
    assert rows[1]["diversity"] == pytest.approx(expected["tau_0.9"]["diversity"], rel=1e-6)


def test_spread_of_runs() -> None:
    runs = [{"a": 1.0, "b": 5.0}, {"a": 2.0}, {"a": 6.0}]
    assert spread(runs) == {"a": {"mean": 3.0, "std": pytest.approx(math.sqrt(7)), "values": [1.0, 2.0, 6.0]}}
    assert spread(runs[:1])["b"] == {"mean": 5.0, "std": None, "values": [5.0]}


def test_a_table_leaves_out_what_nobody_has_and_marks_what_one_has_not() -> None:
    summaries = {
        "bicubic": spread([{"psnr": 26.7}]),
        "model": spread(
            [{"psnr": 27.0, "lr_psnr": 40.0, "size": 9.0}, {"psnr": 28.0, "lr_psnr": math.inf, "size": 9.0}]
        ),
    }
    columns = {
        "psnr": ("PSNR", ".2f"),
        "lpips": ("LPIPS", ".3f"),
        "lr_psnr": ("LR-PSNR", ".1f"),
        "size": ("size", ".0f"),
    }
    headings, rows = table_cells(summaries, columns)
    assert headings == ["", "PSNR", "LR-PSNR", "size"]
    assert rows == [["bicubic", "26.70", "–", "–"], ["model", "27.50 ± 0.71", "–", "9"]]
    assert markdown(headings, rows).splitlines()[1:3] == ["|---|---:|---:|---:|", "| bicubic | 26.70 | – | – |"]


def test_pictures(tested, tmp_path, monkeypatch) -> None:
    model, pairs = tested
    figures = []
    monkeypatch.setattr(comparison, "save", lambda figure, path: (figures.append(figure), save(figure, path)))
    curves = {"one": [sweep(model, pairs, [0.0, 1.0], 2, seed) for seed in (0, 1)]}
    curves["far"] = [[{**row, "psnr": 0.0} for row in run] for run in curves["one"]]
    shown = {"psnr": "PSNR", "lpips": "LPIPS", "diversity": "diversity"}
    temperature_curves(curves, tmp_path / "all.png", shown)
    temperature_curves(curves, tmp_path / "zoomed.png", shown, zoom=["one"])
    axes = figures[1].axes
    assert [axis.get_title() for axis in axes] == ["PSNR", "diversity", "", ""]
    assert [axis.get_xlabel() for axis in axes] == ["", "", "τ", "τ"]
    assert [len(axis.lines) for axis in axes] == [2, 2, 1, 1]
    assert axes[2].get_ylabel() == "without far"
    comparison_sheet({"one": model, "two": model}, pairs, tmp_path / "samples.png", 0.9)
    sizes = {name: tuple(read_image(tmp_path / f"{name}.png").shape[1:]) for name in ("all", "zoomed", "samples")}
    assert sizes["all"][1] > 2 * sizes["all"][0]  # two panels: nobody has LPIPS
    assert sizes["zoomed"][0] > 1.5 * sizes["all"][0]
    assert sizes["samples"][0] > 800  # two rows for each of two images
