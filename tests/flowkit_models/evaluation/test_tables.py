"""Tables: mean ± deviation over runs, and Markdown."""

import math

import pytest

from flowkit_models.evaluation.tables import markdown, spread, spread_table


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
    headings, rows = spread_table(summaries, columns)
    assert headings == ["", "PSNR", "LR-PSNR", "size"]
    assert rows == [["bicubic", "26.70", "–", "–"], ["model", "27.50 ± 0.71", "–", "9"]]
    assert markdown(headings, rows).splitlines()[1:3] == ["|---|---:|---:|---:|", "| bicubic | 26.70 | – | – |"]
