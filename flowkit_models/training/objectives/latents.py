"""Objective of a learned prior: a perceptual loss through a frozen flow."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit_models.data.loader import Batch, Draws
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.learned_latents import enlarged_latents
from flowkit_models.training.objective import Objective, Outcome
from flowkit_models.training.objectives.adversarial import outcome


class LearnedLatents(Objective):
    """BFSR's objective: the mean distance of VGG features of the decoded picture and HR, and nothing else.

    Args:
        model: with a learned prior, which is trained; the flow stays as it is.
        features: a frozen network.

    Raises:
        ValueError: for a model without a prior.
    """

    def __init__(self, model: ImageFlow, features: nn.Module) -> None:
        super().__init__(model)
        if model.prior is None:
            raise ValueError(
                f"{type(model).__name__} has no learned prior to train: model.prior = LatentPrior(model, …)"
            )
        model.requires_grad_(False)
        model.prior.requires_grad_(True)
        self.features = features

    def forward(self, phase: str, batch: Batch, draws: Draws, step: int, image: Tensor | None = None) -> Outcome:
        """The loss."""
        assert self.model.prior is not None
        with torch.no_grad():
            seen = enlarged_latents(self.model, batch.lr)
            expected = self.features(batch.hr)
        made = self.model.decode(batch.lr, self.model.prior(seen)).clamp(0, 1)
        loss = F.l1_loss(self.features(made), expected)
        return outcome(loss, {"perceptual": loss})
