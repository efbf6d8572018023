"""Values are trees: a tensor, or a (named) tuple of values, or None for a part that is not there."""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

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


def sum_per_sample(x: Tensor) -> Tensor:
    """Sums everything but the batch: (B, ...) to (B,)."""
    return x.flatten(1).sum(1)


def channels_last(x: Tensor) -> Tensor:
    """An image in the layout in which CPUs convolve few channels fastest, by up to five times; all else as it is."""
    if x.ndim != 4 or x.device.type != "cpu":
        return x
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # in words that vmap knows
