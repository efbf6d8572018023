"""Perceptual distances between images, LPIPS and DISTS, from weights that are found locally or not at all."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowkit_models.images.convert import check_images
from flowkit_models.metrics.features import FeatureNet, ImageNetRange
from flowkit_models.metrics.pretrained import StrPath, find_weights

_TAPS = {"alexnet": (1, 4, 7, 9, 11), "vgg16": (3, 8, 15, 22, 29)}  # ReLUs, in VGG the last of each block


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity, v0.1, of images (B, 3, H, W), uint8 or floats in [0, 1].

    Features of five layers, each pixel's scaled to length 1; their squared differences, weighted per channel by
    what was learnt of human judgements; mean over pixels, sum over layers.

    Args:
        net: "alexnet", which tables report, or "vgg16".
        weights: file or folder of the network's weights, as for `find_weights`; the linear weights come with
            the lpips package.

    Attributes:
        checksum: which weights these are, network and linear.

    Raises:
        WeightsError: if weights are not found.

    Source: Zhang, Isola, Efros, Shechtman & Wang, The unreasonable effectiveness of deep features as a
    perceptual metric, 2018.
    """

    def __init__(self, net: Literal["alexnet", "vgg16"] = "alexnet", weights: StrPath | None = None) -> None:
        super().__init__()
        if net not in _TAPS:
            raise ValueError(f"LPIPS has the networks {', '.join(_TAPS)}, got {net!r}")
        linear = find_weights(f"lpips-{net}")
        self.net = FeatureNet(net, _TAPS[net], weights)
        self.normalize = ImageNetRange(  # the authors' constants, which are for images in [-1, 1]
            mean=((1 - 0.030) / 2, (1 - 0.088) / 2, (1 - 0.188) / 2), std=(0.458 / 2, 0.448 / 2, 0.450 / 2)
        )
        for i in range(len(_TAPS[net])):
            self.register_buffer(f"linear{i}", linear.tensors[f"lin{i}.model.1.weight"], persistent=False)
        self.checksum = f"{self.net.checksum}+{linear.checksum}"

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance (B,), float64, differentiable in both images; 0 where they are equal.

        Raises:
            ValueError: for images other than these, a NaN in them, or sides below 31 pixels (VGG-16: 16).
        """
        return torch.stack([layer.mean((1, 2, 3), dtype=torch.float64) for layer in self._layers(a, b)]).sum(0)

    def maps(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance around each pixel, (B, H, W): the layers' maps, resized bilinearly, and summed."""
        size = a.shape[-2:]
        maps = [F.interpolate(layer, size=size, mode="bilinear") for layer in self._layers(a, b)]
        return torch.stack(maps).sum(0)[:, 0]

    def _layers(self, a: Tensor, b: Tensor) -> Iterator[Tensor]:
        check_images(a, b, channels=3)
        with torch.autocast(a.device.type, enabled=False):
            pairs = zip(self.net(self.normalize(a)), self.net(self.normalize(b)), strict=True)
            for i, (x, y) in enumerate(pairs):
                difference = (_to_length_1(x) - _to_length_1(y)).square()
                yield F.conv2d(difference, self.get_buffer(f"linear{i}"))


class DISTS(nn.Module):
    """Deep image structure and texture similarity of images (B, 3, H, W), uint8 or floats in [0, 1].

    Of the image itself and five layers of a VGG-16 without max-pooling, each channel's mean (texture) and
    covariance (structure) are compared as in SSIM, over the whole image, and weighted by what was learnt. The
    images are taken at their own size: the authors' script shrinks them to 256 pixels first, this does not.

    Args:
        weights: file or folder of VGG-16's weights, as for `find_weights`; the learnt ones come with the
            DISTS-pytorch package.

    Attributes:
        checksum: which weights these are, network and learnt.

    Raises:
        WeightsError: if weights are not found.

    Source: Ding, Ma, Wang & Simoncelli, Image quality assessment: unifying structure and texture similarity, 2020.
    """

    alpha: Tensor
    beta: Tensor

    def __init__(self, weights: StrPath | None = None) -> None:
        super().__init__()
        learnt = find_weights("dists")
        self.net = FeatureNet("vgg16", _TAPS["vgg16"], weights, pool=_L2Pool)
        self.normalize = ImageNetRange()
        total = learnt.tensors["alpha"].sum() + learnt.tensors["beta"].sum()
        for name in ("alpha", "beta"):
            self.register_buffer(name, (learnt.tensors[name] / total).flatten().double(), persistent=False)
        self.checksum = f"{self.net.checksum}+{learnt.checksum}"

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance (B,), float64, differentiable in both images; 0 where they are equal.

        Raises:
            ValueError: for images other than these, a NaN in them, or sides below 16 pixels.
        """
        check_images(a, b, channels=3)
        texture, structure = [], []
        with torch.autocast(a.device.type, enabled=False):
            for x, y in zip(self._features(a), self._features(b), strict=True):
                mean_x, mean_y = _mean(x), _mean(y)
                dx, dy = x - mean_x.to(x.dtype), y - mean_y.to(y.dtype)
                var_x, var_y, cov = _mean(dx.square()), _mean(dy.square()), _mean(dx * dy)
                texture.append((2 * mean_x * mean_y + 1e-6) / (mean_x.square() + mean_y.square() + 1e-6))
                structure.append((2 * cov + 1e-6) / (var_x + var_y + 1e-6))
        alike = torch.cat(texture, 1).flatten(1) @ self.alpha + torch.cat(structure, 1).flatten(1) @ self.beta
        return 1 - alike

    def _features(self, x: Tensor) -> Iterator[Tensor]:
        yield self.normalize.unit(x)
        yield from self.net(self.normalize(x))


class _L2Pool(nn.Module):
    """Halves a feature map: root of the Hanning-weighted mean of the squares, which does not alias."""

    window: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        side = torch.tensor([0.25, 0.5, 0.25])
        window = side[:, None] * side
        self.register_buffer("window", window.expand(channels, 1, 3, 3).contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        mean = F.conv2d(x.square(), self.window, stride=2, padding=1, groups=x.shape[1])
        return (mean + 1e-12).sqrt()


def _to_length_1(x: Tensor) -> Tensor:
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10)


def _mean(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True, dtype=torch.float64)
