"""HCFlow's objectives: super-resolution, eq. (6) to (8), and rescaling, eq. (9)."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.bases import round_straight_through
from flowkit_models.data.loader import Batch, Draws
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.metrics.features import smallest_side
from flowkit_models.models.hcflow.model import HCFlow
from flowkit_models.training.losses import adversarial, mean_power
from flowkit_models.training.objective import Objective, Outcome, Phase
from flowkit_models.training.objectives.adversarial import AdversarialObjective, draw_latents, outcome

_CUT = 3
"""Rows and columns that crops lose before LPIPS."""


@dataclass(frozen=True)
class SRWeights:
    """Weights of the losses of HCFlow, HCFlow+ and HCFlow++, eq. (6), (7), (8). One at 0 is not computed.

    Attributes:
        nll: λ₁, of the negative log-likelihood in bits per HR pixel.
        pixel: λ₂, of the pixel loss at τ = 0, on images in [0, 1].
        perceptual: λ₃, of the distance of VGG features at `temperature`.
        gan: λ₄, of the adversarial loss at `temperature`.
        consistency: of the mean squared distance between the bicubic LR image of a sample at `temperature` and the
            given one (ours): perceptual and adversarial losses alone let samples drift from their LR image.
        lpips: of LPIPS at `temperature` (ours), each crop cut at random by up to 3 pixels: its networks take steps of
            pixels, and without that they would not see a grid that goes in the same steps.
        temperature: τ of the images that these four see.
        pixel_loss: "l1", as published, or "l2", whose optimum is the mean that PSNR rewards.
        nll_every: the likelihood is a part of every so many-th step only, from the first on: it takes half of a
            step's time beside a pixel loss.

    Raises:
        ValueError: for numbers that make no sense, or steps without a loss.
    """

    nll: float = 1.0
    pixel: float = 0.0
    perceptual: float = 0.0
    gan: float = 0.0
    consistency: float = 0.0
    lpips: float = 0.0
    temperature: float = 0.9
    pixel_loss: Literal["l1", "l2"] = "l1"
    nll_every: int = 1

    def __post_init__(self) -> None:
        given = [self.nll, self.pixel, self.perceptual, self.gan, self.consistency, self.lpips]
        if min(given) < 0 or not any(given) or self.temperature < 0:
            raise ValueError(f"weights must not be negative, nor all zero, and temperature not negative: {self}")
        if self.nll_every < 1 or (self.nll_every > 1 and not any(given[1:])):
            raise ValueError(f"nll_every must be at least 1, and above 1 only beside another loss: {self}")


class SuperResolution(AdversarialObjective):
    """HCFlow, HCFlow+ and HCFlow++: L = λ₁ NLL + λ₂ pixel + λ₃ perceptual + λ₄ GAN, eq. (6) to (8).

    By default one sum, as in the paper. `official_steps` takes the official code's optimizer steps instead
    (docs/official/hcflow.md): likelihood, pixel loss, then perceptual and GAN. The official HCFlow+ adds the last
    pixel gradient to that of the next likelihood, and so do these phases.

    Args:
        model: an HCFlow.
        weights: of the losses.
        features, discriminator, discriminator_first: as for `AdversarialObjective`.
        official_steps: see above.
        distance: LPIPS, for its weight.

    Raises:
        ValueError: if a loss has a weight but not its network, or if `official_steps` and `nll_every` exclude each
            other.
    """

    model: HCFlow

    def __init__(
        self,
        model: HCFlow,
        weights: SRWeights,
        features: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        discriminator_first: int = 0,
        official_steps: bool = False,
        distance: nn.Module | None = None,
    ) -> None:
        if weights.lpips and distance is None:
            raise ValueError("a weight of LPIPS needs its network: distance=LPIPS()")
        phases: tuple[Phase, ...] = (Phase("all"),)
        if official_steps:
            if weights.nll_every > 1:
                raise ValueError("the official steps take the likelihood every time: nll_every must be 1")
            sample = weights.perceptual + weights.gan + weights.consistency + weights.lpips
            steps = {"nll": weights.nll, "pixel": weights.pixel, "sample": sample}
            names = [name for name, weight in steps.items() if weight]
            leaks = names == ["nll", "pixel"]
            phases = tuple(Phase(name, zero_grad=not (leaks and name == "nll")) for name in names)
        super().__init__(model, phases, weights.perceptual, weights.gan, features, discriminator, discriminator_first)
        self.weights, self.distance = weights, distance
        self.pixel_loss = {"l1": F.l1_loss, "l2": F.mse_loss}[weights.pixel_loss]

    @property
    def smallest(self) -> int:
        """See `Objective`: the network of LPIPS sees crops less what is cut off."""
        return max(super().smallest, smallest_side(self.distance) + _CUT if self.distance is not None else 1)

    def _forward(self, phase: str, batch: Batch, draws: Draws, step: int) -> Outcome:
        w = self.weights
        loss, sample = batch.hr.new_zeros(()), None
        logs: dict[str, Tensor] = {}
        if w.nll and phase in ("all", "nll") and (step - 1) % w.nll_every == 0:  # eq. (6)
            noise = draws.uniform("noise", batch.hr.shape[1:]).to(batch.hr.dtype)
            logs["nll"] = self.model.nll(batch.hr, batch.lr, noise).mean()
            logs["bits_per_dim"] = self.model.per_dim(logs["nll"])
            loss = loss + w.nll * logs["nll"]
        if w.pixel and phase in ("all", "pixel"):  # eq. (7)
            logs["pixel"] = self.pixel_loss(self.model.upscale(batch.lr, temperature=0.0)[0], batch.hr)
            loss = loss + w.pixel * logs["pixel"]
        if (w.perceptual or w.gan or w.consistency or w.lpips) and phase in ("all", "sample"):  # eq. (8)
            sample = self._sample(batch, draws)
            if w.perceptual:
                logs["perceptual"] = F.l1_loss(*self._compared(sample, batch.hr))
                loss = loss + w.perceptual * logs["perceptual"]
            if w.gan:
                logs["gan"] = adversarial(self._judged(sample), real=True)
                loss = loss + w.gan * logs["gan"]
            if w.consistency:
                logs["consistency"] = F.mse_loss(bicubic_resize(sample, Fraction(1, self.model.scale)), batch.lr)
                loss = loss + w.consistency * logs["consistency"]
            if w.lpips:
                assert self.distance is not None, "checked before"
                logs["lpips"] = self.distance(*_cut(draws, sample, batch.hr)).mean().to(loss.dtype)
                loss = loss + w.lpips * logs["lpips"]
        return outcome(loss, logs, sample)

    def _sample(self, batch: Batch, draws: Draws) -> Tensor:
        latents = draw_latents(self.model, batch, draws, "z")
        return self.model.upscale(batch.lr, temperature=self.weights.temperature, latents=latents)[0]


def _cut(draws: Draws, *images: Tensor) -> tuple[Tensor, ...]:
    """The images without `_CUT` of their rows and columns, at the same random places in each."""
    height, width = (side - _CUT for side in images[0].shape[2:])
    corners = (draws.uniform("cut", (2,)) * (_CUT + 1)).long().tolist()
    return tuple(
        torch.stack([one[:, y : y + height, x : x + width] for one, (y, x) in zip(image, corners, strict=True)])
        for image in images
    )


@dataclass(frozen=True)
class RescalingWeights:
    """Weights of HCFlow's rescaling loss, eq. (9), and of the likelihood that can stand in its place.

    Attributes:
        hr: λ₁, of mean |x̂ − x|.
        lr: λ₂, of mean (y − y*)².
        latent: λ₃, of the mean of z².
        nll: of the likelihood in bits per HR pixel, which section 2.2 offers as another way to train.
        temperature: τ of the latents that x̂ is made with.
    """

    hr: float = 1.0
    lr: float = 5e-2
    latent: float = 1e-5
    nll: float = 0.0
    temperature: float = 1.0


class Rescaling(Objective):
    """HCFlow for rescaling: down, 8 bits, and up again with fresh latents, eq. (9).

    The official code drops a term that is not finite and takes the step with the others; here the step is skipped.

    Args:
        model: an HCFlow.
        weights: of the losses.
    """

    model: HCFlow

    def __init__(self, model: HCFlow, weights: RescalingWeights) -> None:
        super().__init__(model)
        self.weights = weights

    def forward(self, phase: str, batch: Batch, draws: Draws, step: int, image: Tensor | None = None) -> Outcome:
        """The sum of the losses."""
        w = self.weights
        encoded = self.model.encode(batch.hr)
        assert encoded.lr is not None
        y = encoded.lr.clamp(0, 1)
        epsilon = tuple(w.temperature * z for z in draw_latents(self.model, batch, draws, "z"))
        again = self.model.decode(round_straight_through(y), epsilon).clamp(0, 1)
        logs = {
            "hr": F.l1_loss(again, batch.hr),
            "lr": F.mse_loss(y, batch.lr),
            "latent": mean_power(encoded.latents),
        }
        loss = w.hr * logs["hr"] + w.lr * logs["lr"] + w.latent * logs["latent"]
        if w.nll:
            noise = draws.uniform("noise", batch.hr.shape[1:]).to(batch.hr.dtype)
            logs["nll"] = self.model.nll(batch.hr, batch.lr, noise).mean()
            logs["bits_per_dim"] = self.model.per_dim(logs["nll"])
            loss = loss + w.nll * logs["nll"]
        return outcome(loss, logs)
