"""Transformer flows: couplings of half the tokens (Jet), and maps of a token steered by those before it (TarFlow).

A token is a pixel, with its channels; a patch of an image becomes one by `Squeeze`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from flowkit.arguments import check_choice, check_net, check_whole
from flowkit.bijector import TensorMap
from flowkit.chain import Chain
from flowkit.checks import autocasting
from flowkit.coupling import Coupling, check_kind, per_channel
from flowkit.kinds import Affine, Kind
from flowkit.linear import Permutation
from flowkit.nets import CausalViT, ViT
from flowkit.shortcuts import author, decoding
from flowkit.spatial import Squeeze
from flowkit.sweeps import settle
from flowkit.tree import Value, describe, leaves, map_leaves, repeat_rows

_JETS = Affine("sigmoid", offset=0.0, floor=0.0, factor=2.0)
_TARFLOWS = Affine("exp", "scale_first", inverted=True)

_Layout = Literal["checkerboard", "rows", "columns"]


class TokenCoupling(TensorMap):
    """Half of the tokens pass and steer an elementwise map of the other half (Jet's spatial coupling).

    Unlike a masked coupling, the net gets the passive tokens alone, moved together: an image of half the height
    ("rows") or half the width. So it costs half, and attention a quarter. Jet's channel coupling is a `Coupling` with a
    `ViT` behind a `Permutation`; `flowkit.jet` puts both together.

    Args:
        net: called `net(passive, context)`, passive (B, C, *spatial) with one side halved; returns
            (B, kind.parameters · C, *spatial) of these sizes, side by side per channel: `nets.ViT`. A context of x's
            spatial sizes is halved as x is, and both halves come as channels, those of the passive places first.
            Several draws that share a context get it repeated, unless the net has `shares_context = True`.
        layout: which tokens pass: every other one ("checkerboard", by the sum of its indices), row or column.
        kind: the elementwise map; None is Jet's, (x + b)·2σ(r).
        flip: the other half passes.

    Raises:
        ValueError: for an unknown layout; from a call, for vectors, odd sizes, "rows" of a sequence, or if the net
            returns another number of parameters.

    Source:
        Kolesnikov et al., Jet: a modern transformer-based normalizing flow (2024).

    Example:
        >>> import flowkit
        >>> b = flowkit.TokenCoupling(flowkit.nets.ViT(3, 6, hidden=16, depth=1, heads=2, grid=(4, 2)))
        >>> b(torch.randn(5, 3, 4, 4))[0].shape
        torch.Size([5, 3, 4, 4])
    """

    stride = 2

    def __init__(
        self, net: nn.Module, layout: _Layout = "checkerboard", kind: Kind | None = None, flip: bool = False
    ) -> None:
        super().__init__()
        check_choice("TokenCoupling", ("checkerboard", "rows", "columns"), layout=layout)
        check_net("TokenCoupling", net, "flowkit.nets.ViT(3, 6)")
        self.net = net
        self.layout = layout
        self.kind = _JETS if kind is None else kind
        self.flip = flip
        check_kind("TokenCoupling", self.kind)
        if author(self, "forward") is TokenCoupling:
            self.constant_logdet = self.kind.keeps_volume

    def extra_repr(self) -> str:
        """Layout and kind."""
        return f"{self.layout}, {self.kind}" + (", flip=True" if self.flip else "")

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Transforms the active tokens."""
        passive, active = self._split(x)
        active, logdet = self.kind.forward(active, self._parameters_of(passive, active, x, context))
        return self._join(passive, active), logdet

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Transforms the active tokens back; the passive ones give the same parameters."""
        passive, active = self._split(y)
        active, logdet = self.kind.inverse(active, self._parameters_of(passive, active, y, context))
        return self._join(passive, active), logdet

    def _parameters_of(self, passive: Tensor, active: Tensor, x: Tensor, context: Value) -> Tensor:
        def placed(leaf: Tensor) -> Tensor:
            return torch.cat(self._split(leaf), 1) if leaf.ndim == x.ndim and leaf.shape[2:] == x.shape[2:] else leaf

        context = map_leaves(placed, context)
        if not getattr(self.net, "shares_context", False):
            context = map_leaves(lambda c: repeat_rows(c, x.shape[0]), context)
        return per_channel("TokenCoupling", self.kind, self.net(passive, context), active)

    @property
    def _axis(self) -> int:
        return -2 if self.layout == "rows" else -1

    def _even_first(self, x: Tensor) -> Tensor | bool:
        """Whether of two neighbours the first one passes; on a checkerboard that changes with the other indices."""
        if self.layout != "checkerboard":
            return not self.flip
        total = torch.zeros([1] * (x.ndim - 2), dtype=torch.long, device=x.device)
        for axis, size in enumerate(x.shape[2:-1]):
            index = torch.arange(size, device=x.device)
            total = total + index.view(-1, *[1] * (x.ndim - 3 - axis))
        return (total + int(self.flip)) % 2 == 0

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        axis = self._axis
        if x.ndim < 2 - axis or any(size % 2 for size in x.shape[2:]):
            raise ValueError(f"TokenCoupling: {self.layout} of even spatial sizes, got {describe(x)}")
        even, odd = x.unflatten(axis, (x.shape[axis] // 2, 2)).unbind(axis)
        first = self._even_first(x)
        if isinstance(first, bool):
            return (even, odd) if first else (odd, even)
        return torch.where(first, even, odd), torch.where(first, odd, even)

    def _join(self, passive: Tensor, active: Tensor) -> Tensor:
        axis = self._axis
        first = self._even_first(passive)
        if isinstance(first, bool):
            even, odd = (passive, active) if first else (active, passive)
        else:
            even, odd = torch.where(first, passive, active), torch.where(first, active, passive)
        return torch.stack([even, odd], axis).flatten(axis - 1, axis)


class TokenAutoregressive(TensorMap):
    """Every token is moved by an elementwise map that the tokens before it steer (TarFlow's block).

    Forward, so densities, is one pass of the net. The inverse takes one step a token, with the keys and values of the
    tokens before kept ("sequential"); or passes over all tokens, each solving them given those of the pass before,
    until nothing changes ("jacobi"): at most as many as there are tokens, and often far fewer. Passes are also taken
    under autocast, where a step would round other than forward did, and of a net that somebody hooks or patches.
    Gradients are implicit and exact.

    Args:
        net: called `net(x, context)`; returns (B, kind.parameters · C, *spatial), side by side per channel; what
            belongs to a token is a function of the tokens before it in raster order, as of `nets.CausalViT`. One
            without a `decoder` takes passes. A context that draws share is repeated, unless the net has
            `shares_context = True`.
        kind: the elementwise map; None is TarFlow's, (x − b)·e^(−a).
        flip: from the last token to the first. The net gets x and a spatial context turned around.
        inverse: "sequential" or "jacobi".

    Raises:
        ValueError: for another inverse; from a call, for vectors, or if the net returns another number of parameters.

    Source:
        Zhai et al., Normalizing flows are capable generative models (2024).

    Example:
        >>> import flowkit
        >>> b = flowkit.TokenAutoregressive(flowkit.nets.CausalViT(3, 6, hidden=16, depth=1, grid=(4, 4)))
        >>> y, logdet = b(torch.randn(5, 3, 4, 4))
        >>> b.inverse(y)[0].shape
        torch.Size([5, 3, 4, 4])
    """

    def __init__(
        self,
        net: nn.Module,
        kind: Kind | None = None,
        flip: bool = False,
        inverse: Literal["sequential", "jacobi"] = "sequential",
    ) -> None:
        super().__init__()
        check_choice("TokenAutoregressive", ("sequential", "jacobi"), inverse=inverse)
        check_net("TokenAutoregressive", net, "flowkit.nets.CausalViT(3, 6)")
        self.net = net
        self.kind = _TARFLOWS if kind is None else kind
        self.flip = flip
        self.early = inverse == "jacobi"
        check_kind("TokenAutoregressive", self.kind)
        if author(self, "forward") is TokenAutoregressive:
            self.constant_logdet = self.kind.keeps_volume

    def extra_repr(self) -> str:
        """Kind, and what is not the default."""
        return str(self.kind) + (", flip=True" if self.flip else "") + (', inverse="jacobi"' if self.early else "")

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """One pass of the net."""
        x, context = self._turned(x, context)
        y, logdet = self.kind.forward(x, self._parameters_of(x, context))
        return self._turned(y, None)[0], logdet

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """One token after the other, or all at once and again."""
        y, context = self._turned(y, context)

        def sweep(x: Tensor) -> tuple[Tensor, Tensor]:
            return self.kind.inverse(y, self._parameters_of(x, context))

        decoder = None if autocasting(y) else decoding(self.net)
        solve = None if decoder is None else lambda: self._token_by_token(y, decoder(y, context))
        sources = (y, *leaves(context), *self.parameters())
        x, logdet = settle(sweep, y, math.prod(y.shape[2:]), self.early, sources, solve)
        return self._turned(x, None)[0], logdet

    def _token_by_token(self, y: Tensor, parameters_after: Callable[[Tensor | None], Tensor]) -> tuple[Tensor, Tensor]:
        token, found = None, []
        for due in y.flatten(2).split(1, 2):
            found.append(parameters_after(token))
            token = self.kind.inverse(due, per_channel("TokenAutoregressive", self.kind, found[-1], due))[0]
        parameters = torch.cat(found, 2).unflatten(2, y.shape[2:])
        return self.kind.inverse(y, per_channel("TokenAutoregressive", self.kind, parameters, y))

    def _turned(self, x: Tensor, context: Value) -> tuple[Tensor, Value]:
        """Both in the order of the map: a context of x's spatial sizes turns with it."""
        if x.ndim < 3:
            raise ValueError(f"TokenAutoregressive: tokens are (B, C, *spatial), got {describe(x)}")
        if not self.flip:
            return x, context
        axes, sizes = list(range(2, x.ndim)), x.shape[2:]
        turn = lambda leaf: leaf.flip(axes) if leaf.shape[2:] == sizes else leaf  # noqa: E731
        return x.flip(axes), map_leaves(turn, context)

    def _parameters_of(self, x: Tensor, context: Value) -> Tensor:
        if not getattr(self.net, "shares_context", False):
            context = map_leaves(lambda c: repeat_rows(c, x.shape[0]), context)
        return per_channel("TokenAutoregressive", self.kind, self.net(x, context), x)


def jet(
    channels: int,
    size: tuple[int, int],
    patch: int = 4,
    couplings: int = 32,
    hidden: int = 512,
    depth: int = 2,
    context_channels: int = 0,
    seed: int = 0,
) -> Chain:
    """Jet: couplings on tokens of patch×patch pixels, four of channels, then one of places, and so on.

    No ActNorm, no 1×1 convolution, no levels. Channel couplings are of halves behind a fixed random permutation; those
    of places change between the checkerboard, rows and columns. `Reversible(jet(…))` rematerialises all of it, as Jet
    does in training (Adam, β₂ 0.95, 3e-4 to 0 by a cosine, weight decay 1e-5, gradients clipped at 1).

    Args:
        channels: of the image.
        size: of the images, for which positions are learned; others of the same divisors are taken too.
        patch: side of a token.
        couplings: in all; 32 to 64.
        hidden: width of the transformers, in heads of 64 numbers.
        depth: layers of each.
        context_channels: channels of the context.
        seed: of the permutations.

    Raises:
        ValueError: if the patches do not divide the size; from a call, for an odd number of patches along a side,
            if there is a coupling of places (from five on).
    """
    tokens, (height, width) = _tokens("jet", channels, size, patch, hidden)
    check_whole("jet", 0, couplings=couplings)
    heads, generator = max(1, hidden // 64), torch.Generator().manual_seed(seed)
    parts: list[nn.Module] = [Squeeze(patch)]
    for i in range(couplings):
        if i % 5 < 4:
            half = tokens // 2
            net = ViT(half, 2 * (tokens - half), hidden, depth, heads, 1, (height, width), context_channels)
            order = torch.randperm(tokens, generator=generator)
            parts += [Permutation(order), Coupling(net, half, _JETS)]
        else:
            layout: _Layout = ("checkerboard", "rows", "columns")[i // 5 % 3]
            grid = (height // 2, width) if layout == "rows" else (height, width // 2)
            net = ViT(tokens, 2 * tokens, hidden, depth, heads, 1, grid, context_channels)
            parts.append(TokenCoupling(net, layout, flip=bool(i // 5 % 2)))
    return Chain(*parts)


def tarflow(
    channels: int,
    size: tuple[int, int],
    patch: int = 4,
    blocks: int = 8,
    hidden: int = 512,
    depth: int = 8,
    context_channels: int = 0,
    inverse: Literal["sequential", "jacobi"] = "sequential",
) -> Chain:
    """TarFlow: autoregressive blocks over tokens of patch×patch pixels, every other one from the last to the first.

    Args:
        channels: of the image.
        size: of the images, for which positions are learned; others of the same divisors are taken too.
        patch: side of a token.
        blocks: in all.
        hidden: width of the transformers, in heads of 64 numbers.
        depth: layers of each.
        context_channels: channels of the context.
        inverse: as of `TokenAutoregressive`.

    Raises:
        ValueError: if the patches do not divide the size.
    """
    tokens, grid = _tokens("tarflow", channels, size, patch, hidden)
    check_whole("tarflow", 0, blocks=blocks)
    parts: list[nn.Module] = [Squeeze(patch)]
    for i in range(blocks):
        net = CausalViT(tokens, 2 * tokens, hidden, depth, max(1, hidden // 64), grid, context_channels)
        parts.append(TokenAutoregressive(net, flip=bool(i % 2), inverse=inverse))
    return Chain(*parts)


def _tokens(model: str, channels: int, size: tuple[int, int], patch: int, hidden: int) -> tuple[int, tuple[int, int]]:
    """Numbers in a token, and tokens along both sides."""
    check_whole(model, channels=channels, patch=patch, hidden=hidden)
    if not isinstance(size, Sequence) or len(size) != 2:
        raise ValueError(f"{model}: size must be the height and width of the images, got {size!r}")
    for side in size:
        check_whole(model, size=side)
    if size[0] % patch or size[1] % patch:
        raise ValueError(f"{model}: patches of {patch} pixels do not divide images of {size[0]} × {size[1]}")
    return channels * patch**2, (size[0] // patch, size[1] // patch)
