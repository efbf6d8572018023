"""What the command says: help, version, and usage errors before anything is read."""

import io
import re
import signal
import subprocess
import sys
import time

import pytest
from command_files import noise, save, tree

from flowkit_models.cli import main, options
from flowkit_models.cli.dispatch import SUBCOMMANDS
from flowkit_models.cli.errors import UsageError
from flowkit_models.models.bundled import SHIPPED

NAMES = [name.lower() for name in SUBCOMMANDS]
PREPARATIONS = ["prepare sub-images", "prepare celeba", "prepare lr"]


def test_the_version(flowkit):
    ran = flowkit("--version")
    assert ran.code == 0
    assert re.fullmatch(r"flowkit \d+\.\d+\.\d+\S*", ran.out[0])


@pytest.mark.parametrize("name", [*NAMES, *PREPARATIONS])
def test_help_says_defaults_in_words(name, flowkit, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ran = flowkit(*name.split(), "--help")
    assert ran.code == 0
    text = " ".join(" ".join(ran.out).replace("│", " ").split())
    for word in ("None", "(default: )", "(default: False)", "(default: True)", "PATH PATH", "{["):
        assert word not in text
    assert max(len(line) for line in ran.out if line.startswith(("│", "╭"))) == 80


def test_convert_and_doctor_name_their_files(flowkit):
    assert "convert [-h] SOURCE TARGET" in flowkit("convert", "--help").out[0]
    assert "CHECKPOINT [IMAGE]" in flowkit("doctor", "--help").out[0]
    assert "Leave out" in "".join(line for line in flowkit("doctor", "--help").out if "--no-layers" in line)


EMPTY = [
    ["upscale", ""],
    ["upscale", "x.png", "-o", ""],
    ["upscale", "x.png", "-m", ""],
    ["upscale", "-i", ""],
    ["upscale", "x.png", "--output="],
    ["downscale", "x.png", ""],
    ["restore", ""],
    ["encode", ""],
    ["decode", ""],
    ["decode", "x.safetensors", "--lr", ""],
    ["info", ""],
    ["convert", "", "x.pth"],
    ["convert", "x.pth", ""],
    ["doctor", "x.pth", ""],
    ["evaluate", "--set", ""],
    ["evaluate", "--set", "x", "--results", ""],
    ["evaluate", "--set", "x", "--out", ""],
    ["prepare", "sub-images", "", "--out", "x"],
    ["prepare", "lr", "x", "--out", ""],
    ["demo", "-m", ""],
]


@pytest.mark.parametrize("line", EMPTY, ids=" ".join)
def test_an_empty_path_is_a_usage_error(line, flowkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "x.png")
    ran = flowkit(*line)
    assert ran.code == 2
    assert len(ran.err) == 1
    assert "empty" in ran.err[0]
    assert tree(tmp_path) == ["x.png"]


def test_a_system_without_a_file():
    with pytest.raises(UsageError, match="mine= names no file"):
        options.Evaluate(set=(), results=("mine=",))


@pytest.mark.parametrize("suffix", ["/x", "a/../b", "..", "a\\b", "/../../../evil", "\0", "a\n"])
@pytest.mark.parametrize("command", ["upscale", "downscale", "restore", "encode", "decode"])
def test_a_suffix_has_no_separators(command, suffix, flowkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = flowkit(command, "x.png", "-o", "out", "--suffix", suffix)
    assert ran.code == 2
    assert ran.err[0].startswith("flowkit: --suffix ")


def test_temperatures_above_1_are_warned_of(tmp_path, upscale):
    path = save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    ran = upscale(tmp_path, "--temperature", "1.5")
    assert ran.code == 0
    assert ran.err == ["warning: --temperature 1.5: above 1 noise prevails over detail"]
    assert upscale(path, "--temperature", "1", "--overwrite").err == []


@pytest.mark.parametrize("command", ["upscale", "decode"])
def test_a_missing_file_is_called_what_it_is(command, tmp_path, flowkit, checkpoint):
    path = tmp_path / "x.safetensors"
    ran = flowkit(command, "-m", checkpoint(), path)
    noun = "latents file of flowkit encode" if command == "decode" else "picture"
    assert (ran.code, ran.err) == (1, [f"{path}: no such {noun}"])


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_pipe_that_lacks_characters(encoding, tmp_path, checkpoint, monkeypatch):
    save(tmp_path / "桜.png")
    upscale = ["upscale", "-m", str(checkpoint()), str(tmp_path)]
    for line in (upscale, ["doctor", str(SHIPPED), "--crop", "32"]):
        pipe = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(line) == 0
        pipe.flush()
        assert b"?" in pipe.buffer.getvalue()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_leaves_nothing_half_written(number, code, tmp_path, checkpoint):
    for i in range(200):
        save(tmp_path / "in" / f"{i}.png", noise(40, 40))
    line = ["upscale", "-m", str(checkpoint()), str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-m", "flowkit_models.cli", *line], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out").exists():
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, "flowkit: stopped; nothing is half-written\n")
    assert not list((tmp_path / "out").glob(".*"))


def test_the_doctor_fits_80_columns(flowkit, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ran = flowkit("doctor", SHIPPED, "--noise", "--crop", 32)
    assert max(map(len, ran.out)) <= 80
    rows = [line.split() for line in ran.out]
    assert [row[:2] for row in rows if row and row[0].startswith("levels.1.body.parts.5")] == [
        ["levels.1.body.parts.5", "InvertibleConv1x1"]
    ]
    assert any(line.startswith("      → ") for line in ran.out)
    assert len(flowkit("doctor", SHIPPED, "--noise", "--crop", 32, "--no-layers").out) < len(ran.out) - 20
