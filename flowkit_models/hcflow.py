"""HCFlow for super-resolution: hierarchical conditional flow (Liang et al., ICCV 2021, section 3)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from flowkit import (
    Affine,
    Chain,
    CoarseToFine,
    Dequantize,
    Flow,
    Haar,
    Hierarchy,
    Injector,
    Latents,
    Level,
    Near,
    Reversible,
    Squeeze,
)
from flowkit.nets import ZeroConv2d

from .blocks import FeatureExtractor, flow_step
from .imageflow import Encoded, ImageFlow, Memory


@dataclass(frozen=True)
class HCFlowConfig:
    """Sizes of an HCFlow for SR. The defaults are the published ×4 model.

    Attributes:
        scale: HR size over LR size, a power of two; there are log₂(scale) levels.
        steps: K, flow steps of each level.
        conditional_steps: P, conditional steps on the details of each level.
        hidden, conditional_hidden: width of the couplings' networks in the two kinds of steps.
        blocks: RRDBs before and after the tap of a level's feature extractor, for each level, finest first.
        features, growth: width of the extractors, and growth of their dense blocks.
        gain: of the extractors' Xavier-normal start.
        squeeze: how a level begins: "squeeze", or "haar", whose first channels are an image.
        init: how 1×1 convolutions start: "orthogonal" (random) or "identity".
        quant: dequantisation noise is uniform of width 1/quant (reference: 64 at ×4, 256 at ×8).
        centred: centre that noise; the official code does not, so its samples come out 1/(2·quant) bright.
        lr_std: width of the Gaussian that stands for the Dirac of eq. (3).
        lr_rounded: evaluate it at the generated LR rounded to 8 bits, as the official code does.
    """

    scale: int = 4
    steps: int = 13
    conditional_steps: int = 13
    hidden: int = 64
    conditional_hidden: int = 64
    blocks: tuple[tuple[int, int], ...] = ((7, 7), (7, 7))
    features: int = 64
    growth: int = 32
    gain: float = 0.1
    squeeze: Literal["squeeze", "haar"] = "squeeze"
    init: Literal["orthogonal", "identity"] = "orthogonal"
    quant: int = 64
    centred: bool = False
    lr_std: float = math.exp(-6)
    lr_rounded: bool = True

    def __post_init__(self) -> None:
        least = {"steps": 0, "conditional_steps": 0, "quant": 1, "scale": 2}
        for name in (
            "scale",
            "steps",
            "conditional_steps",
            "hidden",
            "conditional_hidden",
            "features",
            "growth",
            "quant",
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least.get(name, 1):
                raise ValueError(f"HCFlow: {name} must be a whole number from {least.get(name, 1)}, got {value!r}")
        if self.scale & (self.scale - 1):
            raise ValueError(f"HCFlow: scale must be a power of two, got {self.scale}")
        if self.squeeze not in ("squeeze", "haar"):
            raise ValueError(f'HCFlow: squeeze must be "squeeze" or "haar", got {self.squeeze!r}')
        if len(self.blocks) != self.levels or any(len(pair) != 2 for pair in self.blocks):
            raise ValueError(f"HCFlow: blocks needs a pair for each of {self.levels} levels, got {self.blocks}")
        if min(sum(self.blocks, ())) < 0:
            raise ValueError(f"HCFlow: blocks must not be negative, got {self.blocks}")

    @property
    def levels(self) -> int:
        """L."""
        return self.scale.bit_length() - 1


class HCFlow(ImageFlow):
    """x ↔ (y, z): an HR image is an LR image and standard-normal latents, one per level (eq. (1)).

    `flow` is the bijection; `density` is the likelihood of eq. (2) with the Gaussian of eq. (3): dequantised HR
    image, y near y*, z standard normal.
    """

    config: HCFlowConfig

    def __init__(self, config: HCFlowConfig, memory: Memory = "plain") -> None:
        lean = memory == "lean"
        chain = Reversible if lean else Chain
        channels = [12]  # of level l after its squeeze; each level but the last keeps half of them
        while len(channels) < config.levels:
            channels.append(2 * channels[-1])
        kept = [*(c // 2 for c in channels[:-1]), 3]
        features = 2 * config.features
        levels, nets = [], []
        for i, (c, keep) in enumerate(zip(channels, kept, strict=True)):
            body = (flow_step(c, config.hidden, init=config.init) for _ in range(config.steps))
            squeeze = Squeeze() if config.squeeze == "squeeze" else Haar()
            latent = self._latent(c - keep, features, config)
            levels.append(Level(chain(Chain(squeeze, *body)), keep, chain(latent)))  # eq. (4)
            coarser = config.levels - 1 - i
            u = keep + coarser * features
            nets.append(FeatureExtractor(u, config.blocks[i], config.features, config.growth, config.gain, lean))
        flow = Hierarchy(levels, CoarseToFine(nets))  # eq. (5)
        super().__init__(config, flow, config.scale)
        base = Near(config.lr_std, 255 if config.lr_rounded else None)
        self.dequantize = Dequantize(config.quant, config.centred)
        self.base = base  # eq. (3)

    @staticmethod
    def _latent(channels: int, features: int, config: HCFlowConfig) -> Chain:
        """a_l → z_l given c_l: conditional steps, and the learned prior that standardises (eq. (5))."""
        steps = (
            flow_step(channels, config.conditional_hidden, features, config.init)
            for _ in range(config.conditional_steps)
        )
        prior = Affine("exp", "scale_first", inverted=True)
        return Chain(*steps, Injector(ZeroConv2d(features, 2 * channels), prior))

    @property
    def density(self) -> Flow:
        """p(x | y*), on the same parameters (eq. (2)), y not rounded; its `bits_per_dim(hr, lr)` is true."""
        return Flow(Chain(self.dequantize, self.flow), Near(self.config.lr_std))

    def latent_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """(C, H, W) of the latents for an LR image of a size, coarsest first."""
        shapes = []
        for i, level in enumerate(reversed(self.flow.levels)):
            kept = level.split.keep
            total = 12 * 2 ** (self.config.levels - 1 - i)
            shapes.append((total - kept, height * 2**i, width * 2**i))
        return shapes

    def _encode(self, hr: Tensor, lr: Tensor | None) -> Encoded:
        (y, z), logdet = self.flow(hr)
        return Encoded(y, z, logdet)

    def _decode(self, lr: Tensor, latents: tuple[Tensor, ...]) -> Tensor:
        x: Tensor = self.flow.inverse(Latents(lr, latents))[0]
        return x

    def nll(self, hr: Tensor, lr: Tensor, noise: Tensor | None = None) -> Tensor:
        """The paper's negative log-likelihood (eq. (6)), as the official code counts it.

        Args:
            hr: HR images (B, 3, H, W) in [0, 1].
            lr: their LR images y*.
            noise: uniform [0, 1) of hr's shape, added as noise/quant, or (noise − ½)/quant if centred; None draws it.

        Returns:
            (B,), bits per HR pixel (not per channel), the offset log(quant) once per pixel: the official count, exact
            with the published `centred` and `lr_rounded`. `bits_per_dim` is the true one.
        """
        self._check_pair(hr, lr)
        x, _ = self.dequantize(hr, noise=noise)
        with self.precision_policy(x):
            latents, logdet = self.flow(x)
        pixels = hr.shape[2] * hr.shape[3]
        log_likelihood = logdet + self.base.log_prob(latents, lr) - math.log(self.config.quant) * pixels
        nll: Tensor = -log_likelihood / (math.log(2) * pixels)
        return nll

    def per_dim(self, nll: float) -> float:
        """A value of `nll` as bits per sub-pixel: a third of it, and the part of the offset that it leaves out."""
        return (nll + 2 * math.log2(self.config.quant)) / 3

    def bits_per_dim(self, hr: Tensor, lr: Tensor) -> Tensor:
        """The true bits per sub-pixel of p(x | y*), (B,): offset for every element, y not rounded."""
        self._check_pair(hr, lr)
        with self.precision_policy(hr):
            return self.density.bits_per_dim(hr, lr)

    def official_layout(self) -> Iterator[tuple[str, nn.Module]]:
        """The official names of all modules with parameters, in the official order."""
        index = 0
        for level in self.flow.levels:
            index += 1  # the squeeze
            yield from _steps(level.body.parts[1:], "flow.layers.", index)
            index += self.config.steps + 1  # and the split
        for i, (level, net) in enumerate(zip(self.flow.levels, self.flow.given.nets, strict=True)):
            prefix = f"flow.level{i}_condFlow."
            yield prefix + "conv_first", net.first
            yield from _trunk(net.trunk0, prefix + "RRDB_trunk0.")
            yield from _trunk(net.trunk1, prefix + "RRDB_trunk1.")
            yield prefix + "trunk_conv1", net.last
            yield from _steps(level.latent.parts[:-1], prefix + "additional_flow_steps.", 0)
            yield prefix + "f", level.latent.parts[-1].net

    def not_official(self) -> str | None:
        """The official SR model squeezes; it has no Haar levels."""
        return "the official HCFlow for SR has no Haar levels" if self.config.squeeze == "haar" else None

    @staticmethod
    def config_from_official(shapes: dict[str, tuple[int, ...]]) -> HCFlowConfig | None:
        """The sizes of an official checkpoint, from its names and shapes; None if it is not an HCFlow for SR."""
        if "flow.level0_condFlow.conv_first.weight" not in shapes or "flow.layers.0.haar_weights" in shapes:
            return None
        first = "flow.level0_condFlow."
        levels = _count(shapes, "flow.level{}_condFlow.conv_first.weight")
        steps = 1
        while f"flow.layers.{steps}.actnorm.bias" in shapes:
            steps += 1
        conditional = _count(shapes, first + "additional_flow_steps.{}.actnorm.bias")
        rrdb = "flow.level{}_condFlow.RRDB_trunk{}.{}.RDB1.conv1.weight"
        blocks = tuple(
            (_count(shapes, rrdb.format(i, 0, "{}")), _count(shapes, rrdb.format(i, 1, "{}"))) for i in range(levels)
        )
        growths = [shapes[name][0] for name in shapes if name.endswith("RDB1.conv1.weight")]
        return HCFlowConfig(
            scale=2**levels,
            steps=steps - 1,
            conditional_steps=conditional,
            hidden=shapes["flow.layers.1.affine.f.conv1.weight"][0] if steps > 1 else 64,
            conditional_hidden=(
                shapes[first + "additional_flow_steps.0.affine.f.conv1.weight"][0] if conditional else 64
            ),
            blocks=blocks,
            features=shapes[first + "conv_first.weight"][0],
            growth=growths[0] if growths else 32,
            quant=64 if levels <= 2 else 256,
        )


def _steps(parts: nn.ModuleList, prefix: str, start: int) -> Iterator[tuple[str, nn.Module]]:
    """Three modules to a step: ActNorm, 1×1 convolution, coupling."""
    for i in range(0, len(parts), 3):
        coupling: Any = parts[i + 2]
        step = f"{prefix}{start + i // 3}."
        yield step + "actnorm", parts[i]
        yield step + "permute", parts[i + 1]
        yield step + "affine.f", coupling.net


def _trunk(trunk: nn.Sequential, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    block: Any
    for b, block in enumerate(trunk):
        for r, residual in enumerate(block.blocks):
            yield f"{prefix}{b}.RDB{r + 1}", residual.dense


def _count(names: dict[str, tuple[int, ...]], pattern: str) -> int:
    count = 0
    while pattern.format(count) in names:
        count += 1
    return count
