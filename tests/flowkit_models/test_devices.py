"""Which device a name stands for, with and without an accelerator, and the memory that is left."""

import pytest
import torch

from flowkit_models import devices
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


@pytest.mark.parametrize("has", [True, False])
def test_bf16_that_is_emulated_is_told(monkeypatch, has) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has)
    said = devices.bf16_warning(torch.device("cpu"))
    assert said == "" if has else "float32 is several times as fast" in said
    assert devices.bf16_warning(torch.device("cuda")) == ""


@pytest.mark.parametrize("name", ["xpu:2", "cuda", "meta", "gpu", ""])
def test_what_is_not_there_is_refused(two_gpus, name) -> None:
    with pytest.raises(ValueError, match=f"--device {name}: not on this machine; there is xpu, xpu:0, xpu:1, cpu, and"):
        find_device(name)


def test_available_memory_is_a_number_of_bytes() -> None:
    free = devices.available_bytes()
    assert free is None or 10**6 < free < 2**50


def test_available_memory_is_the_least_of_machine_and_control_group(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(devices, "_CGROUP", tmp_path)
    monkeypatch.setattr(devices, "_MEMINFO", tmp_path / "meminfo")
    assert devices.available_bytes() is None
    (tmp_path / "meminfo").write_text("MemTotal:       16000 kB\nMemAvailable:    8000 kB\nHugePages_Total:       0\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert devices.available_bytes() == 8_192_000
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    (tmp_path / "memory.stat").write_text("anon 5000\ninactive_file 600000\n")
    assert devices.available_bytes() == 2_600_000
    (tmp_path / "memory.current").write_text("9000000\n")
    assert devices.available_bytes() == 0


def test_available_memory_knows_the_address_limit(monkeypatch) -> None:
    monkeypatch.setattr(devices, "_address_limit", lambda: 2**60)
    free = devices.available_bytes()
    monkeypatch.setattr(devices, "_address_limit", lambda: 10**6)
    assert devices.available_bytes() == 0
    assert free is None or free > 10**6
