"""The benchmark end to end at toy size: every subcommand prints its table and writes it with its protocol."""

import json

import pytest
from benchmark import __main__ as benchmark

pytestmark = [pytest.mark.bench, pytest.mark.filterwarnings("ignore")]  # what other libraries warn of


@pytest.fixture
def start(tmp_path):
    """Runs a subcommand; returns what its exit says and its results."""

    def run(*options: str):
        said = benchmark.run([*options, "--quick", "--threads", "1", "--device", "cpu", "--out", str(tmp_path)])
        file = tmp_path / "results.json"
        return said, json.loads(file.read_text()) if file.exists() else None

    return run


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (
            ["glow"],
            list(benchmark.CONTENDERS),
        ),
        (["models", "--models", "irn_x4"], ["irn_x4"]),
        (["growth"], ["points"]),
        (["bars", "--models", "irn_x2", "--only", "irn_lean", "rate", "depth"], ["irn_lean", "rate", "depth"]),
    ],
    ids=lambda value: value[0],
)
def test_a_subcommand(start, tmp_path, capsys, options, rows) -> None:
    said, results = start(*options)
    assert said == 0
    protocol = results.pop("protocol")
    assert (protocol["command"], protocol["options"]["threads"]) == (options[0], 1)
    written = (tmp_path / "table.md").read_text()
    assert "nan" not in written
    assert str(tmp_path) not in written + str(protocol)
    for title, numbers in results.items():
        assert list(numbers) == rows
        assert f"## {title}" in written
    assert "see " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("glow", "--contenders", "glow"), "no contender 'glow'; there are hand-written, "),
        (("models", "--models", "hcflow"), "no model 'hcflow'; there are "),
        (("bars", "--only", "speed"), "no bar 'speed'; there are glow_step, "),
    ],
)
def test_bad_input_is_one_line(start, options, message) -> None:
    said, results = start(*options)
    assert said.startswith("error: ")
    assert message in said
    assert "\n" not in said
    assert results is None
