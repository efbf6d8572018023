"""The checks around every map: what comes in, what goes out, and one clear line if either is wrong."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from flowkit.tree import Value, describe, leaves, map_leaves, widen

_Method = Callable[..., tuple[Value, Tensor]]


def checked_method(method: _Method, forward: bool) -> _Method:
    """Wraps `forward` or `inverse` of a bijector."""

    # two of them, so that both arguments keep their names
    @functools.wraps(method)
    def checked_forward(self: Any, x: Value, context: Value = None, *rest: Any, **options: Any) -> tuple[Value, Tensor]:
        x = _check_input(self, x, context, True)
        return _check_output(self, method(self, x, as_wide(context, x), *rest, **options), x)

    @functools.wraps(method)
    def checked_inverse(self: Any, y: Value, context: Value = None, *rest: Any, **options: Any) -> tuple[Value, Tensor]:
        y = _check_input(self, y, context, False)
        return _check_output(self, method(self, y, as_wide(context, y), *rest, **options), y)

    return checked_forward if forward else checked_inverse


def checked_alone(method: Callable[..., Value]) -> Callable[..., Value]:
    """Wraps `inverse_alone`: what comes in is checked as for `inverse`."""

    @functools.wraps(method)
    def checked(self: Any, y: Value, context: Value = None) -> Value:
        y = _check_input(self, y, context, False)
        return method(self, y, as_wide(context, y))

    return checked


def as_wide(context: Value, x: Value) -> Value:
    """A context in the dtype of x, unless autocast chooses the networks' precision."""
    if context is None:
        return None
    first = next(leaves(x))
    if autocasting(first):
        return context
    return map_leaves(lambda c: c.to(first.dtype) if c.is_floating_point() else c, context)


def autocasting(x: Tensor) -> bool:
    """Whether autocast is on where x is; it knows nothing of the meta device."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def unreadable(x: Tensor) -> bool:
    """Whether the numbers of x can't be looked at: under tracing, `torch.func` and forward mode, and without any.

    Fake tensors have none, nor those on the meta device. A loop that stops by a value runs a fixed number of steps.
    """
    return (
        torch.compiler.is_compiling()
        or x.is_meta
        or isinstance(x, FakeTensor)
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )


def refuse_export(part: nn.Module, reason: str) -> None:
    """Raises a ValueError, with what the part does that no program can hold, where `torch.export` is at work."""
    if torch.compiler.is_exporting():
        raise ValueError(f"{type(part).__name__} {reason}, which no program holds")


def _name(layer: nn.Module) -> str:
    return f"{type(layer).__name__}({layer.extra_repr()})"


def _check_input(layer: Any, x: Value, context: Value, forward: bool) -> Value:
    tensors = [x] if isinstance(x, Tensor) else list(leaves(x))
    if not tensors:
        raise ValueError(f"{_name(layer)}: expected a tensor or a tuple of tensors, got {describe(x)}")
    for leaf in tensors:
        if not isinstance(leaf, Tensor) or leaf.ndim < 2 or not leaf.is_floating_point():
            raise ValueError(
                f"{_name(layer)}: expected floating-point (B, C, *spatial), got {describe(leaf)}"
                + (", convert it with .float()" if isinstance(leaf, Tensor) and leaf.ndim >= 2 else "")
            )
        if leaf.dtype.itemsize < 4:  # a half-precision image would make a half-precision log-det
            return _check_input(layer, map_leaves(widen, x), context, forward)
    first = tensors[0]
    parameter = any_parameter(layer)
    if parameter is not None and parameter.is_floating_point() and parameter.dtype.itemsize < 4:
        raise ValueError(
            f"{_name(layer)}: parameters are {str(parameter.dtype).removeprefix('torch.')}, and half precision is not "
            "for parameters; keep them float32, .float(), and run networks in low precision with torch.autocast"
        )
    if parameter is not None and parameter.is_floating_point() and parameter.dtype != first.dtype:
        raise ValueError(
            f"{_name(layer)}: parameters are {str(parameter.dtype).removeprefix('torch.')}, "
            f"got {describe(first)}; convert one of them with .to(dtype)"
        )
    if context is None and isinstance(x, Tensor):
        _check_shape(layer, x, forward)
        return x
    for leaf in leaves(context):
        if not isinstance(leaf, Tensor) or leaf.ndim < 1:
            raise ValueError(f"{_name(layer)}: a context is made of tensors (B, ...), got {describe(leaf)}")
    _check_rows(layer, x, context)
    if isinstance(x, Tensor):
        _check_shape(layer, x, forward)
    elif layer.x_is_tensor if forward else layer.y_is_tensor:
        raise ValueError(f"{_name(layer)}: expected one tensor, got {describe(x)}")
    return x


def any_parameter(layer: nn.Module) -> Tensor | None:
    """The first parameter of a layer; `next(layer.parameters())` takes several times as long, in every call."""
    for parameter in layer._parameters.values():
        if parameter is not None:
            return parameter
    for part in layer._modules.values():
        found = None if part is None else any_parameter(part)
        if found is not None:
            return found
    return None


def _rows(x: Value) -> int:
    """The batch size: of a tree, the largest."""
    if isinstance(x, Tensor):
        return x.shape[0]
    return max(leaf.shape[0] for leaf in leaves(x))


def _check_rows(layer: Any, x: Value, context: Value) -> None:
    """All of one batch size; but B rows of a context, or of a hierarchy's y, may be shared by n·B rows of x."""
    rows = _rows(x)
    given = [*leaves(context), *(list(leaves(x)) if layer.shares_y else [])]
    fewer = [leaf.shape[0] for leaf in given if leaf.shape[0] != rows]
    odd = any(n != fewer[0] or not n or rows % n for n in fewer)
    if odd or (not layer.shares_y and any(leaf.shape[0] != rows for leaf in leaves(x))):
        raise ValueError(
            f"{_name(layer)}: batch sizes differ: {describe(x)} with context {describe(context)}; it may have fewer "
            "rows only if x holds several draws for each of them"
        )


def _check_shape(layer: Any, x: Tensor, forward: bool) -> None:
    channels = layer.in_channels if forward else layer.out_channels
    if channels is not None and x.shape[1] != channels:
        raise ValueError(f"{_name(layer)}: expected {channels} channels, got {describe(x)}")
    if forward and any(size % layer.stride for size in x.shape[2:]):
        raise ValueError(f"{_name(layer)}: spatial sizes must be multiples of {layer.stride}, got {describe(x)}")


def _check_output(layer: Any, out: Any, x: Value) -> tuple[Value, Tensor]:
    if not isinstance(out, tuple) or len(out) != 2 or not isinstance(out[1], Tensor):
        raise TypeError(f"{_name(layer)}: must return (value, logdet), got {describe(out)}")
    logdet, batch = out[1], _rows(x)
    if logdet.shape != (batch,) or logdet.dtype.itemsize < 4:
        raise TypeError(
            f"{_name(layer)}: logdet must be ({batch},) float32 or wider, got {describe(logdet)}; "
            "sum over everything but the batch, and compute under flowkit.bijector.full_precision"
        )
    return out
