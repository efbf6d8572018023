"""Shapes that a map makes, without a pass: from what its parts state, or else on fake tensors."""

from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from flowkit.bijector import Inverse, facts
from flowkit.chain import Chain
from flowkit.hierarchy import Hierarchy, Latents
from flowkit.reversible import Reversible
from flowkit.shortcuts import author
from flowkit.spatial import Split
from flowkit.tree import Value, describe, map_leaves

ROWS = 2
"""Rows of an outline: a batch norm in train mode takes no fewer."""


class _UnstatedError(Exception):
    """A part inside must be called, and what it would be called with isn't known there."""


def outline(b: nn.Module, x: Value, context: Value = None) -> Value:
    """What a map makes of x, as tensors on the meta device: shapes, and no numbers.

    What parts state about themselves is taken as it is; of a part that states too little, a copy without hooks is
    called on fake tensors. If it can't be (it has no forward, or looks at its numbers), what it makes of a tensor is
    taken to be of that shape.

    Args:
        b: the map.
        x: tensors, such as those of `blank`.
        context: as for its forward.

    Raises:
        ValueError: if sizes don't divide, or a tree goes into a part that can't be called.
    """
    stated = facts(b)
    shrink = stated.shrink if isinstance(x, Tensor) and stated.y_is_tensor else None
    if shrink is not None and all(size % shrink.numerator == 0 for size in x.shape[2:]):  # else a part says what fails
        return _resized(b, x, shrink)
    made_by = author(b, "forward")
    if made_by is Chain or made_by is Reversible:
        for part in b.parts:  # type: ignore[union-attr]
            x = outline(part, x, context)
        return x
    if made_by is Split:
        return b(x)[0]
    if made_by is Inverse and author(b.bijector, "forward") is Split:  # type: ignore[arg-type]
        return b(x)[0]
    if made_by is Hierarchy:
        try:
            return _levels(b, x)
        except _UnstatedError:
            return _called(b, x, context)
    return _called(b, x, context) if shrink is None else _resized(b, x, shrink)


def blank(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """An outline of x, of this shape without the batch."""
    return torch.empty(ROWS, *shape, dtype=dtype, device="meta")


def runs(call: Callable[..., Any], module: nn.Module, *args: Value) -> bool:
    """Whether a call, as far as shapes go, works: `call(copy of the module, *args)` on fake tensors."""
    try:
        _fake(call, module, *args)
    except DataDependentOutputException:
        return True
    except Exception:  # whatever a user's map does with what it can't take
        return False
    return True


def _levels(b: Any, x: Value) -> Latents:
    """Outline of a hierarchy's latents; its contexts and features shall play no part."""
    kept, dropped = [], []
    for i, level in enumerate(b.levels):
        x, a = b._part(i, outline(level.body, x, _UnstatedError))
        kept.append(x)
        dropped.append(a)
    z = tuple(outline(b.levels[i].latent, dropped[i], _UnstatedError) for i in b.split_levels)
    return Latents(kept[-1], z)


def _resized(b: nn.Module, x: Tensor, shrink: Fraction) -> Tensor:
    if shrink == 1:
        return x
    sizes = [size / shrink for size in x.shape[2:]]
    if any(size.denominator > 1 for size in sizes):
        name, got = f"{type(b).__name__}({b.extra_repr()})", tuple(x.shape[2:])
        raise ValueError(f"{name}: spatial sizes must be multiples of {shrink}, got {got}")
    channels = x.shape[1] * shrink ** len(sizes)
    return x.new_empty(x.shape[0], int(channels), *map(int, sizes))


def _called(b: nn.Module, x: Value, context: Value) -> Value:
    if context is _UnstatedError:
        raise _UnstatedError
    try:
        value = _fake(lambda b, x, context: b(x, context)[0], b, x, context)
    except Exception as error:  # whatever a user's map does
        if not isinstance(x, Tensor):
            raise ValueError(
                f"{type(b).__name__}({b.extra_repr()}): what it makes of {describe(x)} can't be told; state its "
                "`y_is_tensor` and `shrink`, or give the base a `shape`"
            ) from error
        return x
    return map_leaves(lambda leaf: torch.empty(leaf.shape, dtype=leaf.dtype, device="meta"), value)


@torch.no_grad()
def _fake(call: Callable[..., Any], module: nn.Module, *args: Value) -> Any:
    """A call with a copy of the module, on fake tensors: nothing is computed, drawn or written."""
    like = next(module.parameters(), torch.empty(0))

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:

        def new(leaf: Tensor) -> Tensor:
            return torch.empty(ROWS, *leaf.shape[1:], dtype=leaf.dtype, device=like.device)

        return call(_copy(module, mode.from_tensor, {}), *(map_leaves(new, value) for value in args))


@torch.no_grad()
def on_meta(call: Callable[..., Any], module: nn.Module, *args: Value) -> Any:
    """A call with a copy of the module, on the meta device, as `_fake`.

    Less can be called so (tensors that a module makes of numbers are not on that device), but at once: the first fake
    tensor makes torch import its compiler.

    Args:
        call: called with the copy, whose modules come in the order of the module's, and the arguments.
        module: a module.
        args: values to take shapes from.
    """
    with torch.device("meta"):
        return call(_copy(module, _meta, {}), *(map_leaves(_meta, value) for value in args))


def _meta(leaf: Tensor) -> Tensor:
    return torch.empty_like(leaf, device="meta")


def _copy(module: nn.Module, empty: Callable[[Tensor], Tensor], known: dict[int, nn.Module]) -> nn.Module:
    """A module of the same attributes with empty parameters and buffers, and without hooks."""
    if id(module) in known:
        return known[id(module)]
    copy = known[id(module)] = type(module).__new__(type(module))
    copy.__dict__ = dict(module.__dict__)
    for name, tensors in (("_parameters", module._parameters), ("_buffers", module._buffers)):
        copy.__dict__[name] = {key: None if t is None else empty(t) for key, t in tensors.items()}
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        copy.__dict__[name] = OrderedDict()
    parts = {key: None if part is None else _copy(part, empty, known) for key, part in module._modules.items()}
    copy.__dict__["_modules"] = parts
    return copy
