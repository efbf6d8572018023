"""The laws of how a map is used, in float64: far values, any y, grad modes, batches, layouts, stated facts."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from flowkit.bijector import Bijector
from flowkit.testing.compare import (
    clear_of_the_edge,
    close,
    coordinates,
    drawn,
    expect,
    fresh,
    gradients_of,
    inner,
    jacobian,
    noise_source,
    repeated,
    row,
    stated,
    stretched,
)
from flowkit.testing.exact import KINKS, derivatives, slope
from flowkit.tree import Value, leaves, map_leaves

ROWS = 40
"""Of a large batch."""

FINE_STEPS = (1e-7, 1e-8, 1e-9)
"""Of differences of gradients, which are exact to rounding: a kink of a network, where they jump, is rarely so near."""


def far_values(b: Any, x: Value, context: Value = None) -> None:
    """Round trip, sign, log-det and gradients at 3 and 10 times x, where the map is finite; the round trip at zeros."""
    for factor in (0.0, 3.0, 10.0):
        where = f"at {factor:g} times x"
        if factor == 0 and stated(b, "domain") is None:  # an edge, maybe
            continue
        far, its_context = _accepted(b, stretched(stated(b, "domain"), x, factor), context)
        if far is None:
            continue
        y, forward = b(far, its_context)
        try:
            back, inverse = b.inverse(y, its_context)
        except Exception:
            if stated(b, "codomain") is None:  # y was rounded to an edge that nobody states
                continue
            raise
        slack = _sensitivity(b.inverse, y, its_context, (back, inverse))
        close(back, far, b, f"round trip (inverse after forward, {where})", slack=slack[0])
        if factor == 0:  # a kink may lie there, with a slope to either side
            continue
        close(inverse, -forward, b, f"inverse's sign (its log-det is minus the forward's, {where})", slack=slack[1])
        _jacobian_of_the_farthest(b, far, its_context, forward, where)
        if factor == 3:
            try:
                # a step could leave a codomain that nobody states
                derivatives(b, far, its_context, inverse=stated(b, "codomain") is not None)
            except AssertionError as error:
                raise AssertionError(f"{error} [{where}]") from None


def onto(b: Any, x: Value, context: Value = None) -> None:
    """Every y of the codomain has an x in the domain. A map whose codomain nobody states may refuse a y."""
    y0 = b(x, context)[0]
    codomain = stated(b, "codomain")
    hint = "a map that does not reach all reals states its codomain"
    for spread in (3.0, 1.0, 0.3):  # nearer, if floats end on the way
        y = drawn(codomain, y0, spread)
        try:
            back, inverse = b.inverse(y, context)
        except Exception as error:
            expect(codomain is None, b, "onto", f"the inverse raised {type(error).__name__}: {error}; {hint}")
            return
        if _finite(back, inverse):
            break
        if codomain is None:
            return
        why = f"the inverse is not finite; {hint}"
        expect(_grows_beyond_floats(b, y0, y, context), b, "onto (every y of the codomain has an x)", why)
    else:
        return
    again, forward = b(back, context)
    slack = _sensitivity(b, back, context, (again, forward))
    close(again, y, b, "onto (every y of the codomain has an x; forward after inverse)", slack=slack[0])
    close(forward, -inverse, b, "inverse's sign (its log-det is minus the forward's, at any y)", slack=slack[1])
    _inside(b, back, "domain")


def grad_modes(b: Any, x: Value, context: Value = None) -> None:
    """Value and log-det are the same under no_grad and inference_mode, with gradients, for an input that wants none."""
    for name, method, value in _both_ways(b, x, context):
        expected = method(map_leaves(fresh, value), context)
        close(method(value, context), expected, b, f"grad mode ({name}, for an input that wants no gradient)")
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                close(method(value, context), expected, b, f"grad mode ({name} under {mode.__name__})")


def batches(b: Any, x: Value, context: Value = None) -> None:
    """Samples are the same in a large batch, n draws that share a context too."""
    rows = next(leaves(x)).shape[0]
    n = -(-ROWS // rows)
    for name, method, value in _both_ways(b, x, context):
        expected = repeated(method(value, context), n)
        many = repeated(value, n)
        close(method(many, repeated(context, n)), expected, b, f"per-sample independence ({name} of {n * rows} rows)")
        if context is None:
            continue
        try:
            shared = method(many, context)
        except Exception:  # sharing is offered, not owed: only a wrong order is a fault
            continue
        close(shared, expected, b, f"shared context ({name}; {rows} rows for {n * rows}, all of the first draw first)")


def layouts(b: Any, x: Value, context: Value = None) -> None:
    """The memory layout of x does not matter."""
    for name, method, value in _both_ways(b, x, context):
        expected = method(map_leaves(Tensor.contiguous, value), context)
        for layout, lay_out in LAYOUTS.items():
            got = method(map_leaves(lay_out, value), map_leaves(lay_out, context))
            close(got, expected, b, f"layout ({name} of {layout} tensors)")
        alike = map_leaves(lambda leaf: leaf[:1].expand(leaf.shape), (value, context))
        close(row(method(*alike), 0), row(expected, 0), b, f"layout ({name} of expanded tensors)")


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda leaf: leaf.transpose(0, -1).contiguous().transpose(0, -1),
    "strided": lambda leaf: torch.stack([leaf, leaf + 1], -1)[..., 0],
    "channels-last": lambda leaf: leaf.movedim(1, -1).contiguous().movedim(-1, 1) if leaf.ndim > 1 else leaf,
}


def curvature(b: Any, x: Value, context: Value = None) -> None:
    """Second derivatives, by x and context, are slopes of the first; or asking for them raises.

    Not by parameters: a unit whose inputs are all zero sits on its kink, whatever x is, and its bias moves it off.
    """
    for name, method, value in _both_ways(b, x, context):
        side = stated(b, "domain" if name == "forward" else "codomain")
        errors: list[float] = []
        for factor in KINKS:
            errors.append(_curvature(method, side, stretched(side, value, factor), context))
            if errors[-1] <= 1:
                break
        why = f"off by {min(errors):.3g} times what is allowed"
        expect(min(errors) <= 1, b, f"second derivatives (against the slope of the first, {name})", why)


def facts(b: Any, x: Value, context: Value = None) -> None:
    """What a bijector states of itself is so: channels, stride, shrink, a constant log-det, domain and codomain."""
    y, logdet = b(x, context)
    law = "stated facts"
    for fact, value, channels in (("x_is_tensor", x, "in_channels"), ("y_is_tensor", y, "out_channels")):
        expect(not getattr(b, fact, False) or isinstance(value, Tensor), b, law, f"{fact}, but it is a tree")
        number = getattr(b, channels, None) if isinstance(b, Bijector) else None
        if number is not None and isinstance(value, Tensor):
            expect(value.shape[1] == number, b, law, f"{channels} is {number}, but there are {value.shape[1]}")
    shrink = getattr(b, "shrink", None) if isinstance(b, Bijector) else None
    if shrink is not None and isinstance(x, Tensor) and isinstance(y, Tensor):
        sides = list(x.shape[2:]), list(y.shape[2:])
        expect(
            sides[0] == [shrink * side for side in sides[1]],
            b,
            law,
            f"shrink is {shrink}, but {sides[0]} became {sides[1]}",
        )
        expect(b.stride % shrink.numerator == 0, b, law, f"stride {b.stride} is no multiple of shrink {shrink}")
    if getattr(b, "constant_logdet", False) is True:
        other = stretched(stated(b, "domain"), x, 2.0, 1.0)
        close(b(other, context)[1], logdet, b, f"{law} (constant_logdet: it does not depend on x)")
    _inside(b, x, "domain")
    _inside(b, y, "codomain")


def random_state(b: Any, x: Value, context: Value = None) -> None:
    """A call does not set the process's random state, which other threads draw from: torch's and Python's."""
    for name, method, value in _both_ways(b, x, context):
        setters: list[str] = []
        before = sys.getprofile()
        sys.setprofile(functools.partial(_note, setters))
        try:
            method(value, context)
        finally:
            sys.setprofile(before)
        expect(not setters, b, f"random state ({name} sets the process's)", ", ".join(setters))


def _note(setters: list[str], _frame: Any, event: str, called: Any) -> None:
    """Notes a call that sets one of the process's generators, in this thread."""
    if event != "c_call" or getattr(called, "__name__", "") not in ("manual_seed", "seed", "set_state", "setstate"):
        return
    owner = getattr(called, "__self__", None)
    own = isinstance(owner, torch.Generator) and owner is not torch.default_generator
    if not own and not isinstance(owner, type):
        setters.append(f"{type(owner).__name__}.{called.__name__}")


REGIMES: tuple[Callable[..., None], ...] = (
    far_values,
    onto,
    grad_modes,
    batches,
    layouts,
    curvature,
    facts,
    random_state,
)
"""The laws of use."""


def _both_ways(b: Any, x: Value, context: Value) -> list[tuple[str, Any, Value]]:
    y = map_leaves(Tensor.detach, b(x, context)[0])
    return [("forward", b, x), ("inverse", b.inverse, y)]


def _accepted(b: Any, x: Value, context: Value) -> tuple[Value, Value]:
    """The rows for which the map is finite, with their context; None if it takes none."""
    try:
        y, logdet = b(x, context)
    except Exception:  # outside a domain that nobody stated
        return None, None
    fine = logdet.isfinite()
    for leaf in (*leaves(x), *leaves(y)):
        fine = fine & leaf.isfinite().flatten(1).all(1)
    for leaf in leaves(y):
        fine = fine & clear_of_the_edge(stated(b, "codomain"), leaf).flatten(1).all(1)
    if not fine.any():
        return None, None
    return map_leaves(lambda leaf: leaf[fine].detach(), x), map_leaves(lambda leaf: leaf[fine], context)


def _sensitivity(method: Any, value: Value, context: Value, result: tuple[Value, Tensor]) -> tuple[Value, Tensor]:
    """How far rounding of the value may carry value and log-det of the result: what 10⁴ roundings do to it.

    Where they leave little of a sample's value, as after dozens of steep couplings, they leave nothing of its log-det.
    """
    noise = noise_source()
    try:
        moved = method(map_leaves(lambda leaf: leaf * (1 + 1e-13 * noise(leaf)), value), context)
    except Exception:  # over the edge of a domain
        return map_leaves(lambda leaf: torch.full_like(leaf, torch.inf), result)
    others = leaves(moved)

    def largest(leaf: Tensor) -> Tensor:
        change = (leaf - next(others)).detach().abs().nan_to_num(torch.inf)
        rows: Tensor = 1e3 * change.flatten(1).amax(1) if change.ndim > 1 else 1e3 * change
        return rows.view(-1, *(1 for _ in leaf.shape[1:])).expand(leaf.shape)

    values, logdets = map_leaves(largest, result)
    for leaf in leaves(values):
        logdets = torch.where((leaf > 1e-2).flatten(1).any(1), torch.inf, logdets)
    return values, logdets


def _jacobian_of_the_farthest(b: Any, x: Value, context: Value, stated_logdet: Tensor, where: str) -> None:
    size = torch.stack([leaf.flatten(1).abs().amax(1) for leaf in leaves(x)]).amax(0)
    i = int(size.argmax())
    matrix = jacobian(b, row(x, i), row(context, i))
    if matrix.shape[0] != matrix.shape[1]:
        return  # the law of the log-det says so
    true = torch.linalg.slogdet(matrix).logabsdet
    condition = torch.linalg.cond(matrix, 1)
    slack = 1e-13 * condition if condition.isfinite() else torch.zeros(())
    law = f"log-det (against the autograd Jacobian, {where})"
    close(stated_logdet[i], true, b, law, 1e-6, slack)


def _curvature(method: Any, side: Any, value: Value, context: Value) -> float:
    """The error of the second derivative along two directions, over what is allowed."""
    free, value_of = coordinates(side, value)
    context = map_leaves(fresh, context)
    inputs = [leaf for leaf in (*leaves(free), *leaves(context)) if leaf.requires_grad]
    noise = noise_source()
    directions, others = ([noise(leaf) for leaf in inputs] for _ in range(2))
    weights = map_leaves(noise, method(value_of(free), context)[0])

    def first() -> Tensor:
        """The gradient along one direction."""
        with torch.enable_grad():
            y, logdet = method(value_of(free), context)
            grads = gradients_of(inner(weights, y) + logdet.sum(), inputs, create_graph=True)
            return torch.stack([(g * d).sum() for g, d in zip(grads, directions, strict=True)]).sum()

    try:
        start = first()
        seconds = gradients_of(start, inputs)
    except RuntimeError:  # says that it can't
        return 0.0
    along = torch.stack([(g * d).sum() for g, d in zip(seconds, others, strict=True)]).sum()
    errors = []
    for step in FINE_STEPS:
        measured = slope(first, inputs, others, step).detach()
        allowed = 1e-4 * max(1.0, float(measured.abs())) + 1e-14 * float(start.detach().abs()) / step
        errors.append(float((measured - along).abs()) / allowed)
    return min(errors)


def _finite(value: Value, logdet: Tensor) -> bool:
    return all(bool(leaf.isfinite().all()) for leaf in (*leaves(value), logdet))


def _grows_beyond_floats(b: Any, y0: Value, y: Value, context: Value) -> bool:
    """Whether x, from that of y0 on towards y, is lost because floats end: at an edge it is lost while it is small.

    A pole, 1/(1 − y), reaches no more than 10¹⁶ before rounding ends the search.
    """

    def between(start: Value, end: Value, weight: float) -> Value:
        ends = leaves(end)
        return map_leaves(lambda leaf: leaf.lerp(next(ends), weight), start)

    reached, lost, largest = 0.0, 1.0, 0.0
    while reached < (middle := (reached + lost) / 2) < lost:
        back, logdet = b.inverse(between(y0, y, middle), context)
        if _finite(back, logdet):
            reached, largest = middle, max(float(leaf.detach().abs().max()) for leaf in leaves(back))
        else:
            lost = middle
    return largest > 1e30


def _inside(b: Any, value: Value, side: str) -> None:
    constraint = stated(b, side)
    if constraint is None or constraint is constraints.real:
        return
    inside = all(constraint.check(leaf).all() for leaf in leaves(value))
    expect(inside, b, "stated facts", f"a value lies outside its {side} {constraint}")
