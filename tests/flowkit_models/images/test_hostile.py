"""Hostile pictures under an address limit of what the process has after a good file plus 2 GB, in both readers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_files import HOSTILE, PNG

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """For each file and reader: seconds and what was said; and what was executed."""
    folder, tools = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("tools")
    for name, content in HOSTILE.items():
        (folder / name).write_bytes(content())
    (folder / "good.png").write_bytes(PNG)
    for program in ("gs", "convert", "magick", "rsvg-convert", "sh", "inkscape", "dcraw"):
        (tools / program).write_text(f"#!/bin/bash\ntouch {tools}/ran-{program}\n")
        (tools / program).chmod(0o755)
    places = os.pathsep.join(map(str, (ROOT, ROOT / "tests/flowkit_models/images")))
    ran = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", ROOT / "tests/flowkit_models/images/hostile_files.py", folder],
        env={**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": places},
        capture_output=True,
        text=True,
        check=False,
    )
    rows = [line.split("\t") for line in ran.stdout.splitlines()]
    found = {(name, reader.rpartition(".")[2]): (float(seconds), said) for name, reader, seconds, said in rows}
    return ran, found, [path.name for path in tools.glob("ran-*")] + [path.name for path in ROOT.glob("ran")]


@pytest.mark.slow
def test_there_are_forty():
    assert len(HOSTILE) >= 40


@pytest.mark.slow
def test_nothing_ends_the_process_and_nothing_is_executed(answers):
    ran, found, executed = answers
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert len(found) == 2 * (len(HOSTILE) + 1)
    assert executed == []
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("reader", ["photo_file", "image_file"])
def test_each_is_one_line_or_a_picture_in_ten_seconds(answers, name, reader):
    seconds, said = answers[1][name, reader]
    assert seconds < 10
    assert "\\n" not in said
    assert said == "read True" or name in said
