"""A vision transformer as a conditioner: patches attend to each other, so that a pixel sees the whole image."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.arguments import check_whole
from flowkit.bijector import full_precision
from flowkit.checks import unreadable
from flowkit.nets.contexts import with_context


class ViT(nn.Module):
    """A transformer over the patches of an image, or over positions (Dosovitskiy et al. 2021).

    The network of Jet's couplings (Kolesnikov et al. 2024). Pre-LayerNorm, whose numbers stay in float32 under
    autocast; attention of all patches to all; an MLP of four times the width. Positions are learned on a grid, with
    standard deviation 1/√hidden at the start, and interpolated where the input has another. The last layer starts at
    zero and stays in full precision under autocast.

    Args:
        in_channels: channels of the passive part (or of the context, for an injector).
        out_channels: parameters to return.
        hidden: width; a multiple of the heads.
        depth: number of layers.
        heads: attention heads.
        patch: side of a patch; the sizes are multiples of it.
        grid: patches along each spatial axis for which positions are learned; its length is the number of axes.
        context_channels: channels of the context, an image or a vector; 0 ignores any context.

    Raises:
        ValueError: if the heads do not divide the width, or, from a call, for another number of axes or sizes that the
            patch does not divide.

    Example:
        >>> ViT(3, 8, hidden=16, depth=1, patch=2, grid=(4, 4))(torch.zeros(5, 3, 8, 8)).shape
        torch.Size([5, 8, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int = 128,
        depth: int = 4,
        heads: int = 4,
        patch: int = 1,
        grid: tuple[int, ...] = (8, 8),
        context_channels: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_whole(name, 0, in_channels=in_channels, depth=depth, context_channels=context_channels)
        check_whole(name, out_channels=out_channels, hidden=hidden, heads=heads, patch=patch)
        if hidden % heads or not 1 <= len(grid) <= 3:
            raise ValueError(
                f"{name}: heads must divide hidden and grid have 1 to 3 axes, got {heads} heads of {hidden} and {grid}"
            )
        for axis in grid:
            check_whole(name, grid=axis)
        self.context_channels = context_channels
        self.patch = patch
        area = patch ** len(grid)
        self.first = nn.Linear((in_channels + context_channels) * area, hidden)
        self.positions = nn.Parameter(torch.randn(1, hidden, *grid) / math.sqrt(hidden))
        self.layers = nn.ModuleList(_Layer(hidden, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)
        self.last = nn.Linear(hidden, out_channels * area)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, passive: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, in_channels, *spatial) to (B, out_channels, *spatial)."""
        axes = self.positions.ndim - 2
        if passive.ndim != axes + 2 or any(size % self.patch for size in passive.shape[2:]):
            raise ValueError(
                f"ViT: expected {axes} spatial sizes, multiples of {self.patch}, got {tuple(passive.shape)}"
            )
        grid = [size // self.patch for size in passive.shape[2:]]
        h = self.first(self._to_tokens(with_context(passive, context, self.context_channels), grid))
        h = h + self._positions_on(grid)
        for layer in self.layers:
            h = layer(h)
        h = self.norm(h)
        with full_precision(h):
            return self._to_pixels(self.last(h.to(self.last.weight.dtype)), grid)

    def _to_tokens(self, x: Tensor, grid: list[int]) -> Tensor:
        """(B, C, *spatial) to (B, T, C·patch^axes), channels first."""
        axes = len(grid)
        cells = x.view(*x.shape[:2], *(side for size in grid for side in (size, self.patch)))
        places = [2 + 2 * axis for axis in range(axes)]
        return cells.permute(0, *places, 1, *(place + 1 for place in places)).flatten(1 + axes).flatten(1, axes)

    def _to_pixels(self, tokens: Tensor, grid: list[int]) -> Tensor:
        axes = len(grid)
        channels = tokens.shape[2] // self.patch**axes
        cells = tokens.view(tokens.shape[0], *grid, channels, *[self.patch] * axes)
        order = [place for axis in range(axes) for place in (1 + axis, 2 + axes + axis)]
        cells = cells.permute(0, 1 + axes, *order)
        return cells.reshape(tokens.shape[0], channels, *(size * self.patch for size in grid))

    def _positions_on(self, grid: list[int]) -> Tensor:
        positions: Tensor = self.positions
        if list(positions.shape[2:]) != grid:
            mode = ("linear", "bilinear", "trilinear")[len(grid) - 1]
            positions = F.interpolate(positions, grid, mode=mode)
        return positions.flatten(2).mT


class _Layer(nn.Module):
    """Attention and an MLP, each h + f(norm(h)); causal if its attribute says so."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.causal = False
        self.norms = nn.ModuleList([nn.LayerNorm(hidden), nn.LayerNorm(hidden)])
        self.to_attend = nn.Linear(hidden, 3 * hidden)
        self.attended = nn.Linear(hidden, hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))

    def forward(self, h: Tensor, past: list[Tensor] | None = None) -> Tensor:
        """(B, T, hidden) to the same. `past` is for one token after the other: its keys and values are added to it."""
        split: Any = self.to_attend(self.norms[0](h)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = split
        if past is not None:
            past[:] = [torch.cat([*past[i : i + 1], new], 2) for i, new in enumerate((key, value))]
            key, value = past
        heads = _attention(query, key, value, self.causal and past is None)
        h = h + self.attended(heads.transpose(1, 2).flatten(2))
        out: Tensor = h + self.mlp(self.norms[1](h))
        return out


def _attention(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    if torch.compiler.is_compiling() or not unreadable(query):
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    scores = query @ key.mT / math.sqrt(query.shape[-1])  # the fused one knows neither vmap nor forward mode
    if causal:
        before = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~before, -torch.inf)
    return scores.softmax(-1) @ value
