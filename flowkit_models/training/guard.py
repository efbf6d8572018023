"""Guard around an objective: numbers that are not finite become a loss of NaN, with their source."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from flowkit_models.data.loader import Batch, Draws, key
from flowkit_models.diagnostics.nonfinite import ERRORS, Source, all_finite, find_source
from flowkit_models.training.objective import Objective, Outcome


class Guarded(nn.Module):
    """An objective that the trainer can run on many processes: none of them can block the others.

    An error that the objective raises because of numbers that are not finite becomes a loss of NaN; other errors
    pass. Logs and image are detached: a parameter that only they depend on would keep `DistributedDataParallel`
    waiting for its gradient.

    Attributes:
        source: of the last pass, if that raised an error.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective
        self.source: Source | None = None

    def forward(self, phase: str, batch: Batch, draws: Draws, step: int, image: Tensor | None) -> Outcome:
        """The objective's forward."""
        self.source = None
        try:
            outcome = self.run(phase, batch, draws, step, image)
        except ERRORS:
            self.source = find_source(self.objective, lambda: self.run(phase, batch, draws, step, image))
            if self.source is None:
                raise
            return Outcome(self._undefined(), {})
        image = None if outcome.image is None else outcome.image.detach()
        opposed = None if outcome.opposed is None else outcome.opposed.detach()
        return Outcome(outcome.loss, {name: value.detach() for name, value in outcome.logs.items()}, image, opposed)

    def run(self, phase: str, batch: Batch, draws: Draws, step: int, image: Tensor | None) -> Outcome:
        """The same without a guard. What does not come from `draws` but from torch's generator can be repeated, too."""
        torch.manual_seed(key(draws.seed, phase, step, draws.index[0]))
        outcome: Outcome = self.objective(phase, batch, draws, step, image)
        return outcome

    def _undefined(self) -> Tensor:
        """NaN, with a gradient for every parameter that takes one."""
        return math.nan * torch.stack([p.sum() for p in self.objective.parameters() if p.requires_grad]).sum()


def in_batch(batch: Batch) -> Source | None:
    """Finds samples that are not finite."""
    for name, images in (("hr", batch.hr), ("lr", batch.lr)):
        if all_finite(images):
            continue
        bad = batch.index[~images.isfinite().flatten(1).all(1)].tolist()
        numbers = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        return Source(0, f"{name} of sample{'s' if len(bad) > 1 else ''} {numbers} is not finite")
    return None


def in_gradients(gradients: Mapping[str, Tensor]) -> Source:
    """Finds the first gradient that is not finite, or the largest one, whose square then overflowed."""
    for name, gradient in gradients.items():
        if not all_finite(gradient):
            return Source(4, f"the gradient of {name} is not finite")
    largest = max(gradients, key=lambda name: float(gradients[name].abs().max()), default="no parameter")
    return Source(4, f"the norm of the gradients overflows; the largest is that of {largest}")
