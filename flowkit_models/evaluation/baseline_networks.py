"""Networks that the papers compare with: SRCNN, EDSR, SRResNet and RDN."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit_models.images.resize import bicubic_resize


class SRCNN(nn.Module):
    """Three convolutions on the bicubic upscale, of RGB or, as in the paper, of Y alone.

    Args:
        scale: how much the LR image is enlarged first.
        channels: 3 for RGB; 1 for Y (BT.601, 16…235), the chroma staying bicubic.
        widths: of the two hidden layers.
        kernels: sides of the three kernels.

    Source: Dong, Loy, He & Tang, Image super-resolution using deep convolutional networks, 2015. Borders are
    filled with zeros, as ports to PyTorch do; the MATLAB code repeats the edge.
    """

    def __init__(self, scale: int, channels: int, widths: tuple[int, int], kernels: tuple[int, int, int]) -> None:
        super().__init__()
        self.scale, self.channels = scale, channels
        sizes = (channels, *widths, channels)
        for i, kernel in enumerate(kernels):
            self.add_module(f"conv{i + 1}", nn.Conv2d(sizes[i], sizes[i + 1], kernel, padding=kernel // 2))

    def forward(self, lr: Tensor) -> Tensor:
        """LR images (B, 3, h, w) in [0, 1] to (B, 3, scale·h, scale·w), not clamped."""
        x = bicubic_resize(lr, self.scale)
        if self.channels == 3:
            return self._net(x)
        weight = x.new_tensor([65.481, 128.553, 24.966]) / 255
        y = 16 / 255 + torch.einsum("bchw,c->bhw", x, weight)[:, None]
        # with Cb and Cr as they are, a change of Y changes R, G and B alike
        return x + (self._net(y) - y) * 255 / 219

    def _net(self, x: Tensor) -> Tensor:
        conv1, conv2, conv3 = self.children()
        image: Tensor = conv3(F.relu(conv2(F.relu(conv1(x)))))
        return image


class ResidualBlock(nn.Module):
    """x + scale · conv(relu(conv(x)))."""

    def __init__(self, features: int, scale: float) -> None:
        super().__init__()
        self.conv1, self.conv2 = (_conv(features, features) for _ in range(2))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, H, W) to the same."""
        out: Tensor = x + self.scale * self.conv2(F.relu(self.conv1(x)))
        return out


@dataclass(frozen=True)
class ResidualSizes:
    """Sizes and variants of a residual network.

    Attributes:
        features, blocks: width, and number of residual blocks.
        factors: of the upsamplers, convolutions with a pixel shuffle.
        residual_scale: of the blocks.
        trunk: a convolution and a skip around the blocks.
        hr: a further convolution at full size.
        slope: of the leaky ReLU after the upsamplers and `hr`; None for no activation.
        first_slope: of the one after the first convolution.
        base: what is added to the result.
        mean, levels: the network sees (image - mean) · levels.
    """

    features: int
    blocks: int
    factors: tuple[int, ...]
    residual_scale: float = 1.0
    trunk: bool = True
    hr: bool = False
    slope: float | None = None
    first_slope: float | None = None
    base: Literal["nothing", "bilinear"] = "nothing"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    levels: float = 1.0


class ResidualNet(nn.Module):
    """EDSR and both kinds of SRResNet: residual blocks without normalisation, then pixel shuffles.

    Source: Lim, Son, Kim, Nah & Lee, Enhanced deep residual networks for single image super-resolution, 2017;
    Wang, Yu, Dong et al., the SRResNet (MSRResNet) of ESRGAN's code, 2018; Zhang, Liu, Dong & Qiao, RankSRGAN, 2019.
    """

    def __init__(self, sizes: ResidualSizes) -> None:
        super().__init__()
        s = self.sizes = sizes
        self.scale = math.prod(s.factors)
        self.first = _conv(3, s.features)
        self.blocks = nn.ModuleList(ResidualBlock(s.features, s.residual_scale) for _ in range(s.blocks))
        if s.trunk:
            self.trunk = _conv(s.features, s.features)
        self.up = nn.ModuleList(_conv(s.features, s.features * factor**2) for factor in s.factors)
        if s.hr:
            self.hr = _conv(s.features, s.features)
        self.image = _conv(s.features, 3)

    def forward(self, lr: Tensor) -> Tensor:
        """LR images (B, 3, h, w) in [0, 1] to (B, 3, scale·h, scale·w), not clamped."""
        s = self.sizes
        mean = lr.new_tensor(s.mean).view(3, 1, 1)
        start = x = _activate(self.first((lr - mean) * s.levels), s.first_slope)
        for block in self.blocks:
            x = block(x)
        if s.trunk:
            x = start + self.trunk(x)
        for up, factor in zip(self.up, s.factors, strict=True):
            x = _activate(F.pixel_shuffle(up(x), factor), s.slope)
        if s.hr:
            x = _activate(self.hr(x), s.slope)
        image: Tensor = self.image(x) / s.levels + mean
        if s.base == "bilinear":
            image = image + F.interpolate(lr, scale_factor=float(self.scale), mode="bilinear", align_corners=False)
        return image


class ResidualDenseBlock(nn.Module):
    """x + a 1×1 convolution of x and all layers' outputs; each layer sees those before it."""

    def __init__(self, features: int, growth: int, layers: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(features + i * growth, growth) for i in range(layers))
        self.fuse = nn.Conv2d(features + layers * growth, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, H, W) to the same."""
        dense = x
        for conv in self.convs:
            dense = torch.cat((dense, F.relu(conv(dense))), 1)
        out: Tensor = x + self.fuse(dense)
        return out


class RDN(nn.Module):
    """Residual dense network.

    Args:
        features, growth: width of blocks and of the layers in them.
        blocks, layers: number of blocks, and of layers in each.
        factors: of the upsamplers.
        width: of what the upsamplers make.
        levels: the network sees image · levels.

    Source: Zhang, Tian, Kong, Zhong & Fu, Residual dense network for image super-resolution, 2018.
    """

    def __init__(
        self,
        features: int,
        growth: int,
        blocks: int,
        layers: int,
        factors: tuple[int, ...],
        width: int,
        levels: float = 1.0,
    ) -> None:
        super().__init__()
        self.factors, self.scale, self.levels = factors, math.prod(factors), levels
        self.first, self.second = _conv(3, features), _conv(features, features)
        self.blocks = nn.ModuleList(ResidualDenseBlock(features, growth, layers) for _ in range(blocks))
        self.fuse = nn.Conv2d(blocks * features, features, 1)
        self.last = _conv(features, features)
        inputs = (features, *[width] * (len(factors) - 1))
        self.up = nn.ModuleList(_conv(n, width * r**2) for n, r in zip(inputs, factors, strict=True))
        self.image = _conv(width, 3)

    def forward(self, lr: Tensor) -> Tensor:
        """LR images (B, 3, h, w) in [0, 1] to (B, 3, scale·h, scale·w), not clamped."""
        start = self.first(lr * self.levels)
        x, outputs = self.second(start), []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        x = start + self.last(self.fuse(torch.cat(outputs, 1)))
        for up, factor in zip(self.up, self.factors, strict=True):
            x = F.pixel_shuffle(up(x), factor)
        image: Tensor = self.image(x) / self.levels
        return image


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _activate(x: Tensor, slope: float | None) -> Tensor:
    return x if slope is None else F.leaky_relu(x, slope)
