"""ImageNet feature networks (AlexNet, VGG-16, VGG-19) and the VGG features of the perceptual loss."""

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from flowkit_models.images.convert import check_images
from flowkit_models.metrics.pretrained import StrPath, WeightsError, find_weights

Net: TypeAlias = Literal["alexnet", "vgg16", "vgg19"]

_LAST_CONV = {"vgg16": 28, "vgg19": 34}  # conv5_3 and conv5_4
_SMALLEST = {"alexnet": 31, "vgg16": 16, "vgg19": 16}  # a side that leaves one pixel of the last features


def smallest_side(module: nn.Module) -> int:
    """Side in pixels that images have at least for all `FeatureNet`s in a module; 1 if it holds none."""
    return max((net.smallest for net in module.modules() if isinstance(net, FeatureNet)), default=1)


class FeatureNet(nn.Module):
    """The convolutional layers of one of torchvision's ImageNet classifiers, frozen.

    Args:
        net: "alexnet", "vgg16" or "vgg19".
        taps: torchvision's numbers of the layers whose outputs are wanted, ascending; the network ends at the last.
        weights: file or folder of its weights, as for `find_weights`.
        pool: makes the pooling layers instead of max-pooling, from their number of channels.

    Attributes:
        source: where the weights were found.
        checksum: which weights they are (`Weights`).
        smallest: side in pixels that images have at least.

    Raises:
        WeightsError: if the weights are not found or are another network's, or torchvision is not installed.
    """

    def __init__(
        self,
        net: Net,
        taps: tuple[int, ...],
        weights: StrPath | None = None,
        pool: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if net not in _SMALLEST:
            raise ValueError(f"feature networks are {', '.join(_SMALLEST)}, got {net!r}")
        found = find_weights(net, weights)
        layers = _layers(net)[: taps[-1] + 1]
        wanted = {f"features.{name}": p for name, p in layers.named_parameters()}
        for name, parameter in wanted.items():
            shape = tuple(found.tensors[name].shape) if name in found.tensors else None
            if shape != parameter.shape:
                raise WeightsError(
                    f"{found.source}: not the weights of {net}: {name} is {shape or 'missing'}, "
                    f"expected {tuple(parameter.shape)} as in torchvision's {net}"
                )
        channels = 0
        for index, layer in enumerate(layers):
            if isinstance(layer, nn.Conv2d):
                channels = layer.out_channels
            elif pool and isinstance(layer, nn.MaxPool2d):
                layers[index] = pool(channels)
        layers.load_state_dict({name.removeprefix("features."): found.tensors[name] for name in wanted}, assign=True)
        self.net, self.taps, self.source, self.checksum = net, taps, found.source, found.checksum
        self.smallest = _SMALLEST[net]
        self.features = layers.requires_grad_(False)

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        """Yields the outputs at `taps`, one by one, so that they need not all be kept.

        Raises:
            ValueError: if the image is too small for the network.
        """
        if min(x.shape[2:]) < self.smallest:
            raise ValueError(
                f"{self.net} takes images of {self.smallest} × {self.smallest} or more, got {tuple(x.shape)}"
            )
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                yield x


class VGGFeatures(nn.Module):
    """Features of the last convolution of a VGG network before its ReLU, as the perceptual loss compares them.

    HCFlow++ uses VGG-19's conv5_4. VGG-16's conv5_3 is a stand-in where only its weights are at hand: a loss of
    the same kind, but not the same numbers; `label` says which it is, for logs and tables.

    Args:
        net: "vgg19" or "vgg16".
        weights: file or folder of its weights, as for `find_weights`.

    Attributes:
        label: the layer, in words.
        source: where the weights were found.
        checksum: which weights they are.

    Raises:
        WeightsError: if the weights are not found or are another network's.
    """

    def __init__(self, net: Literal["vgg16", "vgg19"] = "vgg19", weights: StrPath | None = None) -> None:
        super().__init__()
        if net not in _LAST_CONV:
            raise ValueError(f"VGG features are those of {' or '.join(_LAST_CONV)}, got {net!r}")
        self.label = "VGG-19 conv5_4" if net == "vgg19" else "VGG-16 conv5_3 (stand-in for VGG-19 conv5_4)"
        self.net = FeatureNet(net, (_LAST_CONV[net],), weights)
        self.source, self.checksum = self.net.source, self.net.checksum
        self.normalize = ImageNetRange()

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, 512, H // 16, W // 16) of RGB images (B, 3, H, W) in [0, 1]; differentiable in them.

        Raises:
            ValueError: for a shape or dtype other than that, a NaN, or sides below 16 pixels.
        """
        return next(self.net(self.normalize(x)))


class ImageNetRange(nn.Module):
    """RGB images in [0, 1], or uint8, less ImageNet's mean and over its deviation, in the module's dtype."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def unit(self, x: Tensor) -> Tensor:
        """The image in [0, 1] and in the module's dtype; `check_images` says what is refused."""
        check_images(x, channels=3)
        return x.to(self.mean.dtype) / (255 if x.dtype == torch.uint8 else 1)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised image."""
        return (self.unit(x) - self.mean) / self.std


def _layers(net: str) -> nn.Sequential:
    """The convolutional layers of torchvision's classifier, without values: none are drawn, not even for a moment."""
    try:
        from torchvision import models  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise WeightsError(f'{net} needs torchvision ({error}): pip install "flowkit-torch[metrics]"') from None
    except RuntimeError as error:  # its operators were built for another torch
        raise WeightsError(
            f"{net} needs a torchvision that fits torch {torch.__version__} ({error}): install both from one index"
        ) from None
    with torch.device("meta"):
        layers: nn.Sequential = getattr(models, net)().features
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # the convolution before it may be wanted, too
    return layers
