"""A causal transformer: what steers a token is a function of the tokens before it."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from flowkit.nets.contexts import fitting_context
from flowkit.nets.transformers import ViT
from flowkit.tree import repeat_rows


class CausalViT(ViT):
    """A transformer over pixels in raster order, each seeing those before it (the network of TarFlow's blocks).

    The tokens go in one place later, behind a learned one. So the parameters of the first token are learned too, and
    depend on the context (TarFlow shifts the output instead, and leaves its first token as it is).

    Args:
        in_channels: channels of a token.
        out_channels: parameters to return for each.
        hidden: width; a multiple of the heads.
        depth: number of layers.
        heads: attention heads; TarFlow's have 64 numbers each.
        grid: tokens along each spatial axis for which positions are learned; others are interpolated.
        context_channels: channels of the context, an image or a vector; 0 ignores any context.

    Example:
        >>> CausalViT(3, 6, hidden=16, depth=1, heads=2, grid=(4, 4))(torch.zeros(5, 3, 4, 4)).shape
        torch.Size([5, 6, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int = 128,
        depth: int = 4,
        heads: int = 2,
        grid: tuple[int, ...] = (8, 8),
        context_channels: int = 0,
    ) -> None:
        super().__init__(in_channels, out_channels, hidden, depth, heads, 1, grid, context_channels)
        self.start = nn.Parameter(torch.zeros(1, in_channels, 1))
        for layer in self.layers:
            layer.causal = True  # type: ignore[assignment]

    def forward(self, passive: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, in_channels, *spatial) to (B, out_channels, *spatial)."""
        later = torch.cat([self._started(passive), passive.flatten(2)], 2)[..., :-1]
        return super().forward(later.view(passive.shape), context)

    def decoder(self, like: Tensor, context: Tensor | None = None) -> Callable[[Tensor | None], Tensor]:
        """Parameters of one token after the other, in time that grows with the tokens before it, not their square.

        Args:
            like: a tensor of x's shape.
            context: as for a call.

        Returns:
            A function of the token before, (B, in_channels, 1) and None for the first, that returns the parameters of
            the next, (B, out_channels, 1).
        """
        places = self._positions_on(list(like.shape[2:]))
        pasts: list[list[Tensor]] = [[] for _ in self.layers]
        steps = itertools.count()
        given = None
        if self.context_channels:
            given = fitting_context(like, context, self.context_channels).flatten(2).to(like.dtype)
            given = repeat_rows(given, like.shape[0])

        def after(token: Tensor | None) -> Tensor:
            place = next(steps)
            token = self._started(like) if token is None else token
            token = token if given is None else torch.cat([token, given[..., place : place + 1]], 1)
            h = self.first(token.mT) + places[:, place : place + 1]
            for layer, past in zip(self.layers, pasts, strict=True):
                h = layer(h, past)
            out: Tensor = self.last(self.norm(h)).mT
            return out

        return after

    def _started(self, like: Tensor) -> Tensor:
        return self.start.to(like.dtype).expand(like.shape[0], -1, -1)
