"""Neighbours: transforms of the nflows library as bijectors, and bijectors as nflows transforms.

The two protocols are the same on purpose, so an nflows transform stands in a `Chain` as it is and a bijector in an
nflows `CompositeTransform`. The adapters here do what duck typing can't; `convert` leaves nflows behind.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.bijector import Bijector, full_precision
from flowkit.chain import Chain
from flowkit.hierarchy import Hierarchy
from flowkit.shapes import blank, outline
from flowkit.spatial import Split
from flowkit.tree import Value, describe, leaves, map_leaves, widen

try:
    from nflows.transforms.base import InverseNotAvailable, Transform
except ImportError as error:
    raise ImportError('flowkit.nflows needs nflows: pip install "flowkit-torch[nflows]"') from error

from flowkit.nflows_converters import convert

__all__ = ["FromNflows", "ToNflows", "convert", "from_nflows", "to_nflows"]


class FromNflows(Bijector):
    """See `from_nflows`."""

    transform: Any
    domain = codomain = None  # a transform does not say

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        self.transform = transform

    def extra_repr(self) -> str:
        """The transform's class."""
        return type(self.transform).__name__

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """The transform's forward, in full precision."""
        with full_precision(x):
            y, logdet = self.transform(x, map_leaves(widen, context))
        return y, widen(logdet)

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """The transform's inverse, in full precision."""
        try:
            with full_precision(y):
                x, logdet = self.transform.inverse(y, map_leaves(widen, context))
        except InverseNotAvailable as error:
            raise NotImplementedError(f"{type(self.transform).__name__} has no inverse") from error
        return x, widen(logdet)


def from_nflows(transform: nn.Module) -> Bijector:
    """Makes a bijector of an nflows transform: checked, log-det in float32 or wider.

    Args:
        transform: an `nflows.transforms.Transform`.

    Returns:
        The bijector, on the same parameters. Its `inverse` raises NotImplementedError if the transform has none.

    Raises:
        TypeError: if it is not a transform.

    Example:
        >>> from nflows.transforms import LULinear
        >>> y, logdet = from_nflows(LULinear(3))(torch.randn(2, 3))
        >>> logdet.dtype
        torch.float32
    """
    if not isinstance(transform, Transform):
        raise TypeError(f"from_nflows: expected an nflows Transform, got {type(transform).__name__}")
    return transform.bijector if isinstance(transform, ToNflows) else FromNflows(transform)


class ToNflows(Transform):
    """See `to_nflows`."""

    def __init__(self, bijector: Bijector, shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.bijector = bijector
        self.shape = None if shape is None else tuple(shape)
        self._shapes: dict[int, set[tuple[int, ...]]] = {}  # of the x that became so many numbers

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps x to one tensor: the value itself, or its leaves flattened and joined, (B, D)."""
        value, logdet = self.bijector(inputs, self._context(context))
        if isinstance(value, Tensor):
            return value, logdet
        joined = torch.cat([leaf.flatten(1) for leaf in leaves(value)], 1)
        if self.shape is None:
            self._shapes.setdefault(joined.shape[1], set()).add(tuple(inputs.shape[1:]))
        return joined, logdet

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps that one tensor back to x."""
        out: tuple[Tensor, Tensor] = self.bijector.inverse(self._unflatten(inputs, context), self._context(context))
        return out

    def _context(self, context: Tensor | None) -> Value:
        hierarchies = [m for m in self.bijector.modules() if isinstance(m, Hierarchy)]
        if context is not None and hierarchies:
            return (context,) * len(hierarchies[0].levels)
        return context

    def _unflatten(self, inputs: Tensor, context: Tensor | None) -> Value:
        shape = self.shape
        if shape is None:
            last = self.bijector[-1] if isinstance(self.bijector, Chain) and len(self.bijector) else self.bijector
            if not isinstance(last, Hierarchy | Split):
                return inputs
            seen = self._shapes.get(inputs.shape[-1], set())
            if self._shapes and not seen:
                raise ValueError(f"to_nflows: expected (B, {next(iter(self._shapes))}), got {describe(inputs)}")
            if len(seen) != 1:
                why = "is not known yet" if not seen else f"may be any of {sorted(seen)}"
                raise ValueError(f"to_nflows: the shape of x {why}; pass to_nflows(b, shape=(C, H, W))")
            (shape,) = seen
        like = outline(self.bijector, blank(shape, inputs.dtype), self._context(context))
        if isinstance(like, Tensor):
            return inputs
        sizes = [math.prod(leaf.shape[1:]) for leaf in leaves(like)]
        if inputs.ndim != 2 or inputs.shape[1] != sum(sizes):
            raise ValueError(f"to_nflows: expected (B, {sum(sizes)}), got {describe(inputs)}")
        parts = iter(torch.split(inputs, sizes, 1))
        return map_leaves(lambda leaf: next(parts).reshape(-1, *leaf.shape[1:]), like)


def to_nflows(bijector: Bijector, shape: tuple[int, ...] | None = None) -> Transform:
    """Makes an nflows transform of a bijector whose values are trees, or that wants a context per level.

    Trees are flattened and joined to one (B, D) tensor. The one context tensor of nflows goes to the bijector as it
    is; a `Hierarchy` gets it at every level.

    Args:
        bijector: any bijector.
        shape: shape of x without the batch, to cut a tree out of (B, D) again; None: that of the x that a forward call
            made D numbers of.

    Returns:
        The transform, on the same parameters.
    """
    return bijector.transform if isinstance(bijector, FromNflows) else ToNflows(bijector, shape)
