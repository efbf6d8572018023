"""Residual networks with pre-activation, for vectors and for images; a context gates every block."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.arguments import check_numbers, check_whole
from flowkit.nets.contexts import fitting_context
from flowkit.nets.images import ExactConv2d
from flowkit.nets.thin_linear import Linear

_Layer = Callable[[int, int], nn.Module]


class ResidualMLP(nn.Module):
    """A residual network for vectors (B, in_features), that of neural spline flows on tables (Durkan et al. 2019).

    The context joins the input and gates every block: h + f(h)·σ(W c). A block's last layer starts within ±1e-3, the
    network's at zero.

    Args:
        in_features: channels of the passive part (or of the context, for an injector).
        out_features: parameters to return.
        hidden: width.
        blocks: number of residual blocks, of two layers each.
        dropout: probability, between the layers of a block.
        context_features: channels of the context; 0 ignores any context.

    Example:
        >>> ResidualMLP(3, 8, hidden=16, context_features=2)(torch.zeros(5, 3), torch.zeros(5, 2)).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: int = 256,
        blocks: int = 2,
        dropout: float = 0.0,
        context_features: int = 0,
    ) -> None:
        super().__init__()
        check_whole("ResidualMLP", 0, in_features=in_features, blocks=blocks, context_features=context_features)
        check_whole("ResidualMLP", out_features=out_features, hidden=hidden)
        check_numbers("ResidualMLP", "[0, 1)", dropout=dropout)
        self.context_features = context_features
        self.first = Linear(in_features + context_features, hidden)
        made = [ResidualBlock(Linear, Linear, hidden, dropout, context_features) for _ in range(blocks)]
        self.blocks = nn.ModuleList(made)
        self.last = _zero(Linear(hidden, out_features))

    def forward(self, passive: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, in_features) to (B, out_features)."""
        return _forward(self, passive, context, self.context_features)


class ConvResNet(nn.Module):
    """A residual network of 3×3 convolutions for images (B, in_channels, H, W), as RealNVP's without its norms.

    The context joins the input and gates every block at every pixel. A block's last layer starts within ±1e-3, the
    network's at zero; that one stays in full precision under autocast, as `CNN`'s does.

    Args:
        in_channels: channels of the passive part (or of the context, for an injector).
        out_channels: parameters to return.
        hidden: width.
        blocks: number of residual blocks, of two convolutions each.
        dropout: probability, between the convolutions of a block.
        context_channels: channels of the context, an image or a vector; 0 ignores any context.

    Example:
        >>> ConvResNet(3, 8, hidden=16)(torch.zeros(5, 3, 6, 7)).shape
        torch.Size([5, 8, 6, 7])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int = 64,
        blocks: int = 2,
        dropout: float = 0.0,
        context_channels: int = 0,
    ) -> None:
        super().__init__()
        check_whole("ConvResNet", 0, in_channels=in_channels, blocks=blocks, context_channels=context_channels)
        check_whole("ConvResNet", out_channels=out_channels, hidden=hidden)
        check_numbers("ConvResNet", "[0, 1)", dropout=dropout)
        self.context_channels = context_channels
        self.first = conv3(in_channels + context_channels, hidden)
        made = [ResidualBlock(conv3, conv1, hidden, dropout, context_channels) for _ in range(blocks)]
        self.blocks = nn.ModuleList(made)
        self.last = _zero(ExactConv2d(hidden, out_channels, 1))

    def forward(self, passive: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        return _forward(self, passive, context, self.context_channels)


class ResidualBlock(nn.Module):
    """h + f(h), or h + f(h)·σ(W c), with f = layer, ReLU, dropout, layer, after a ReLU.

    Args:
        layer: makes a weight layer of two widths, called twice.
        gate: makes that of the context.
        hidden: width.
        dropout: probability.
        context: channels of the context; 0: no gate.
    """

    def __init__(self, layer: _Layer, gate: _Layer, hidden: int, dropout: float, context: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([layer(hidden, hidden), layer(hidden, hidden)])
        self.dropout = nn.Dropout(dropout)
        self.gate = gate(context, hidden) if context else None
        for parameter in self.layers[1].parameters():
            nn.init.uniform_(parameter, -1e-3, 1e-3)

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        """(B, hidden, *spatial) to the same."""
        f: Tensor = self.layers[1](self.dropout(F.relu(self.layers[0](F.relu(h)))))
        if self.gate is not None:
            f = f * torch.sigmoid(self.gate(context))
        return h + f


def _forward(net: ResidualMLP | ConvResNet, passive: Tensor, context: Tensor | None, channels: int) -> Tensor:
    context = fitting_context(passive, context, channels).to(passive.dtype) if channels else None
    h = net.first(passive if context is None else torch.cat([passive, context], 1))
    for block in net.blocks:
        h = block(h, context)
    out: Tensor = net.last(h)
    return out


def conv3(channels_in: int, channels_out: int) -> nn.Module:
    """A 3×3 convolution that keeps the size."""
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


def conv1(channels_in: int, channels_out: int) -> nn.Module:
    """A 1×1 convolution."""
    return nn.Conv2d(channels_in, channels_out, 1)


def _zero(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
