"""Devices: which one a name stands for, and the memory that is left for the CPU."""

import os
from pathlib import Path

import torch

SHARERS = 1
"""Processes that divide the memory that is left; `flowkit_models.cli.workers` sets it in each of its own."""

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_STATM = Path("/proc/self/statm")


def find_device(name: str = "auto") -> torch.device:
    """The device of a name; "auto" is the accelerator (CUDA, ROCm, MPS, XPU …) where there is one, else the CPU.

    Raises:
        ValueError: if there is no such device; it names those that there are.
    """
    found = ["cpu"]
    if torch.accelerator.is_available():
        kind = str(torch.accelerator.current_accelerator())
        found = [kind, *(f"{kind}:{i}" for i in range(torch.accelerator.device_count())), "cpu"]
    if name == "auto":
        return torch.device(found[0])
    if name not in found:
        raise ValueError(f"--device {name}: not on this machine; there is {', '.join(found)}, and auto")
    return torch.device(name)


def nth_device(name: str, number: int) -> torch.device:
    """The device of a name for one of several processes: a name without an index stands for all of its kind in turn.

    Args:
        name: as for `find_device`: "auto", "cuda", "cuda:1", "cpu" …
        number: which of the processes it is, from 0 on.

    Raises:
        ValueError: as `find_device`.
    """
    device = find_device(name)
    if device.type == "cpu" or device.index is not None:
        return device
    return torch.device(device.type, number % torch.accelerator.device_count())


def bf16_warning(device: torch.device) -> str:
    """A line for people where bf16 is slower than float32, since the processor has no instructions for it; else ""."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return ""
    return "warning: this processor does not compute in bf16, which is emulated: float32 is several times as fast"


def available_bytes() -> int | None:
    """Bytes that this process may still take: of the machine, its control group, and its address limit (`ulimit -v`).

    The kernel kills who takes more.

    Returns:
        None where the system doesn't say (other than Linux).
    """
    known = []
    if _MEMINFO.exists():
        known.append(_table(_MEMINFO)["MemAvailable:"] * 1024)
    limit = _CGROUP / "memory.max"
    if limit.exists() and limit.read_text().strip() != "max":
        cached = _table(_CGROUP / "memory.stat")["inactive_file"]  # files that the kernel drops when it needs room
        used = int((_CGROUP / "memory.current").read_text()) - cached
        known.append(max(0, int(limit.read_text()) - used))
    if (most := _address_limit()) is not None and _STATM.exists():
        taken = int(_STATM.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        known.append(max(0, most - taken))
    return min(known) // SHARERS if known else None


def _address_limit() -> int | None:
    try:
        import resource  # noqa: PLC0415 - Windows has none
    except ImportError:
        return None
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _table(path: Path) -> dict[str, int]:
    """A file of lines that start with a name and a number."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows}
