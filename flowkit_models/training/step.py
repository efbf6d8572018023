"""One iteration of training: its turns, each a forward, a backward, a check, and an optimiser step."""

import signal
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from flowkit_models.data.loader import Batch, Draws
from flowkit_models.diagnostics.nonfinite import Culprit, find_culprit
from flowkit_models.training.distributed import agree
from flowkit_models.training.guard import Guarded, in_batch, in_gradients
from flowkit_models.training.objective import Objective, Outcome, Part, Turn
from flowkit_models.training.optim import Learner
from flowkit_models.training.signals import StopSignals


@dataclass
class Report:
    """What an iteration did, the same on all processes.

    Attributes:
        trained: the parts that took an optimiser step.
        skipped: the turn that was not finite, and why: it changed nothing, and the turns after it did not run.
        stop: the signal that asks to stop, on any process.
        logs: scalars by name, on this process; `reduce` makes them the mean of all.
    """

    trained: set[str] = field(default_factory=set)
    skipped: str = ""
    stop: signal.Signals | None = None
    logs: dict[str, Tensor] = field(default_factory=dict)


class Iteration:
    """Runs iterations.

    Args:
        accelerator: the processes, the device, the precision.
        objective: on the device.
        learners: the optimisers by part.
        accumulate: parts into which a process's samples are split, one after the other through each turn.
        seed: of the run.
        signals: asked whether to stop.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        objective: Objective,
        learners: Mapping[Part, Learner],
        accumulate: int,
        seed: int,
        signals: StopSignals,
    ) -> None:
        self.accelerator, self.objective, self.learners = accelerator, objective, learners
        self.accumulate, self.seed, self.signals = accumulate, seed, signals
        self.guarded = Guarded(objective)
        self.module: Any = accelerator.prepare_model(self.guarded)
        # what a pass changes without being asked: statistics of batch normalisation
        self.buffers = [b for b in objective.buffers() if b.dtype != torch.bool]

    def __call__(self, step: int, batch: Batch) -> Report:
        """Trains on this process's samples, on the CPU still, of a step counted from 1."""
        report = Report()
        spoiled = in_batch(batch)
        if spoiled is not None:  # a model refuses such images, but all processes must make the same passes
            batch = Batch(torch.zeros_like(batch.hr), torch.zeros_like(batch.lr), batch.index)
        parts = batch.to(self.accelerator.device).split(self.accumulate)
        images: list[Tensor | None] = [None] * len(parts)
        for turn in self.objective.active(step):
            images = self._turn(turn, step, parts, images, spoiled, report)
            if report.skipped:
                break
        return report

    def reduce(self, logs: Mapping[str, Tensor]) -> dict[str, float]:
        """The mean of logged scalars over all processes."""
        values = torch.stack([value.detach().float() for value in logs.values()])
        mean: Any = self.accelerator.reduce(values, "mean")
        return dict(zip(logs, mean.tolist(), strict=True))

    def _turn(
        self,
        turn: Turn,
        step: int,
        parts: list[Batch],
        images: list[Tensor | None],
        spoiled: Culprit | None,
        report: Report,
    ) -> list[Tensor | None]:
        learner = self.learners[turn.trains]
        learner.set_rate(step)
        for other in self.learners.values():
            other.train(other is learner)
        if turn.zero_grad:
            learner.forget()
        buffers = [buffer.clone() for buffer in self.buffers]
        outcomes = []
        culprit = spoiled
        for part, image in zip(parts, images, strict=True):
            with nullcontext() if part is parts[-1] else self.accelerator.no_sync(self.module):
                outcome = self._forward(self.module, turn, step, part, image)
                self.accelerator.backward(outcome.loss / len(parts))
            outcomes.append(outcome._replace(loss=outcome.loss.detach()))
            culprit = culprit or self.guarded.culprit
        scaler = self.accelerator.scaler
        if scaler is not None:
            scaler.unscale_(learner.optimizer)
        norm = learner.norm()
        finite = [outcome.loss.isfinite() for outcome in outcomes]
        fine = culprit is None and bool(torch.stack([*finite, norm.isfinite()]).all())
        bad, report.stop = agree(self.accelerator, not fine, self.signals.received)
        if bad:
            report.skipped = self._explain(turn, step, parts, images, culprit, [bool(f) for f in finite])
            for buffer, before in zip(self.buffers, buffers, strict=True):
                buffer.copy_(before)
            learner.forget()
        else:
            learner.step(norm, scaler)
            report.trained.add(turn.trains)
            self._log(turn, step, outcomes, norm, report)
        if scaler is not None:
            scaler.update()
        return [outcome.image for outcome in outcomes]

    def _forward(self, run: Any, turn: Turn, step: int, part: Batch, image: Tensor | None) -> Outcome:
        draws = Draws(self.seed, part.index, self.accelerator.device)
        outcome: Outcome = run(turn.name, part, draws, step, image)
        return outcome

    @torch.no_grad()
    def _explain(
        self,
        turn: Turn,
        step: int,
        parts: list[Batch],
        images: list[Tensor | None],
        culprit: Culprit | None,
        finite: list[bool],
    ) -> str:
        """What was not finite, in words: of all processes' findings the one nearest to the cause."""
        if culprit is None:
            i = finite.index(False) if False in finite else -1
            with self.accelerator.autocast():
                culprit = find_culprit(
                    self.objective, lambda: self._forward(self.guarded.run, turn, step, parts[i], images[i])
                )
        culprit = culprit or in_gradients(self.learners[turn.trains].gradients)
        found: list[Culprit] = gather_object([culprit])
        scaler = self.accelerator.scaler
        scale = "" if scaler is None else f" (at loss scale {scaler.get_scale():g})"
        return f"{turn.name}: {min(found).text}{scale}"

    def _log(self, turn: Turn, step: int, outcomes: list[Outcome], norm: Tensor, report: Report) -> None:
        prefix = "" if len(self.objective.turns) == 1 else f"{turn.name}_"
        report.logs[f"{prefix}loss"] = torch.stack([outcome.loss for outcome in outcomes]).mean()
        for name in outcomes[0].logs:
            report.logs[name] = torch.stack([outcome.logs[name] for outcome in outcomes]).mean()
        report.logs[f"{prefix}grad_norm"] = norm
