"""Trainer: one loop for a laptop and for many nodes, safe to stop at any moment.

Started by itself it is one process; started by `torchrun`, the processes share each batch (accelerate,
`DistributedDataParallel`; gloo on CPUs, NCCL on GPUs) and write one run. Data, noise and rates are functions of the
step, so a run that was killed and resumed gives the weights of one that was not: to the last bit on CPUs, with as many
threads and processes. Sharded training (FSDP, DeepSpeed) is refused, since a state would hold a part of the weights
only. On GPUs, and in fp16, nothing of this has been verified yet.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from rich.console import Console

from flowkit_models.data.loader import Batch, Draws, Samples, key, load_batches
from flowkit_models.models.base import ImageFlow
from flowkit_models.training.display import Display
from flowkit_models.training.distributed import agree, copy_from_first, on_first, start_processes
from flowkit_models.training.guard import in_batch
from flowkit_models.training.logs import Logs
from flowkit_models.training.objective import Objective
from flowkit_models.training.optim import make_optimizers
from flowkit_models.training.run_folder import RunFolder, plain
from flowkit_models.training.settings import Settings
from flowkit_models.training.signals import Stopped, StopSignals
from flowkit_models.training.state import TrainingState, load_state, save_state
from flowkit_models.training.step import Iteration, Report

Validate = Callable[[ImageFlow, int], Mapping[str, float]]
Initialize = Callable[[ImageFlow, Batch, Draws], object]


@dataclass(frozen=True)
class Result:
    """Result of `train`, the same on every process.

    Attributes:
        model: the averaged one if there is an average, in eval mode.
        step: the last iteration.
        best: the best score of a validation, −inf if there was none.
        skipped: iterations that were skipped because numbers were not finite.
        seconds: of training and validation, those before a resume included.
    """

    model: ImageFlow
    step: int
    best: float
    skipped: int
    seconds: float


def train(
    objective: Objective,
    samples: Samples,
    settings: Settings,
    out: str | os.PathLike[str],
    *,
    config: Mapping[str, Any] | None = None,
    validate: Validate | None = None,
    initialize: Initialize | None = None,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Result:
    """Trains an objective's model.

    Args:
        objective: its model is trained in place.
        samples: the data.
        settings: how.
        out: the folder of the run (`run_folder.RunFolder`), seen by all processes.
        config: what else describes the run, by groups: dataclasses, or what JSON has a word for. With the settings, as
            "training", it is saved in config.json, in the state, and in the metadata of each checkpoint under "run";
            a run can't be resumed with another one (`run_folder.check_same_config`).
        validate: scores the model, in eval mode, at a step, on the first process: metrics by name. The highest
            "score" is kept as best.safetensors; "psnr" is shown in the progress. It may write pictures of its own.
        initialize: is given the model, this process's samples of the first step and their random numbers, on all
            processes, before the first step of a new run: `flowkit.initialize` belongs here.
        resume: go on from the state in `out`; if there is none, start.
        overwrite: start anew where there is a run already.
        console: where to write; the terminal by default.

    Raises:
        ValueError: for settings that don't fit together, an objective with parameters that nobody trains, a folder
            that holds a run (see `RunFolder.open`), a damaged state.
        FloatingPointError: if `settings.patience` iterations in a row were not finite; it names the cause. The state
            on the disk has finite weights.
        Stopped: after SIGTERM or Ctrl-C, with the state saved. It is a `SystemExit` with the code 143 or 130.
    """
    console = console or Console()
    run = _Run(objective, settings, RunFolder(Path(out)), console)
    run.open({**(config or {}), "training": settings}, resume, overwrite)
    run.start(samples, initialize)
    run.loop(samples, validate)
    now = run.state.counters
    return Result(run.state.model.eval(), now.step, now.best, now.skipped, now.seconds)


class _Run:
    """One run, from its folder to its end."""

    display: Display
    state: TrainingState
    iteration: Iteration
    logs: Logs | None = None  # the first process writes them
    saved: int = 0  # the step of the state on the disk

    def __init__(self, objective: Objective, settings: Settings, folder: RunFolder, console: Console) -> None:
        if settings.precision == "fp16" and not all(phase.zero_grad for phase in objective.phases):
            raise ValueError("fp16: gradients at different loss scales can't be added (zero_grad=False); use bf16")
        self.processes = start_processes(settings)
        self.objective = objective.to(self.processes.device)
        self.settings, self.folder = settings, folder
        self.console = console if self.processes.is_main_process else Console(quiet=True)
        self.optimizers = make_optimizers(objective, {"model": settings.model, "discriminator": settings.discriminator})
        objective.model.train()
        self.signals = StopSignals()
        self.since = time.monotonic()

    def open(self, config: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
        """Prepares the folder."""
        self.config = json.dumps(plain(config))
        on_first(self.processes, lambda: self.folder.open(config, resume, overwrite))

    def start(self, samples: Samples, initialize: Initialize | None) -> None:
        """Takes the state from the disk, or makes a first one."""
        found = [self.folder.state.exists()]
        broadcast_object_list(found)  # of the first process
        if not found[0]:
            copy_from_first(self.processes, self.objective)
            if initialize is not None:
                self._initialize(samples, initialize)
        s = self.settings
        self.state = TrainingState(self.objective, self.optimizers, s.average, self.processes.scaler)
        if found[0]:
            content = load_state(self.folder.state)
            try:
                self.state.load_state_dict(content)
            except (RuntimeError, KeyError, TypeError, ValueError) as error:
                reason = " ".join(str(error).split())[:200]
                raise ValueError(f"{self.folder.state}: does not fit this objective ({reason})") from None
            self.saved = self.state.counters.step
            self.console.print(f"{self.folder.path}: goes on after step {self.saved}", highlight=False)
        self.iteration = Iteration(self.processes, self.objective, self.optimizers, s.accumulate, s.seed, self.signals)

    def _initialize(self, samples: Samples, initialize: Initialize) -> None:
        p, s = self.processes, self.settings
        batch = next(load_batches(samples, s.batch, [1], p.process_index, p.num_processes))
        spoiled = in_batch(batch)
        if agree(p, spoiled is not None, None).bad:
            why = spoiled.text if spoiled else "another process says why"
            raise ValueError(f"can't initialise the model from the first batch: {why}")
        torch.manual_seed(key(s.seed, "initialize"))
        initialize(self.objective.model, batch.to(p.device), Draws(s.seed, batch.index, p.device))

    def loop(self, samples: Samples, validate: Validate | None) -> None:
        """All iterations that are left."""
        p, s, now = self.processes, self.settings, self.state.counters
        steps = range(now.step + 1, s.steps + 1)
        pin = p.device.type == "cuda"
        batches = load_batches(samples, s.batch, steps, p.process_index, p.num_processes, s.workers, pin)
        with ExitStack() as stack:
            stack.callback(batches.close)
            stack.callback(self._release)
            if p.is_main_process:
                self.logs = Logs(self.folder, now.step, now.validated, s.tensorboard)
                stack.callback(self.logs.close)
            self.display = stack.enter_context(Display(self.console, s.steps, now.step, p.device))
            stack.enter_context(self.signals)
            if now.validated < now.step and self._validates():  # the run was stopped just before
                self._validate(validate)
            for batch in batches:
                report = self.iteration(now.step + 1, batch)
                now.step += 1
                self._record(report)
                self._tick()
                if self._validates() or now.step % s.save_every == 0 or report.stop is not None:
                    self._save()
                if report.stop is not None:
                    self._stop(report.stop)
                if self._validates():
                    self._validate(validate)

    def _record(self, report: Report) -> None:
        """Counts, averages, logs; raises FloatingPointError if too much in a row was not finite."""
        now, row = self.state.counters, {}
        if "model" in report.trained:
            self.state.average()
        if report.skipped:
            now.skipped, now.streak = now.skipped + 1, now.streak + 1
            self._log("skipped", {"why": report.skipped})
            self.display.say(f"step {now.step}: skipped, {report.skipped}")
            if now.streak >= self.settings.patience:
                raise FloatingPointError(
                    f"step {now.step}: {now.streak} iterations in a row were not finite; "
                    f"{report.skipped}; {self._kept()}"
                )
        else:
            now.streak = 0
            if now.step % self.settings.log_every == 0:
                row = self.iteration.reduce(report.logs)
                rates = {f"{name}_rate": one.settings.rate(now.step) for name, one in self.optimizers.items()}
                self._log("train", {**row, **rates})
        self.display.step(now.step, row)

    def _validates(self) -> bool:
        now, s = self.state.counters, self.settings
        return now.step % s.validate_every == 0 or now.step == s.steps

    def _validate(self, validate: Validate | None) -> None:
        """Scores the model on the first process, and keeps it if it is the best. A signal ends that at once."""
        now, model = self.state.counters, self.state.model
        metrics: list[dict[str, float]] = [{}]
        if validate is not None and self.processes.is_main_process:
            try:
                with self.signals.at_once(), torch.no_grad():
                    metrics = [{name: float(value) for name, value in validate(model.eval(), now.step).items()}]
            except Stopped:
                pass  # all processes must hear of it
        _, stop = agree(self.processes, False, self.signals.received)
        if stop is not None:
            self._stop(stop)
        broadcast_object_list(metrics)
        self.objective.model.train()
        now.validated = now.step
        if validate is not None:
            if "score" not in metrics[0]:
                raise ValueError(f'validate: must return a "score", the higher the better; got {list(metrics[0])}')
            best = metrics[0]["score"] > now.best
            if best:
                now.best = metrics[0]["score"]
                self._save_model(self.folder.best)
            self._log("validation", metrics[0])
            self.display.validation(now.step, metrics[0], best)
        self._tick()
        self._save()

    def _save(self) -> None:
        """Writes state and model, unless weights are not finite: then the last good ones stay."""
        if not self.state.finite():
            return
        self.saved = self.state.counters.step
        if self.logs is not None:
            self.logs.sync()
            save_state(self.folder.state, {"config": self.config, **self.state.state_dict()})
        self._save_model(self.folder.last)

    def _save_model(self, path: Path) -> None:
        if self.processes.is_main_process:
            self.state.model.save(path, step=str(self.state.counters.step), run=self.config)

    def _stop(self, number: signal.Signals) -> None:
        self.display.say(f"{number.name} after step {self.state.counters.step}: {self._kept()}")
        raise Stopped(number)

    def _kept(self) -> str:
        return f"{self.folder.state} has step {self.saved}" if self.saved else "no state was saved yet"

    def _log(self, kind: str, values: Mapping[str, float | str]) -> None:
        if self.logs is not None:
            self.logs.write({"kind": kind, "step": self.state.counters.step, **values})

    def _tick(self) -> None:
        self.state.counters.seconds += time.monotonic() - self.since
        self.since = time.monotonic()

    def _release(self) -> None:
        """Leaves the parameters as they came: all of them take gradients."""
        for optimizer in self.optimizers.values():
            optimizer.require_grad(True)
            optimizer.zero_grad()
