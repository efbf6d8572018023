"""`flowkit upscale --workers`: what it leaves and says is that of one process, whatever happens to one of several."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from command_files import noise, opened, save, tree

from flowkit_models.cli.batch import Batch, Job
from flowkit_models.cli.options import Upscale
from flowkit_models.cli.paths import Naming, find_inputs
from flowkit_models.cli.workers import do_in_processes


def test_results_lines_and_exit_code_are_those_of_one_process(tmp_path, upscale) -> None:
    for place in ("one", "two"):
        for i in range(3):
            save(tmp_path / place / "in" / f"sub{i}" / "x.png", noise(seed=i))
        (tmp_path / place / "in" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    said = []
    for place, workers in (("one", 1), ("two", 2)):
        ran = upscale(tmp_path / place / "in", "-o", tmp_path / place / "out", "--workers", workers)
        text = "\n".join([str(ran.code), *ran.out, *sorted(ran.err)])
        said.append(re.sub(r"in [\d.]+ s", "", text.replace(str(tmp_path / place), "")))
    assert said[0] == said[1]
    assert said[0].startswith("1\n3 done, 0 skipped, 1 failed")
    assert tree(tmp_path / "one" / "out") == tree(tmp_path / "two" / "out")
    for i in range(3):
        assert np.array_equal(*(opened(tmp_path / place / "out" / f"sub{i}" / "x_x4.png") for place in ("one", "two")))


@pytest.mark.slow
def test_results_that_are_there_are_skipped(tmp_path, upscale) -> None:
    for i in range(3):
        save(tmp_path / "in" / f"sub{i}" / "x.png", noise(seed=i))
    assert upscale(tmp_path / "in", "-o", tmp_path / "out").code == 0
    again = upscale(tmp_path / "in", "-o", tmp_path / "out", "--workers", 2)
    assert again.out[-1].startswith("0 done, 3 skipped")


def write_or_die(number: int):
    """Stands for a model: copies its source, or the process is killed, as the kernel does it."""

    def do(job: Job) -> None:
        if job.source.stem == "b_dies":
            os.kill(os.getpid(), signal.SIGKILL)
        job.warn(f"in {os.getpid()}")
        job.targets[0].write_bytes(job.source.read_bytes())

    return do


@pytest.mark.slow
def test_a_process_that_dies_costs_one_picture_and_another_goes_on(tmp_path, capfd) -> None:
    for name in ("a", "b_dies", "c", "d"):
        save(tmp_path / f"{name}.png")
    batch = Batch(Upscale(), find_inputs([str(tmp_path)], str(tmp_path / "out"), {".png"}), Naming("_x"))
    do_in_processes(batch, write_or_die, 1)
    assert batch.summary() == 1
    assert tree(tmp_path / "out") == ["a_x.png", "c_x.png", "d_x.png"]
    out, err = capfd.readouterr()
    assert out.startswith("3 done, 0 skipped, 1 failed")
    assert f"{tmp_path / 'b_dies.png'}: its process died (SIGKILL, of memory perhaps: take fewer --workers" in err
    assert len(set(re.findall(r"in (\d+)$", err, re.MULTILINE))) == 2


def fail_to_start(number: int):
    raise ValueError(f"no model for {number}")


@pytest.mark.slow
def test_processes_that_cannot_start_are_told(tmp_path, capfd) -> None:
    save(tmp_path / "a.png")
    batch = Batch(Upscale(), find_inputs([str(tmp_path)], str(tmp_path / "out"), {".png"}), Naming("_x"))
    with pytest.raises(OSError, match="no process could start"):
        do_in_processes(batch, fail_to_start, 2)
    assert "worker 1: no model for 0" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_processes_and_leaves_nothing_half_written(number, code, tmp_path) -> None:
    for i in range(40):
        save(tmp_path / "in" / f"{i}.png", noise(200, 200, seed=i))
    line = [sys.executable, "-m", "flowkit_models.cli", "upscale", "in", "-o", "out", "--workers", "2"]
    root = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        line,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    while not list(tmp_path.glob("out/*.png")) and time.monotonic() < end:
        time.sleep(0.1)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # a terminal sends it to all
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.splitlines() == ["flowkit: stopped; nothing is half-written"]
    assert out == ""
    assert 0 < len(list(tmp_path.glob("out/*.png"))) < 40
    assert not [path for path in tree(tmp_path / "out") if not path.endswith(".png")]
    time.sleep(1)
    assert not left_of(process.pid)


def left_of(group: int) -> list[int]:
    """Processes of a group that run, not those that only wait for a parent to ask how they ended."""
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process.pid)
    return left
