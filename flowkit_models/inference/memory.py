"""CPU memory: estimated peak of a computation. `devices.available_bytes` says what is left."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from flowkit.tree import leaves


def peak_tensor_bytes(run: Callable[[], Any]) -> int:
    """Peak of the bytes that the tensors made by a call hold together; what was there before, it may look into.

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
    """Adds up the storages that torch functions return, each from its first appearance until it is freed.

    One that is given to a function first was there before: views of it, which functions return too, take no memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function of torch."""
        kwargs = kwargs or {}
        for storage in _storages((args, [*kwargs.values()])):
            self._add(storage, 0)
        out = func(*args, **kwargs)
        for storage in _storages(out):
            self._add(storage, storage.nbytes())
        return out

    def _add(self, storage: torch.UntypedStorage, size: int) -> None:
        address = storage._cdata  # what the storage is called below Python: views share it
        if address not in self._alive:
            self._alive.add(address)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, address, size)

    def _free(self, address: int, size: int) -> None:
        self._alive.discard(address)
        self.now -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in leaves(tree) if isinstance(leaf, Tensor)]
