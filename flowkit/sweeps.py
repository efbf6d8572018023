"""Inverses by sweeps, for maps in which every item is steered by the items before it, and their gradients.

Such a map y = K(x; θ(x)), θ_d a function of x_1 … x_{d−1}, is undone by sweeps x ← K⁻¹(y; θ(x)) over all items at once:
after k of them the first k items are exact, so D sweeps do, and often far fewer. The slope M of a sweep is strictly
triangular, so M^D = 0: the implicit derivative (I − M)⁻¹ is found by the same sweeps, over cotangents.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from flowkit.checks import unreadable

Sweep = Callable[[Tensor], tuple[Tensor, Tensor]]
Solve = Callable[[], tuple[Tensor, Tensor]]


def settle(
    sweep: Sweep,
    like: Tensor,
    items: int,
    early: bool,
    sources: Iterable[Tensor],
    solve: Solve | None = None,
) -> tuple[Tensor, Tensor]:
    """The x that a sweep leaves as it is, with first and second derivatives, found from zeros.

    Derivatives are implicit: no sweep but the last three is kept for the backward pass, and all are accounted for.
    Where values can't be looked at (`flowkit.checks.unreadable`) there are always `items` sweeps, and derivatives go
    through all of them.

    Args:
        sweep: x to (K⁻¹(y; θ(x)), its log-det). Item d of the result depends on items before d alone; or the sweep is a
            contraction, for which as many as `items` are enough.
        like: a tensor of the shape of x, such as y.
        items: D, after which many sweeps x is exact. What an item is, is up to the sweep: a channel, a token.
        early: stop once no number changes by more than 10·eps·max(1, |x|).
        sources: what the sweep depends on beside x: y, the context, parameters. Derivatives are made if one of them
            wants some.
        solve: finds x and its log-det item by item, in place of the sweeps that keep nothing; not if early.

    Returns:
        x, and the log-det of the last sweep.
    """
    if unreadable(like):
        x = torch.zeros_like(like)
        for _ in range(items - 1):
            x = _finite(sweep(x)[0])
        return sweep(x)
    wanted = torch.is_grad_enabled() and any(source.requires_grad for source in sources)
    with torch.no_grad():
        if solve is None or early:
            x, result = _swept(sweep, torch.zeros_like(like), items - wanted, early)
        else:
            result = solve()
            x = _finite(result[0]) if wanted else result[0]
    if not wanted:
        return result
    return sweep(_with_derivatives(sweep, x, items) if items > 1 else x)


def _swept(sweep: Sweep, x: Tensor, times: int, early: bool) -> tuple[Tensor, Any]:
    """The numbers after so many sweeps, 0 for what is not finite; and what the last returned, if there was one."""
    close, result = 10 * torch.finfo(x.dtype).eps, None
    for _ in range(times):
        result = sweep(x)
        last, x = x, _finite(result[0])
        if early and bool(((x - last).abs() <= close * x.abs().clamp_min(1)).all()):
            break
    return x, result


def _finite(x: Tensor) -> Tensor:
    """With 0 for what is not finite: an item that is not yet right may overflow, and 0·inf would poison the others."""
    return torch.where(x.isfinite(), x, 0.0)


def _with_derivatives(sweep: Sweep, x: Tensor, items: int) -> Tensor:
    """The same x as a function of what the sweep depends on: two Newton steps, of value 0, on x = sweep(x).

    The slopes are those at x as it is, so the first step makes the first derivatives right, the second the second.
    """
    leaf = x.detach().requires_grad_()
    moved = sweep(leaf)[0]
    slopes = _Slopes(leaf, moved, items)
    x = x + _Step.apply(moved - x, slopes)
    return x + _Step.apply(sweep(x)[0] - x, slopes)


class _Slopes:
    """M, the slope of a sweep at x, known by its products."""

    def __init__(self, x: Tensor, moved: Tensor, items: int) -> None:
        self.x, self.moved, self.items = x, moved, items

    def solve(self, v: Tensor, transposed: bool) -> Tensor:
        """(I − M)⁻¹ v, or (I − Mᵀ)⁻¹ v."""
        times = self._transposed_times if transposed else self._times
        size = v.abs().flatten(1).amax(1).view(-1, *(1 for _ in v.shape[1:])) if v.numel() else v
        size = torch.where(size > 0, size, 1.0)  # gradients are as small as the loss makes them
        unit = v / size
        return _swept(lambda u: (unit + times(u), u), unit, self.items, early=True)[0] * size

    def _transposed_times(self, v: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(self.moved, self.x, v, retain_graph=True, materialize_grads=True)
        return product

    def _times(self, v: Tensor) -> Tensor:
        with torch.enable_grad():
            u = torch.zeros_like(v, requires_grad=True)
            (linear,) = torch.autograd.grad(self.moved, self.x, u, create_graph=True, materialize_grads=True)
            (product,) = torch.autograd.grad(linear, u, v, materialize_grads=True)
        return product


class _Step(torch.autograd.Function):
    """(I − M)⁻¹ of a miss that is as good as zero: its value is, its derivatives are not."""

    @staticmethod
    def forward(ctx: Any, miss: Tensor, slopes: _Slopes) -> Tensor:
        ctx.slopes = slopes
        return torch.zeros_like(miss)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Solved.apply(grad, ctx.slopes, True), None


class _Solved(torch.autograd.Function):
    """(I − M)⁻¹ v or its transpose, linear in v."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, slopes: _Slopes, transposed: bool) -> Tensor:
        ctx.slopes, ctx.transposed = slopes, transposed
        return slopes.solve(v, transposed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Solved.apply(grad, ctx.slopes, not ctx.transposed), None, None
