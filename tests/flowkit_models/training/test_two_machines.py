"""Training on two machines, as far as one can be two: a network namespace each, and a link between them.

Needs root and `ip`. Each has an address of its own, and reaches the other by the link alone.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import support
import torch

from flowkit_models.training.logs import read_log

ROOT = Path(__file__).parents[3]
NAMES = ("fka", "fkb")
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and ip"
)


def ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True, capture_output=True)


@pytest.fixture
def machines() -> Iterator[None]:
    """Two namespaces, 10.77.0.1 and 10.77.0.2."""
    try:
        for name in NAMES:
            ip(f"netns add {name}")
        ip("link add fkveth0 netns fka type veth peer name fkveth1 netns fkb")
        for i, name in enumerate(NAMES):
            ip(f"-n {name} addr add 10.77.0.{i + 1}/24 dev fkveth{i}")
            ip(f"-n {name} link set fkveth{i} up")
            ip(f"-n {name} link set lo up")
    except subprocess.CalledProcessError as error:
        clear()
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    yield
    clear()


def clear() -> None:
    for name in NAMES:
        with contextlib.suppress(subprocess.CalledProcessError):
            ip(f"netns del {name}")


def start(what: str, out: Path) -> list[subprocess.Popen]:
    """torchrun on both, as docs/scale_out.md has it."""
    started = []
    for i, name in enumerate(NAMES):
        line = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
        line += ["--nproc_per_node", "1", "--max-restarts", "3", "--rdzv_id", "1", "--rdzv_backend", "c10d"]
        line += ["--rdzv_endpoint", "10.77.0.1:29500", "--rdzv_conf", f"is_host={1 - i}"]
        line += ["--local_addr", f"10.77.0.{i + 1}", support.__file__, what, str(out)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LATE": "15"}
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        environment["GLOO_SOCKET_IFNAME"] = environment["TP_SOCKET_IFNAME"] = f"fkveth{i}"
        started.append(
            subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    return started


def finish(processes: list[subprocess.Popen]) -> None:
    try:
        for process in processes:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=60)


def difference(a: Path, b: Path) -> float:
    one, two = torch.load(a), torch.load(b)
    return max(float((one[name].double() - two[name].double()).abs().max()) for name in one)


@needs_root
@pytest.mark.slow
def test_two_machines_train_like_one_process(machines, tmp_path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    processes = start("train", two)
    support.on_several_processes(one)
    finish(processes)
    for kind in ("summed", "phases", "without statistics"):
        assert difference(two / f"{kind}.0", two / f"{kind}.1") == 0
        assert difference(one / f"{kind}.0", two / f"{kind}.0") < 1e-9


def wait_for_step(log: Path, step: int) -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if log.exists() and any(row["step"] >= step for row in read_log(log)):
            return
        time.sleep(0.05)
    raise AssertionError(f"never came to step {step}")


@needs_root
@pytest.mark.slow
def test_a_process_that_is_killed_on_one_machine_changes_nothing(machines, tmp_path) -> None:
    """torchrun starts all processes again, and the run goes on from its last state, though one is later than the other.

    A store that outlives the restart would tell the quicker one where the other was before (docs/scale_out.md).
    """
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    processes = start("restartable", two)
    wait_for_step(two / "run" / "log.jsonl", 60)
    workers = [p for p in psutil.Process(processes[1].pid).children(recursive=True) if "restartable" in p.cmdline()]
    os.kill(workers[0].pid, signal.SIGKILL)
    finish(processes)
    support.restartable(one)
    assert difference(one / "restarted.0", two / "restarted.0") < 1e-9
    assert "goes on after step" in (two / "run.txt").read_text()
