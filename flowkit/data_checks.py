"""Checks of training data: rows that are not finite or lie outside a flow's support, columns that are constant."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from flowkit.bijector import facts
from flowkit.checks import unreadable
from flowkit.tree import Value, describe, leaves, map_leaves, repeat_rows

_SHOWN = 5
_AT_ONCE = 2**16
"""Rows that are moved to a device together."""


def check_has(who: str, flow: Any, *methods: str) -> None:
    """Raises TypeError that names what a flow lacks."""
    missing = [method for method in methods if not callable(getattr(flow, method, None))]
    if missing:
        inner = getattr(flow, "module", None)
        wrapped = all(callable(getattr(inner, method, None)) for method in methods)
        remedy = "pass what it wraps, its .module" if wrapped else "pass a flowkit.Flow, or a module that has it"
        raise TypeError(f"{who}: {type(flow).__name__} has no {' and no '.join(missing)}; {remedy}")


def check_weights(who: str, weights: Any, rows: int) -> None:
    """Checks weights of rows; their values too, where these can be looked at.

    Raises:
        ValueError: for another shape than (rows,), or names the rows whose weight is negative or not finite.
        TypeError: if they are no tensor of real numbers.
    """
    if not isinstance(weights, Tensor) or weights.is_complex():
        raise TypeError(f"{who}: weights must be a tensor of real numbers, one a row, got {describe(weights)}")
    if weights.shape != (rows,):
        raise ValueError(f"{who}: weights must be ({rows},), one a row, got {describe(weights)}")
    if unreadable(weights):
        return
    fine = (weights >= 0) & weights.isfinite()
    if not bool(fine.all() & (weights > 0).any()):  # one host read where all is well
        which = "all are 0" if fine.all() else f"they are not in {_where(~fine)}"
        raise ValueError(f"{who}: weights must be finite, not negative and not all 0; {which}")


def check_rows(x: Tensor, context: Value, weights: Tensor | None) -> Tensor:
    """Checks data, contexts and weights for training; returns the numbers of the rows that take part.

    Raises:
        ValueError: names what is wrong, with its rows and columns.

    Warns:
        UserWarning: names constant columns.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or not len(x):
        hint = ", one column is x[:, None]" if isinstance(x, Tensor) and x.ndim == 1 else ""
        raise ValueError(f"fit: expected floating-point rows (N, ...) with N ≥ 1, got {describe(x)}{hint}")
    for what, tensor in (("x", x), *(("the context", leaf) for leaf in leaves(context))):
        if not isinstance(tensor, Tensor) or not tensor.ndim or len(tensor) != len(x):
            raise ValueError(f"fit: {what} must have {len(x)} rows, as x, got {describe(tensor)}")
        odd = ~tensor.isfinite()
        if odd.any():
            raise ValueError(f"fit: {what} has NaN or infinity in {_where(odd)}; drop these rows, or fill them in")
    used = torch.arange(len(x))
    if weights is not None:
        check_weights("fit", weights, len(x))
        used = (weights > 0).nonzero().flatten().cpu()
    if x.ndim == 2:
        values = x[used.to(x.device)]
        constant = (values == values[0]).all(0).nonzero().flatten().tolist()
        if constant:
            rows = "there is one row" if len(values) == 1 else f"{_listed('column', constant)} of x constant"
            text = f"fit: {rows}: its density can grow without bound; drop it, or add noise (flowkit.Dequantize)"
            warnings.warn(text, stacklevel=3)
    return used


def check_support(flow: Any, x: Tensor, context: Value, rows: Tensor, log_prob: Tensor) -> None:
    """Checks that a flow gives all rows a density.

    Args:
        flow: what gave the log-densities.
        x: all rows.
        context: None, or its rows.
        rows: numbers of those that were asked for.
        log_prob: their log-densities.

    Raises:
        ValueError: names the rows without, and of vectors the columns that lie outside the flow's support.

    Warns:
        UserWarning: names rows that have a density, but lie outside of what the bijector states as its domain: angles
            that are equal to others. What a network is steered by is not taken modulo a turn; draws lie in the domain.
    """
    outside = rows[log_prob == -math.inf].sort().values
    if len(outside):
        inside = rows[log_prob.isfinite()]
        columns = _columns_outside(flow, x, context, outside, inside) if x.ndim == 2 and len(inside) else []
        where = f", because of {_listed('column', columns)}" if columns else ""
        raise ValueError(
            f"fit: x lies outside the flow's support (log_prob is −inf) in {_listed('row', outside.tolist())}{where}"
        )
    odd = rows[~log_prob.isfinite()].sort().values
    if len(odd):
        raise ValueError(f"fit: the flow's log_prob is NaN or +inf in {_listed('row', odd.tolist())}")
    beyond = _beyond_the_domain(flow, x, rows)
    if beyond is not None and beyond.any():
        text = f"fit: x lies outside the flow's domain in {_where(beyond)}; bring angles into one turn of it first"
        warnings.warn(text, stacklevel=3)


@torch.no_grad()
def _beyond_the_domain(flow: Any, x: Tensor, rows: Tensor) -> Tensor | None:
    """Which rows, or numbers, lie outside of what the bijector states; None if it states nothing."""
    bijector = getattr(flow, "bijector", None)
    domain = facts(bijector).domain if isinstance(bijector, nn.Module) else None
    if domain is None or domain is constraints.real or constraints.is_dependent(domain):
        return None
    device = next(flow.parameters(), x).device  # where the domain's own tensors are
    parts = [domain.check(x[part].to(device)).cpu() for part in rows.to(x.device).split(_AT_ONCE)]
    inside = torch.cat(parts)
    beyond = torch.zeros(len(x), *inside.shape[1:], dtype=torch.bool)
    beyond[rows] = ~inside
    return beyond


@torch.no_grad()
def _columns_outside(flow: Any, x: Tensor, context: Value, outside: Tensor, inside: Tensor) -> list[int]:
    """Columns whose value alone takes a good row out of the support."""
    device = next(flow.parameters(), x).device
    good, columns = int(inside[0]), x.shape[1]
    found: set[int] = set()
    for row in outside[:_SHOWN].tolist():
        tried = x[good].repeat(columns, 1)
        tried.diagonal().copy_(x[row])
        given = map_leaves(lambda c: repeat_rows(c[good : good + 1], columns).to(device), context)
        log_prob = flow.log_prob(tried.to(device), given)
        found.update((log_prob == -math.inf).nonzero().flatten().tolist())
    return sorted(found)


def _where(odd: Tensor) -> str:
    """Rows, and of vectors columns, where a mask is set."""
    rows = odd.flatten(1).any(1) if odd.ndim > 1 else odd
    text = _listed("row", rows.nonzero().flatten().tolist())
    return text + (f" ({_listed('column', odd.any(0).nonzero().flatten().tolist())})" if odd.ndim == 2 else "")


def _listed(what: str, numbers: list[int]) -> str:
    """'row 3', 'rows 3, 5', 'rows 1, 2, 3, 4, 5, … (20 of them)'."""
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    rest = f", … ({len(numbers)} of them)" if len(numbers) > _SHOWN else ""
    return f"{what}{'s' * (len(numbers) > 1)} {shown}{rest}"
