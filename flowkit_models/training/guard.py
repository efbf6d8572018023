"""Numbers that are not finite: which sample, weight, module or gradient they come from."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from flowkit_models.data.loader import Batch, Draws, key
from flowkit_models.diagnostics.nonfinite import ERRORS, Culprit, _finite, find_culprit
from flowkit_models.training.objective import Objective, Outcome


class Guarded(nn.Module):
    """An objective as the engine runs it: nothing that comes out of one process can block the others.

    An error that the objective raises because of numbers that are not finite becomes a loss of NaN; other errors
    pass. Logs and image are detached: a parameter that only they depend on would keep `DistributedDataParallel`
    waiting for its gradient.

    Attributes:
        culprit: of the last pass, if that raised an error.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective
        self.culprit: Culprit | None = None

    def forward(self, turn: str, batch: Batch, draws: Draws, step: int, image: Tensor | None) -> Outcome:
        """The objective's forward."""
        self.culprit = None
        try:
            outcome = self.run(turn, batch, draws, step, image)
        except ERRORS:
            self.culprit = find_culprit(self.objective, lambda: self.run(turn, batch, draws, step, image))
            if self.culprit is None:
                raise
            return Outcome(self._undefined(), {})
        image = None if outcome.image is None else outcome.image.detach()
        return Outcome(outcome.loss, {name: value.detach() for name, value in outcome.logs.items()}, image)

    def run(self, turn: str, batch: Batch, draws: Draws, step: int, image: Tensor | None) -> Outcome:
        """The same without a guard. What does not come from `draws` but from torch's generator can be repeated, too."""
        torch.manual_seed(key(draws.seed, turn, step, draws.index[0]))
        outcome: Outcome = self.objective(turn, batch, draws, step, image)
        return outcome

    def _undefined(self) -> Tensor:
        """NaN, with a gradient for every parameter that takes one."""
        return math.nan * torch.stack([p.sum() for p in self.objective.parameters() if p.requires_grad]).sum()


def in_batch(batch: Batch) -> Culprit | None:
    """The samples that are not finite."""
    for name, images in (("hr", batch.hr), ("lr", batch.lr)):
        if _finite(images):
            continue
        bad = batch.index[~images.isfinite().flatten(1).all(1)].tolist()
        numbers = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        return Culprit(0, f"{name} of sample{'s' if len(bad) > 1 else ''} {numbers} is not finite")
    return None


def in_gradients(gradients: Mapping[str, Tensor]) -> Culprit:
    """The first gradient that is not finite, or the largest one, whose square then overflowed."""
    for name, gradient in gradients.items():
        if not _finite(gradient):
            return Culprit(4, f"the gradient of {name} is not finite")
    largest = max(gradients, key=lambda name: float(gradients[name].abs().max()), default="no parameter")
    return Culprit(4, f"the norm of the gradients overflows; the largest is that of {largest}")
