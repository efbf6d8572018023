"""Roots of increasing functions, number by number, in a fixed number of steps and with exact derivatives."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""An increasing function of every number: its values, and the logarithms of its slopes, in the shape of x."""


def root(
    evaluate: Evaluate,
    y: Tensor,
    low: Tensor,
    high: Tensor,
    *,
    bisections: int = 32,
    newton: int = 3,
    value: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Where an increasing function g reaches y, by bisection and Newton steps that stay in what is left of the bracket.

    The steps are always as many, so that graphs can be traced. Two more Newton steps, of value 0, carry the gradient
    (implicit function theorem): first and second derivatives are exact by y and whatever `evaluate` depends on.

    Args:
        evaluate: x to g(x) and log g′(x), each of the shape of x.
        y: where to, any shape.
        low: lower end of the bracket, of the shape of y. A root outside is taken to be the nearer end.
        high: upper end: g(low) ≤ y ≤ g(high).
        bisections: halvings of the bracket.
        newton: Newton steps after them.
        value: g alone, where that costs less.

    Returns:
        x, and log g′(x).

    Example:
        >>> y = torch.tensor([8.0, 27.0])
        >>> x, log_slope = root(lambda x: (x**3, (3 * x**2).log()), y, torch.zeros(2), torch.full((2,), 9.0))
        >>> x, log_slope.exp()
        (tensor([2., 3.]), tensor([12.0000, 27.0000]))
    """
    with torch.no_grad():
        x = _solved(evaluate, y, low, high, bisections, newton, value or (lambda x: evaluate(x)[0]))
    if torch.is_grad_enabled():
        for _ in range(2):  # each doubles the number of derivatives that are right
            reached, log_slope = evaluate(x)
            miss = reached - y
            x = x - (miss - miss.detach()) * finite_exp(-log_slope)
    return x, evaluate(x)[1]


def finite_exp(log: Tensor) -> Tensor:
    """Its exponential, but finite."""
    return log.clamp_max(math.log(torch.finfo(log.dtype).max) - 1).exp()


def _solved(
    evaluate: Evaluate,
    y: Tensor,
    low: Tensor,
    high: Tensor,
    bisections: int,
    newton: int,
    value: Callable[[Tensor], Tensor],
) -> Tensor:
    for _ in range(bisections):
        middle = low / 2 + high / 2
        below = value(middle) < y
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    x = low / 2 + high / 2
    for _ in range(newton):  # where the slope vanishes, a step would leave the bracket
        reached, log_slope = evaluate(x)
        x = torch.minimum(torch.maximum(x - (reached - y) * finite_exp(-log_slope), low), high)
    return x
