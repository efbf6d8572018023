"""Distributions, transforms and constraints of torch.distributions: copied with their tensors, kept inside supports."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints, transform_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import _InverseTransform


def copied(thing: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A distribution, transform or constraint anew, with a function applied to all tensors that it holds.

    Distributions inside no longer validate their arguments: what is outside of a support has a density, 0.
    """
    if isinstance(thing, Tensor):
        return function(thing)
    if type(thing) in (list, tuple):
        return type(thing)(copied(part, function) for part in thing)
    if isinstance(thing, dict):
        return {key: copied(part, function) for key, part in thing.items()}
    if isinstance(thing, _InverseTransform):  # a plain copy would forget what it is the inverse of
        return copied(thing.inv, function).inv
    if not isinstance(thing, Distribution | Transform | Constraint):
        return thing
    made = copy.copy(thing)
    if made.__dict__:
        made.__dict__.update({key: copied(part, function) for key, part in made.__dict__.items()})
    if isinstance(made, Distribution):
        made._validate_args = False
    return made


def deep_copy(module: nn.Module, memo: dict[int, Any]) -> Any:
    """`__deepcopy__` of a module that holds such objects: torch's own loses what an inverse transform is of."""
    made = memo[id(module)] = type(module).__new__(type(module))
    for key, part in module.__dict__.items():
        held = isinstance(part, Distribution | Transform | Constraint)
        made.__dict__[key] = copied(part, _cloned) if held else copy.deepcopy(part, memo)
    return made


def _cloned(tensor: Tensor) -> Tensor:
    return copy.deepcopy(tensor) if tensor.is_leaf else tensor.clone()


def first_tensor(thing: Any) -> Tensor | None:
    """The first floating-point tensor that a distribution or transform holds, if any."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            found.append(tensor)
        return tensor

    copied(thing, note)
    return found[0] if found else None


def unbounded(constraint: Constraint | None) -> bool:
    """All reals, or nothing stated."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint is None or constraint is constraints.real


def keep_inside(constraint: Constraint | None, x: Tensor, edges: bool = False) -> tuple[Tensor, Tensor | None]:
    """Puts what lies outside a set at a point inside, so that what is computed of it is finite, and its gradient too.

    Args:
        constraint: the set; None for all reals.
        x: (…, *event), in the shapes of the constraint. NaN stays NaN.
        edges: the ends of an interval, and the faces of a simplex, are outside, too: a map onto the reals does not
            take them, whatever the constraint says.

    Returns:
        x, and a mask (…) of the events that were outside; None where there is no outside.
    """
    if constraint is None or unbounded(constraint) or not x.shape[0]:  # torch's own checks may fail on no rows
        return x, None
    event = constraint.event_dim
    inside = constraint.check(x)
    if edges:
        inside = inside & _off_the_edge(constraint, x)
    if event and inside.ndim == x.ndim:  # constraints.stack looks at numbers, and says that it looks at events
        inside = inside.flatten(x.ndim - event).all(-1)
    outside = ~inside & ~(x.isnan().flatten(x.ndim - event).any(-1) if event else x.isnan())
    try:
        inner = transform_to(constraint)(torch.zeros_like(x))
    except NotImplementedError:  # nobody registered a way into the set
        return x, outside
    if inner.shape != x.shape:
        return x, outside
    return torch.where(outside.reshape(*outside.shape, *(1 for _ in range(event))), inner, x), outside


def _off_the_edge(constraint: Constraint, x: Tensor) -> Any:
    """Where x is on no end of an interval, and on no face of a simplex, in the shapes of `constraint.check`."""
    if isinstance(constraint, constraints.independent):
        inner = _off_the_edge(constraint.base_constraint, x)
        sizes = constraint.reinterpreted_batch_ndims
        return inner.flatten(inner.ndim - sizes).all(-1) if isinstance(inner, Tensor) and sizes else inner
    if isinstance(constraint, constraints.cat | constraints.stack):
        lengths = getattr(constraint, "lengths", [1] * len(constraint.cseq))
        if any(part.event_dim for part in constraint.cseq):
            return True
        parts = zip(constraint.cseq, x.split(list(lengths), constraint.dim), strict=True)
        return torch.cat(
            [torch.ones_like(part, dtype=torch.bool) & _off_the_edge(c, part) for c, part in parts], constraint.dim
        )
    if constraint is constraints.simplex:
        return (x > 0).all(-1)
    low, high = getattr(constraint, "lower_bound", None), getattr(constraint, "upper_bound", None)
    off = True if low is None else x > low
    return off if high is None else off & (x < high)
