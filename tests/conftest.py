"""What every test shares: the golden numbers, and hypothesis settings that suit tensors."""

import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from safetensors.torch import load_file

settings.register_profile(
    "flowkit",
    deadline=None,
    max_examples=10,
    derandomize=True,  # the suite says the same thing each time it runs
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("flowkit")
# hypothesis derives the settings of each parametrized case from those of the case before, and looks them up one by one
sys.setrecursionlimit(20_000)
torch.set_num_threads(1)  # tiny tensors: threads only cost here


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[Any]:
    """Collects without the garbage collector: it would walk through all modules and tests, then and in each test."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with golden numbers and benchmark images, which is not part of the repository."""
    root = Path(__file__).parents[1]
    folder = (root / os.environ.get("FLOWKIT_SHARED", "../shared")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no golden numbers: {folder} does not exist (set FLOWKIT_SHARED)")
    return folder


class Golden:
    """One golden file: its tensors, and the description beside them."""

    def __init__(self, path: Path) -> None:
        self.tensors = load_file(path.with_suffix(".safetensors"))
        self.about: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors whose names start with `prefix`, named by what follows it."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


@pytest.fixture(scope="session")
def golden(shared: Path):
    """Opens a golden file by name."""
    return lambda name: Golden(shared / "golden" / name)
