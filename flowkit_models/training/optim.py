"""Optimizers: Adam as the papers state it, Muon beside it, rates by iteration, clipping by value and then by norm."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm

from flowkit_models.training.muon import Muon, is_kernel
from flowkit_models.training.objective import Network, Objective


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
    """Settings of one optimizer.

    Attributes:
        lr: learning rate.
        betas: decay of the averages of the gradient and of its square.
        eps: added to the root of the latter.
        weight_decay: of the classic kind, added to the gradient.
        schedule: factor on the rate by iteration.
        clip_value: gradients are clamped to ±this, before …
        clip_norm: … all of them together are scaled to at most this norm. None: no clipping.
        muon: kernels of convolutions take Muon's steps, at so many times the rate; 0: Adam's, as all others.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.0
    schedule: Milestones | Cosine = field(default_factory=Milestones)
    clip_value: float | None = None
    clip_norm: float | None = None
    muon: float = 0.0

    def __post_init__(self) -> None:
        positive = {"lr": self.lr, "clip_value": self.clip_value, "clip_norm": self.clip_norm}
        for name, value in positive.items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"Adam: {name} must be positive, got {value}")
        if not 0 <= self.muon < math.inf:
            raise ValueError(f"Adam: muon must be 0 or more, got {self.muon}")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 1."""
        return self.lr * self.schedule.rate(step)


class Optimizer:
    """Adam, and Muon for kernels where its settings say so, on the parameters of one network of an objective.

    Args:
        network: "model" or "discriminator".
        module: its parameters that require gradients are trained.
        settings: of the optimizer.
    """

    def __init__(self, network: Network, module: nn.Module, settings: Adam) -> None:
        self.settings = settings
        self.parameters = {f"{network}.{name}": p for name, p in module.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise ValueError(f"{network}: has no parameters that require gradients")
        s = settings
        kernels = [p for p in self.parameters.values() if s.muon and is_kernel(p)]
        known = set(map(id, kernels))
        others = [p for p in self.parameters.values() if id(p) not in known]
        self.adam = torch.optim.Adam([{"params": others}], s.lr, s.betas, s.eps, s.weight_decay)
        self.muon = Muon(kernels, s.lr * s.muon, s.weight_decay) if kernels else None

    def set_rate(self, step: int) -> float:
        """Sets the learning rate of a step, counted from 1, and returns it."""
        rate = self.settings.rate(step)
        for group in self.adam.param_groups:
            group["lr"] = rate
        for group in self.muon.param_groups if self.muon else ():
            group["lr"] = rate * self.settings.muon
        return rate

    def require_grad(self, on: bool) -> None:
        """Lets the parameters take gradients, or freezes them."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(on)

    def zero_grad(self) -> None:
        """Drops the gradients; parameters without one are left alone."""
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    @property
    def gradients(self) -> dict[str, Tensor]:
        """The gradients that are there, by the names of their parameters."""
        return {name: p.grad for name, p in self.parameters.items() if p.grad is not None}

    def norm(self) -> Tensor:
        """The norm of all gradients together, unclipped: not finite if one of them isn't, or if it overflows."""
        return get_total_norm(self.gradients.values())

    def step(self, norm: Tensor, scaler: Any = None) -> None:
        """Clips the gradients, by value and then by norm, and takes an optimizer step.

        Args:
            norm: as `norm` gave it.
            scaler: the `GradScaler` of float16, whose scale is already out of the gradients.
        """
        if self.settings.clip_value is not None:
            clip_grad_value_(self.parameters.values(), self.settings.clip_value)
            norm = self.norm()
        if self.settings.clip_norm is not None:
            clip_grads_with_norm_(self.parameters.values(), self.settings.clip_norm, norm)
        for part in self._parts:
            if scaler is None:
                part.step()
            else:
                scaler.step(part)

    def unscale(self, scaler: Any) -> None:
        """Takes the scale of float16's `GradScaler` out of the gradients."""
        for part in self._parts:
            scaler.unscale_(part)

    def state_dict(self) -> dict[str, Any]:
        """Adam's state, and Muon's where there is one."""
        return {**self.adam.state_dict(), **({"muon": self.muon.state_dict()} if self.muon else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        self.adam.load_state_dict({name: value for name, value in state.items() if name != "muon"})
        if self.muon:
            self.muon.load_state_dict(state["muon"])

    @property
    def _parts(self) -> list[torch.optim.Optimizer]:
        return [self.adam, self.muon] if self.muon else [self.adam]


def make_optimizers(objective: Objective, settings: Mapping[Network, Adam | None]) -> dict[Network, Optimizer]:
    """Makes the optimizers of the networks that an objective's phases train.

    Raises:
        ValueError: if a phase trains a network that is not there or has no settings, or if a parameter requires
            gradients and no optimizer has it.
    """
    networks = {"model": objective.model, "discriminator": objective.discriminator}
    optimizers = {}
    for network in dict.fromkeys(phase.trains for phase in objective.phases):
        module, own = networks[network], settings[network]
        if module is None or own is None:
            raise ValueError(f"the objective trains a {network}: it needs one, and the settings of its optimizer")
        optimizers[network] = Optimizer(network, module, own)
    known = {id(p) for optimizer in optimizers.values() for p in optimizer.parameters.values()}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad and id(parameter) not in known:
            raise ValueError(f"{name}: requires gradients, but no phase trains it; freeze it: requires_grad_(False)")
    return optimizers
