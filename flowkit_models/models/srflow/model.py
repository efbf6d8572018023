"""SRFlow: a flow conditioned on the LR image from outside (Lugmayr et al., ECCV 2020; HCFlow's Table 2).

By options of its config also its successors SRFlow-DA and NCSR (NTIRE 2021).
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit import (
    Affine,
    Chain,
    Coupling,
    Dequantize,
    Hierarchy,
    Injector,
    Level,
    Reversible,
    SingleScale,
    Squeeze,
    StandardNormal,
)
from flowkit.nets import FCN, ZeroConv2d
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.models.base import ImageFlow, Memory
from flowkit_models.models.blocks import RRDBNet, transition
from flowkit_models.models.checks import (
    check_fields,
    is_whole,
    power_of_two,
    shown,
)
from flowkit_models.models.srflow import official
from flowkit_models.models.srflow.nets import DeepNet, Part


@dataclass(frozen=True)
class SRFlowConfig:
    """Sizes of an SRFlow. The defaults are the published ×4 model (docs/official/srflow.md).

    Attributes:
        scale: HR size over LR size, a power of two.
        transitions: transition steps (ActNorm and 1×1 convolution alone) at the start of each level.
        steps: K, conditional steps of each level, or one number per level, finest first.
        hidden: width of the networks in the steps.
        blocks: RRDBs of the encoder.
        taps: indices of the RRDBs whose outputs are stacked and given to every level.
        features, growth: width of the encoder, and growth of its dense blocks.
        floor: what is added to the sigmoid of a scale, so that the inverse divides by no less.
        quant: dequantisation noise is uniform of width 1/quant, centred.
        noisy: `nll` draws that noise when it is given none. The official code trains and validates without.
        unused: keep the official network's one convolution that nothing uses, so that its files stay whole.
        depth: number of levels. None: log₂(scale) + 1; log₂(scale): the coarsest one is of the LR image's size
            (SRFlow-DA); 1: one squeeze goes there at once.
        convs: hidden 3×3 convolutions of the networks in the steps, which then have no norms (SRFlow-DA); 0: Glow's.
        residual: each of these is added to what it sees.
        soft: largest deviation of the noise that NCSR's steps are told of, and trained with; 0: no such steps.
        purpose: an SRFlow is for super-resolution.
    """

    scale: int = 4
    transitions: int = 2
    steps: int | tuple[int, ...] = 16
    hidden: int = 64
    blocks: int = 23
    taps: tuple[int, ...] | None = (1, 8, 15, 22)
    features: int = 64
    growth: int = 32
    floor: float = 1e-4
    quant: int = 32
    noisy: bool = False
    unused: bool = True
    depth: int | None = None
    convs: int = 0
    residual: bool = False
    soft: float = 0.0
    purpose: Literal["sr"] = "sr"

    def __post_init__(self) -> None:
        check_fields("SRFlow", self, scale=2, transitions=0, blocks=0, convs=0, soft=0)
        most = power_of_two("SRFlow", self.scale) + 1
        if self.depth not in (None, 1, most - 1, most):
            raise ValueError(f"SRFlow: depth must be 1, {most - 1} or {most} at ×{self.scale}, got {shown(self.depth)}")
        if len(self.each) != self.levels or not all(map(is_whole, self.each)):
            raise ValueError(
                f"SRFlow: steps must be a whole number from 0, or one for each of {self.levels} levels, "
                f"got {shown(self.steps)}"
            )
        if self.taps is None:
            raise ValueError(
                "SRFlow: weights of this size can't tell which RRDB blocks are stacked: "
                f"name their indices below {self.blocks}, as in load(path, taps=(1, 8, 15, 22))"
            )
        whole = isinstance(self.taps, tuple) and all(is_whole(tap) and tap < self.blocks for tap in self.taps)
        if not whole or len(set(self.taps)) < len(self.taps):
            raise ValueError(
                f"SRFlow: taps must be indices of the {self.blocks} RRDB blocks, each once, got {shown(self.taps)}"
            )

    @property
    def levels(self) -> int:
        """L, the number of levels."""
        return self.depth or power_of_two("SRFlow", self.scale) + 1

    @property
    def each(self) -> tuple[int, ...]:
        """K, the number of conditional steps of every level, finest first."""
        return self.steps if isinstance(self.steps, tuple) else (self.steps,) * self.levels

    @property
    def factors(self) -> tuple[int, ...]:
        """Factors of the squeezes, finest first."""
        return (self.scale,) if self.depth == 1 else (2,) * self.levels

    @property
    def context(self) -> int:
        """Channels of the features that every level gets."""
        return (len(self.taps or ()) + 1) * self.features


class SRFlow(ImageFlow):
    """x ↔ z given features of the LR image at every level; the latents split off see y_l only.

    There is no y: the HR image is modelled given the LR image, not as one (case 3 of HCFlow's Table 1 is its heir).
    """

    config: SRFlowConfig
    official_layout = official.layout

    def __init__(self, config: SRFlowConfig, memory: Memory = "plain") -> None:
        chain = Reversible if memory == "lean" else Chain
        levels, nets, channels = [], [], 3
        for i, factor in enumerate(config.factors):
            channels *= factor**2
            steps = (_step(channels, config) for _ in range(config.each[i]))
            body = Chain(Squeeze(factor), *(transition(channels) for _ in range(config.transitions)), *steps)
            half = channels // 2 if i < config.levels - 2 else None  # the two coarsest levels share their latent
            levels.append(Level(chain(body), half, _prior(half) if half else None))
            nets.append(nn.Identity() if half else None)
            channels = half or channels
        flow = Hierarchy(levels, SingleScale(nets))
        super().__init__(config, flow, config.scale, Dequantize(config.quant, centred=True), StandardNormal())
        taps = config.taps or ()
        self.encoder = RRDBNet(config.scale, config.blocks, taps, config.features, config.growth, memory == "lean")
        self.unused = nn.Conv2d(config.context, 96, 3, padding=1).requires_grad_(False) if config.unused else None

    def context(self, lr: Tensor | None, soft: Tensor | None = None) -> tuple[Tensor, ...]:
        """The encoder's features of an LR image, one per level: all that the flow sees of it.

        Args:
            lr: the LR image.
            soft: the noise in the HR image (B, 3, H, W), which NCSR's steps are told of; None: there is none.
        """
        if lr is None:
            raise ValueError("SRFlow models HR given LR: pass lr as well, as in encode(hr, lr)")
        every: tuple[Tensor, ...] = self.encoder(lr, half=self.lr_multiple > 1)  # finest first
        features = every[-1:] if self.config.depth == 1 else every
        if not self.config.soft:
            return features
        if soft is None:
            soft = lr.new_zeros(1, 3, 1, 1)
        told = (F.interpolate(soft, f.shape[2:], mode="area").expand(len(f), -1, -1, -1) for f in features)
        return tuple(torch.cat([f, part.to(f.dtype)], 1) for f, part in zip(features, told, strict=True))

    def soft_nll(self, hr: Tensor, lr: Tensor, soft: Tensor) -> Tensor:
        """NCSR's loss: `nll` of images with noise on them, bicubically reduced on LR, that the flow is told of.

        Args:
            hr: HR images (B, 3, H, W) in [0, 1].
            lr: their LR images.
            soft: the noise, of hr's shape. The steps of a level see its means over the pixels of that level.

        Returns:
            (B,), bits per HR pixel.

        Raises:
            ValueError: for images that do not fit together, or a model without such steps.
        """
        if not self.config.soft:
            raise ValueError("soft_nll: this SRFlow is not told of noise: make it with soft=0.05")
        self._check_pair(hr, lr)
        with self.precision_policy(hr):
            reduced = bicubic_resize(soft, Fraction(1, self.scale))
            latents, logdet = self.flow(hr + soft, self.context(lr + reduced, soft))
        nll: Tensor = (-logdet - self.base.log_prob(latents, lr)) / (math.log(2) * hr.shape[2] * hr.shape[3])
        return nll

    @property
    def draws_noise(self) -> bool:
        """Officially the likelihood is that of the image without noise."""
        return self.config.noisy


def _step(channels: int, config: SRFlowConfig) -> Chain:
    """ActNorm, 1×1 convolution, injector and coupling, both given the features (SRFlow, section 3.3).

    NCSR has one coupling more, given the noise that is on the image.
    """
    keep = channels // 2
    kind = Affine("sigmoid", floor=config.floor)
    moved, width = 2 * (channels - keep), config.context
    injected, coupled = _net(width, 2 * channels, config), _net(keep, moved, config, width)
    if not config.soft:
        return Chain(transition(channels), Injector(injected, kind), Coupling(coupled, keep, kind))
    told = Part(_net(keep, moved, config, 3), width, width + 3)
    return Chain(
        transition(channels),
        Injector(Part(injected, 0, width), kind),
        Coupling(Part(coupled, 0, width), keep, kind),
        Coupling(told, keep, kind),
    )


def _net(inputs: int, outputs: int, config: SRFlowConfig, context: int = 0) -> nn.Module:
    """A network of a step: Glow's, or a deep one without norms."""
    if config.convs:
        return DeepNet(inputs, outputs, config.hidden, context, config.convs, config.residual)
    return FCN(inputs, outputs, config.hidden, context, init_std=0.05)


def _prior(half: int) -> Injector:
    """The learned Gaussian of what is split off given what goes on; it does not see the LR features."""
    return Injector(ZeroConv2d(half, 2 * half), Affine("exp", "scale_first", inverted=True))
