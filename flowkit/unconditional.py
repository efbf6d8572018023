"""A learned elementwise map that nothing steers: Elementwise."""

import operator
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from flowkit.arguments import check_whole
from flowkit.bijector import TensorMap
from flowkit.columns import PerChannel, moved_in
from flowkit.coupling import check_kind, per_channel
from flowkit.kinds import Kind
from flowkit.masks import whole_numbers
from flowkit.shortcuts import author
from flowkit.tree import Value, describe


class Elementwise(TensorMap):
    """A learned elementwise map of some channels, the same for every sample and pixel; the others pass.

    Its weights are the kind's parameters themselves, zero at the start. NSF moves the passive half of a coupling so:
    `Coupling(net, 2, kind) >> Elementwise(kind, [0, 1])`. Before couplings it makes marginals alike (a learned
    Gaussianisation), with a circular or box spline it learns marginals of angles and bounded numbers.

    Args:
        kind: the elementwise map, such as `RationalQuadratic(8)`.
        channels: how many, the first ones; or which.

    Raises:
        ValueError: for channels that are negative, named twice or none at all; from a call, if x has not all of them.

    Example:
        >>> import flowkit
        >>> b = flowkit.Elementwise(flowkit.RationalQuadratic(4), [1])
        >>> y, logdet = b(torch.randn(5, 3))
        >>> y.shape, sum(p.numel() for p in b.parameters())
        (torch.Size([5, 3]), 11)
    """

    def __init__(self, kind: Kind, channels: int | Sequence[int]) -> None:
        super().__init__()
        check_kind("Elementwise", kind)
        if isinstance(channels, str) or not isinstance(channels, Iterable):
            check_whole("Elementwise", channels=channels)
            channels = range(operator.index(channels))
        self.channels = whole_numbers("Elementwise: channels", channels)
        if not self.channels or min(self.channels) < 0 or len(set(self.channels)) < len(self.channels):
            raise ValueError(f"Elementwise: channels must be a number of them, or different indices, got {channels}")
        self.kind = kind
        self.raw = nn.Parameter(torch.zeros(kind.parameters_of(len(self.channels))))
        if author(self, "forward") is Elementwise:
            self.constant_logdet = kind.affine
            self.domain = self.codomain = self._side()

    def extra_repr(self) -> str:
        """Kind and channels."""
        return f"{self.kind}, channels={self.channels}"

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Maps the channels."""
        active, parameters = self._active(x)
        active, logdet = self.kind.forward(active, parameters)
        return self._joined(x, active), logdet

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Maps the channels back."""
        active, parameters = self._active(y)
        active, logdet = self.kind.inverse(active, parameters)
        return self._joined(y, active), logdet

    def inverse_alone(self, y: Tensor, context: Value = None) -> Tensor:
        """The inverse without its log-det."""
        return self._joined(y, self.kind.solve(*self._active(y)))

    def _side(self) -> Constraint | None:
        """Where x and y live, channel by channel."""
        side = self.kind.support
        if isinstance(side, PerChannel):
            return side.at(lambda i: self.channels[i])
        return moved_in(side, self.channels, others=False)

    def _active(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[1] <= max(self.channels):
            raise ValueError(
                f"Elementwise({self.extra_repr()}): there is no channel {max(self.channels)} in {describe(x)}"
            )
        active = torch.stack([x[:, c] for c in self.channels], 1)  # a list as an index would be copied to the device
        flat = self.raw.view(1, -1, *(1 for _ in x.shape[2:])).expand(x.shape[0], -1, *x.shape[2:])
        return active, per_channel("Elementwise", self.kind, flat, active)

    def _joined(self, x: Tensor, active: Tensor) -> Tensor:
        if len(self.channels) == x.shape[1] and self.channels == sorted(self.channels):
            return active
        columns = list(x.unbind(1))
        for c, column in zip(self.channels, active.unbind(1), strict=True):
            columns[c] = column
        return torch.stack(columns, 1)
