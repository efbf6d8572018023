"""Which device a name stands for, with and without an accelerator."""

import pytest
import torch

from flowkit_models.devices import find_device


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


def test_auto_is_the_accelerator_whatever_its_kind(two_gpus) -> None:
    assert find_device() == torch.device("xpu")
    assert find_device("xpu:1") == torch.device("xpu", 1)
    assert find_device("cpu") == torch.device("cpu")


def test_auto_is_the_cpu_where_there_is_nothing_else(monkeypatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert find_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="--device cuda: not on this machine; there is cpu, and auto"):
        find_device("cuda")


@pytest.mark.parametrize("name", ["xpu:2", "cuda", "meta", "gpu", ""])
def test_what_is_not_there_is_refused(two_gpus, name) -> None:
    with pytest.raises(ValueError, match=f"--device {name}: not on this machine; there is xpu, xpu:0, xpu:1, cpu, and"):
        find_device(name)
