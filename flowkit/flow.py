"""A flow: a bijector and a base density make a distribution with exact likelihood."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.tree import Value, leaves, map_leaves


class Flow(nn.Module):
    """The distribution of x when b(x) has the base density (eq. (2), change of variables).

    `log_prob(x) = base.log_prob(b(x)) + log|det ∂b/∂x|`. The context goes to the bijector and to the base.

    Args:
        bijector: x to latents; any object of the protocol.
        base: `StandardNormal()`, or `Near(std)` for a hierarchy whose y is held to the context.
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
        n: int,
        context: Value = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws n samples per context.

        Args:
            n: number of samples.
            context: None, or a context with B rows.
            temperature: standard deviation of the latents, 0 for the mode of the base.
            generator: source of the draws, which are made on its device.

        Returns:
            (n, *shape), or (n, B, *shape) with a context.

        Raises:
            ValueError: if the shape of x is not known (see `shape`).
        """
        return self.sample_and_log_prob(n, context, temperature, generator)[0]

    def sample_and_log_prob(
        self,
        n: int,
        context: Value = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws as `sample` does, and returns their log-density under this flow (at temperature 1) as well."""
        if n < 1:
            raise ValueError(f"Flow.sample: n must be at least 1, got {n}")
        first = next(leaves(context), None)
        batch = 1 if first is None else first.shape[0]
        repeated = map_leaves(lambda c: c.repeat(n, *(1 for _ in c.shape[1:])), context)
        latents = self.base.sample(self._latents_like(n * batch, repeated), repeated, temperature, generator)
        x, logdet = self.bijector.inverse(latents, repeated)
        log_prob = self.base.log_prob(latents, repeated) - logdet
        if context is None:
            return x, log_prob
        return x.unflatten(0, (n, batch)), log_prob.unflatten(0, (n, batch))

    def _latents_like(self, rows: int, context: Value) -> Value:
        """Tensors of the latents' shapes, found by encoding one blank x."""
        known = (*self.parameters(), *leaves(context), *self.buffers())
        like = next((t for t in known if t.is_floating_point()), torch.empty(0))
        blank = like.new_zeros(1, *self._shape_of_x(context))
        devices = [like.device] if like.is_cuda else []
        with torch.no_grad(), torch.random.fork_rng(devices):  # a Dequantize would draw
            latents = self.bijector(blank, map_leaves(lambda c: c[:1], context))[0]
        return map_leaves(lambda leaf: leaf.expand(rows, *leaf.shape[1:]), latents)

    def _shape_of_x(self, context: Value) -> tuple[int, ...]:
        if self.shape is not None:
            return self.shape
        channels = getattr(self.bijector, "in_channels", None)
        shrink = getattr(self.bijector, "shrink", None)
        if channels is not None and shrink is not None:
            if context is None and shrink == 1:
                return (channels,)
            if isinstance(context, Tensor):
                return (channels, *(int(size * shrink) for size in context.shape[2:]))
        raise ValueError(
            "Flow.sample: the shape of x is not known; pass it once, Flow(bijector, base, shape=(C, H, W))"
        )
