"""SRFlow: a flow conditioned on the LR image from outside (Lugmayr et al., ECCV 2020; HCFlow's Table 2)."""

from dataclasses import dataclass
from typing import Literal

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
from flowkit_models.models.base import ImageFlow, Memory
from flowkit_models.models.blocks import RRDBNet, transition
from flowkit_models.models.config import (
    check_choice,
    check_flags,
    check_positive,
    check_whole,
    is_whole,
    power_of_two,
    shown,
)
from flowkit_models.models.srflow import official


@dataclass(frozen=True)
class SRFlowConfig:
    """Sizes of an SRFlow. The defaults are the published ×4 model (docs/official/srflow.md).

    Attributes:
        scale: HR size over LR size, a power of two; there are log₂(scale) + 1 levels.
        transitions: transition steps (ActNorm and 1×1 convolution alone) at the start of each level.
        steps: K, conditional steps of each level.
        hidden: width of the networks in the steps.
        blocks: RRDBs of the encoder.
        taps: indices of the RRDBs whose outputs are stacked and given to every level.
        features, growth: width of the encoder, and growth of its dense blocks.
        floor: what is added to the sigmoid of a scale, so that the inverse divides by no less.
        quant: dequantisation noise is uniform of width 1/quant, centred.
        noisy: `nll` draws that noise when it is given none. The official code trains and validates without.
        unused: keep the official network's one convolution that nothing uses, so that its files stay whole.
        purpose: an SRFlow is for super-resolution.
    """

    scale: int = 4
    transitions: int = 2
    steps: int = 16
    hidden: int = 64
    blocks: int = 23
    taps: tuple[int, ...] | None = (1, 8, 15, 22)
    features: int = 64
    growth: int = 32
    floor: float = 1e-4
    quant: int = 32
    noisy: bool = False
    unused: bool = True
    purpose: Literal["sr"] = "sr"

    def __post_init__(self) -> None:
        check_whole("SRFlow", self, ("transitions", "steps", "blocks"), 0)
        check_whole("SRFlow", self, ("hidden", "features", "growth", "quant"), 1)
        check_whole("SRFlow", self, ("scale",), 2)
        check_choice("SRFlow", self, "purpose", ("sr",))
        power_of_two("SRFlow", self.scale)
        check_positive("SRFlow", self, ("floor",))
        check_flags("SRFlow", self, ("noisy", "unused"))
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
        return power_of_two("SRFlow", self.scale) + 1

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
        for i in range(config.levels):
            channels *= 4
            steps = (_step(channels, config) for _ in range(config.steps))
            body = Chain(Squeeze(), *(transition(channels) for _ in range(config.transitions)), *steps)
            half = channels // 2 if i < config.levels - 2 else None  # the two coarsest levels share their latent
            levels.append(Level(chain(body), half, _prior(half) if half else None))
            nets.append(nn.Identity() if half else None)
            channels = half or channels
        flow = Hierarchy(levels, SingleScale(nets))
        super().__init__(config, flow, config.scale, Dequantize(config.quant, centred=True), StandardNormal())
        taps = config.taps or ()
        self.encoder = RRDBNet(config.scale, config.blocks, taps, config.features, config.growth, memory == "lean")
        self.unused = nn.Conv2d(config.context, 96, 3, padding=1).requires_grad_(False) if config.unused else None

    def context(self, lr: Tensor | None) -> tuple[Tensor, ...]:
        """The encoder's features of an LR image, one per level: all that the flow sees of it."""
        if lr is None:
            raise ValueError("SRFlow models HR given LR: pass lr as well, as in encode(hr, lr)")
        features: tuple[Tensor, ...] = self.encoder(lr)
        return features

    @property
    def draws_noise(self) -> bool:
        """Officially the likelihood is that of the image without noise."""
        return self.config.noisy


def _step(channels: int, config: SRFlowConfig) -> Chain:
    """ActNorm, 1×1 convolution, injector and coupling, both given the features (SRFlow, section 3.3)."""
    keep = channels // 2
    kind = Affine("sigmoid", floor=config.floor)
    injected = FCN(config.context, 2 * channels, config.hidden, init_std=0.05)
    coupled = FCN(keep, 2 * (channels - keep), config.hidden, config.context, init_std=0.05)
    return Chain(transition(channels), Injector(injected, kind), Coupling(coupled, keep, kind))


def _prior(half: int) -> Injector:
    """The learned Gaussian of what is split off given what goes on; it does not see the LR features."""
    return Injector(ZeroConv2d(half, 2 * half), Affine("exp", "scale_first", inverted=True))
