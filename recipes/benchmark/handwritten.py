"""Glow written out in plain torch, as one does without a flow library: what all contenders are compared with."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def network(in_channels: int, out_channels: int, hidden: int) -> nn.Sequential:
    """Glow's network for a coupling; the last layer starts at zero."""
    last = nn.Conv2d(hidden, out_channels, 3, padding=1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(
        nn.Conv2d(in_channels, hidden, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, hidden, 1),
        nn.ReLU(inplace=True),
        last,
    )


class ActNorm(nn.Module):
    """Shift and scale per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shifts, then scales."""
        return (x + self.bias) * self.log_scale.exp(), self.log_scale.sum() * x.shape[2] * x.shape[3]

    def inverse(self, y: Tensor) -> Tensor:
        """Unscales, then shifts back."""
        return y * (-self.log_scale).exp() - self.bias


class Conv1x1(nn.Module):
    """A learned matrix over the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0].contiguous())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Multiplies every pixel."""
        logdet = torch.linalg.slogdet(self.weight).logabsdet * x.shape[2] * x.shape[3]
        return F.conv2d(x, self.weight[:, :, None, None]), logdet

    def inverse(self, y: Tensor) -> Tensor:
        """Multiplies every pixel by the inverse, found in float64."""
        inverse = torch.linalg.inv(self.weight.double()).to(self.weight.dtype)
        return F.conv2d(y, inverse[:, :, None, None])


class AffineCoupling(nn.Module):
    """Half of the channels shift and scale the other half."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.net = network(channels // 2, channels, hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The second half becomes (x + t)·σ(r + 2)."""
        a, b = x.chunk(2, 1)
        shift, raw = self.net(a).chunk(2, 1)
        b = (b + shift) * torch.sigmoid(raw + 2)
        return torch.cat([a, b], 1), F.logsigmoid(raw + 2).flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """Undoes it."""
        a, b = y.chunk(2, 1)
        shift, raw = self.net(a).chunk(2, 1)
        return torch.cat([a, b / torch.sigmoid(raw + 2) - shift], 1)


class Glow(nn.Module):
    """L levels of squeeze and K steps; after each but the last, half of the channels become a latent.

    Args:
        levels, steps, hidden: L, K, and the width of the couplings' networks.
        channels: of the image.
    """

    def __init__(self, levels: int = 2, steps: int = 8, hidden: int = 64, channels: int = 3) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for _ in range(levels):
            channels *= 4
            layers: list[nn.Module] = []
            for _ in range(steps):
                layers += [ActNorm(channels), Conv1x1(channels), AffineCoupling(channels, hidden)]
            self.levels.append(nn.ModuleList(layers))
            channels //= 2

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Images to latents, finest first, and the log-det, shape (B,)."""
        logdet = x.new_zeros(len(x))
        latents = []
        for i, level in enumerate(self.levels):
            x = F.pixel_unshuffle(x, 2)
            for layer in level:  # type: ignore[attr-defined]
                x, term = layer(x)
                logdet = logdet + term
            if i < len(self.levels) - 1:
                x, z = x.chunk(2, 1)
                latents.append(z)
        return [*latents, x], logdet

    def inverse(self, latents: list[Tensor]) -> Tensor:
        """Latents to images."""
        *finer, x = latents
        for i, level in enumerate(reversed(self.levels)):
            if i > 0:
                x = torch.cat([x, finer[-i]], 1)
            for layer in reversed(level):  # type: ignore[call-overload]
                x = layer.inverse(x)
            x = F.pixel_shuffle(x, 2)
        return x
