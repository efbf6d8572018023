"""SRFlow's objectives: the likelihood, with an encoder that can be frozen; and the encoder's own pre-training."""

import torch.nn.functional as F
from torch import Tensor

from flowkit_models.data.loader import Batch, Draws
from flowkit_models.models.srflow.model import SRFlow
from flowkit_models.training.objective import Objective, Outcome
from flowkit_models.training.objectives.adversarial import outcome


class SRFlowLikelihood(Objective):
    """SRFlow and its successors: the likelihood, and optionally a pixel loss at τ = 0 (docs/official/srflow.md).

    Args:
        model: an SRFlow.
        pixel: weight of mean |x(τ = 0) − x|; officially 0.
        frozen: iterations in which the encoder stays as it is. The official code trains it from the start; its
            authors' stated recipe freezes it for half of the run.
    """

    model: SRFlow

    def __init__(self, model: SRFlow, pixel: float = 0.0, frozen: int = 0) -> None:
        super().__init__(model)
        self.pixel, self.frozen = pixel, frozen

    def forward(self, phase: str, batch: Batch, draws: Draws, step: int, image: Tensor | None = None) -> Outcome:
        """The loss; while the encoder is frozen no gradient reaches it."""
        if step <= self.frozen:
            self.model.encoder.requires_grad_(False)
        nll = self._nll(batch, draws).mean()
        logs = {"nll": nll, "bits_per_dim": self.model.per_dim(nll)}
        loss = nll
        if self.pixel:
            shapes = self.model.latent_shapes(*batch.lr.shape[2:])
            mode = tuple(batch.lr.new_zeros(len(batch.lr), *shape) for shape in shapes)
            logs["pixel"] = F.l1_loss(self.model.decode(batch.lr, mode), batch.hr)  # not clamped, as officially
            loss = loss + self.pixel * logs["pixel"]
        return outcome(loss, logs)

    def _nll(self, batch: Batch, draws: Draws) -> Tensor:
        shape, largest = batch.hr.shape[1:], self.model.config.soft
        if largest:  # SoftFlow: of a deviation that is drawn for each image
            spread = largest * draws.uniform("spread", (1, 1, 1))
            return self.model.soft_nll(batch.hr, batch.lr, (spread * draws.normal("soft", shape)).to(batch.hr.dtype))
        noise = draws.uniform("noise", shape).to(batch.hr.dtype) if self.model.draws_noise else None
        return self.model.nll(batch.hr, batch.lr, noise)


class EncoderPretraining(Objective):
    """SRFlow's encoder as an SR network of its own, by mean |image − x|: the start of SRFlow's training.

    Args:
        model: an SRFlow; its flow is not trained.
    """

    model: SRFlow

    def forward(self, phase: str, batch: Batch, draws: Draws, step: int, image: Tensor | None = None) -> Outcome:
        """The loss."""
        loss = F.l1_loss(self.model.encoder.super_resolve(batch.lr), batch.hr)
        return outcome(loss, {"pixel": loss})
