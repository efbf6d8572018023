"""Autoregressive maps: every number is moved by an elementwise map that the numbers before it steer."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowkit.arguments import check_net
from flowkit.bijector import TensorMap
from flowkit.checks import autocasting
from flowkit.coupling import check_kind, per_channel
from flowkit.kinds import Kind
from flowkit.linear import Permutation
from flowkit.shortcuts import author, decoding
from flowkit.sweeps import settle
from flowkit.tree import Value, leaves, map_leaves, repeat_rows


class Autoregressive(TensorMap):
    """Every channel is moved by an elementwise map whose parameters come from the channels before it (MAF, NSF-AR).

    Forward is one pass of the net, so densities are fast. The inverse takes D steps for D channels, which of a
    `flowkit.nets.MADE` are together the work of one pass, and of another net one pass each; `.inv` is the inverse
    autoregressive flow (IAF), which draws in one pass. Beside a Gaussian base and `Affine`, forward is MAF; with
    `RationalQuadratic` it is the autoregressive neural spline flow.

    Both directions have exact first and second derivatives, by x, context and parameters; those of the inverse are
    implicit, and its memory is that of a few passes, not of D. A net with dropout has no inverse in train mode.

    Args:
        net: called `net(x, context)`; returns (B, kind.parameters_of(D), *spatial), the parameters of one channel side
            by side, those of channel d a function of the channels before d: `flowkit.nets.MADE`. A context that draws
            share is repeated, unless the net has `shares_context = True`. Its method `decoder(x, context)`, if it has
            one, returns a function from x_(d−1), None at first, to the parameters of channel d: the steps of the
            inverse; or None where they have to be passes.
        kind: the elementwise map, such as `Affine("softplus")`.
        order: the channels from the first to the last; None is 0 … D−1. The net gets x[:, order].
        inverse: "sequential", exactly D steps; or "jacobi", passes of the net which stop once no number changes by more
            than 10·eps·max(1, |x|), after D at most. Where steps are passes it is often several times faster, and equal
            to rounding.

    Raises:
        ValueError: for another inverse or an order that is no permutation; from a call, if the net returns another
            number of parameters.

    Source:
        Papamakarios et al., Masked Autoregressive Flow (2017); Kingma et al., Inverse Autoregressive Flow (2016); Song
        et al., Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving (2021), for "jacobi".

    Example:
        >>> import flowkit
        >>> kind = flowkit.Affine("softplus")
        >>> b = flowkit.Autoregressive(flowkit.nets.MADE(3, kind.parameters), kind, order=[2, 0, 1])
        >>> y, logdet = b(torch.randn(5, 3))
        >>> x, _ = b.inverse(y)
        >>> y.shape, x.shape
        (torch.Size([5, 3]), torch.Size([5, 3]))
    """

    order: Tensor
    back: Tensor

    def __init__(
        self,
        net: nn.Module,
        kind: Kind,
        order: Sequence[int] | Tensor | None = None,
        inverse: Literal["sequential", "jacobi"] = "sequential",
    ) -> None:
        super().__init__()
        check_net("Autoregressive", net, "flowkit.nets.MADE(4, 2)")
        check_kind("Autoregressive", kind)
        if inverse not in ("sequential", "jacobi"):
            raise ValueError(f'Autoregressive: inverse must be "sequential" or "jacobi", got {inverse!r}')
        self.net = net
        self.kind = kind
        self.early = inverse == "jacobi"
        self.ordered = order is not None
        features = getattr(net, "features", None)
        self.in_channels = features if isinstance(features, int) else None
        if order is not None:
            permutation = Permutation(torch.as_tensor(order))
            if self.in_channels not in (None, permutation.in_channels):
                raise ValueError(
                    f"Autoregressive: an order of {permutation.in_channels} channels, but the net takes {features}"
                )
            self.in_channels = permutation.in_channels
            self.register_buffer("order", permutation.order)
            self.register_buffer("back", permutation.back)
        self.out_channels = self.in_channels
        if author(self, "forward") is Autoregressive:
            self.constant_logdet = kind.keeps_volume
            self.domain = self.codomain = kind.support

    def extra_repr(self) -> str:
        """Kind, and what is not the default."""
        return str(self.kind) + (", ordered" if self.ordered else "") + (', inverse="jacobi"' if self.early else "")

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """One pass of the net."""
        return self.kind.forward(x, self._parameters_of(x, self._repeated(context, x)))

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """One channel after the other; or passes, each of which solves all of them, given those of the pass before."""
        context = self._repeated(context, y)

        def sweep(x: Tensor) -> tuple[Tensor, Tensor]:
            return self.kind.inverse(y, self._parameters_of(x, context))

        alike = self.kind.alike and type(self.kind).counts is Kind.counts
        sources = (y, *leaves(context), *self.parameters())
        solve = (lambda: self._channel_by_channel(y, context)) if alike else None
        return settle(sweep, y, y.shape[1], self.early, sources, solve)

    def _channel_by_channel(self, y: Tensor, context: Value) -> tuple[Tensor, Tensor]:
        """Solves each channel alone, by a kind that moves all alike."""
        due = y.index_select(1, self.order) if self.ordered else y
        parameters_after = self._decoder(due, context) or self._passes(due, context)
        channel, found = None, []
        for its_y in due.split(1, 1):
            found.append(per_channel("Autoregressive", self.kind, parameters_after(channel), its_y))
            channel = self.kind.solve(its_y, found[-1])
        x, logdet = self.kind.inverse(due, torch.cat(found, 1))
        return x.index_select(1, self.back) if self.ordered else x, logdet

    def _decoder(self, like: Tensor, context: Value) -> Any:
        make = None if autocasting(like) or like.ndim > 2 else decoding(self.net)
        return None if make is None else make(like, context)

    def _passes(self, like: Tensor, context: Value) -> Callable[[Tensor | None], Tensor]:
        """What a decoder does, by a pass of the net for each channel."""
        known: list[Tensor] = []

        def after(channel: Tensor | None) -> Tensor:
            known.extend(() if channel is None else (channel,))
            x = torch.cat([*known, like.new_zeros(like.shape)[:, len(known) :]], 1)
            table = per_channel("Autoregressive", self.kind, self.net(x, context), like)
            return table[:, len(known)]

        return after

    def _parameters_of(self, x: Tensor, context: Value) -> Tensor:
        seen = x.index_select(1, self.order) if self.ordered else x
        several = self.ordered and len(set(self.kind.counts(x.shape[1]))) > 1
        order = self.order.tolist() if several else None
        parameters = per_channel("Autoregressive", self.kind, self.net(seen, context), x, order)
        return parameters.index_select(1, self.back) if self.ordered else parameters

    def _repeated(self, context: Value, x: Tensor) -> Value:
        if getattr(self.net, "shares_context", False):
            return context
        return map_leaves(lambda c: repeat_rows(c, x.shape[0]), context)
