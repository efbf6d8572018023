"""Fake CUDA tensors for the device law: what runs on them copies nothing from or to the device, and reads no value."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flowkit import shapes
from flowkit.tree import Value, leaves, map_leaves

READS = (DataDependentOutputException, DynamicOutputShapeException)


class Watch(TorchDispatchMode):
    """Notes the calls whose tensors lie on two devices."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)}
        if len(devices) > 1:
            self.copies.append(str(func))
        return out


def moved(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="cuda")


@contextmanager
def on_the_device(module: nn.Module, *values: Value) -> Iterator[Any]:
    """A copy of a module and of values there; what runs within must stay there."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        there = shapes._copy(module, moved, {})
        for part in there.modules():
            if type(part)._apply is not nn.Module._apply:  # has more to move than parameters and buffers
                part._apply(moved)
        given = [map_leaves(moved, value) for value in values]
        with Watch() as watch:
            yield there, *given
    assert not watch.copies, f"{type(module).__name__} copies between devices: {sorted(set(watch.copies))}"


def stays(value: Value) -> None:
    assert {leaf.device.type for leaf in leaves(value)} == {"cuda"}


class Reads(TorchDispatchMode):
    """Counts the values that the host reads of tensors that are there: on a GPU each waits for all work before it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._overloadpacket is torch.ops.aten._local_scalar_dense
        return func(*args, **(kwargs or {}))
