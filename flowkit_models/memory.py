"""How much memory a computation takes on the CPU, and how much there is: the kernel kills who asks for more."""

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_CGROUP = Path("/sys/fs/cgroup")


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most bytes that the tensors made by a call held together.

    The process takes more: convolutions reorder their data, and freed memory is not given back at once. For one tile
    of the image models that was 1.2 to 2.1 times as much (CPU, float32).
    """
    counter = _Counter()
    with torch.no_grad(), counter:
        run()
    return counter.peak


def available_bytes() -> int | None:
    """Bytes that this process may still take: of the machine, and of its control group where that has a limit.

    Returns:
        None where the system doesn't say (other than Linux).
    """
    known = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        known.append(int(lines["MemAvailable"].split()[0]) * 1024)
    elif "SC_AVPHYS_PAGES" in os.sysconf_names:
        known.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limit, used = (_CGROUP / name for name in ("memory.max", "memory.current"))
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        known.append(max(0, int(limit.read_text()) - int(used.read_text())))
    return min(known, default=None)


class _Counter(TorchDispatchMode):
    """Adds up the storages that operators return, each from its first appearance until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()  # what the storage is called below Python: views share it
        if address not in self._alive:
            self._alive.add(address)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, address, size)

    def _free(self, address: int, size: int) -> None:
        self._alive.discard(address)
        self.now -= size
