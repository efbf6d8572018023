"""What laws are made of: comparisons that name bijector and law, their own noise, Jacobians, values of a domain."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from flowkit.tree import Value, describe, leaves, map_leaves, sum_per_sample

ROUND_TRIP = 1e-7
"""Largest error of a float64 round trip, relative to the largest value: leaves room for a bisected inverse."""

EDGE = 6.0
"""How far from the middle of a bounded set values are drawn, in the reals that it is mapped to: beyond, rounding of
what lies beside an end would show."""


def name_of(b: Any) -> str:
    """The class."""
    return type(b).__name__


def expect(holds: Any, b: Any, law: str, why: str) -> None:
    """Raises AssertionError that names bijector and law, unless it holds."""
    if not holds:
        raise AssertionError(f"{name_of(b)} breaks the law: {law}: {why}")


def close(
    got: Value, expected: Value, b: Any, law: str, tolerance: float = ROUND_TRIP, slack: Value | None = None
) -> None:
    """Leaf by leaf within a tolerance, relative to the largest number of the leaf (and at least to 1).

    Args:
        got: a value.
        expected: what it should be.
        b: the bijector.
        law: its name.
        tolerance: relative to the largest number.
        slack: a value of the same shapes that is allowed on top, number by number.
    """
    allowed = [torch.zeros(())] * len(list(leaves(got))) if slack is None else list(leaves(slack))
    for a, e, more in zip(leaves(got), leaves(expected), allowed, strict=True):
        expect(a.shape == e.shape, b, law, f"shape {tuple(a.shape)}, expected {tuple(e.shape)}")
        if a.numel() == 0:
            continue
        error = (a - e).detach().abs()
        scale = max(1.0, float(e.detach().abs().max()))
        fine = (error <= tolerance * scale + more.detach()).all()
        expect(fine, b, law, f"off by {float(error.max()):.3g} where values reach {scale:.3g}")


def equal(got: Value, expected: Value, b: Any, law: str) -> None:
    """Bit for bit."""
    same = all(torch.equal(a, e) for a, e in zip(leaves(got), leaves(expected), strict=True))
    expect(same, b, law, "the values differ")


def finite_logdet(b: Any, logdet: Tensor, x: Value) -> None:
    """Shape, dtype and finiteness of a log-det."""
    batch = next(leaves(x)).shape[0]
    expect(
        logdet.shape == (batch,) and logdet.dtype.itemsize >= 4 and logdet.isfinite().all(),
        b,
        "log-det (one finite number per sample, float32 or wider)",
        describe(logdet),
    )


def row(value: Value, i: int) -> Value:
    """Sample i, as a batch of one."""
    return map_leaves(lambda leaf: leaf[i : i + 1], value)


def repeated(value: Value, n: int) -> Value:
    """N copies of the batch, one after the other."""
    return map_leaves(lambda leaf: leaf.repeat(n, *(1 for _ in leaf.shape[1:])), value)


def fresh(leaf: Tensor) -> Tensor:
    """A copy that collects gradients, unless it is a class label."""
    return leaf.detach().clone().requires_grad_(leaf.is_floating_point())


def inner(a: Value, b: Value) -> Tensor:
    """The inner product of two values."""
    return torch.stack([sum_per_sample(p * q).sum() for p, q in zip(leaves(a), leaves(b), strict=True)]).sum()


def gradients_of(total: Tensor, wrt: list[Tensor], create_graph: bool = False) -> list[Tensor]:
    """Gradients, zero where there is none."""
    if not wrt or not total.requires_grad:
        return [torch.zeros_like(w) for w in wrt]
    grads = torch.autograd.grad(total, wrt, allow_unused=True, retain_graph=True, create_graph=create_graph)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(grads, wrt, strict=True)]


def jacobian(b: Any, x: Value, context: Value) -> Tensor:
    """The Jacobian of one sample, (outputs, inputs): each row of a batch of copies gives one row, in one backward."""

    def copies(value: Value, rows: int) -> Value:
        return repeated(map_leaves(Tensor.detach, value), rows)

    outputs = sum(leaf.numel() for leaf in leaves(b(x, context)[0]))
    rows = []
    for start in range(0, outputs, 64):
        count = min(64, outputs - start)
        inputs = map_leaves(Tensor.requires_grad_, copies(x, count))
        y = torch.cat([leaf.flatten(1) for leaf in leaves(b(inputs, copies(context, count))[0])], 1)
        grads = gradients_of(y.diagonal(start).sum(), list(leaves(inputs)))
        rows.append(torch.cat([grad.flatten(1) for grad in grads], 1))
    return torch.cat(rows)


def noise_source(seed: int = 0) -> Callable[[Tensor], Tensor]:
    """Standard-normal noise of a tensor's shape, from a generator of its own: the process's stream is not touched."""
    generator = torch.Generator().manual_seed(seed)

    def like(leaf: Tensor) -> Tensor:
        return torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype).to(leaf.device)

    return like


def stated(b: Any, side: str) -> constraints.Constraint | None:
    """`domain` or `codomain` of a bijector; None where nothing is stated (a module from elsewhere, some chains)."""
    found: constraints.Constraint | None = getattr(b, side, None)
    return found


def stretched(constraint: constraints.Constraint | None, value: Value, factor: float, shift: float = 0.0) -> Value:
    """A value moved away from the middle of its set: factor·u + shift in the reals that the set is mapped to."""

    def move(leaf: Tensor) -> Tensor:
        if _unbounded(constraint):
            return factor * leaf + shift
        return placed(constraint, factor * biject_to(constraint).inv(leaf) + shift)

    return map_leaves(move, value)


def placed(constraint: constraints.Constraint | None, numbers: Tensor) -> Tensor:
    """Real numbers, mapped into a set and away from its edge."""
    if _unbounded(constraint):
        return numbers
    inside: Tensor = biject_to(constraint)(numbers.clamp(-EDGE, EDGE))
    return inside


def coordinates(constraint: constraints.Constraint | None, value: Value) -> tuple[Value, Callable[[Value], Value]]:
    """Coordinates that may take small steps, no further out than the edge, and the way from them to the value."""
    if _unbounded(constraint):
        return map_leaves(fresh, value), lambda value: value
    transform = biject_to(constraint)
    free = map_leaves(lambda leaf: fresh(transform.inv(leaf).clamp(-EDGE, EDGE)), value)
    return free, lambda value: map_leaves(transform, value)


def clear_of_the_edge(constraint: constraints.Constraint | None, value: Tensor) -> Tensor:
    """Which numbers have not been rounded to the edge of their set, or nearly so."""
    if _unbounded(constraint):
        return torch.ones_like(value, dtype=torch.bool)
    inside: Tensor = biject_to(constraint).inv(value).abs() < 3 * EDGE
    return inside


def drawn(constraint: constraints.Constraint | None, like: Value, spread: float) -> Value:
    """A value of the shapes of `like`: normal numbers of that spread, mapped into the set."""
    noise = noise_source()
    return map_leaves(lambda leaf: placed(constraint, spread * noise(leaf)), like)


def _unbounded(constraint: constraints.Constraint | None) -> bool:
    return constraint is None or constraint is constraints.real
