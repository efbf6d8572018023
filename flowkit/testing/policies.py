"""What is asked in float32: precision, the state dict, wrong input."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.bijector import Bijector
from flowkit.testing.compare import close, equal, expect, fresh, name_of, noise_source
from flowkit.tree import Value, describe, leaves, map_leaves


def precision(b: Any, x: Value, context: Value = None, device: str = "cpu") -> None:
    """Under bf16 autocast the map stays in float32: its values, its log-det, and its round trip."""
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        y, forward = b(x, context)
        back, inverse = b.inverse(y, context)
    for value in (*leaves(y), forward, *leaves(back), inverse):
        expect(
            value.dtype.itemsize >= 4,
            b,
            "precision under autocast",
            f"{describe(value)}: the map ran in low precision; compute it under flowkit.bijector.full_precision",
        )
    close(back, x, b, "precision under autocast (round trip)", 1e-3)
    close(inverse, -forward, b, "precision under autocast (inverse's sign)", 1e-3)


def agreement(b: Any, x: Value, context: Value = None) -> None:
    """In float32 value and log-det are those of float64, but for what rounding input and parameters does to them."""
    wide = copy.deepcopy(b).double()
    moved = copy.deepcopy(wide)
    noise = noise_source()

    def double(value: Value, rounded: bool = False) -> Value:
        def convert(leaf: Tensor) -> Tensor:
            if not leaf.is_floating_point():
                return leaf
            leaf = leaf.double()
            return leaf + torch.finfo(torch.float32).eps * leaf.abs() * noise(leaf) if rounded else leaf

        return map_leaves(convert, value)

    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.copy_(double(parameter, True))
        y = b(x, context)[0]
        for name, given in (("forward", x), ("inverse", y)):
            got, true, near = (
                (m if name == "forward" else m.inverse)(v, c)
                for m, v, c in (
                    (b, given, context),
                    (wide, double(given), double(context)),
                    (moved, double(given, True), double(context)),
                )
            )
            slack = map_leaves(lambda leaf: 100 * leaf.abs().amax(), _difference(near, true))
            law = f"float32 agrees with float64 ({name})"
            close(double(got[0]), true[0], b, law, 1e-4, _spread(slack[0], true[0]))
            close(got[1].double(), true[1], b, f"log-det in float32 is that of float64 ({name})", 2e-5, slack[1])


def _difference(a: Value, b: Value) -> Value:
    others = leaves(b)
    return map_leaves(lambda leaf: leaf - next(others), a)


def _spread(numbers: Value, like: Value) -> Value:
    each = leaves(numbers)
    return map_leaves(lambda leaf: next(each).expand(leaf.shape), like)


def state_dict(b: Any, x: Value, context: Value = None) -> None:
    """A state dict carries everything: loaded into a copy with other parameters and buffers it gives the same map."""
    other = copy.deepcopy(b)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.copy_(tensor.logical_not() if tensor.dtype == torch.bool else tensor + 1)
        other.load_state_dict(b.state_dict())
        for name, method, own in (("forward", other, b), ("inverse", other.inverse, b.inverse)):
            value = x if name == "forward" else b(x, context)[0]
            equal(method(value, context), own(value, context), b, f"state dict round trip ({name})")


def rejected_inputs(b: nn.Module, x: Value, context: Value = None) -> None:
    """Bad input raises ValueError. Asked of bijectors only: other libraries have errors of their own."""
    if not isinstance(b, Bijector):
        return
    _rejects(b, map_leaves(Tensor.long, x), context, "integers")
    if isinstance(x, Tensor):
        _rejects(b, x[0, 0].reshape(-1)[:1], context, "a tensor without batch and channels")
        if b.in_channels is not None:
            _rejects(b, torch.cat([x, x], 1), context, "twice the channels")
        if b.stride > 1:
            _rejects(b, torch.cat([x, x[..., -1:]], -1), context, "an indivisible size")
    if any(True for _ in b.parameters()):
        _rejects(b, map_leaves(Tensor.double, x), context, "float64 with float32 parameters")


def empty_batches(b: Any, x: Value, context: Value = None) -> None:
    """A batch of none, beside a context of none or of several rows: shapes with 0 rows, log-det (0,), a gradient."""

    def none_of(value: Value) -> Value:
        return map_leaves(lambda leaf: leaf[:0], value)

    y = b(x, context)[0]
    for name, method, value, like in (("forward", b, x, y), ("inverse", b.inverse, y, x)):
        for its_context in (none_of(context), context):
            nothing = map_leaves(fresh, none_of(value))
            got, logdet = method(nothing, its_context)
            shapes = [tuple(leaf.shape) for leaf in (*leaves(got), logdet)]
            wanted = [(0, *leaf.shape[1:]) for leaf in leaves(like)] + [(0,)]
            expect(shapes == wanted, b, f"empty batches ({name})", f"expected {wanted}, got {shapes}")
            sum(leaf.sum() for leaf in (*leaves(got), logdet)).backward()
            expect(all(leaf.grad is not None for leaf in leaves(nothing)), b, f"empty batches ({name})", "no gradient")


def own_logdet(b: Any, x: Value, context: Value = None) -> None:
    """A log-det that is returned is the caller's: it can be added to in place."""
    with torch.no_grad():
        y = b(x, context)[0]
        for method, value in ((b, x), (b.inverse, y)):
            expected = method(value, context)[1] + 1
            logdet = method(value, context)[1]
            logdet += 1
            equal(logdet, expected, b, "log-det of the caller's own")


OURS: tuple[Callable[..., None], ...] = (empty_batches, own_logdet)
"""What is asked of the library's own maps besides."""


POLICIES: tuple[Callable[..., None], ...] = (precision, agreement, state_dict, rejected_inputs)
"""What is asked in float32."""


def _rejects(b: Bijector, x: Value, context: Value, what: str) -> None:
    try:
        b(x, context)
    except ValueError:
        return
    except Exception as error:
        raise AssertionError(
            f"{name_of(b)} breaks the law: rejected inputs: {what} raised {type(error).__name__}, not ValueError"
        ) from error
    raise AssertionError(f"{name_of(b)} breaks the law: rejected inputs: it took {what}")
