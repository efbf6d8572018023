"""The benchmark end to end at toy size: every subcommand prints its table and writes it with its protocol."""

import json

import pytest
from benchmark import __main__ as benchmark
from benchmark.contenders import CONTENDERS

ROWS_OF_VECTORS = (
    "rq, 4, 2, 3, training step, flowkit",
    "ar, 4, 2, 3, sample, zuko, no linear maps",
    "rq, 4, 2, 3, sample, normflows",
    "ar rq, 4, 2, 3, training step, normflows",
    "affine, 4, 2, 3, sample, FrEIA, no linear maps",
)

pytestmark = [pytest.mark.bench, pytest.mark.filterwarnings("ignore")]  # what other libraries warn of


@pytest.fixture
def start(tmp_path):
    """Runs a subcommand; returns what its exit says and its results."""

    def run(*options: str):
        said = benchmark.run([*options, "--threads", "1", "--device", "cpu", "--out", str(tmp_path)])
        file = tmp_path / "results.json"
        return said, json.loads(file.read_text()) if file.exists() else None

    return run


@pytest.mark.parametrize(
    ("command", "row"),
    [
        ("glow", [f"{name}, training step, bf16 autocast" for name in CONTENDERS]),
        ("models", ["irn_x4_small, 5 draws, bf16 networks", "srflow_x4_small, 64×64"]),
        ("growth", ["HR side, 32, training step, lean", "draws n, 2, draws in n calls"]),
        ("export", ["torch", "onnxruntime", "onnxruntime, --half"]),
        ("vectors", list(ROWS_OF_VECTORS)),
    ],
    ids=["glow", "models", "growth", "export", "vectors"],
)
def test_a_subcommand(start, tmp_path, capsys, command, row) -> None:
    said, results = start(command, "--quick")
    assert said == 0
    protocol = results.pop("protocol")
    assert (protocol["command"], protocol["options"]["threads"]) == (command, 1)
    assert set(row) <= set(next(iter(results.values())))
    written = (tmp_path / "table.md").read_text()
    assert "nan" not in written
    assert str(tmp_path) not in written + str(protocol)
    assert all(f"## {title}" in written for title in results)
    assert "see " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("glow", "--contenders", "glow"), "no contender 'glow'; there are hand-written, "),
        (("models", "--models", "hcflow"), "no model 'hcflow'; there are "),
        (("growth", "--batch", "0"), "batch must be at least 1"),
        (("vectors", "--flows", "pyro"), "no flow 'pyro'; there are nflows, flowkit, "),
    ],
)
def test_bad_input_is_one_line(start, options, message) -> None:
    said, results = start(*options)
    assert said.startswith("error: ")
    assert message in said
    assert "\n" not in said
    assert results is None
