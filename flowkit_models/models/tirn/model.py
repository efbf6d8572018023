"""T-IRN: image rescaling with colours, luma and details in three branches, whose latent is zero."""

from dataclasses import dataclass
from typing import Literal

from flowkit import Bijector, Chain, Haar, Hierarchy, Inverse, Level, Reversible
from flowkit_models.models.base import ImageFlow, Memory
from flowkit_models.models.checks import check_fields, is_whole, power_of_two, shown
from flowkit_models.models.tirn.branches import block, to_branches


@dataclass(frozen=True)
class TIRNConfig:
    """Sizes of a T-IRN. The defaults are the published ×4 model.

    Attributes:
        scale: HR size over LR size, a power of two.
        blocks: coupling blocks after each Haar transform, finest first.
        growth: growth of the dense blocks.
        purpose: a T-IRN is for rescaling.
    """

    scale: int = 4
    blocks: tuple[int, ...] = (3, 4)
    growth: int = 32
    purpose: Literal["rescaling"] = "rescaling"

    def __post_init__(self) -> None:
        check_fields("T-IRN", self, scale=2)
        stages = power_of_two("T-IRN", self.scale)
        if not isinstance(self.blocks, tuple) or len(self.blocks) != stages or not all(map(is_whole, self.blocks)):
            raise ValueError(
                f"T-IRN: blocks needs a whole number for each of {stages} stages, got {shown(self.blocks)}"
            )


class TIRN(ImageFlow):
    """x ↔ (y, z): as IRN, with colours, luma and details that steer each other.

    It has no base density, so no likelihood. It is trained with z = 0, and upscales so where no τ is given.
    """

    config: TIRNConfig
    usual_temperature = 0.0

    def __init__(self, config: TIRNConfig, memory: Memory = "plain") -> None:
        parts: list[Bijector] = []
        channels = 3
        for blocks in config.blocks:
            channels *= 4
            # colours come back after each stage: Haar's next low band, and in the end the LR image, are RGB
            parts += [Haar(), to_branches(channels)]
            parts += [block(channels, config.growth) for _ in range(blocks)]
            parts.append(Inverse(to_branches(channels)))
        body = Chain(*parts)
        level = Level(Reversible(body) if memory == "lean" else body, keep=3)
        super().__init__(config, Hierarchy([level]), config.scale)
