"""Base class of training objectives: a module whose forward computes the loss of one phase of an iteration."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, nn

from flowkit_models.data.loader import Batch, Draws
from flowkit_models.metrics.features import smallest_side
from flowkit_models.models.base import ImageFlow

Network = Literal["model", "discriminator"]
"""Networks of an objective that are trained; each has one optimizer."""


@dataclass(frozen=True)
class Phase:
    """One forward and backward pass and one optimizer step.

    Losses that are summed are one phase. Losses with an optimizer step of their own, as in the official HCFlow, are
    phases one after the other that train the same network, and so share its optimizer.

    Attributes:
        name: what the objective's forward is told.
        trains: the network that learns; the other one is frozen meanwhile, though gradients pass through it.
        zero_grad: drop the network's gradients first. False adds this phase's gradients to those that its last phase
            left, after clipping, in the previous iteration as well (the official HCFlow+).
    """

    name: str
    trains: Network = "model"
    zero_grad: bool = True


class Outcome(NamedTuple):
    """Loss of a phase, and what is logged or handed on.

    Attributes:
        loss: a scalar, the mean over the samples.
        logs: scalars to log by name, the same names on all processes. "bits_per_dim" is shown in the progress.
        image: handed to the next phase, detached; say the sample that a discriminator judges.
        opposed: the part of the loss that a discriminator works against, which rises and falls as the game goes; the
            rest falls while a run is well (`divergence`).
    """

    loss: Tensor
    logs: dict[str, Tensor]
    image: Tensor | None = None
    opposed: Tensor | None = None


class Objective(nn.Module):
    """Base class of what `trainer.train` minimises.

    A subclass defines `forward`; with several phases also `phases`, and `active` where not all of them run at every
    step. The trainer calls nothing but the module itself, so that `DistributedDataParallel` sees every pass. All
    parameters that require gradients belong to the model or to the discriminator: freeze those of a perceptual loss.

    Args:
        model: is trained, validated and saved.
        discriminator: the second network of an adversarial loss.

    Attributes:
        phases: all phases of an iteration, in order.
        smallest: side of the HR crops, in pixels, that the networks of its losses take at least.

    Example:
        >>> class Likelihood(Objective):
        ...     def forward(self, phase, batch, draws, step, image=None):
        ...         noise = draws.uniform("noise", batch.hr.shape[1:])
        ...         nll = self.model.nll(batch.hr, batch.lr, noise).mean()
        ...         return Outcome(nll, {"nll": nll})
    """

    phases: tuple[Phase, ...] = (Phase("all"),)

    def __init__(self, model: ImageFlow, discriminator: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.discriminator = discriminator

    @property
    def smallest(self) -> int:
        """Side of the HR crops that the networks of its losses take at least."""
        return smallest_side(self)

    def active(self, step: int) -> Iterable[Phase]:
        """The phases of a step, counted from 1: all of them, unless a subclass says otherwise."""
        return self.phases

    def forward(self, phase: str, batch: Batch, draws: Draws, step: int, image: Tensor | None = None) -> Outcome:
        """Computes the loss of a phase.

        Args:
            phase: its name.
            batch: this process's samples, or a part of them, on the device.
            draws: the random numbers of these samples. What is drawn from torch's global generator instead differs
                from run to run only with the number of processes and the accumulation.
            step: counted from 1.
            image: of the phase before it in this iteration, if that gave one.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no forward")
