"""Two combinators for maps whose parameters come from a network: Coupling and Injector."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.arguments import check_net
from flowkit.bijector import TensorMap
from flowkit.kinds import Kind
from flowkit.masks import Checkerboard, mask_of
from flowkit.shortcuts import author
from flowkit.tree import Value, channels_last, describe, map_leaves, repeat_rows


class Retraced(NamedTuple):
    """A map gone through again, from its output, for the backward pass of a `Reversible` chain.

    Attributes:
        inputs: leaves of the graph; joined they are x.
        outputs: y and the log-det again, with a graph.
        join: puts several inputs, or their gradients, together to x, or its gradient.
    """

    inputs: list[Tensor]
    outputs: tuple[Tensor, Tensor]
    join: Callable[..., Tensor] | None = None


class Coupling(TensorMap):
    """Some channels, or pixels, pass and steer an elementwise map of the others (NICE, RealNVP; HCFlow, section 3.2).

    Args:
        net: called `net(passive, context)`; returns (B, kind.parameters_of(active), *spatial), the parameters of
            one channel side by side (interleaved). It sees the context as it comes, which may be None; several draws
            that share a context get it repeated, unless the net has an attribute `shares_context = True`. On a
            checkerboard it sees all channels, with zeros where x is moved, and returns parameters of all of them.
        keep: what passes. A number of leading channels; or the indices of channels, which the net gets in this
            order, while those that are moved come ascending; or `Checkerboard()`, every second pixel.
        kind: the elementwise map, such as `Affine("atan")`.
        flip: what passes and what is moved change places. Channels then come ascending on both sides.

    Raises:
        ValueError: if x has no channel to transform, or lacks one that is listed; for vectors on a checkerboard; or if
            the net returns another number of parameters.

    Example:
        >>> import flowkit
        >>> b = flowkit.Coupling(flowkit.nets.MLP(1, 4), keep=1, kind=flowkit.Affine("tanh"))
        >>> y, logdet = b(torch.randn(5, 3))
        >>> y.shape
        torch.Size([5, 3])
        >>> every_second = flowkit.Coupling(flowkit.nets.MLP(2, 4), keep=[0, 2], kind=flowkit.Affine("tanh"))
        >>> x = torch.randn(5, 4)
        >>> torch.equal(every_second(x)[0][:, [0, 2]], x[:, [0, 2]])
        True
    """

    def __init__(
        self, net: nn.Module, keep: int | Sequence[int] | Checkerboard, kind: Kind, flip: bool = False
    ) -> None:
        super().__init__()
        check_net("Coupling", net)
        check_kind("Coupling", kind)
        self.net = net
        self.keep = keep
        self.kind = kind
        self.flip = flip
        self.mask = mask_of(keep, flip)
        if author(self, "forward") is Coupling:
            self.constant_logdet = kind.keeps_volume
            self.domain = self.codomain = self.mask.within(kind.support)

    def extra_repr(self) -> str:
        """Split and kind."""
        return f"keep={self.keep}, {self.kind}" + (", flip=True" if self.flip else "")

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Transforms the active channels."""
        passive, active = self.mask.split(x)
        active, logdet = self.kind.forward(active, self._parameters_of(passive, active, context))
        return self.mask.join(passive, active), logdet

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Transforms the active channels back; the passive ones give the same parameters."""
        passive, active = self.mask.split(y)
        active, logdet = self.kind.inverse(active, self._parameters_of(passive, active, context))
        return self.mask.join(passive, active), logdet

    def inverse_alone(self, y: Tensor, context: Value = None) -> Tensor:
        """The inverse without its log-det."""
        passive, active = self.mask.split(y)
        return self.mask.join(passive, self.kind.solve(active, self._parameters_of(passive, active, context)))

    def retrace(self, y: Tensor, context: Value, inverse: bool) -> Retraced:
        """Undoes the map (or its inverse) and goes through it again: the net, which both need, runs once."""
        passive, active = (part.detach() for part in self.mask.split(y))
        passive.requires_grad_()
        parameters = self._parameters_of(passive, active, context)
        there, back = (self.kind.inverse, self.kind.forward) if inverse else (self.kind.forward, self.kind.inverse)
        with torch.no_grad():
            active = back(active, parameters)[0]
        active.requires_grad_()
        moved, logdet = there(active, parameters)
        return Retraced([passive, active], (self.mask.join(passive, moved), logdet), self.mask.join)

    def _parameters_of(self, passive: Tensor, active: Tensor, context: Value) -> Tensor:
        if not getattr(self.net, "shares_context", False):
            context = map_leaves(lambda c: repeat_rows(c, passive.shape[0]), context)
        returned = self.net(channels_last(passive), context)
        table = per_channel("Coupling", self.kind, returned, self.mask.steered(passive, active))
        return self.mask.chosen(table)


class Injector(TensorMap):
    """An elementwise map of all channels whose parameters come from the context alone (SRFlow, section 3.3).

    A learned Gaussian prior N(m(c), s(c)²) is an injector: it standardises (eq. (5) of HCFlow with the official
    code's learned prior), so that every latent is standard normal.

    Args:
        net: called `net(context)`; returns (B, kind.parameters_of(C), *spatial), interleaved per channel; without
            spatial sizes, or with sizes of 1, they are those of every pixel.
        kind: the elementwise map.

    Raises:
        ValueError: without a context, or if the net returns another number of parameters.
    """

    def __init__(self, net: nn.Module, kind: Kind) -> None:
        super().__init__()
        check_net("Injector", net)
        check_kind("Injector", kind)
        self.net = net
        self.kind = kind
        if author(self, "forward") is Injector:
            self.constant_logdet = kind.affine
            self.domain = self.codomain = kind.support

    def extra_repr(self) -> str:
        """The kind."""
        return str(self.kind)

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Transforms x given the context."""
        return self.kind.forward(x, self._parameters_of(x, context))

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Transforms y back given the context."""
        return self.kind.inverse(y, self._parameters_of(y, context))

    def inverse_alone(self, y: Tensor, context: Value = None) -> Tensor:
        """The inverse without its log-det."""
        return self.kind.solve(y, self._parameters_of(y, context))

    def retrace(self, y: Tensor, context: Value, inverse: bool) -> Retraced:
        """Undoes the map (or its inverse) and goes through it again: the net, which both need, runs once."""
        parameters = self._parameters_of(y, context)
        there, back = (self.kind.inverse, self.kind.forward) if inverse else (self.kind.forward, self.kind.inverse)
        with torch.no_grad():
            x = back(y, parameters)[0]
        return Retraced([x.requires_grad_()], there(x, parameters))

    def _parameters_of(self, active: Tensor, context: Value) -> Tensor:
        if context is None:
            raise ValueError("Injector: its parameters come from the context, and none was given")
        parameters = self.net(context)
        if isinstance(parameters, Tensor) and parameters.shape[0] and active.shape[0] % parameters.shape[0] == 0:
            parameters = repeat_rows(parameters, active.shape[0])
            if all(size == 1 for size in parameters.shape[2:]):  # of a vector: the same at every pixel
                pixel = parameters.reshape(*parameters.shape[:2], *(1 for _ in active.shape[2:]))
                parameters = pixel.expand(*parameters.shape[:2], *active.shape[2:])
        return per_channel("Injector", self.kind, parameters, active)


def check_kind(layer: str, kind: Kind) -> None:
    """Raises TypeError that names the layer if its kind is none."""
    if not isinstance(kind, Kind):
        raise TypeError(f"{layer}: kind must be an elementwise map such as Affine(), got {kind!r}")


def per_channel(
    layer: str, kind: Kind, parameters: Tensor, active: Tensor, order: Sequence[int] | None = None
) -> Tensor:
    """Unpacks (B, kind.parameters_of(C), *spatial) to (B, C, P, *spatial), in the precision of the map.

    A channel that has fewer than P gets zeros behind. `order` tells which channel the first, second, … parameters
    belong to, where they don't come channel by channel; the result is in that order.
    """
    channels, each = active.shape[1], kind.parameters
    counts: tuple[int, ...] = ()  # where channels differ
    if type(kind).counts is not Kind.counts:
        counts = kind.counts(channels)
        counts = counts if order is None else tuple(counts[i] for i in order)
        counts = () if set(counts) == {each} else counts
    expected = (active.shape[0], sum(counts) if counts else channels * each, *active.shape[2:])
    if not isinstance(parameters, Tensor) or parameters.shape != expected:
        alike = f"{counts} parameters of the channels" if counts else f"{each} parameters per channel"
        raise ValueError(
            f"{layer}: the net returned {describe(parameters)}, but {kind} of {channels} channels "
            f"needs {expected} ({alike})"
        )
    parameters = parameters.to(active.dtype)
    if counts:
        spatial = (0, 0) * (active.ndim - 2)
        columns = parameters.split(counts, 1)
        parameters = torch.cat([F.pad(column, (*spatial, 0, each - column.shape[1])) for column in columns], 1)
    table = parameters.reshape(active.shape[0], channels, each, *active.shape[2:])
    if active.ndim == 2:
        return table  # of vectors: what reads it first makes it dense
    return table.movedim(2, 0).contiguous().movedim(0, 2)  # each parameter dense, in the layout of the map
