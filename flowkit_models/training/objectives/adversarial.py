"""Base class of objectives with a perceptual and an adversarial loss: their networks, the discriminator's phase."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from flowkit_models.data.loader import Batch, Draws
from flowkit_models.models.base import ImageFlow
from flowkit_models.training.losses import adversarial
from flowkit_models.training.objective import Objective, Outcome, Phase


def draw_latents(model: ImageFlow, batch: Batch, draws: Draws, name: str) -> tuple[Tensor, ...]:
    """Standard-normal latents for a batch's LR images, the same for a sample wherever it is trained on."""
    shapes = model.latent_shapes(*batch.lr.shape[2:])
    return tuple(draws.normal(f"{name}{i}", shape).to(batch.lr.dtype) for i, shape in enumerate(shapes))


class AdversarialObjective(Objective):
    """An objective of which a perceptual and an adversarial loss are parts.

    A subclass defines `_forward`, the losses of a phase that trains the model, and `_sample`, the image that is judged.

    Args:
        model: is trained.
        phases: those that train the model.
        perceptual, gan: weights of the two losses.
        features: a frozen network, for the first.
        discriminator: for the second; its phase comes last.
        discriminator_first: iterations in which only the discriminator is trained.

    Raises:
        ValueError: if a loss has a weight but not its network.
    """

    def __init__(
        self,
        model: ImageFlow,
        phases: tuple[Phase, ...],
        perceptual: float,
        gan: float,
        features: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        discriminator_first: int = 0,
    ) -> None:
        super().__init__(model, discriminator)
        if perceptual and features is None:
            raise ValueError("a perceptual loss needs a network of features")
        if bool(gan) != (discriminator is not None):
            raise ValueError("an adversarial loss needs a discriminator, and a discriminator needs its weight")
        self.features, self.gan = features, gan
        self.discriminator_first = discriminator_first if discriminator is not None else 0
        self.phases = phases if discriminator is None else (*phases, Phase("discriminator", "discriminator"))

    def active(self, step: int) -> Iterable[Phase]:
        """The phases of a step: at first the discriminator's alone."""
        return [phase for phase in self.phases if step > self.discriminator_first or phase.trains == "discriminator"]

    def forward(self, phase: str, batch: Batch, draws: Draws, step: int, image: Tensor | None = None) -> Outcome:
        """The loss of a phase; the image that is judged is handed on to the discriminator's."""
        if phase != "discriminator":
            outcome = self._forward(phase, batch, draws, step)
            return outcome._replace(opposed=self.gan * outcome.logs["gan"]) if "gan" in outcome.logs else outcome
        if image is None:
            with torch.no_grad():
                image = self._sample(batch, draws)
        # real and generated crops go through apart, so the statistics of batch normalisation stay apart
        loss = adversarial(self._judged(batch.hr), real=True) + adversarial(self._judged(image.detach()), real=False)
        return Outcome(loss, {"discriminator": loss.detach()})

    def _forward(self, phase: str, batch: Batch, draws: Draws, step: int) -> Outcome:
        raise NotImplementedError

    def _sample(self, batch: Batch, draws: Draws) -> Tensor:
        raise NotImplementedError

    def _judged(self, image: Tensor) -> Tensor:
        """The discriminator's logits."""
        assert self.discriminator is not None, "checked before"
        logits: Tensor = self.discriminator(image)
        return logits

    def _compared(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Features of both images, without gradient to the real one."""
        assert self.features is not None, "checked before"
        with torch.no_grad():
            expected = self.features(real)
        return self.features(fake), expected


def outcome(loss: Tensor, logs: dict[str, Tensor], image: Tensor | None = None) -> Outcome:
    """An outcome whose logs keep no graph."""
    return Outcome(loss, {name: value.detach() for name, value in logs.items()}, image)
