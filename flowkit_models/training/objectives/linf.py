"""LINF's objective: the likelihood of patches anywhere in HR images of any size, and losses of images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit_models.data.loader import Batch, Draws
from flowkit_models.models.linf.model import LINF
from flowkit_models.training.objective import Objective, Outcome, Phase
from flowkit_models.training.objectives.adversarial import outcome


@dataclass(frozen=True)
class AnyScaleWeights:
    """Weights of LINF's losses. One at 0 is not computed.

    Attributes:
        nll: of the negative log-likelihood in bits per HR pixel.
        pixel: of mean |mean − x|, on images in [0, 1].
        perceptual: of the distance of VGG features at `temperature`.
        temperature: τ of the image that this sees.
        apart: the likelihood, and the losses of images, each have an optimizer step of their own.

    Raises:
        ValueError: for numbers that make no sense, or no loss.
    """

    nll: float = 1.0
    pixel: float = 0.0
    perceptual: float = 0.0
    temperature: float = 0.8
    apart: bool = False

    def __post_init__(self) -> None:
        given = [self.nll, self.pixel, self.perceptual]
        if min(given) < 0 or not any(given) or self.temperature < 0:
            raise ValueError(f"weights must not be negative, nor all zero, and temperature not negative: {self}")


class AnyScale(Objective):
    """Super-resolution by any factor: NLL, mean |mean − x|, and VGG features, as the weights say.

    The first two are of as many patches, anywhere in the HR crop, as LR has pixels; the last is of the whole crop.

    Args:
        model: a LINF.
        weights: of the losses.
        features: a frozen network, for the perceptual loss.

    Raises:
        ValueError: if there is a perceptual weight, but no network.
    """

    model: LINF

    def __init__(self, model: LINF, weights: AnyScaleWeights, features: nn.Module | None = None) -> None:
        super().__init__(model)
        if weights.perceptual and features is None:
            raise ValueError("a perceptual loss needs a network of features")
        self.weights, self.features = weights, features
        if weights.apart:
            image = weights.pixel + weights.perceptual
            self.phases = tuple(Phase(name) for name, weight in (("nll", weights.nll), ("image", image)) if weight)

    def forward(self, phase: str, batch: Batch, draws: Draws, step: int, image: Tensor | None = None) -> Outcome:
        """The loss of a phase."""
        w, loss = self.weights, batch.hr.new_zeros(())
        logs: dict[str, Tensor] = {}
        nll, off = self._of_patches(batch, draws)
        if w.nll and phase in ("all", "nll"):
            logs |= {"nll": nll, "bits_per_dim": self.model.per_dim(nll)}
            loss = loss + w.nll * nll
        if w.pixel and phase in ("all", "image"):
            logs["pixel"] = off
            loss = loss + w.pixel * off
        if w.perceptual and phase in ("all", "image"):
            logs["perceptual"] = self._perceptual(batch, draws)
            loss = loss + w.perceptual * logs["perceptual"]
        return outcome(loss, logs)

    def _of_patches(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
        p, (height, width) = self.model.config.patch, batch.hr.shape[2:]
        count = batch.lr.shape[2] * batch.lr.shape[3]
        rows, columns = (
            (draws.uniform(name, (count,)) * (side - p + 1)).long().clamp(max=side - p)
            for name, side in (("rows", height), ("columns", width))
        )
        noise = draws.uniform("noise", (3, p * count, p)).to(batch.hr.dtype) if self.model.draws_noise else None
        nll, off = self.model.nll_at(batch.hr, batch.lr, rows, columns, noise)
        return nll.mean(), off

    def _perceptual(self, batch: Batch, draws: Draws) -> Tensor:
        assert self.features is not None, "checked before"
        size = (batch.hr.shape[2], batch.hr.shape[3])
        z = draws.normal("z", (self.model.config.channels, *self.model.queries(size))).to(batch.hr.dtype)
        made = self.model.upscale(batch.lr, temperature=self.weights.temperature, latents=(z,), size=size)[0]
        with torch.no_grad():
            expected = self.features(batch.hr)
        return F.l1_loss(self.features(made), expected)
