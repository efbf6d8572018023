"""The heap of a process: memory that is freed stays, where glibc can be told and nobody has told it otherwise."""

import os
import platform
import subprocess
import sys

import pytest

from flowkit_models.cli import dispatch

PROGRAM = """
import resource
import torch
from flowkit_models.cli.heap import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**25)  # 128 MiB, 32,768 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = min(faults() for _ in range(3))
told = keep_freed_memory()
after = min(faults() for _ in range(16))  # aligned blocks find their place after some
print(told, before > 60, after < 60)  # pages of 4 KiB, or huge ones of 2 MiB
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def said(**settings: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_T"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment | settings, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@glibc
def test_freed_memory_serves_the_next_tensor() -> None:
    assert said() == "True True True"


@glibc
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
