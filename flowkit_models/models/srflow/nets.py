"""Networks of SRFlow's successors: deep ones without norms (SRFlow-DA), and nets that see a part of the context."""

import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.nets import ZeroConv2d, small_xavier, with_context


class DeepNet(nn.Module):
    """3×3 convolutions with ReLUs and without norms, the last one zero at first: SRFlow-DA's conditioner.

    Args:
        in_channels: channels of the passive part (or of the context, for an injector).
        out_channels: parameters to return.
        hidden: width.
        context_channels: channels of the context, which is concatenated; 0 ignores any context.
        convs: hidden convolutions, between the first and the last one.
        residual: each of them is added to what it sees.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int,
        context_channels: int = 0,
        convs: int = 4,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.context_channels, self.residual = context_channels, residual
        self.first = nn.Conv2d(in_channels + context_channels, hidden, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(hidden, hidden, 3, padding=1) for _ in range(convs))
        self.last = ZeroConv2d(hidden, out_channels)
        for conv in (self.first, *self.convs):
            small_xavier(conv, gain=2**0.5)  # of ReLUs: nothing else holds the signal through 36 layers

    def forward(self, passive: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        h = F.relu(self.first(with_context(passive, context, self.context_channels)))
        for conv in self.convs:
            h = F.relu(conv(h)) + (h if self.residual else 0)
        out: Tensor = self.last(h)
        return out


class Part(nn.Module):
    """A net that sees some channels of the context, for couplings and injectors.

    Args:
        net: called `net(passive, context)`, or for an injector `net(context)`.
        start, stop: of the context's channels.
    """

    def __init__(self, net: nn.Module, start: int, stop: int) -> None:
        super().__init__()
        self.net, self.start, self.stop = net, start, stop
        self.shares_context = getattr(net, "shares_context", False)

    def forward(self, passive: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, C, H, W), and the context for a coupling, to parameters."""
        part = slice(self.start, self.stop)
        seen = self.net(passive[:, part]) if context is None else self.net(passive, context[:, part])
        out: Tensor = seen
        return out
