"""What is minimised: one module whose forward is a whole step, in one turn or in several."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, nn

from flowkit_models.data.loader import Batch, Draws
from flowkit_models.models.base import ImageFlow

Part = Literal["model", "critic"]
"""What a turn trains; each part has one optimiser."""


@dataclass(frozen=True)
class Turn:
    """One forward and backward pass and one optimiser step.

    Losses that are summed are one turn. Losses with an optimiser step of their own, as in the official HCFlow, are
    turns one after the other that train the same part, and so share its optimiser.

    Attributes:
        name: what the objective's forward is told.
        trains: the part that learns; the other one is frozen meanwhile, though gradients pass through it.
        zero_grad: forget the part's gradients first. False adds this turn's gradients to those that the part's last
            turn left, after clipping, in the previous iteration as well (the official HCFlow+).
    """

    name: str
    trains: Part = "model"
    zero_grad: bool = True


class Outcome(NamedTuple):
    """What a turn returns.

    Attributes:
        loss: a scalar, the mean over the samples.
        logs: scalars to log by name, the same names on all processes. "bits_per_dim" is shown in the progress.
        image: handed to the next turn, detached; say the sample that a critic judges.
    """

    loss: Tensor
    logs: dict[str, Tensor]
    image: Tensor | None = None


class Objective(nn.Module):
    """Base class of what `engine.train` minimises.

    A subclass defines `forward`; with several turns also `turns`, and `active` where not all of them run at every
    step. The engine calls nothing but the module itself, so that `DistributedDataParallel` sees every pass. All
    parameters that require gradients belong to the model or to the critic: freeze those of a perceptual loss.

    Args:
        model: is trained, validated and saved.
        critic: the second network of an adversarial loss.

    Attributes:
        turns: all turns of an iteration, in order.

    Example:
        >>> class Likelihood(Objective):
        ...     def forward(self, turn, batch, draws, step, image=None):
        ...         noise = draws.uniform("noise", batch.hr.shape[1:])
        ...         nll = self.model.nll(batch.hr, batch.lr, noise).mean()
        ...         return Outcome(nll, {"nll": nll})
    """

    turns: tuple[Turn, ...] = (Turn("all"),)

    def __init__(self, model: ImageFlow, critic: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.critic = critic

    def active(self, step: int) -> Iterable[Turn]:
        """The turns of a step, counted from 1: all of them, unless a subclass says otherwise."""
        return self.turns

    def forward(self, turn: str, batch: Batch, draws: Draws, step: int, image: Tensor | None = None) -> Outcome:
        """Computes the loss of a turn.

        Args:
            turn: its name.
            batch: this process's samples, or a part of them, on the device.
            draws: the random numbers of these samples. What is drawn from torch's global generator instead differs
                from run to run only with the number of processes and the accumulation.
            step: counted from 1.
            image: of the turn before it in this iteration, if that gave one.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no forward")
