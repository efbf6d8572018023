"""The training loop of the recipes: losses in, weights out, with progress, averaged weights and the best checkpoint."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .imageflow import ImageFlow

Batch = tuple[Tensor, Tensor]
"""HR and LR images."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps.
        lr: learning rate of Adam.
        validate_every: steps between validations.
        milestones: steps from which the rate is halved, again at each. None: 20 steps of warm-up, then a cosine to a
            hundredth.
        average: decay of the exponential moving average of the weights, which is what gets saved.
        clip_value, clip_norm: gradients are clipped by value, then by total norm.
    """

    steps: int
    lr: float
    validate_every: int
    milestones: tuple[int, ...] = ()
    average: float = 0.99
    clip_value: float = 5.0
    clip_norm: float = 100.0

    def rate(self, step: int) -> float:
        """Factor on the learning rate, for a step counted from 1."""
        if self.milestones:
            return 0.5 ** sum(step >= milestone for milestone in self.milestones)
        return min(1.0, step / 20) * (0.505 + 0.495 * math.cos(math.pi * min(1.0, step / self.steps)))


@dataclass
class Trained:
    """What `train` returns.

    Attributes:
        model: with the averaged weights of the last step, in eval mode.
        history: a row per step, with "step", "loss" and the losses' parts, and at validations "psnr".
        skipped: steps whose loss or gradient was not finite, and which therefore changed nothing.
    """

    model: ImageFlow
    history: list[dict[str, float]] = field(default_factory=list)
    skipped: int = 0


def train(
    model: ImageFlow,
    batches: Iterator[Batch],
    losses: Callable[[Any, Batch], tuple[Tensor, dict[str, float]]],
    validate: Callable[[ImageFlow], float],
    schedule: Schedule,
    out: Path,
    console: Console | None = None,
) -> Trained:
    """Trains a model, shows progress, and writes `best.safetensors` and `last.safetensors` to `out`.

    Args:
        model: on its device; initialised where it needs it.
        batches: endless HR and LR batches.
        losses: the loss to minimise, and its parts by name to show ("bits_per_dim" among them).
        validate: held-out PSNR of a model in dB, for the progress line and for `best`.
        schedule: steps, learning rate and so on.
        out: an existing folder.
        console: where to write; the terminal by default.

    Raises:
        FloatingPointError: after 20 steps in a row whose loss or gradient is not finite.
    """
    device = next(model.parameters()).device
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(schedule.average), use_buffers=True)
    optimizer = torch.optim.Adam(model.parameters(), schedule.lr, betas=(0.9, 0.99))
    mean: Any = averaged.module
    result, best, bad = Trained(mean), -math.inf, 0
    model.train()
    with _progress(console or Console()) as progress:
        task = progress.add_task("training", total=schedule.steps, status="")
        for step in range(1, schedule.steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr * schedule.rate(step)
            hr, lr = next(batches)
            loss, parts = losses(model, (hr.to(device), lr.to(device)))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_value_(model.parameters(), schedule.clip_value)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip_norm)
            if bool(loss.isfinite() & norm.isfinite()):
                optimizer.step()
                averaged.update_parameters(model)
                bad = 0
            else:
                result.skipped, bad = result.skipped + 1, bad + 1
                if bad == 20:
                    raise FloatingPointError(f"step {step}: the loss was not finite 20 times in a row; lower the rate")
            row = {"step": float(step), "loss": float(loss.detach()), **parts}
            if step % schedule.validate_every == 0 or step == schedule.steps:
                row["psnr"] = validate(mean.eval())
                if row["psnr"] > best:
                    best = row["psnr"]
                    mean.save(out / "best.safetensors", step=str(step))
            result.history.append(row)
            _show(progress, task, result.history)
    mean.save(out / "last.safetensors", step=str(schedule.steps))
    return result


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )


def _show(progress: Progress, task: TaskID, history: list[dict[str, float]]) -> None:
    """Bits/dim over the last steps, the last held-out PSNR, and the speed; a log gets a line at each validation."""
    recent = [row["bits_per_dim"] for row in history[-20:]]
    tested = next((row["psnr"] for row in reversed(history) if "psnr" in row), None)
    known = [f"{sum(recent) / len(recent):.2f} bits/dim"]
    if tested is not None:
        known.append(f"{tested:.2f} dB held out")
    if "psnr" in history[-1] and not progress.console.is_terminal:
        progress.console.print(f"step {history[-1]['step']:.0f}: {', '.join(known)}")
    progress.update(task, advance=1, status=f"{', '.join(known)}, {progress.tasks[task].speed or 0:.1f} it/s")
