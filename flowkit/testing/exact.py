"""The laws of the map itself, in float64: `law(b, x, context)` raises AssertionError that names bijector and law."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.bijector import undone
from flowkit.testing.compare import (
    close,
    coordinates,
    equal,
    expect,
    finite_logdet,
    fresh,
    gradients_of,
    inner,
    jacobian,
    name_of,
    noise_source,
    row,
    stated,
    stretched,
)
from flowkit.tree import Value, leaves, map_leaves

STEPS = (1e-6, 1e-7)
"""Of the finite differences: small beside every curve, large beside float64's rounding."""


KINKS = (1.0, 0.99, 0.97)
"""Factors of x to try: a kink (ReLU) beside one x, where differences are no slopes, is not beside all."""


def protocol(b: Any, x: Value, context: Value = None) -> None:
    """Both methods can be called, return (value, logdet), and leave the parameters and buffers as they are."""
    b = copy.deepcopy(b)
    before = [tensor.detach().clone() for tensor in (*b.parameters(), *b.buffers())]
    y = x
    for name, method in (("forward", b), ("inverse", b.inverse)):
        try:
            y, _ = method(y, context)
        except Exception as error:
            why = f"{name} raised {type(error).__name__}: {error}"
            raise AssertionError(f"{name_of(b)} breaks the law: protocol: {why}") from error
        now = [*b.parameters(), *b.buffers()]
        same = len(now) == len(before) and all(map(torch.equal, before, now))
        expect(same, b, f"no state of its own ({name} changed parameters or buffers)", "initialise explicitly")


def memory(b: Any, x: Value, context: Value = None) -> None:
    """Nothing is remembered from one call to the next: a call in between changes nothing."""
    first = b(x, context)
    back = b.inverse(first[0], context)
    between = map_leaves(lambda leaf: 0.7 * leaf + 0.3 * leaf.roll(1, 0), x)  # inside any convex domain
    b(between, map_leaves(lambda leaf: leaf.roll(1, 0), context))
    equal(b.inverse(first[0], context), back, b, "no memory (the inverse depends on an earlier call)")
    equal(b(x, context), first, b, "no memory (the forward depends on an earlier call)")


def round_trip(b: Any, x: Value, context: Value = None) -> None:
    """b.inverse(b(x)) = x, and b(b.inverse(y)) = y for a y that is no image of this x."""
    y, logdet = b(x, context)
    finite_logdet(b, logdet, x)
    expect(all(leaf.isfinite().all() for leaf in leaves(y)), b, "round trip", "the forward image is not finite")
    close(b.inverse(y, context)[0], x, b, "round trip (inverse after forward)")
    # between images of neighbouring samples: a new point, inside any convex range
    other = map_leaves(lambda leaf: 0.7 * leaf + 0.3 * leaf.roll(1, 0), y)
    back = b.inverse(other, context)[0]
    close(b(back, context)[0], other, b, "round trip (forward after inverse)")
    close(undone(b, other, context), back, b, "round trip (the inverse without its log-det)")


def logdet(b: Any, x: Value, context: Value = None) -> None:
    """The log-det is that of the autograd Jacobian, sample by sample."""
    claimed = b(x, context)[1]
    for i in range(claimed.shape[0]):
        one, its_context = row(x, i), row(context, i)
        matrix = jacobian(b, one, its_context)
        square = matrix.shape[0] == matrix.shape[1]
        why = f"{matrix.shape[1]} numbers became {matrix.shape[0]}, so the map is not bijective"
        expect(square, b, "log-det", why)
        true = torch.linalg.slogdet(matrix).logabsdet
        close(claimed[i], true, b, "log-det (against the autograd Jacobian)", 1e-6)


def inverse_sign(b: Any, x: Value, context: Value = None) -> None:
    """The inverse's log-det is minus the forward's."""
    y, forward = b(x, context)
    inverse = b.inverse(y, context)[1]
    finite_logdet(b, inverse, x)
    close(inverse, -forward, b, "inverse's sign (its log-det is minus the forward's)")


def per_sample(b: Any, x: Value, context: Value = None) -> None:
    """Samples of a batch do not see each other, in either direction."""
    y, forward = b(x, context)
    back, inverse = b.inverse(y, context)
    for i in range(forward.shape[0]):
        alone = b(row(x, i), row(context, i))
        close(alone, (row(y, i), forward[i : i + 1]), b, "per-sample independence (forward)")
        alone = b.inverse(row(y, i), row(context, i))
        close(alone, (row(back, i), inverse[i : i + 1]), b, "per-sample independence (inverse)")


def untouched(b: Any, x: Value, context: Value = None) -> None:
    """Nothing is written into the arguments, and a second call says the same."""
    before = map_leaves(Tensor.clone, (x, context))
    first = b(x, context)
    kept = map_leaves(Tensor.clone, first[0])
    back = b.inverse(first[0], context)
    equal((x, context), before, b, "no in-place writes (the forward wrote into its arguments)")
    equal(first[0], kept, b, "no in-place writes (the inverse wrote into its arguments)")
    equal(b(x, context), first, b, "same call, same result (forward)")
    equal(b.inverse(first[0], context), back, b, "same call, same result (inverse)")


def gradients(b: Any, x: Value, context: Value = None) -> None:
    """Gradients of both directions agree: along x → y → x they cancel for parameters and context, not for x."""
    x, context = (map_leaves(fresh, value) for value in (x, context))
    parameters = [p for p in b.parameters() if p.requires_grad]
    y, forward = b(x, context)
    back, inverse = b.inverse(y, context)
    weights = map_leaves(noise_source(), x)
    cotangent = map_leaves(torch.ones_like, x)
    total = inner(weights, back) + (forward + inverse).sum()
    steering = [leaf for leaf in leaves(context) if leaf.requires_grad]
    grads = gradients_of(total, [*leaves(x), *steering, *parameters])
    count = len(list(leaves(x)))
    close(tuple(grads[:count]), tuple(leaves(weights)), b, "gradients (through forward and inverse, of x)", 1e-5)
    scale = max(float(p.detach().abs().max()) for p in (*leaves(weights), *leaves(y)))
    for grad in grads[count:]:
        worst = float(grad.abs().max()) if grad.numel() else 0.0
        expect(
            worst <= 1e-5 * scale * grad.numel(),
            b,
            "gradients (forward and inverse must cancel, of parameters and context)",
            f"off by {worst:.3g}",
        )
    one_way = gradients_of(inner(cotangent, b.inverse(map_leaves(Tensor.detach, y), context)[0]), parameters)
    expect(all(g.isfinite().all() for g in one_way), b, "gradients (inverse)", "not finite")


def derivatives(b: Any, x: Value, context: Value = None, inverse: bool = True) -> None:
    """The gradients of value and log-det are their slopes along a random direction of x, context and parameters."""
    for factor in KINKS:
        try:
            _derivatives(b, stretched(stated(b, "domain"), x, factor), context, inverse)
        except AssertionError:
            if factor == KINKS[-1]:
                raise
        else:
            return


def _derivatives(b: Any, x: Value, context: Value, inverse: bool) -> None:
    b = copy.deepcopy(b)
    x, context = (map_leaves(fresh, value) for value in (x, context))
    steering = [leaf for leaf in (*leaves(context), *b.parameters()) if leaf.requires_grad]
    ways = (("forward", b, x, "domain"), ("inverse", b.inverse, b(x, context)[0], "codomain"))
    for name, method, value, side in ways[: 2 if inverse else 1]:
        argument, value_of = coordinates(stated(b, side), value)
        inputs = [*leaves(argument), *steering]
        noise = noise_source()
        directions = [noise(leaf) for leaf in inputs]
        weights = map_leaves(noise, method(value_of(argument), context)[0])

        def total(
            method: Any = method, argument: Value = argument, weights: Value = weights, value_of: Any = value_of
        ) -> Tensor:
            value, logdet = method(value_of(argument), context)
            return inner(weights, value) + logdet.sum()

        start = total()
        gradients = gradients_of(start, inputs)
        along = torch.stack([(g * d).sum() for g, d in zip(gradients, directions, strict=True)]).sum()
        slopes = torch.stack([slope(total, inputs, directions, step) for step in STEPS])
        rounding = 1e-14 * start.detach().abs() / torch.tensor(STEPS, device=slopes.device)
        nearest = int(((slopes - along).abs() - rounding).argmin())
        close(along, slopes[nearest], b, f"gradients (against the slope, {name})", 1e-4, rounding[nearest])


def slope(total: Callable[[], Tensor], inputs: list[Tensor], directions: list[Tensor], step: float) -> Tensor:
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
    """Round trip, log-det and sign at another spatial size, of numbers between those that x has: inside its domain."""
    reference = next(leaves(x)).shape[2:]
    generator = torch.Generator().manual_seed(0)

    def resize(leaf: Tensor) -> Tensor:
        if leaf.ndim < 3:
            return leaf
        target = [s * new // old for s, new, old in zip(leaf.shape[2:], size, reference, strict=True)]
        pixels = leaf.flatten(2)
        picked = torch.randint(pixels.shape[2], (2, math.prod(target)), generator=generator).to(leaf.device)
        near, far = pixels[..., picked[0]], pixels[..., picked[1]]
        mixed = 0.9 * near + 0.1 * far if leaf.is_floating_point() else near
        return mixed.unflatten(2, target)

    try:
        resized, its_context = map_leaves(resize, x), map_leaves(resize, context)
        for law in (round_trip, logdet, inverse_sign):
            law(b, resized, its_context)
    except AssertionError as error:
        raise AssertionError(f"{error} [at the other image size {tuple(size)}]") from None
