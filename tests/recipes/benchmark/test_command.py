"""The benchmark end to end at toy size: every subcommand prints its table and writes it with its protocol."""

import json

import pytest
from benchmark import __main__ as main

pytestmark = [pytest.mark.bench, pytest.mark.filterwarnings("ignore")]  # what other libraries warn of


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Runs a subcommand; returns what its exit says and its results."""
    monkeypatch.setenv("COLUMNS", "300")

    def run(*options: str):
        said = main.run([*options, "--quick", "--threads", "1", "--device", "cpu", "--out", str(tmp_path)])
        file = tmp_path / "results.json"
        return said, json.loads(file.read_text()) if file.exists() else None

    return run


def test_glow(start, tmp_path, capsys) -> None:
    said, results = start("glow", "--contenders", "flowkit", "nflows")
    assert said == 0
    times = results["Glow, 3×8×8, batch 2, L = 2, K = 1: time"]
    facts = results["Glow, 3×8×8, batch 2, L = 2, K = 1: memory and precision"]
    assert list(times) == list(facts) == ["hand-written", "flowkit", "nflows"]
    assert times["hand-written"]["step"]["ratio"] == [1.0, 1.0, 1.0]
    assert facts["flowkit"]["breaks_forward"] == facts["flowkit"]["breaks_inverse"] == "0"
    assert facts["flowkit"]["parameters"] == facts["hand-written"]["parameters"]
    assert facts["flowkit"]["round_trip_bf16"] < facts["hand-written"]["round_trip_bf16"]
    assert results["protocol"]["command"] == "glow"
    assert results["protocol"]["options"]["threads"] == 1
    assert {"torch", "nflows"} <= set(results["protocol"]["versions"])
    shown, table = capsys.readouterr().out, (tmp_path / "table.md").read_text()
    for name in ("hand-written", "flowkit", "nflows"):
        assert name in shown
        assert f"| {name} |" in table
    assert str(tmp_path) not in table


def test_models(start) -> None:
    said, results = start("models", "--models", "irn_x4", "--parts", "train", "draws", "temperatures", "large")
    assert said == 0
    found = results["Models, small ones in their place"]["irn_x4"]
    assert list(found)[:5] == ["model", "training step", "training step, lean", "1 draw", "5 draws"]
    assert found["1 draw"]["share"][0] > 0
    assert found["training step, lean"]["bytes"] < found["training step"]["bytes"]


def test_growth(start, tmp_path) -> None:
    said, results = start("growth")
    assert said == 0
    points = results["Growth of hcflow_sr_x4"]["points"]
    assert {(p["axis"], p["value"]) for p in points} == {
        *(("size", side) for side in (16, 32)),
        *((axis, value) for axis in ("depth", "draws", "batch") for value in (1, 2)),
    }
    memory = {(p["axis"], p["value"], p["series"]): p["bytes"] for p in points}
    assert memory["size", 32, "training step"] > 2 * memory["size", 16, "training step"]
    assert memory["batch", 2, "training step"] > 1.3 * memory["batch", 1, "training step"]
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_bars(start, tmp_path) -> None:
    chosen = (
        "bf16_round_trip",
        "reversible",
        "hcflow_draws",
        "hcflow_bf16",
        "srflow_large",
        "irn_lean",
        "rate",
        "depth",
    )
    said, results = start("bars", "--only", *chosen, "--models", "irn_x2")
    assert said == 0
    assert list(results["Bars"]) == list(chosen)
    assert [one["what"] for one in results["Bars"]["reversible"]] == ["saved", "peak", "time"]
    assert [one["what"] for one in results["Bars"]["rate"]] == ["irn_x2, training step", "irn_x2, 1 draw"]
    assert all(one["value"] > 0 for measured in results["Bars"].values() for one in measured)
    assert (
        "| HCFlow ×4: 5 draws / 5 × one draw | time | official 1.0; floor by operations 0.84 | ≤ 0.88 |"
        in (tmp_path / "table.md").read_text()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("glow", "--contenders", "glow"), "no contender 'glow'; there are hand-written, "),
        (("glow", "--rounds", "0"), "threads and rounds must be at least 1"),
        (("models", "--models", "hcflow"), "no model 'hcflow'; there are "),
        (("growth", "--model", "hcflow"), "no model 'hcflow'; there are "),
        (("bars", "--only", "speed"), "no bar 'speed'; there are glow_step, "),
        (("bars", "--models", "speed"), "no model 'speed'; there are "),
    ],
)
def test_bad_input_is_one_line(start, options, message) -> None:
    said, results = start(*options)
    assert said.startswith("error: ")
    assert message in said
    assert "\n" not in said
    assert results is None
