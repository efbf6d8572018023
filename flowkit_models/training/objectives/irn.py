"""IRN's objective, T-IRN's, and IRN+'s: sums over pixels, means over the batch."""

from dataclasses import dataclass

from torch import Tensor, nn

from flowkit.bases import round_straight_through
from flowkit_models.data.loader import Batch, Draws
from flowkit_models.models.base import ImageFlow
from flowkit_models.training.losses import adversarial, charbonnier, squared
from flowkit_models.training.objective import Outcome, Phase
from flowkit_models.training.objectives.adversarial import AdversarialObjective, draw_latents, outcome


@dataclass(frozen=True)
class IRNWeights:
    """Weights of IRN's and IRN+'s losses, which are sums over an image (docs/official/irn.md).

    Attributes:
        fit: of Σ (y − y*)²; the square of the scale.
        latent: of Σ z².
        back: of the Charbonnier distance of x̂ and x.
        perceptual, gan: IRN+: of the Charbonnier distance of VGG features of x̂ and x, and of the adversarial loss.
        temperature: standard deviation of the latent that x̂ is made with.
    """

    fit: float = 16.0
    latent: float = 1.0
    back: float = 1.0
    perceptual: float = 0.0
    gan: float = 0.0
    temperature: float = 1.0


class IRNRescaling(AdversarialObjective):
    """IRN, and with `features` and `discriminator` IRN+: down, 8 bits, and up again with a fresh latent.

    Args:
        model: an IRN or a T-IRN.
        weights: of the losses.
        features, discriminator, discriminator_first: as for `AdversarialObjective`.
    """

    def __init__(
        self,
        model: ImageFlow,
        weights: IRNWeights,
        features: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        discriminator_first: int = 0,
    ) -> None:
        w = weights
        super().__init__(model, (Phase("all"),), w.perceptual, w.gan, features, discriminator, discriminator_first)
        self.weights = weights

    def _forward(self, phase: str, batch: Batch, draws: Draws, step: int) -> Outcome:
        w = self.weights
        y, z, again = self._down_and_up(batch, draws)
        logs = {
            "fit": squared(y, batch.lr),
            "latent": z.square().flatten(1).sum(1).mean(),
            "back": charbonnier(again, batch.hr),
        }
        loss = w.fit * logs["fit"] + w.latent * logs["latent"] + w.back * logs["back"]
        if w.perceptual:
            logs["perceptual"] = charbonnier(*self._compared(again, batch.hr))
            loss = loss + w.perceptual * logs["perceptual"]
        if w.gan:
            logs["gan"] = adversarial(self._judged(again), real=True)
            loss = loss + w.gan * logs["gan"]
        return outcome(loss, logs, again)

    def _sample(self, batch: Batch, draws: Draws) -> Tensor:
        return self._down_and_up(batch, draws)[2]

    def _down_and_up(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """y, z, and x̂ made of y in 8 bits and a fresh latent."""
        y, (z,), _ = self.model.encode(batch.hr)
        assert y is not None
        fresh = tuple(self.weights.temperature * part for part in draw_latents(self.model, batch, draws, "z"))
        return y, z, self.model.decode(round_straight_through(y), fresh)
