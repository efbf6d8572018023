"""The device law: on fake CUDA tensors every map runs on the device alone, no copy from or to it, no value read.

There need be no GPU. What the docs name is exempt by name: ActNorm's initialisation and the making of a permutation read
values, once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from example import Example
from examples import EXAMPLES, Case, case
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import flowkit
from flowkit import shapes
from flowkit.tree import Value, leaves, map_leaves

ENGINE = torch.cuda.is_available()
"""Whether autograd can walk back there: it asks the driver, on fake tensors too."""

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
    empty = torch.empty_like(tensor, device="cuda")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


@contextmanager
def on_the_device(module: nn.Module, *values: Value) -> Iterator[Any]:
    """A copy of a module and of values there; what runs within must stay there."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        there = shapes._copy(module, moved, {})
        given = [map_leaves(moved, value) for value in values]
        with Watch() as watch:
            yield there, *given
    assert not watch.copies, f"{type(module).__name__} copies between devices: {sorted(set(watch.copies))}"


def stays(value: Value) -> None:
    assert {leaf.device.type for leaf in leaves(value)} == {"cuda"}


def both_ways(its: Case) -> None:
    with on_the_device(its.b, its.x, its.context) as (b, x, context):
        x = map_leaves(Tensor.requires_grad_, x)
        for method in (b, b.inverse):
            y, logdet = method(x, context)
            stays((y, logdet))
            if ENGINE:
                sum(leaf.sum() for leaf in (*leaves(y), logdet)).backward()
            x = map_leaves(lambda leaf: leaf.detach().requires_grad_(), y)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_bijectors(example: Example) -> None:
    its = case(example, 0, 2, max(d for d in example.dims if d < 3), (2, 2))
    if not ENGINE and any(isinstance(part, flowkit.ODE | flowkit.Residual) for part in its.b.modules()):
        pytest.skip("it differentiates its net, and autograd asks for a driver")
    both_ways(its)
