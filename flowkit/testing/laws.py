"""The laws, one function each: `law(b, x, context)` raises AssertionError that names the bijector and the law."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.bijector import Bijector
from flowkit.tree import Value, describe, leaves, map_leaves, sum_per_sample

ROUND_TRIP = 1e-7
"""Largest error of a float64 round trip, relative to the largest value: leaves room for a bisected inverse."""

STEPS = (1e-6, 1e-7)
"""Of the finite differences: small beside every curve, large beside float64's rounding."""


def protocol(b: Any, x: Value, context: Value = None) -> None:
    """Both methods can be called, return (value, logdet), and leave the parameters and buffers as they are."""
    b = copy.deepcopy(b)
    before = {name: value.clone() for name, value in b.state_dict().items()}
    y = x
    for name, method in (("forward", b), ("inverse", b.inverse)):
        try:
            y, _ = method(y, context)
        except Exception as error:
            why = f"{name} raised {type(error).__name__}: {error}"
            raise AssertionError(f"{_name(b)} breaks the law: protocol: {why}") from error
        same = all(torch.equal(before[key], value) for key, value in b.state_dict().items())
        _expect(same, b, f"no state of its own ({name} changed parameters or buffers)", "initialise explicitly")


def memory(b: Any, x: Value, context: Value = None) -> None:
    """Nothing is remembered from one call to the next: a call in between changes nothing."""
    first = b(x, context)
    back = b.inverse(first[0], context)
    b(map_leaves(lambda leaf: leaf.roll(1, 0) + 0.1, x), map_leaves(lambda leaf: leaf.roll(1, 0), context))
    _equal(b.inverse(first[0], context), back, b, "no memory (the inverse depends on an earlier call)")
    _equal(b(x, context), first, b, "no memory (the forward depends on an earlier call)")


def round_trip(b: Any, x: Value, context: Value = None) -> None:
    """b.inverse(b(x)) = x, and b(b.inverse(y)) = y for a y that is no image of this x."""
    y, logdet = b(x, context)
    _check_logdet(b, logdet, x)
    _expect(all(leaf.isfinite().all() for leaf in leaves(y)), b, "round trip", "the forward image is not finite")
    _close(b.inverse(y, context)[0], x, b, "round trip (inverse after forward)")
    # between images of neighbouring samples: a new point, inside any convex range
    other = map_leaves(lambda leaf: 0.7 * leaf + 0.3 * leaf.roll(1, 0), y)
    back = b.inverse(other, context)[0]
    _close(b(back, context)[0], other, b, "round trip (forward after inverse)")


def logdet(b: Any, x: Value, context: Value = None) -> None:
    """The log-det is that of the autograd Jacobian, sample by sample."""
    stated = b(x, context)[1]
    for i in range(stated.shape[0]):
        one, its_context = _row(x, i), _row(context, i)
        jacobian = _jacobian(b, one, its_context)
        _expect(
            jacobian.shape[0] == jacobian.shape[1],
            b,
            "log-det",
            f"{jacobian.shape[1]} numbers became {jacobian.shape[0]}, so the map is not bijective",
        )
        true = torch.linalg.slogdet(jacobian).logabsdet
        _close(stated[i], true, b, "log-det (against the autograd Jacobian)", 1e-6)


def inverse_sign(b: Any, x: Value, context: Value = None) -> None:
    """The inverse's log-det is minus the forward's."""
    y, forward = b(x, context)
    inverse = b.inverse(y, context)[1]
    _check_logdet(b, inverse, x)
    _close(inverse, -forward, b, "inverse's sign (its log-det is minus the forward's)")


def per_sample(b: Any, x: Value, context: Value = None) -> None:
    """Samples of a batch do not see each other, in either direction."""
    y, forward = b(x, context)
    back, inverse = b.inverse(y, context)
    for i in range(forward.shape[0]):
        alone = b(_row(x, i), _row(context, i))
        _close(alone, (_row(y, i), forward[i : i + 1]), b, "per-sample independence (forward)")
        alone = b.inverse(_row(y, i), _row(context, i))
        _close(alone, (_row(back, i), inverse[i : i + 1]), b, "per-sample independence (inverse)")


def untouched(b: Any, x: Value, context: Value = None) -> None:
    """Nothing is written into the arguments, and a second call says the same."""
    before = map_leaves(Tensor.clone, (x, context))
    first = b(x, context)
    kept = map_leaves(Tensor.clone, first[0])
    back = b.inverse(first[0], context)
    _equal((x, context), before, b, "no in-place writes (the forward wrote into its arguments)")
    _equal(first[0], kept, b, "no in-place writes (the inverse wrote into its arguments)")
    _equal(b(x, context), first, b, "same call, same result (forward)")
    _equal(b.inverse(first[0], context), back, b, "same call, same result (inverse)")


def gradients(b: Any, x: Value, context: Value = None) -> None:
    """Gradients of both directions agree: along x → y → x they cancel for parameters and context, not for x."""
    x, context = (map_leaves(_fresh, value) for value in (x, context))
    parameters = [p for p in b.parameters() if p.requires_grad]
    y, forward = b(x, context)
    back, inverse = b.inverse(y, context)
    weights = map_leaves(torch.randn_like, x)
    cotangent = map_leaves(torch.ones_like, x)
    total = _inner(weights, back) + (forward + inverse).sum()
    steering = [leaf for leaf in leaves(context) if leaf.requires_grad]
    grads = _grad(total, [*leaves(x), *steering, *parameters])
    count = len(list(leaves(x)))
    _close(tuple(grads[:count]), tuple(leaves(weights)), b, "gradients (through forward and inverse, of x)", 1e-5)
    scale = max(float(p.detach().abs().max()) for p in (*leaves(weights), *leaves(y)))
    for grad in grads[count:]:
        worst = float(grad.abs().max()) if grad.numel() else 0.0
        _expect(
            worst <= 1e-5 * scale * grad.numel(),
            b,
            "gradients (forward and inverse must cancel, of parameters and context)",
            f"off by {worst:.3g}",
        )
    one_way = _grad(_inner(cotangent, b.inverse(map_leaves(Tensor.detach, y), context)[0]), parameters)
    _expect(all(g.isfinite().all() for g in one_way), b, "gradients (inverse)", "not finite")


def derivatives(b: Any, x: Value, context: Value = None) -> None:
    """The gradients of value and log-det are their slopes along a random direction of x, context and parameters."""
    b = copy.deepcopy(b)
    x, context = (map_leaves(_fresh, value) for value in (x, context))
    steering = [leaf for leaf in (*leaves(context), *b.parameters()) if leaf.requires_grad]
    for name, method, argument in (("forward", b, x), ("inverse", b.inverse, map_leaves(_fresh, b(x, context)[0]))):
        inputs = [*leaves(argument), *steering]
        directions = [torch.randn_like(leaf) for leaf in inputs]
        weights = map_leaves(torch.randn_like, method(argument, context)[0])

        def total(method: Any = method, argument: Value = argument, weights: Value = weights) -> Tensor:
            value, logdet = method(argument, context)
            return _inner(weights, value) + logdet.sum()

        gradients = _grad(total(), inputs)
        stated = torch.stack([(g * d).sum() for g, d in zip(gradients, directions, strict=True)]).sum()
        slopes = [_slope(total, inputs, directions, step) for step in STEPS]
        nearest = int((torch.stack(slopes) - stated).abs().argmin())
        _close(stated, slopes[nearest], b, f"gradients (against the slope, {name})", 1e-4)


def _slope(total: Callable[[], Tensor], inputs: list[Tensor], directions: list[Tensor], step: float) -> Tensor:
    """Central difference. A kink (ReLU) between its two ends spoils it; a shorter step rarely meets the same one."""
    ends = []
    for part in (step, -2 * step, step):  # ahead, behind, and back to the start
        with torch.no_grad():
            for leaf, direction in zip(inputs, directions, strict=True):
                leaf.add_(part * direction)
            ends.append(total())
    return (ends[0] - ends[1]) / (2 * step)


EXACT: tuple[Callable[..., None], ...] = (
    protocol,
    untouched,
    round_trip,
    inverse_sign,
    per_sample,
    memory,
    logdet,
    gradients,
    derivatives,
)
"""The laws that hold in float64."""


def image_size(b: Any, x: Value, context: Value, size: Sequence[int]) -> None:
    """Round trip, log-det and sign at another spatial size."""
    reference = next(leaves(x)).shape[2:]

    def resize(leaf: Tensor) -> Tensor:
        if leaf.ndim < 3:
            return leaf
        target = [s * new // old for s, new, old in zip(leaf.shape[2:], size, reference, strict=True)]
        resized = F.interpolate(leaf, target)
        return resized + 0.1 * resized.std() * torch.randn_like(resized)

    try:
        resized, its_context = map_leaves(resize, x), map_leaves(resize, context)
        for law in (round_trip, logdet, inverse_sign):
            law(b, resized, its_context)
    except AssertionError as error:
        raise AssertionError(f"{error} [at the other image size {tuple(size)}]") from None


def precision(b: Any, x: Value, context: Value = None, device: str = "cpu") -> None:
    """Under bf16 autocast the map stays in float32: its values, its log-det, and its round trip."""
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        y, forward = b(x, context)
        back, inverse = b.inverse(y, context)
    for value in (*leaves(y), forward, *leaves(back), inverse):
        _expect(
            value.dtype.itemsize >= 4,
            b,
            "precision under autocast",
            f"{describe(value)}: the map ran in low precision; compute it under flowkit.bijector.full_precision",
        )
    _close(back, x, b, "precision under autocast (round trip)", 1e-3)
    _close(inverse, -forward, b, "precision under autocast (inverse's sign)", 1e-3)


def state_dict(b: nn.Module, x: Value, context: Value = None) -> None:
    """A state dict carries everything: loaded into another copy it gives the same map."""
    other = copy.deepcopy(b)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
        other.load_state_dict(b.state_dict())
        _equal(other(x, context), b(x, context), b, "state dict round trip")


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


POLICIES: tuple[Callable[..., None], ...] = (precision, state_dict, rejected_inputs)
"""What is asked in float32."""


def compiled(b: nn.Module, x: Value, context: Value = None, backend: str = "inductor") -> None:
    """`torch.compile(fullgraph=True)` takes both directions and changes nothing but rounding."""
    inverse = b.inv if isinstance(b, Bijector) else _InverseOf(b)
    with torch.no_grad():
        y, forward = b(x, context)
        for direction, module, argument, expected in (
            ("forward", b, x, (y, forward)),
            ("inverse", inverse, y, (x, -forward)),
        ):
            torch.compiler.reset()
            try:
                result = torch.compile(module, fullgraph=True, backend=backend)(argument, context)
            except Exception as error:
                raise AssertionError(f"{_name(b)} breaks the law: compiles ({direction}): {error}") from error
            _close(result, expected, b, f"compiles ({direction}, same values)", 1e-4)


class _InverseOf(nn.Module):
    b: Any

    def __init__(self, b: nn.Module) -> None:
        super().__init__()
        self.b = b

    def forward(self, y: Value, context: Value = None) -> Any:
        return self.b.inverse(y, context)


def _name(b: Any) -> str:
    return type(b).__name__


def _expect(holds: Any, b: Any, law: str, why: str) -> None:
    if not holds:
        raise AssertionError(f"{_name(b)} breaks the law: {law}: {why}")


def _close(got: Value, expected: Value, b: Any, law: str, tolerance: float = ROUND_TRIP) -> None:
    """Leaf by leaf within a tolerance, relative to the largest number of the leaf (and at least to 1)."""
    pairs = list(zip(leaves(got), leaves(expected), strict=True))
    for a, e in pairs:
        _expect(a.shape == e.shape, b, law, f"shape {tuple(a.shape)}, expected {tuple(e.shape)}")
        if a.numel() == 0:
            continue
        error = float((a - e).detach().abs().max())
        scale = max(1.0, float(e.detach().abs().max()))
        _expect(error <= tolerance * scale, b, law, f"off by {error:.3g} where values reach {scale:.3g}")


def _equal(got: Value, expected: Value, b: Any, law: str) -> None:
    same = all(torch.equal(a, e) for a, e in zip(leaves(got), leaves(expected), strict=True))
    _expect(same, b, law, "the values differ")


def _check_logdet(b: Any, logdet: Tensor, x: Value) -> None:
    batch = next(leaves(x)).shape[0]
    _expect(
        logdet.shape == (batch,) and logdet.dtype.itemsize >= 4 and logdet.isfinite().all(),
        b,
        "log-det (one finite number per sample, float32 or wider)",
        describe(logdet),
    )


def _rejects(b: Bijector, x: Value, context: Value, what: str) -> None:
    try:
        b(x, context)
    except ValueError:
        return
    except Exception as error:
        raise AssertionError(
            f"{_name(b)} breaks the law: rejected inputs: {what} raised {type(error).__name__}, not ValueError"
        ) from error
    raise AssertionError(f"{_name(b)} breaks the law: rejected inputs: it took {what}")


def _row(value: Value, i: int) -> Value:
    return map_leaves(lambda leaf: leaf[i : i + 1], value)


def _fresh(leaf: Tensor) -> Tensor:
    """A copy that collects gradients, unless it is a class label."""
    return leaf.detach().clone().requires_grad_(leaf.is_floating_point())


def _inner(a: Value, b: Value) -> Tensor:
    return torch.stack([sum_per_sample(p * q).sum() for p, q in zip(leaves(a), leaves(b), strict=True)]).sum()


def _grad(of: Tensor, wrt: list[Tensor]) -> list[Tensor]:
    if not wrt or not of.requires_grad:
        return [torch.zeros_like(w) for w in wrt]
    grads = torch.autograd.grad(of, wrt, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(grads, wrt, strict=True)]


def _jacobian(b: Any, x: Value, context: Value) -> Tensor:
    """The Jacobian of one sample, (outputs, inputs): each row of a batch of copies gives one row, in one backward."""

    def copies(value: Value, rows: int) -> Value:
        return map_leaves(lambda leaf: leaf.detach().repeat(rows, *(1 for _ in leaf.shape[1:])), value)

    outputs = sum(leaf.numel() for leaf in leaves(b(x, context)[0]))
    rows = []
    for start in range(0, outputs, 64):
        count = min(64, outputs - start)
        inputs = map_leaves(Tensor.requires_grad_, copies(x, count))
        y = torch.cat([leaf.flatten(1) for leaf in leaves(b(inputs, copies(context, count))[0])], 1)
        diagonal = y.diagonal(start).sum()
        grads = _grad(diagonal, list(leaves(inputs)))
        rows.append(torch.cat([grad.flatten(1) for grad in grads], 1))
    return torch.cat(rows)
