"""Composition: a chain applies its parts from left to right and adds their log-dets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from .bijector import Bijector, full_precision, no_logdet
from .tree import Value, leaves


class Chain(Bijector):
    """Applies bijectors from left to right; `Chain()` is the identity. `f >> g` is `Chain(f, g)`, flat.

    Every part gets the same context. A part may come from elsewhere (an nflows transform, say) if it has
    `forward(x, context)` and `inverse(y, context)` that return (value, logdet); such a part knows nothing of
    precision policies and runs with autocast off.

    Raises:
        TypeError: if a part is not a module with an inverse.

    Example:
        >>> import torch, flowkit
        >>> flow = flowkit.Squeeze() >> flowkit.ActNorm(12) >> flowkit.InvertibleConv1x1(12)
        >>> y, logdet = flow(torch.rand(2, 3, 8, 8))
        >>> y.shape, logdet.shape
        (torch.Size([2, 12, 4, 4]), torch.Size([2]))
    """

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        flat: list[nn.Module] = []
        for part in parts:
            if not isinstance(part, nn.Module) or not callable(getattr(part, "inverse", None)):
                raise TypeError(f"Chain: {type(part).__name__} is not a module with an inverse")
            flat.extend(part.parts if isinstance(part, Chain) else [part])
        self.parts = nn.ModuleList(flat)
        strides = [int(getattr(part, "stride", 1)) for part in flat]
        self.stride = math.prod(strides)
        self.constant_logdet = all(getattr(part, "constant_logdet", False) for part in flat)
        inputs = [getattr(part, "in_channels", None) for part in flat]
        outputs = [getattr(part, "out_channels", None) for part in flat]
        self.in_channels = _channels_at_start(inputs, [stride**2 for stride in strides])
        self.out_channels = _channels_at_start(outputs[::-1], [1 / stride**2 for stride in strides[::-1]])

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.parts)

    def __getitem__(self, index: int) -> nn.Module:
        return self.parts[index]

    def forward(self, x: Value, context: Value = None) -> tuple[Value, Tensor]:
        """Applies the parts in order. Returns the last value and the sum of the log-dets, shape (B,)."""
        logdet = no_logdet(next(leaves(x)))
        for part in self.parts:
            x, term = _apply(part, part, x, context)
            logdet = logdet + term
        return x, logdet

    def inverse(self, y: Value, context: Value = None) -> tuple[Value, Tensor]:
        """Applies the inverses in reverse order."""
        logdet = no_logdet(next(leaves(y)))
        for part in reversed(self.parts):
            y, term = _apply(part, part.inverse, y, context)
            logdet = logdet + term
        return y, logdet


def _apply(part: nn.Module, method: Any, x: Value, context: Value) -> tuple[Value, Tensor]:
    if isinstance(part, Bijector):
        out: tuple[Value, Tensor] = method(x, context)
        return out
    with full_precision(next(leaves(x))):
        value, logdet = method(x, context)
        return value, logdet


def _channels_at_start(channels: list[int | None], growth: list[float]) -> int | None:
    """The first known number of channels, carried back: a squeeze makes stride² channels of one."""
    for i, known in enumerate(channels):
        if known is not None:
            return round(known / math.prod(growth[:i]))
    return None
