"""Values are trees: a tensor, or a (named) tuple of values, or None for a part that is not there."""

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

Value: TypeAlias = Any
"""A tensor of shape (B, C, *spatial), a (named) tuple of values, or None."""


def leaves(value: Value) -> Iterator[Tensor]:
    """Yields the tensors of a value, left to right."""
    if isinstance(value, tuple | list):
        for part in value:
            yield from leaves(part)
    elif value is not None:
        yield value


def map_leaves(function: Callable[[Tensor], Any], value: Value) -> Value:
    """Applies a function to every tensor of a value and keeps the shape of the tree."""
    if isinstance(value, tuple | list):
        parts = [map_leaves(function, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return None if value is None else function(value)


def describe(value: Value) -> str:
    """Shape and dtype of a value, for error messages."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, tuple | list):
        return f"({', '.join(describe(part) for part in value)})"
    return "None" if value is None else type(value).__name__


def widen(x: Tensor) -> Tensor:
    """Half-precision numbers as float32; all others as they are."""
    return x.float() if x.is_floating_point() and x.dtype.itemsize < 4 else x


def repeat_rows(x: Tensor, rows: int) -> Tensor:
    """A shared context for every draw: (B, ...) to (rows, ...), all B of the first draw first; as it is if it fits."""
    return x if x.shape[0] == rows else x.repeat(rows // x.shape[0], *(1 for _ in x.shape[1:]))


def as_rows(
    x: Value, context: Value, event: int | None, shared: bool = False
) -> tuple[Value, Value, torch.Size | None]:
    """One leading dimension in place of others.

    Args:
        x: (*sizes, *event); no tensor, or one with one leading dimension, is returned as it is.
        context: (*sizes, …), or with B rows where the last of the sizes is B; labels (*sizes) are integers.
        event: number of dimensions of one x, None if it isn't known.
        shared: the context has B rows, whatever its other sizes look like.

    Returns:
        x, the context, and the sizes; None if x is as it was.

    Raises:
        ValueError: for a context of neither these sizes nor B rows nor one, or of both: which x has which is unclear.
    """
    if event is None or not isinstance(x, Tensor) or x.ndim == event + 1 or x.ndim < event:
        return x, context, None
    sizes = x.shape[: x.ndim - event]

    def flat(c: Tensor) -> Tensor:
        one_each = c.shape[: len(sizes)] == sizes and (c.ndim > len(sizes) or not c.is_floating_point())
        if one_each and len(sizes) > 1 and c.ndim > len(sizes) and c.shape[0] == sizes[-1]:
            if not shared:
                raise ValueError(
                    f"a context of {tuple(c.shape)} for x of the leading sizes {tuple(sizes)} may be one for each x or "
                    f"{sizes[-1]} rows for all: flatten x and the context to rows"
                )
            one_each = False
        if not one_each and c.shape[:1] not in (sizes[-1:], (1,)):
            raise ValueError(
                f"a context for x of the leading sizes {tuple(sizes)} has the same in front, or {sizes[-1]} rows, or "
                f"one; got {describe(c)}"
            )
        return c.reshape(math.prod(sizes), *c.shape[len(sizes) :]) if one_each else c

    return x.reshape(math.prod(sizes), *x.shape[len(sizes) :]), map_leaves(flat, context), sizes


def sum_per_sample(x: Tensor) -> Tensor:
    """Sums everything but the batch: (B, ...) to (B,)."""
    return x.flatten(1).sum(1)


def channels_last(x: Tensor) -> Tensor:
    """An image in the layout in which CPUs convolve few channels fastest, by up to five times; all else as it is."""
    if x.ndim != 4 or x.device.type != "cpu":
        return x
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # in words that vmap knows
