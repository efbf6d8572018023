"""A flow: a bijector and a base density make a distribution with exact likelihood."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.bijector import facts
from flowkit.shapes import blank, outline, runs
from flowkit.tree import Value, leaves, map_leaves


class Flow(nn.Module):
    """The distribution of x when b(x) has the base density (eq. (2), change of variables).

    `log_prob(x) = base.log_prob(b(x)) + log|det ∂b/∂x|`. The context goes to the bijector and to the base.

    Args:
        bijector: x to latents; any object of the protocol.
        base: `StandardNormal()`, or `Near(std)` for a hierarchy whose y is held to the context. One that states
            `shape`, that of a latent without the batch, tells `sample` what to draw.
        shape: shape of one x without the batch. `sample` needs it where it can't be told from the bijector's
            channels (and, for images, from the size of a context y*).

    Example:
        >>> import flowkit
        >>> flow = flowkit.Flow(flowkit.ActNorm(2), flowkit.StandardNormal())
        >>> flow.log_prob(torch.zeros(3, 2)).shape, flow.sample(5).shape
        (torch.Size([3]), torch.Size([5, 2]))
    """

    bijector: Any
    base: Any

    def __init__(self, bijector: nn.Module, base: nn.Module, shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.bijector = bijector
        self.base = base
        self.shape = shape

    def forward(self, x: Tensor, context: Value = None) -> Tensor:
        """`log_prob`, so that hooks, compile and DDP see it."""
        return self.log_prob(x, context)

    def log_prob(self, x: Tensor, context: Value = None) -> Tensor:
        """Log-density of x in nats, shape (B,)."""
        latents, logdet = self.bijector(x, context)
        log_prob: Tensor = self.base.log_prob(latents, context) + logdet
        return log_prob

    def bits_per_dim(self, x: Tensor, context: Value = None) -> Tensor:
        """−log₂ density per number of x, shape (B,); lower is better.

        The true one: divided by C·H·W, and with a `Dequantize` in front its offset counts for every element, so
        that it bounds the bits that a lossless code of the grey levels needs. With `Near` it is conditional on
        y*, whose own bits are not in it.
        """
        return -self.log_prob(x, context) / (math.log(2) * math.prod(x.shape[1:]))

    def encode(self, x: Tensor, context: Value = None) -> Value:
        """The latents of x."""
        return self.bijector(x, context)[0]

    def decode(self, latents: Value, context: Value = None) -> Tensor:
        """The x of latents."""
        x: Tensor = self.bijector.inverse(latents, context)[0]
        return x

    def sample(
        self,
        n: int | Sequence[int],
        context: Value = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws n samples per context.

        The latents' shapes come from what the bijector states, or from a run on fake tensors: nothing is encoded.

        Args:
            n: number of samples, or several sizes, (4, 5) for 20.
            context: None, or a context with B rows.
            temperature: standard deviation of the latents, 0 for the mode of the base.
            generator: source of the draws, which are made on its device. None: torch's global one.

        Returns:
            (n, *shape), or (n, B, *shape) with a context; (4, 5, …) for several sizes.

        Raises:
            TypeError: if n is not a whole number or several.
            ValueError: if n or the temperature is negative or infinite, or the shape of x is not known (see `shape`).
        """
        return self.sample_and_log_prob(n, context, temperature, generator)[0]

    def sample_and_log_prob(
        self,
        n: int | Sequence[int],
        context: Value = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws as `sample` does, and returns their log-density under this flow (at temperature 1) as well."""
        sizes = _sizes(n)
        if not 0 <= temperature < math.inf:
            raise ValueError(f"Flow.sample: temperature must be at least 0 and finite, got {temperature}")
        first = next(leaves(context), None)
        if first is not None:
            sizes = (*sizes, first.shape[0])
        count = math.prod(_sizes(n))
        repeated = map_leaves(lambda c: c.repeat(count, *(1 for _ in c.shape[1:])), context)
        shape, like = self._latents_like(math.prod(sizes), context)
        latents = self.base.sample(like, repeated, temperature, generator)
        x, logdet = self.bijector.inverse(latents, repeated)
        if shape is not None and tuple(x.shape[1:]) != shape:
            raise ValueError(
                f"Flow.sample: expected x of shape {shape}, the bijector made {tuple(x.shape[1:])}: `shape` is wrong, "
                "or a part changes sizes and does not state it (`shrink`)"
            )
        log_prob = self.base.log_prob(latents, repeated) - logdet
        return x.reshape(*sizes, *x.shape[1:]), log_prob.reshape(sizes)

    def _latents_like(self, rows: int, context: Value) -> tuple[tuple[int, ...] | None, Value]:
        """Shape of x, if known, and tensors of the latents' shapes."""
        known = (*self.parameters(), *leaves(context), *self.buffers())
        like = next((t for t in known if t.is_floating_point()), torch.empty(0))
        latent = getattr(self.base, "shape", None)
        if latent is not None:
            return self.shape, like.new_zeros(()).expand(rows, *latent)
        shape = self._shape_of_x(context, like.dtype)
        latents = outline(self.bijector, blank(shape, like.dtype), context)
        return shape, map_leaves(lambda leaf: like.new_zeros(()).expand(rows, *leaf.shape[1:]), latents)

    def _shape_of_x(self, context: Value, dtype: torch.dtype) -> tuple[int, ...]:
        """As stated; or channels and, if the flow is one of images, the sizes of the context times `shrink`."""
        if self.shape is not None:
            return tuple(self.shape)
        stated = facts(self.bijector)
        channels, shrink = stated.in_channels, stated.shrink
        sized = isinstance(context, Tensor) and context.ndim > 2
        if channels is not None and shrink is not None:
            if shrink == 1 and (not sized or self._takes((channels,), context, dtype)):
                return (channels,)
            if sized:
                sizes = [size * shrink for size in context.shape[2:]]
                if any(size.denominator > 1 for size in sizes):
                    raise ValueError(
                        f"Flow.sample: a context of {tuple(context.shape[2:])} is no output of the bijector, which "
                        f"divides sizes by {shrink}"
                    )
                return (channels, *map(int, sizes))
        raise ValueError(
            "Flow.sample: the shape of x is not known; pass it once, Flow(bijector, base, shape=(C, H, W))"
        )

    def _takes(self, shape: tuple[int, ...], context: Value, dtype: torch.dtype) -> bool:
        """Whether latents of this shape can be decoded beside the context: x may be a vector, the context an image."""

        def decode(flow: Flow, latents: Value, context: Value) -> None:
            flow.base.log_prob(latents, context)
            flow.bijector.inverse(latents, context)

        return runs(decode, self, outline(self.bijector, blank(shape, dtype), context), context)


def _sizes(n: int | Sequence[int]) -> tuple[int, ...]:
    try:
        sizes = tuple(map(operator.index, n if isinstance(n, Sequence) else (n,)))
    except TypeError:
        raise TypeError(f"Flow.sample: n must be a number of samples, or a tuple of sizes, got {n!r}") from None
    if any(size < 0 for size in sizes):
        raise ValueError(f"Flow.sample: n must not be negative, got {n!r}")
    return sizes
