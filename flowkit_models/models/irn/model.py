"""IRN: invertible image rescaling, x to (y, z) without conditioning (Xiao et al., ECCV 2020; HCFlow's Table 4)."""

from dataclasses import dataclass
from typing import Literal

from flowkit import Additive, Affine, Bijector, Chain, Coupling, Haar, Hierarchy, Level, Reversible
from flowkit.nets import DenseBlock, Interleave
from flowkit.spatial import Patch
from flowkit_models.models.base import ImageFlow, Memory
from flowkit_models.models.checks import check_fields, is_whole, power_of_two, shown
from flowkit_models.models.irn import official


@dataclass(frozen=True)
class IRNConfig:
    """Sizes of an IRN. The defaults are the published ×4 model (docs/official/irn.md).

    Attributes:
        scale: HR size over LR size. Haar halves the size at each stage; a learned transform has the scale's root.
        blocks: coupling blocks after each downscaling, finest first. `(0, 8)` downscales twice first.
        growth: growth of the dense blocks.
        clamp: bound c of a log-scale, c·tanh(H/2).
        downscaling: "haar", or "learned": an invertible matrix over each patch (the ×3 model of 2022).
        purpose: an IRN is for rescaling.
    """

    scale: int = 4
    blocks: tuple[int, ...] = (8, 8)
    growth: int = 32
    clamp: float = 1.0
    downscaling: Literal["haar", "learned"] = "haar"
    purpose: Literal["rescaling"] = "rescaling"

    def __post_init__(self) -> None:
        check_fields("IRN", self, scale=2)
        if not isinstance(self.blocks, tuple) or not self.blocks or not all(map(is_whole, self.blocks)):
            raise ValueError(f"IRN: blocks needs a whole number for each stage, got {shown(self.blocks)}")
        if self.downscaling == "haar" and power_of_two("IRN", self.scale) != len(self.blocks):
            raise ValueError(
                f"IRN: scale {self.scale} has {power_of_two('IRN', self.scale)} stages of Haar, "
                f"blocks has {len(self.blocks)}"
            )
        if self.factor ** len(self.blocks) != self.scale:
            raise ValueError(f"IRN: scale {self.scale} is no whole number to the power of {len(self.blocks)} stages")

    @property
    def factor(self) -> int:
        """Factor by which one stage downscales."""
        return round(self.scale ** (1 / len(self.blocks)))


class IRN(ImageFlow):
    """x ↔ (y, z): the LR image and one latent beside it at its size, which depends on nothing (case 4 of Table 1).

    It has no base density, so no likelihood: its training asks of z only to be small.
    """

    config: IRNConfig
    official_layout = official.layout

    def __init__(self, config: IRNConfig, memory: Memory = "plain") -> None:
        parts: list[Bijector] = []
        channels = 3
        for blocks in config.blocks:
            channels *= config.factor**2
            parts.append(Haar() if config.downscaling == "haar" else Patch(config.factor))
            parts += [_block(channels, config) for _ in range(blocks)]
        body = Chain(*parts)
        level = Level(Reversible(body) if memory == "lean" else body, keep=3)
        super().__init__(config, Hierarchy([level]), config.scale)


def _block(channels: int, config: IRNConfig) -> Chain:
    """Coupling block: the others shift the 3 low channels, which then scale and shift the others (IRN, eq. (2))."""
    high = channels - 3
    shift, log_scale = (DenseBlock(3, high, config.growth) for _ in range(2))
    return Chain(
        Coupling(DenseBlock(high, 3, config.growth), 3, Additive(), flip=True),
        Coupling(Interleave(shift, log_scale), 3, Affine("tanh", "scale_first", clamp=config.clamp)),
    )
