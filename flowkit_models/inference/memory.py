"""CPU memory: estimated peak of a computation. `devices.available_bytes` says what is left."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from flowkit.tree import leaves


def peak_tensor_bytes(run: Callable[[], Any]) -> int:
    """Peak of the bytes that the tensors made by a call hold together.

    Counted without torch's profiler, which would cancel one that is already running. The process takes more:
    convolutions reorder their data, and freed memory is not given back at once. For one tile of the image models that
    was 1.2 to 2.1 times as much (CPU, float32).
    """
    counter = _Counter()
    with torch.no_grad(), counter:
        run()
    return counter.peak


def is_out_of_memory(error: BaseException) -> bool:
    """True for the errors by which Python, torch on the CPU, and torch on a device refuse memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "out of memory" in text)


class _Counter(TorchFunctionMode):
    """Adds up the storages that torch functions return, each from its first appearance until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function of torch."""
        out = func(*args, **(kwargs or {}))
        for leaf in leaves(out):
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
