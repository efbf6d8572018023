"""Base densities of what a bijector returns: standard normal, or narrow around the LR image; and their draws."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.arguments import check_numbers, check_whole
from flowkit.hierarchy import Latents
from flowkit.tree import Value, leaves, map_leaves, sum_per_sample


class StandardNormal(nn.Module):
    """Every number of the value is an independent N(0, 1)."""

    def log_prob(self, value: Value, context: Value = None) -> Tensor:
        """Log-density in nats, summed over the value, shape (B,)."""
        if next(leaves(value), None) is None:
            raise ValueError("StandardNormal: there is no tensor in the value, so it has no density")
        terms = [sum_per_sample(-0.5 * (z**2 + math.log(2 * math.pi))) for z in leaves(value)]
        return sum(terms[1:], terms[0])

    def sample(
        self,
        like: Value,
        context: Value = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Value:
        """Draws a value of the shapes of `like`, times the temperature; on the generator's device, left to right."""
        return map_leaves(lambda leaf: draw(leaf, generator) * temperature, like)


class Near(StandardNormal):
    """y is N(y*, std²) around the context y*; the latents beside it are standard normal (HCFlow, eq. (3)).

    This is the narrow Gaussian in place of the paper's Dirac δ(y − y*). A value is `Latents(y, z)`, or y alone.

    Args:
        std: its standard deviation, in units of y; the official code has e⁻⁶, 0.63 grey levels.
        levels: None, or evaluate at y rounded to multiples of 1/levels in [0, 1], with the gradient of the
            unrounded y: 255 is what the official code does (so its numbers can be matched).

    Raises:
        ValueError: if there is no context, or not one of y's shape.
    """

    def __init__(self, std: float = math.exp(-6), levels: int | None = None) -> None:
        super().__init__()
        check_numbers("Near", "(0, inf)", std=std)
        if levels is not None:
            check_whole("Near", levels=levels)
        self.std = std
        self.levels = levels

    def extra_repr(self) -> str:
        """The width."""
        return f"std={self.std:.3g}" + (f", levels={self.levels}" if self.levels else "")

    def log_prob(self, value: Value, context: Value = None) -> Tensor:
        """Log-density in nats, shape (B,)."""
        y, z = self._parts(value)
        target = self._target(y, context)
        if self.levels is not None:
            y = round_straight_through(y, self.levels)
        log_density = super().log_prob((y - target) / self.std) - math.log(self.std) * math.prod(y.shape[1:])
        return log_density + super().log_prob(z) if next(leaves(z), None) is not None else log_density

    def sample(
        self,
        like: Value,
        context: Value = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Value:
        """Draws around y*; at temperature 0 it is y* itself."""
        draws = super().sample(like, None, temperature, generator)
        y, z = self._parts(draws)
        y = self._target(y, context) + self.std * y
        if isinstance(draws, Tensor):
            return y
        return Latents(y, z) if isinstance(draws, Latents) else (y, z)

    @staticmethod
    def _parts(value: Value) -> tuple[Tensor, Value]:
        y, z = value if isinstance(value, tuple) else (value, ())
        if y is None:
            raise ValueError("Near: the last level keeps nothing, so there is no y; use StandardNormal()")
        return y, z

    def _target(self, y: Tensor, context: Value) -> Tensor:
        if not isinstance(context, Tensor) or context.shape != y.shape:
            got = tuple(context.shape) if isinstance(context, Tensor) else type(context).__name__
            raise ValueError(
                f"Near: expected the context y* of shape {tuple(y.shape)}, got {got}; with labels beside it, give Near "
                "its y* itself: base.log_prob(latents, y), base.sample(like, y)"
            )
        return context.to(y.dtype)


def draw(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard-normal numbers of a tensor's shape and dtype, drawn on the generator's device: one seed, one image."""
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def uniform(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Numbers within (0, 1), of a tensor's shape and dtype, drawn on the generator's device.

    Never 0 or 1, nor so near to 0 that 2u − 1 is rounded to −1: a quantile function stays finite.
    """
    device = like.device if generator is None else generator.device
    numbers = torch.rand(like.shape, generator=generator, device=device, dtype=like.dtype)
    return numbers.clamp_(min=torch.finfo(like.dtype).eps / 2).to(like.device)


def round_straight_through(x: Tensor, levels: int = 255) -> Tensor:
    """Rounds to multiples of 1/levels in [0, 1], half to even; the gradient is 1 everywhere, also outside [0, 1]."""
    rounded: Any = _RoundStraightThrough.apply(x, levels)
    return rounded


class _RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: int) -> Tensor:
        return (x.clamp(0, 1) * levels).round() / levels

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
