"""Optimisers as the papers state them: Adam, rates by iteration, gradients clipped by value and then by norm."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm

from flowkit_models.training.objective import Objective, Part


@dataclass(frozen=True)
class Milestones:
    """The rate is multiplied by `gamma` at each milestone; without milestones it is constant.

    Attributes:
        at: iterations, counted from 1.
        gamma: the factor.
        inclusive: the milestone's own iteration already runs at the lower rate (HCFlow, SRFlow); False: the one
            after it is the first (IRN).

    Example:
        >>> [Milestones((3,)).rate(step) for step in (2, 3, 4)]
        [1.0, 0.5, 0.5]
        >>> [Milestones((3,), inclusive=False).rate(step) for step in (2, 3, 4)]
        [1.0, 1.0, 0.5]
    """

    at: tuple[int, ...] = ()
    gamma: float = 0.5
    inclusive: bool = True

    def rate(self, step: int) -> float:
        """Factor on the learning rate of a step, counted from 1."""
        passed = sum(step >= milestone + (not self.inclusive) for milestone in self.at)
        return self.gamma**passed


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then half a cosine from 1 down to a floor.

    Attributes:
        steps: iterations until the floor.
        warmup: iterations until the full rate.
        floor: the last factor.
        restarts: start again after `steps`, without a warm-up (SRFlow's encoder).
    """

    steps: int
    warmup: int = 20
    floor: float = 0.01
    restarts: bool = False

    def rate(self, step: int) -> float:
        """Factor on the learning rate of a step, counted from 1."""
        done = (step - 1) % self.steps / self.steps if self.restarts else min(1.0, step / self.steps)
        wave = 0.5 + 0.5 * math.cos(math.pi * done)
        return min(1.0, step / max(1, self.warmup)) * (self.floor + (1 - self.floor) * wave)


@dataclass(frozen=True)
class Adam:
    """Settings of one optimiser.

    Attributes:
        lr: learning rate.
        betas: decay of the averages of the gradient and of its square.
        eps: added to the root of the latter.
        weight_decay: of the classic kind, added to the gradient.
        schedule: factor on the rate by iteration.
        clip_value: gradients are clamped to ±this, before …
        clip_norm: … all of them together are scaled to at most this norm. None: no clipping.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.0
    schedule: Milestones | Cosine = field(default_factory=Milestones)
    clip_value: float | None = None
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        positive = {"lr": self.lr, "clip_value": self.clip_value, "clip_norm": self.clip_norm}
        for name, value in positive.items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"Adam: {name} must be positive, got {value}")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 1."""
        return self.lr * self.schedule.rate(step)


class Learner:
    """The parameters of one part of an objective, with their optimiser.

    Args:
        part: "model" or "critic".
        module: its parameters that require gradients are trained.
        settings: of the optimiser.
    """

    def __init__(self, part: str, module: nn.Module, settings: Adam) -> None:
        self.part = part
        self.settings = settings
        self.parameters = {f"{part}.{name}": p for name, p in module.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise ValueError(f"{part}: has no parameters that require gradients")
        s = settings
        self.optimizer = torch.optim.Adam(self.parameters.values(), s.lr, s.betas, s.eps, s.weight_decay)

    def set_rate(self, step: int) -> float:
        """Sets the learning rate of a step, counted from 1, and returns it."""
        rate = self.settings.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def train(self, learns: bool) -> None:
        """Whether the parameters take gradients."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(learns)

    def forget(self) -> None:
        """Drops the gradients; Adam leaves parameters without one alone."""
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def gradients(self) -> dict[str, Tensor]:
        """The gradients that are there, by the names of their parameters."""
        return {name: p.grad for name, p in self.parameters.items() if p.grad is not None}

    def norm(self) -> Tensor:
        """The norm of all gradients together, unclipped: not finite if one of them isn't, or if it overflows."""
        return get_total_norm(self.gradients.values())

    def step(self, norm: Tensor, scaler: Any = None) -> None:
        """Clips the gradients, by value and then by norm, and takes an optimiser step.

        Args:
            norm: as `norm` gave it.
            scaler: the `GradScaler` of float16, whose scale is already out of the gradients.
        """
        if self.settings.clip_value is not None:
            clip_grad_value_(self.parameters.values(), self.settings.clip_value)
            norm = self.norm()
        if self.settings.clip_norm is not None:
            clip_grads_with_norm_(self.parameters.values(), self.settings.clip_norm, norm)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)


def make_learners(objective: Objective, settings: Mapping[Part, Adam | None]) -> dict[Part, Learner]:
    """The optimisers of an objective by part.

    Raises:
        ValueError: if a turn trains a part that is not there or has no settings, or if a parameter requires gradients
            and no optimiser has it.
    """
    parts = {"model": objective.model, "critic": objective.critic}
    learners = {}
    for part in dict.fromkeys(turn.trains for turn in objective.turns):
        module, own = parts[part], settings[part]
        if module is None or own is None:
            raise ValueError(f"the objective trains a {part}: it needs one, and the settings of its optimiser")
        learners[part] = Learner(part, module, own)
    known = {id(p) for learner in learners.values() for p in learner.parameters.values()}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad and id(parameter) not in known:
            raise ValueError(f"{name}: requires gradients, but no turn trains it; freeze it with requires_grad_(False)")
    return learners
