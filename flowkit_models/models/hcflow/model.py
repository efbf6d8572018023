"""HCFlow: hierarchical conditional flow for super-resolution and rescaling (Liang et al., ICCV 2021, section 3)."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from flowkit import (
    ActNorm,
    Additive,
    Affine,
    Chain,
    CoarseToFine,
    Coupling,
    Dequantize,
    Haar,
    Hierarchy,
    Independent,
    Injector,
    Level,
    Near,
    Reversible,
    SingleScale,
    Squeeze,
    StandardNormal,
)
from flowkit.conditioning import Given
from flowkit.nets import DenseBlock, ZeroConv2d
from flowkit_models.models.base import ImageFlow, Memory
from flowkit_models.models.blocks import FeatureExtractor, flow_step
from flowkit_models.models.checks import (
    MOST,
    check_fields,
    is_whole,
    power_of_two,
    shown,
)
from flowkit_models.models.hcflow import official
from flowkit_models.models.words import Purpose


@dataclass(frozen=True)
class HCFlowConfig:
    """Sizes of an HCFlow. The defaults are the published ×4 model for SR.

    Where the official code departs from the paper and numbers change, there is an option (docs/official/hcflow.md).

    Attributes:
        scale: HR size over LR size, a power of two; there are log₂(scale) levels.
        steps: K, flow steps of each level.
        conditional_steps: P, conditional steps on the details: of each level, or one number per level, finest first.
        hidden, conditional_hidden: width of the couplings' networks in the two kinds of steps.
        blocks: RRDBs before and after the tap of a level's feature extractor, for each level, finest first.
        features, growth: width of the extractors, and growth of their dense blocks.
        gain: of the extractors' Xavier-normal start.
        tap: the extractor's first half belongs to the features: for SR, not for rescaling.
        squeeze: how a level begins: "squeeze" (SR), or "haar" (rescaling), whose first channels are an image.
        body: the steps of a level: "glow", with 1×1 convolutions and half the channels steering the others (SR);
            "bands", without, where the 3 low channels and the others steer each other in turn (rescaling).
        prior: how a learned prior bounds log σ: "exp", not at all (SR); "atan", to ±0.5 (rescaling); "soft", to
            −6 … 0 (ours), so that no sample of an image unlike the training data overflows.
        init: how 1×1 convolutions start: "orthogonal" (random) or "identity".
        quant: dequantisation noise is uniform of width 1/quant: 64 at ×4, 256 at ×8.
        centred: centre that noise; the official code does not, so its samples come out 1/(2·quant) bright.
        lr_std: width of the Gaussian that stands for the Dirac of eq. (3); officially e⁻⁶.
        lr_rounded: evaluate it at the generated LR rounded to 8 bits, gradient as if not rounded.
        given: what the latent of a level is conditioned on, the designs of the paper's Table 1: "coarse", all that is
            coarser, from the generated LR image on (HCFlow, eq. (5)); "lr", the same from the given LR image on (cases
            2 and 3); "single", what its own level keeps (case 5); "independent", nothing (cases 1 and 4): then there
            are no features, the steps on the details are unconditional, and the learned prior is one Gaussian for
            each channel, which is an `ActNorm`.
        keep_lr: the LR image is a part of the latent (cases 3, 4, 5 and HCFlow). False: all of it is standard normal.
        purpose: what the model is for, "sr" or "rescaling"; no layer depends on it.
    """

    scale: int = 4
    steps: int = 13
    conditional_steps: int | tuple[int, ...] = 13
    hidden: int = 64
    conditional_hidden: int = 64
    blocks: tuple[tuple[int, int], ...] = ((7, 7), (7, 7))
    features: int = 64
    growth: int = 32
    gain: float = 0.1
    tap: bool = True
    squeeze: Literal["squeeze", "haar"] = "squeeze"
    body: Literal["glow", "bands"] = "glow"
    prior: Literal["exp", "atan", "soft"] = "exp"
    init: Literal["orthogonal", "identity"] = "orthogonal"
    quant: int = 64
    centred: bool = False
    lr_std: float = math.exp(-6)
    lr_rounded: bool = True
    given: Literal["independent", "single", "coarse", "lr"] = "coarse"
    keep_lr: bool = True
    purpose: Purpose = "sr"

    def __post_init__(self) -> None:
        check_fields("HCFlow", self, scale=2, steps=0)
        if not self.keep_lr and self.given in ("single", "coarse"):
            raise ValueError(
                f'HCFlow: given="{self.given}" conditions on the LR image in the latent, and keep_lr=False leaves '
                'none there; use given="lr" or "independent"'
            )
        if len(self.conditional) != self.levels or not all(map(is_whole, self.conditional)):
            raise ValueError(
                f"HCFlow: conditional_steps must be a whole number from 0, or one for each of {self.levels} levels, "
                f"got {shown(self.conditional_steps)}"
            )
        pairs = isinstance(self.blocks, tuple) and all(isinstance(p, tuple) and len(p) == 2 for p in self.blocks)
        if not pairs or len(self.blocks) != self.levels:
            raise ValueError(f"HCFlow: blocks needs a pair for each of {self.levels} levels, got {shown(self.blocks)}")
        if not all(is_whole(number) for pair in self.blocks for number in pair):
            raise ValueError(f"HCFlow: blocks must be whole numbers from 0 to {MOST}, got {shown(self.blocks)}")

    @property
    def levels(self) -> int:
        """L, the number of levels."""
        return power_of_two("HCFlow", self.scale)

    @property
    def conditional(self) -> tuple[int, ...]:
        """P, the number of conditional steps of every level, finest first."""
        p = self.conditional_steps
        return p if isinstance(p, tuple) else (p,) * self.levels


class HCFlow(ImageFlow):
    """x ↔ (y, z): an HR image is an LR image and standard-normal latents, one per level (eq. (1)).

    `flow` is the bijection; `density` is the likelihood of eq. (2) with the Gaussian of eq. (3): dequantised HR
    image, y near y*, z standard normal. `given` and `keep_lr` of the config make it one of the other designs that the
    paper compares: with keep_lr=False there is no y; with given="lr", `encode` needs the LR image as well.
    """

    config: HCFlowConfig
    official_layout = official.layout

    def __init__(self, config: HCFlowConfig, memory: Memory = "plain") -> None:
        lean = memory == "lean"
        chain = Reversible if lean else Chain
        squeeze = Squeeze if config.squeeze == "squeeze" else Haar
        width = 0 if config.given == "independent" else (2 if config.tap else 1) * config.features
        levels, nets, channels = [], [], 3
        for i in range(config.levels):
            channels *= 4
            coarser = config.levels - 1 - i
            seen = channels // 2 if coarser else 3  # of the own level: y_l, or the LR image
            keep = seen if coarser or config.keep_lr else 0
            body = _glow(channels, config) if config.body == "glow" else _bands(channels, config)
            latent = _latent(channels - keep, width, config.conditional[i], config)
            levels.append(Level(chain(squeeze() >> body), keep or None, chain(latent)))  # eq. (4)
            if width:
                u = seen + (0 if config.given == "single" else width * coarser)
                nets.append(
                    FeatureExtractor(u, config.blocks[i], config.features, config.growth, config.gain, config.tap, lean)
                )
            channels = keep
        flow = Hierarchy(levels, _given(config, nets))
        base = Near(config.lr_std, 255 if config.lr_rounded else None) if config.keep_lr else StandardNormal()
        super().__init__(config, flow, config.scale, Dequantize(config.quant, config.centred), base)

    def context(self, lr: Tensor | None) -> Tensor | None:
        """The LR image, for a design whose latents are conditioned on the given one."""
        if self.config.given != "lr":
            return None
        if lr is None:
            raise ValueError('HCFlow with given="lr" models HR given LR: pass lr as well, as in encode(hr, lr)')
        return lr

    @property
    def true_base(self) -> StandardNormal:
        """The Gaussian of eq. (3) at y itself, not rounded: the base of a proper density."""
        return Near(self.config.lr_std) if self.config.keep_lr else StandardNormal()


def _given(config: HCFlowConfig, nets: list[FeatureExtractor]) -> Given:
    """Source of the features of the levels: eq. (5), or another design of Table 1."""
    if config.given == "independent":
        return Independent()
    if config.given == "single":
        return SingleScale(nets)
    return CoarseToFine(nets, start="lr" if config.given == "lr" else "y")


def _glow(channels: int, config: HCFlowConfig) -> Chain:
    """K steps of Glow: the main flow for SR (section 3.2)."""
    return Chain(*(flow_step(channels, config.hidden, init=config.init) for _ in range(config.steps)))


def _bands(channels: int, config: HCFlowConfig) -> Chain:
    """K steps without 1×1 convolutions: the low band scales and shifts the others, they shift it, in turn."""
    high = channels - 3
    steps: list[Any] = []
    for k in range(config.steps):
        steps.append(ActNorm(channels))
        if k % 2 == 0:
            steps.append(Coupling(DenseBlock(3, 2 * high, config.hidden), 3, Affine("atan")))
        else:
            steps.append(Coupling(DenseBlock(high, 3, config.hidden), 3, Additive(), flip=True))
    return Chain(*steps)


def _latent(channels: int, width: int, steps: int, config: HCFlowConfig) -> Chain:
    """a_l → z_l given c_l: P conditional steps, and the learned prior that standardises (eq. (5)).

    Without features (width 0) the steps are unconditional, and the prior's mean and deviation constants of a channel.
    """
    parts = (flow_step(channels, config.conditional_hidden, width, config.init) for _ in range(steps))
    if not width:
        return Chain(*parts, ActNorm(channels))
    return Chain(*parts, Injector(ZeroConv2d(width, 2 * channels), PRIORS[config.prior]))


PRIORS = {
    "exp": Affine("exp", "scale_first", inverted=True),
    "atan": Affine("atan", "scale_first", inverted=True),
    "soft": Affine("soft", "scale_first", inverted=True, clamp=3.0, centre=-3.0),
}
"""Standardisation z = (a − m)/σ by a learned prior, for each bound of log σ."""
