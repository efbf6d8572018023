"""Networks of the published image flows: Glow's and IRN's, and their layers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.arguments import check_numbers, check_whole
from flowkit.bijector import full_precision
from flowkit.checks import autocasting
from flowkit.linear import mark_initialized
from flowkit.nets.contexts import fitting_context, with_context


class FCN(nn.Module):
    """Glow's network: 3×3, ActNorm, ReLU, 1×1, ActNorm, ReLU, zero-initialised 3×3 (HCFlow and SRFlow couplings).

    The first layer on concat[passive, context] is a convolution of each, added: nothing is concatenated, and draws
    that share a context pay for its part once.

    Args:
        in_channels: channels of the passive part (or of the context, for an injector).
        out_channels: parameters to return.
        hidden: width.
        context_channels: channels of the context, which is concatenated; 0 ignores any context.
        init_std: standard deviation of the first two layers' weights; None is Xavier-normal × 0.1.
    """

    shares_context = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int = 64,
        context_channels: int = 0,
        init_std: float | None = None,
    ) -> None:
        super().__init__()
        check_whole("FCN", 0, in_channels=in_channels, context_channels=context_channels)
        check_whole("FCN", out_channels=out_channels, hidden=hidden)
        self.context_channels = context_channels
        self.conv1 = ActNormConv2d(in_channels + context_channels, hidden, 3, init_std)
        self.conv2 = ActNormConv2d(hidden, hidden, 1, init_std)
        self.conv3 = ZeroConv2d(hidden, out_channels)

    def forward(self, passive: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        context = fitting_context(passive, context, self.context_channels) if self.context_channels else None
        h = F.relu(self.conv1(passive, context))
        out: Tensor = self.conv3(F.relu(self.conv2(h)))
        return out


class ExactConv2d(nn.Conv2d):
    """A convolution in its parameters' own precision under autocast too: where what is rounded would show."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        with full_precision(x):
            return super().forward(x.to(self.weight.dtype))


class CNN(nn.Module):
    """3×3, ReLU, 1×1, ReLU, 3×3 that starts at zero: Glow's network without its norms.

    Under autocast the last layer stays in full precision. What it returns moves the image, so a rounding that falls the
    other way in the inverse would show: the round trip of a Glow is several times closer with it.

    Args:
        in_channels: channels of the passive part (or of the context, for an injector).
        out_channels: parameters to return.
        hidden: width.
        context_channels: channels of the context, which is concatenated; 0 ignores any context.
    """

    def __init__(self, in_channels: int, out_channels: int, hidden: int = 64, context_channels: int = 0) -> None:
        super().__init__()
        check_whole("CNN", 0, in_channels=in_channels, context_channels=context_channels)
        check_whole("CNN", out_channels=out_channels, hidden=hidden)
        self.context_channels = context_channels
        self.conv1 = nn.Conv2d(in_channels + context_channels, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, hidden, 1)
        self.conv3 = ExactConv2d(hidden, out_channels, 3, padding=1)
        nn.init.zeros_(self.conv3.weight)
        nn.init.zeros_(self.conv3.bias)  # type: ignore[arg-type]

    def forward(self, passive: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        h = F.relu(self.conv1(with_context(passive, context, self.context_channels)))
        out: Tensor = self.conv3(F.relu(self.conv2(h)))
        return out


class DenseBlock(nn.Module):
    """Five 3×3 convolutions, each on all before it (IRN's network; HCFlow's in the rescaling flow).

    Args:
        in_channels: channels of the passive part.
        out_channels: parameters to return; their layer starts at zero.
        growth: channels that each of the first four layers adds.
        context_channels: channels of the context, which is concatenated; 0 ignores any context.
    """

    def __init__(self, in_channels: int, out_channels: int, growth: int = 32, context_channels: int = 0) -> None:
        super().__init__()
        check_whole("DenseBlock", 0, in_channels=in_channels, context_channels=context_channels)
        check_whole("DenseBlock", out_channels=out_channels, growth=growth)
        self.context_channels = context_channels
        width = in_channels + context_channels
        self.convs = nn.ModuleList(nn.Conv2d(width + i * growth, growth, 3, padding=1) for i in range(4))
        self.last = nn.Conv2d(width + 4 * growth, out_channels, 3, padding=1)
        for conv in self.convs:
            small_xavier(conv)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, passive: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        x = lowered(with_context(passive, context, self.context_channels))
        for conv in self.convs:
            x = torch.cat([x, F.leaky_relu(conv(x), 0.2)], 1)
        out: Tensor = self.last(x)
        return out


class ActNormConv2d(nn.Module):
    """A convolution without bias and an ActNorm on its output, as one convolution: (W∗x + bias)·exp(log_scale).

    `flowkit.initialize` sets bias and log-scale. The log-det of this ActNorm is nobody's business: it acts inside
    a network.
    """

    initialized: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel: int, init_std: float | None = None) -> None:
        super().__init__()
        check_whole("ActNormConv2d", in_channels=in_channels, out_channels=out_channels, kernel=kernel)
        if init_std is not None:
            check_numbers("ActNormConv2d", "[0, inf)", init_std=init_std)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.log_scale = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("initialized", torch.tensor(False))
        if init_std is None:
            small_xavier(self)
        else:
            nn.init.normal_(self.weight, std=init_std)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W); or x and a context that together have in_channels."""
        return self._convolve(x, context, self.log_scale.exp())

    def statistics_input(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """What `flowkit.initialize` standardises: the convolution's output."""
        return self._convolve(x, context, None)

    def _convolve(self, x: Tensor, context: Tensor | None, scale: Tensor | None) -> Tensor:
        """With a context, the sum of two convolutions. Draws may share a row of it: x then has n times as many."""
        padding = self.weight.shape[-1] // 2
        weights = [self.weight] if context is None else self.weight.split([x.shape[1], context.shape[1]], 1)
        bias = None
        if scale is not None:  # scaling the weights costs nothing next to scaling the pixels
            weights, bias = [weight * scale.view(-1, 1, 1, 1) for weight in weights], self.bias * scale
        own = F.conv2d(x, weights[0], bias, padding=padding)
        if context is None:
            return own
        given = F.conv2d(context.to(x.dtype), weights[1], padding=padding)
        if own.shape[0] == given.shape[0]:
            return own + given
        return (own.unflatten(0, (own.shape[0] // given.shape[0], given.shape[0])) + given).flatten(0, 1)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        mark_initialized(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class ZeroConv2d(nn.Module):
    """A 3×3 convolution that starts at zero, times exp(3·log_scale) per output channel (Glow).

    Under autocast too it computes in the parameters' own precision: what it returns is added to the image.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        check_whole("ZeroConv2d", in_channels=in_channels, out_channels=out_channels)
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.log_scale = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        scale = (3 * self.log_scale).exp()
        weight = self.weight * scale.view(-1, 1, 1, 1)  # costs nothing next to scaling the pixels
        with full_precision(x):
            return F.conv2d(x.to(weight.dtype), weight, self.bias * scale, padding=1)


def lowered(x: Tensor) -> Tensor:
    """In autocast's precision, where it is on: once for all convolutions that are going to see it."""
    return x.to(torch.get_autocast_dtype(x.device.type)) if autocasting(x) else x


def small_xavier(conv: nn.Module, gain: float = 0.1) -> None:
    """Xavier-normal × 0.1 and no bias: how the three papers start their networks' inner layers."""
    nn.init.xavier_normal_(conv.weight, gain=gain)  # type: ignore[arg-type]
    if isinstance(conv.bias, Tensor):
        nn.init.zeros_(conv.bias)
