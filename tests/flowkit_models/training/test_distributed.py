"""Two processes under torchrun: the weights of one process with the whole batch, and one set of logs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import support
import torch

from flowkit_models.training.distributed import warn_of_old_addresses
from flowkit_models.training.logs import read_log

ROOT = Path(__file__).parents[3]


def torchrun(*arguments):
    """Two processes on this machine, on CPUs."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", support.__file__]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *map(str, arguments)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_two_processes_train_like_one(tmp_path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    process = torchrun("train", two)
    support.on_several_processes(one)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    for kind in ("summed", "phases", "without statistics"):
        expected = torch.load(one / f"{kind}.0")
        ranks = [torch.load(two / f"{kind}.{rank}") for rank in (0, 1)]
        # initialisation, gradients, a resume and a skipped step are in it
        assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in expected)
        difference = max(float((ranks[0][name].double() - w.double()).abs().max()) for name, w in expected.items())
        assert difference < 1e-9, kind
        logs = [read_log(folder / kind / "log.jsonl") for folder in (one, two)]
        assert [(row["kind"], row["step"]) for row in logs[0]] == [(row["kind"], row["step"]) for row in logs[1]]
        for a, b in zip(*logs, strict=True):
            assert {**a, "kind": 0, "why": 0} == pytest.approx({**b, "kind": 0, "why": 0}, rel=1e-4)
        # sample 13 is the second process's
        assert [row["why"] for row in logs[1] if row["kind"] == "skipped"] == [
            f"{'all' if kind == 'summed' else 'nll'}: hr of sample 13 is not finite"
        ]
        shown = (two / f"{kind}.txt").read_text()
        assert shown.count("goes on after step 3") == 1


@pytest.mark.slow
def test_a_signal_to_torchrun_saves_and_exits(tmp_path) -> None:
    out = tmp_path / "run"
    process = torchrun("endless", out)
    deadline = time.monotonic() + 60
    while len(read_log(out / "log.jsonl")) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "SIGTERM after step" in (tmp_path / "run.txt").read_text(), output
    assert len(read_log(out / "log.jsonl")) >= 5


@pytest.mark.parametrize(("shared", "restarts", "warned"), [("True", "3", 1), ("False", "3", 0), ("True", "0", 0)])
def test_a_store_that_outlives_a_restart_is_warned_of(shared, restarts, warned, monkeypatch, recwarn) -> None:
    """As torchrun tells its processes of it: docs/scale_out.md#restarts."""
    told = {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": shared}
    for name, value in {**told, "TORCHELASTIC_MAX_RESTARTS": restarts}.items():
        monkeypatch.setenv(name, value)
    warn_of_old_addresses()
    assert ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in str(warning.message) for warning in recwarn] == [True] * warned
