"""SAIN: rescaling that survives JPEG, x to (ŷ, z), with a clean LR image on the way (Yang et al., AAAI 2023)."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from flowkit import (
    Additive,
    Affine,
    Bijector,
    Chain,
    Coupling,
    Haar,
    Hierarchy,
    Latents,
    Level,
    Reversible,
    SharedGaussianization,
)
from flowkit.compiling import compiled
from flowkit.nets import DenseBlock, Interleave
from flowkit_models.models.base import Encoded, ImageFlow, Memory
from flowkit_models.models.checks import check_fields, power_of_two


@dataclass(frozen=True)
class SAINConfig:
    """Sizes of a SAIN. The defaults are the published ×4 model.

    Attributes:
        scale: HR size over LR size, a power of two; all Haar transforms come first.
        enhanced: enhanced blocks, in the last of which the LR image is made.
        blocks: plain coupling blocks after them, which model what JPEG does.
        growth: growth of the dense blocks.
        clamp: bound c of a log-scale, c·tanh(H/2).
        components: Gaussians in the mixture of the details.
        purpose: a SAIN is for rescaling.
    """

    scale: int = 4
    enhanced: int = 10
    blocks: int = 6
    growth: int = 32
    clamp: float = 1.0
    components: int = 5
    purpose: Literal["rescaling"] = "rescaling"

    def __post_init__(self) -> None:
        check_fields("SAIN", self, scale=2, blocks=0)
        power_of_two("SAIN", self.scale)


class SAINEncoded(Encoded):
    """Result of `SAIN.encode`: an `Encoded` whose `lr` is ŷ, the LR image as JPEG leaves it, which `decode` takes.

    Attributes:
        clean_lr: the LR image l before that, which is stored; not clamped or rounded.
    """

    clean_lr: Tensor


class Reduced(NamedTuple):
    """HR images taken apart.

    Attributes:
        clean: the LR images l, which are stored, (B, 3, h, w).
        compressed: the model's ŷ of what JPEG makes of them, (B, 3, h, w).
        details: all else, (B, 3·scale² − 3, h, w), distributed as `SAIN.mixture`.
        logdet: (B,).
    """

    clean: Tensor
    compressed: Tensor
    details: Tensor
    logdet: Tensor


class SAIN(ImageFlow):
    """x ↔ (ŷ, z): down, an LR image l is taken out half-way; up, the chain starts behind that, from JPEG's image of l.

    What lies between l and the end of the chain undoes JPEG on the way back. z is one latent of LR size: details are
    standardised by a mixture of Gaussians that all of them share. There is no base density, so no likelihood.

    Attributes:
        mixture: of the details.
    """

    config: SAINConfig
    survives_jpeg = True
    usual_temperature = 0.0  # the median: JPEG leaves little that draws could restore

    def __init__(self, config: SAINConfig, memory: Memory = "plain") -> None:
        high = 3 * config.scale**2 - 3
        parts: list[Bijector] = [Haar() for _ in range(power_of_two("SAIN", config.scale))]
        for _ in range(config.enhanced):
            parts += [_low(high, config), *_plain(high, config)]
        self._middle = len(parts) - 2  # right behind the shift that makes l
        for _ in range(config.blocks):
            parts += _plain(high, config)
        body = Chain(*parts)
        level = Level(
            Reversible(body) if memory == "lean" else body, keep=3, latent=SharedGaussianization(config.components)
        )
        super().__init__(config, Hierarchy([level]), config.scale)

    @property
    def mixture(self) -> SharedGaussianization:
        """The mixture of the details."""
        latent = self.flow.levels[0].latent
        assert isinstance(latent, SharedGaussianization)
        return latent

    def encode(self, hr: Tensor, lr: Tensor | None = None) -> SAINEncoded:
        """Maps HR images to ŷ and the latent, and tells the LR image l, too; arguments and errors as `ImageFlow`'s."""
        self._check_hr(hr)
        if lr is not None:
            self._check_pair(hr, lr)
        with self.precision_policy(hr):
            reduced, latents, logdet = self._encode_all(hr)
        encoded = SAINEncoded(reduced.compressed, latents.z, logdet)
        encoded.clean_lr = reduced.clean
        return encoded

    @compiled
    def _encode_all(self, hr: Tensor) -> tuple[Reduced, Latents, Tensor]:
        reduced = self.reduce(hr)
        z, term = self.flow.levels[0].latent(reduced.details)
        return reduced, Latents(reduced.compressed, (z,)), reduced.logdet + term

    def reduce(self, hr: Tensor) -> Reduced:
        """Takes HR images apart, sides multiples of the scale."""
        first, second = self._halves()
        hidden, there = first(hr)
        end, then = second(hidden)
        return Reduced(hidden[:, :3], end[:, :3], end[:, 3:], there + then)

    def restore(self, lr: Tensor, details: Tensor) -> tuple[Tensor, Tensor]:
        """HR images of LR images that went through JPEG and of details, and the clean LR images l′ on the way."""
        first, second = self._halves()
        hidden = second.inverse(torch.cat([lr, details], 1))[0]
        return first.inverse(hidden)[0], hidden[:, :3]

    def scaled(self, latents: tuple[Tensor, ...], temperature: float) -> tuple[Tensor, ...]:
        """Latents of a temperature, which scales each component of the mixture about its mean; at 0, its median."""
        if temperature in (0, 1):
            return super().scaled(latents, temperature)
        return tuple(self.mixture(self.mixture.quantile(z, temperature))[0] for z in latents)

    def _halves(self) -> tuple[Chain, Chain]:
        """What makes the clean LR image, and what comes after."""
        body = self.flow.levels[0].body
        return type(body)(Chain(*body.parts[: self._middle])), type(body)(Chain(*body.parts[self._middle :]))

    def _down(self, hr: Tensor) -> Tensor:
        lr: Tensor = self._halves()[0](hr)[0][:, :3]
        return lr


def _low(high: int, config: SAINConfig) -> Coupling:
    """Coupling l = x1 + E(x2): the others shift the 3 low channels."""
    return Coupling(DenseBlock(high, 3, config.growth), 3, Additive(), flip=True)


def _plain(high: int, config: SAINConfig) -> list[Bijector]:
    """A coupling block of IRN, whose shift is taken away: y1 = l − F(x2), y2 = x2·e^s + G(y1), s = 2σ(H(y1)) − 1."""
    shift, log_scale = (DenseBlock(3, high, config.growth) for _ in range(2))
    kind = Affine("tanh", "scale_first", clamp=config.clamp)
    return [_low(high, config).inv, Coupling(Interleave(shift, log_scale), 3, kind)]
