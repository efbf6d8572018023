"""State of a training run at a step, and the file that keeps it."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flowkit_models.files import write_whole
from flowkit_models.models.base import ImageFlow
from flowkit_models.training.divergence import DivergenceCheck
from flowkit_models.training.objective import Network, Objective
from flowkit_models.training.optim import Optimizer

FORMAT = 2
"""1 called the discriminator "critic"."""


@dataclass
class Counters:
    """Progress of a run.

    Attributes:
        step: the last iteration.
        validated: the iteration of the last validation.
        best: the best score of a validation, −inf if there was none.
        skipped: iterations that were skipped because numbers were not finite.
        streak: how many of them just now, in a row.
        suspect: how many of those because of the model, not of samples.
        seconds: of training and validation.
    """

    step: int = 0
    validated: int = 0
    best: float = -math.inf
    skipped: int = 0
    streak: int = 0
    suspect: int = 0
    seconds: float = 0.0


class TrainingState:
    """Weights, optimizers, average, gradients where they are carried over, loss scale, and counters.

    Data, noise and rates are functions of the step, and torch's generator is seeded in each: there is no more.

    Args:
        objective: on the device, with its first weights.
        optimizers: its optimizers by network.
        average: decay of the moving average of the model's weights, 0 for none.
        scaler: of float16.
        check: the losses so far.
    """

    def __init__(
        self,
        objective: Objective,
        optimizers: Mapping[Network, Optimizer],
        average: float = 0.0,
        scaler: Any = None,
        check: DivergenceCheck | None = None,
    ) -> None:
        self.objective, self.optimizers, self.scaler = objective, optimizers, scaler
        self.check = check or DivergenceCheck(0.0)
        self.counters = Counters()
        self.averaged: Any = None
        if average > 0:
            self.averaged = AveragedModel(objective.model, multi_avg_fn=get_ema_multi_avg_fn(average))
        self.mark_initialized()

    def mark_initialized(self) -> None:
        """Marks every layer that data could initialise as initialised, as one that is trained is.

        So the flags are the same in a run that was not stopped, in one that goes on, and in what both save.
        """
        parts: list[Any] = [self.objective, *([] if self.averaged is None else [self.averaged])]
        for layer in [layer for part in parts for layer in part.modules() if hasattr(layer, "statistics_input")]:
            layer.initialized.fill_(True)

    @property
    def model(self) -> ImageFlow:
        """The model that is validated and saved: the averaged one, if there is one."""
        model: ImageFlow = self.objective.model if self.averaged is None else self.averaged.module
        return model

    def average(self) -> None:
        """Takes the model's new weights into the average."""
        if self.averaged is not None:
            self.averaged.update_parameters(self.objective.model)

    def finite(self) -> bool:
        """True if all weights are."""
        return bool(torch.stack([p.isfinite().all() for p in self.objective.parameters()]).all())

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, and containers of them."""
        carried = not all(phase.zero_grad for phase in self.objective.phases)
        return {
            "counters": asdict(self.counters),
            "objective": self.objective.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "gradients": {name: dict(o.gradients) if carried else {} for name, o in self.optimizers.items()},
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "losses": self.check.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave, from any device."""
        self.counters = Counters(**state["counters"])
        self.objective.load_state_dict(state["objective"])
        for network, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][network])
            for name, gradient in state["gradients"][network].items():
                parameter = optimizer.parameters[name]
                parameter.grad = gradient.to(parameter.device)
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        if "losses" in state:  # an older flowkit kept none
            self.check.load_state_dict(state["losses"])
        self.mark_initialized()


def save_state(path: Path, content: dict[str, Any]) -> None:
    """Writes a training state (tensors, numbers, strings, and containers of them) atomically."""
    write_whole(path, lambda file: torch.save({"flowkit_training": FORMAT, **content}, file))


def load_state(path: Path) -> dict[str, Any]:
    """Reads what `save_state` wrote, on the CPU. Nothing in the file is executed.

    Raises:
        ValueError: if the file is truncated, damaged, or something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in any way; none of them runs its code
        reason = str(error).partition("\n")[0][:120]
        raise ValueError(f"{path}: damaged, truncated or not a training state ({reason})") from None
    if not isinstance(content, dict) or "flowkit_training" not in content:
        raise ValueError(f"{path}: not a training state; weights alone can't be resumed from")
    if content["flowkit_training"] not in (1, FORMAT):
        raise ValueError(f"{path}: training state of format {content['flowkit_training']}, this one reads {FORMAT}")
    return content if content["flowkit_training"] == FORMAT else _with_new_names(content)


def _with_new_names(content: dict[str, Any]) -> dict[str, Any]:
    """A state of format 1 under the names of format 2."""

    def renamed(entries: Mapping[str, Any]) -> dict[str, Any]:
        return {re.sub(r"^critic\b", "discriminator", name): value for name, value in entries.items()}

    config = json.loads(content["config"])
    return {
        **content,
        "config": json.dumps({**config, "training": renamed(config["training"])}),
        "objective": renamed(content["objective"]),
        "optimizers": renamed(content["optimizers"]),
        "gradients": {name: renamed(found) for name, found in renamed(content["gradients"]).items()},
    }
