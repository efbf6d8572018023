"""Learned prior: networks that predict the latents of one sharp picture, so that there is no τ to choose.

Source: BFSR, "Boosting Flow-based Generative Super-Resolution Models via Learned Prior" (CVPR 2024). The flow is
frozen. The latents of the bilinear enlargement are encoded, and a U-Net for each of them predicts the one to decode.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.nets import DenseBlock
from flowkit_models.models.checks import check_fields, shown

Latents = tuple[Tensor, ...]
Prior = Callable[[Latents], Latents]
"""Maps latents of the bilinear enlargement, coarsest first, to latents to decode, of the same shapes."""

PRIOR = "learned_prior"
"""Field beside those of a model's config, in checkpoints and in `create`, that holds the prior's."""

HALVINGS = 3
"""Times that a U-Net halves its image."""


@dataclass(frozen=True)
class LatentPriorConfig:
    """Sizes of a learned prior. The defaults are the published ones.

    Attributes:
        features: width at full resolution; below it is twice that, four times and four times.
        growth: of the dense block that it starts with.
    """

    features: int = 64
    growth: int = 32

    def __post_init__(self) -> None:
        check_fields("learned prior", self)


def prior_config(values: Any) -> LatentPriorConfig:
    """Config of a learned prior of its fields by name.

    Raises:
        TypeError: if it has others.
        ValueError: if one makes no sense.
    """
    names = [field.name for field in fields(LatentPriorConfig)]
    if not isinstance(values, Mapping) or not values.keys() <= set(names):
        raise TypeError(f"learned prior: expected some of {', '.join(names)}, got {shown(values)}")
    return LatentPriorConfig(**values)


class LatentPrior(nn.Module):
    """A U-Net for each latent of a model, which predicts that latent.

    Args:
        model: whose latents it predicts; nothing else of it is kept.
        config: sizes of the networks.

    Raises:
        ValueError: for a model of any scale (LINF).

    Example:
        >>> import flowkit_models
        >>> model = flowkit_models.create("hcflow_sr_x4_small").eval()
        >>> prior = LatentPrior(model, LatentPriorConfig(features=4, growth=2)).eval()
        >>> model.upscale(torch.rand(1, 3, 10, 12), prior=prior).shape
        torch.Size([1, 1, 3, 40, 48])
    """

    def __init__(self, model: Any, config: LatentPriorConfig) -> None:
        super().__init__()
        if model.any_scale:
            raise ValueError(f"{type(model).__name__} takes no learned prior: it has no latents of a fixed scale")
        self.config = config
        shapes = model.latent_shapes(model.lr_multiple, model.lr_multiple)
        self.channels = tuple(channels for channels, *_ in shapes)
        self.nets = nn.ModuleList(LatentUNet(channels, config.features, config.growth) for channels in self.channels)

    def forward(self, latents: Latents) -> Latents:
        """Latents of the bilinear enlargement, coarsest first, to latents to decode.

        Raises:
            ValueError: if they are those of another model.
        """
        given = tuple(z.shape[1] for z in latents)
        if given != self.channels:
            raise ValueError(
                f"LatentPrior: made for a model whose latents have {self.channels} channels, got {given}: a prior is "
                "trained for one model (recipes/learned_latents.py)"
            )
        return tuple(net(standardized(z)) for net, z in zip(self.nets, latents, strict=True))


class LatentUNet(nn.Module):
    """The network of one latent: a dense block, and double convolutions at four resolutions.

    Sizes need not divide.

    Args:
        channels: of the latent.
        features, growth: see `LatentPriorConfig`.
    """

    def __init__(self, channels: int, features: int, growth: int) -> None:
        super().__init__()
        widths = [features, 2 * features, 4 * features, 4 * features]
        self.first = DenseBlock(channels, features, growth)
        nn.init.kaiming_normal_(self.first.last.weight, 0.2)
        self.start = double_conv(features, features)
        self.down = nn.ModuleList(double_conv(fine, coarse) for fine, coarse in itertools.pairwise(widths))
        self.up = nn.ModuleList(double_conv(fine + coarse, fine) for fine, coarse in itertools.pairwise(widths))
        self.last = nn.Conv2d(features, channels, 1)  # not zero at first: that stays near the picture at τ = 0 for long

    def forward(self, z: Tensor) -> Tensor:
        """(B, channels, H, W) to the same."""
        height, width = z.shape[2:]
        pad = [(-side) % 2**HALVINGS for side in (width, height)]
        h = self.start(self.first(F.pad(z, (0, pad[0], 0, pad[1]), mode="replicate")))
        skipped = []
        for net in self.down:
            skipped.append(h)
            h = net(F.max_pool2d(h, 2))
        for net, skip in zip(reversed(self.up), reversed(skipped), strict=True):
            h = F.interpolate(h, scale_factor=2.0, mode="bilinear", align_corners=False)
            h = net(torch.cat([skip, h], 1))
        out: Tensor = self.last(h)
        return out[..., :height, :width].to(z.dtype)  # the map that decodes it is not one of autocast's


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two 3×3 convolutions, each with batch normalisation and a leaky ReLU."""
    layers: list[nn.Module] = []
    for width in (in_channels, out_channels):
        layers += [nn.Conv2d(width, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers)


def standardized(z: Tensor) -> Tensor:
    """A latent less its mean over the channels of each pixel, and over their deviation there."""
    centred = z - z.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True).sqrt() + 1e-8)


def enlarged_latents(model: Any, lr: Tensor) -> Latents:
    """Latents of the bilinear enlargements of LR images, whose sides are multiples of `model.lr_multiple`."""
    enlarged = F.interpolate(lr, scale_factor=float(model.scale), mode="bilinear", align_corners=False)
    latents: Latents = model._encode(enlarged, lr)[0].z
    return latents


def predicted(model: Any, lr: Tensor, prior: Prior) -> Latents:
    """Latents that a prior predicts for LR images, whose sides are multiples of `model.lr_multiple`.

    A prior in train mode predicts as in eval mode: a picture depends on no other one, and leaves no statistics.
    """
    with model.precision_policy(lr):
        seen = enlarged_latents(model, lr)
        if not isinstance(prior, nn.Module):
            return prior(seen)
        modes = {module: module.training for module in prior.modules()}
        try:
            return cast(Latents, prior.eval()(seen))
        finally:
            for module, training in modes.items():
                module.training = training
