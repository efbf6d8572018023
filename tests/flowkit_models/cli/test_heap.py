"""The heap of a process: memory that is freed stays, where glibc can be told and nobody has told it otherwise."""

import os
import platform
import signal
import subprocess
import sys

import pytest
import torch

from flowkit_models import devices
from flowkit_models.cli import dispatch, workers

PROGRAM = '''
import resource
import torch
from flowkit_models.cli.heap import keep_freed_memory

def faults(size):
    """Pages that the kernel clears for the second and third of three equal tensors, at least."""
    counts = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(size * 2**20)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(counts[1:])

before = faults(64)  # 256 MiB: 65,536 pages of 4 KiB, or 128 huge ones
told = keep_freed_memory()
after = [faults(size) for size in range(8, 72, 8)][-1]  # growing: what is freed lies at the heap's end
print(told, before > 60, after < 60)
'''


def said(**settings: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_T"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment | settings, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_freed_memory_serves_the_next_tensor_or_it_says_no() -> None:
    told, given_back, kept = said().split()
    assert told == str(platform.libc_ver()[0] == "glibc")
    assert told == "False" or (given_back, kept) == ("True", "True")


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_"])
def test_settings_of_the_environment_stay(name) -> None:
    assert said(**{name: "65536"}).startswith("False")


def test_the_command_keeps_memory_in_a_process_of_its_own_alone(monkeypatch) -> None:
    told = []
    monkeypatch.setattr(dispatch, "keep_freed_memory", lambda: told.append(1))
    assert dispatch.main(["--version"]) == 0
    assert not told
    monkeypatch.setattr(sys, "argv", ["flowkit", "--version"])
    assert dispatch.main() == 0
    assert told


def test_a_worker_keeps_memory(monkeypatch) -> None:
    told = []
    monkeypatch.setattr(workers, "keep_freed_memory", lambda: told.append(1))
    ours, theirs = workers.SPAWN.Pipe()
    ours.close()  # it ends at once
    before = signal.getsignal(signal.SIGINT)
    try:
        workers.serve_jobs(theirs, lambda number: lambda job: None, 0, torch.get_num_threads(), devices.SHARERS)
    finally:
        signal.signal(signal.SIGINT, before)
    assert told
