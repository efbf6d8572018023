"""One iteration of training: its phases, each a forward, a backward, a check, and an optimizer step."""

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
from flowkit_models.diagnostics.nonfinite import Source, find_source
from flowkit_models.training.distributed import agree
from flowkit_models.training.guard import Guarded, in_batch, in_gradients
from flowkit_models.training.objective import Network, Objective, Outcome, Phase
from flowkit_models.training.optim import Optimizer
from flowkit_models.training.signals import StopSignals


@dataclass
class Report:
    """Report of an iteration, the same on all processes.

    Attributes:
        trained: the networks that took an optimizer step.
        skipped: the phase that was not finite, and why: it changed nothing, and the phases after it did not run.
        of_data: it was because of samples, not of the model.
        losses: of the phases that train the model, the mean of all processes, without what a discriminator opposes; by
            phase and terms.
        stop: the signal that asks to stop, on any process.
        logs: scalars by name, on this process; `reduce` makes them the mean of all.
    """

    trained: set[Network] = field(default_factory=set)
    skipped: str = ""
    of_data: bool = False
    losses: dict[str, float] = field(default_factory=dict)
    stop: signal.Signals | None = None
    logs: dict[str, Tensor] = field(default_factory=dict)


class Iteration:
    """Runs iterations.

    Args:
        accelerator: the processes, the device, the precision.
        objective: on the device.
        optimizers: by network.
        accumulate: micro-batches into which a process's samples are split, one after the other through each phase.
        seed: of the run.
        signals: asked whether to stop.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        objective: Objective,
        optimizers: Mapping[Network, Optimizer],
        accumulate: int,
        seed: int,
        signals: StopSignals,
    ) -> None:
        self.accelerator, self.objective, self.optimizers = accelerator, objective, optimizers
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
        micro = batch.to(self.accelerator.device).split(self.accumulate)
        images: list[Tensor | None] = [None] * len(micro)
        for phase in self.objective.active(step):
            images = self._run_phase(phase, step, micro, images, spoiled, report)
            if report.skipped:
                break
        return report

    def reduce(self, logs: Mapping[str, Tensor]) -> dict[str, float]:
        """The mean of logged scalars over all processes."""
        values = torch.stack([value.detach().float() for value in logs.values()])
        mean: Any = self.accelerator.reduce(values, "mean")
        return dict(zip(logs, mean.tolist(), strict=True))

    def _run_phase(
        self,
        phase: Phase,
        step: int,
        micro: list[Batch],
        images: list[Tensor | None],
        spoiled: Source | None,
        report: Report,
    ) -> list[Tensor | None]:
        optimizer = self.optimizers[phase.trains]
        optimizer.set_rate(step)
        for other in self.optimizers.values():
            other.require_grad(other is optimizer)
        if phase.zero_grad:
            optimizer.zero_grad()
        buffers = [buffer.clone() for buffer in self.buffers]
        outcomes = []
        source = spoiled
        for batch, image in zip(micro, images, strict=True):
            with nullcontext() if batch is micro[-1] else self.accelerator.no_sync(self.module):
                outcome = self._forward(self.module, phase, step, batch, image)
                self.accelerator.backward(outcome.loss / len(micro))
            outcomes.append(outcome._replace(loss=outcome.loss.detach()))
            source = source or self.guarded.source
        scaler = self.accelerator.scaler
        if scaler is not None:
            optimizer.unscale(scaler)
        norm = optimizer.norm()
        finite = [outcome.loss.isfinite() for outcome in outcomes]
        fine = source is None and bool(torch.stack([*finite, norm.isfinite()]).all())
        loss = torch.stack([o.loss if o.opposed is None else o.loss - o.opposed for o in outcomes]).mean()
        bad, report.stop, mean = agree(self.accelerator, not fine, self.signals.received, float(loss))
        if bad:
            cause, report.skipped = self._explain(phase, step, micro, images, source, [bool(f) for f in finite])
            report.of_data = cause.rank == 0
            for buffer, before in zip(self.buffers, buffers, strict=True):
                buffer.copy_(before)
            optimizer.zero_grad()
        else:
            optimizer.step(norm, scaler)
            report.trained.add(phase.trains)
            if phase.trains == "model":
                report.losses[self._terms(phase, outcomes)] = mean
            self._log(phase, outcomes, norm, report)
        if scaler is not None:
            scaler.update()
        return [outcome.image for outcome in outcomes]

    def _forward(self, run: Any, phase: Phase, step: int, batch: Batch, image: Tensor | None) -> Outcome:
        draws = Draws(self.seed, batch.index, self.accelerator.device)
        outcome: Outcome = run(phase.name, batch, draws, step, image)
        return outcome

    @torch.no_grad()
    def _explain(
        self,
        phase: Phase,
        step: int,
        micro: list[Batch],
        images: list[Tensor | None],
        source: Source | None,
        finite: list[bool],
    ) -> tuple[Source, str]:
        """The source of what was not finite, of all processes' findings the one nearest to the cause; and in words."""
        if source is None:
            i = finite.index(False) if False in finite else -1
            with self.accelerator.autocast():
                source = find_source(
                    self.objective, lambda: self._forward(self.guarded.run, phase, step, micro[i], images[i])
                )
        source = source or in_gradients(self.optimizers[phase.trains].gradients)
        found: list[Source] = gather_object([source])
        scaler = self.accelerator.scaler
        scale = "" if scaler is None else f" (at loss scale {scaler.get_scale():g})"
        return min(found), f"{phase.name}: {min(found).text}{scale}"

    def _terms(self, phase: Phase, outcomes: list[Outcome]) -> str:
        """Name of a loss: its phase, if there are several, and its terms, since not each step has all of them."""
        terms = [name for name in outcomes[0].logs if name != "bits_per_dim"]
        return f"the loss of {phase.name}, {' + '.join(terms)}," if terms else f"the loss of {phase.name},"

    def _log(self, phase: Phase, outcomes: list[Outcome], norm: Tensor, report: Report) -> None:
        prefix = "" if len(self.objective.phases) == 1 else f"{phase.name}_"
        report.logs[f"{prefix}loss"] = torch.stack([outcome.loss for outcome in outcomes]).mean()
        for name in outcomes[0].logs:
            report.logs[name] = torch.stack([outcome.logs[name] for outcome in outcomes]).mean()
        report.logs[f"{prefix}grad_norm"] = norm
