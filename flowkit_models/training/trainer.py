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
from typing import Any, NoReturn

import torch
from accelerate.utils import broadcast_object_list
from rich.console import Console

from flowkit_models.data.loader import Batch, Draws, Samples, key, load_batches
from flowkit_models.files import keep_copy
from flowkit_models.models.base import ImageFlow
from flowkit_models.training import folder_lock
from flowkit_models.training.display import Display
from flowkit_models.training.distributed import agree, copy_from_first, on_first, start_processes
from flowkit_models.training.divergence import LASTING, DivergenceCheck
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
    notes: Mapping[str, str] | None = None,
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
        notes: further metadata of each checkpoint, such as the τ that it recommends ("temperature").
        validate: scores the model, in eval mode, at a step, on the first process: metrics by name. The highest
            "score" is kept as best.safetensors; "psnr" is shown in the progress. It may write pictures of its own.
        initialize: is given the model, this process's samples of the first step and their random numbers, on all
            processes, before the first step of a new run: `flowkit.initialize` belongs here.
        resume: go on from the state in `out`; if there is none, start.
        overwrite: start anew where there is a run already.
        console: where to write; the terminal by default.

    Raises:
        ValueError: for settings that don't fit together, an objective with parameters that nobody trains, a folder
            that holds a run (see `RunFolder.open`) or in which another process trains, a damaged state. Samples that
            have a method `fingerprint`, which gives digests by name, must be those that the run began with.
        FloatingPointError: if `settings.patience` iterations in a row were not finite, or had a loss far above its
            own past (`divergence`); it names the cause. The state on the disk is from before that, and the run can go
            on from there with `settings.FIELDS_AFTER_FAILURE` changed.
        Stopped: after SIGTERM or Ctrl-C, with the state saved. It is a `SystemExit` with the code 143 or 130.
    """
    console = console or Console()
    run = _Run(objective, settings, RunFolder(Path(out)), console, notes or {})
    try:
        run.open({**(config or {}), "training": settings}, samples, resume, overwrite)
        run.start(samples, initialize)
        run.loop(samples, validate)
    finally:
        run.unlock()
    now = run.state.counters
    return Result(run.state.model.eval(), now.step, now.best, now.skipped, now.seconds)


class _Run:
    """One run, from its folder to its end."""

    display: Display
    state: TrainingState
    iteration: Iteration
    logs: Logs | None = None  # the first process writes them
    saved: int = 0  # the step of the state on the disk
    owed: bool = False  # a state, once numbers are well again
    locked: bool = False

    def __init__(
        self,
        objective: Objective,
        settings: Settings,
        folder: RunFolder,
        console: Console,
        notes: Mapping[str, str],
    ) -> None:
        if settings.precision == "fp16" and not all(phase.zero_grad for phase in objective.phases):
            raise ValueError("fp16: gradients at different loss scales can't be added (zero_grad=False); use bf16")
        self.processes = start_processes(settings)
        self.objective = objective.to(self.processes.device)
        self.settings, self.folder, self.notes = settings, folder, notes
        self.console = console if self.processes.is_main_process else Console(quiet=True)
        self.optimizers = make_optimizers(objective, {"model": settings.model, "discriminator": settings.discriminator})
        objective.model.train()
        self.signals = StopSignals()
        self.since = time.monotonic()

    def open(self, config: Mapping[str, Any], samples: Samples, resume: bool, overwrite: bool) -> None:
        """Locks and prepares the folder."""
        self.config = json.dumps(plain(config))
        self.data: dict[str, str] | None = None
        self.changed: list[str] = []

        def prepare() -> None:
            self.folder.path.mkdir(parents=True, exist_ok=True)
            self.locked = folder_lock.acquire(self.folder.path)
            fingerprint = getattr(samples, "fingerprint", None)
            self.data = fingerprint() if fingerprint is not None else None
            self.changed = self.folder.open(config, resume, overwrite, self.data)

        on_first(self.processes, prepare)

    def unlock(self) -> None:
        """Gives the folder back."""
        if self.locked:
            folder_lock.release(self.folder.path)

    def start(self, samples: Samples, initialize: Initialize | None) -> None:
        """Takes the state from the disk, or makes a first one."""
        found = [self.folder.state.exists()]
        broadcast_object_list(found)  # of the first process
        if not found[0]:
            copy_from_first(self.processes, self.objective)
            if initialize is not None:
                self._initialize(samples, initialize)
        s = self.settings
        check = DivergenceCheck(s.divergence)
        self.state = TrainingState(self.objective, self.optimizers, s.average, self.processes.scaler, check)
        if found[0]:
            content = load_state(self.folder.state)
            try:
                self.state.load_state_dict(content)
            except (RuntimeError, KeyError, TypeError, ValueError) as error:
                reason = " ".join(str(error).split())[:200]
                raise ValueError(f"{self.folder.state}: does not fit this objective ({reason})") from None
            self.saved = self.state.counters.step
            self.console.print(f"{self.folder.path}: goes on after step {self.saved}", highlight=False, soft_wrap=True)
            for change in self.changed:
                self.console.print(self._explained(change), highlight=False, soft_wrap=True)
        if s.compile:  # not before it is initialised and copied: the average stays as it is
            self.objective.model.compile()
        self.iteration = Iteration(self.processes, self.objective, self.optimizers, s.accumulate, s.seed, self.signals)

    def _explained(self, change: str) -> str:
        """A change of a resumed run, with what it does to rates that depend on the length."""
        if not change.startswith("--steps"):
            return change
        step, s = self.saved + 1, self.settings
        return (
            f"{change}: from step {step} on the learning rate is that of a run of {s.steps} steps, "
            f"{s.model.rate(step):.3g} in that step"
        )

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
        """Training loop over the iterations that are left."""
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
            if self.changed:  # the next resume goes on with them
                self._save(keep=False)
            if now.validated < now.step and self._validates():  # the run was stopped just before
                self._validate(validate)
            for batch in batches:
                report = self.iteration(now.step + 1, batch)
                now.step += 1
                self._record(report)
                self._tick()
                if self._validates() or now.step % s.save_every == 0 or report.stop is not None or self.owed:
                    self._save()
                if report.stop is not None:
                    self._stop(report.stop)
                if self._validates():
                    self._validate(validate)
            if self.owed:
                self.display.say(f"the last steps were not finite, or their loss too large: {self._kept()}")
        stop = agree(p, False, self.signals.received).stop
        if stop is not None:  # it came during the last validation or after
            self._stop(stop)

    def _record(self, report: Report) -> None:
        """Counts, averages, logs; raises FloatingPointError if too much in a row was not finite, or far too large."""
        now, row, check, patience = self.state.counters, {}, self.state.check, self.settings.patience
        if "model" in report.trained:
            self.state.average()
        if report.skipped:
            now.skipped, now.streak = now.skipped + 1, now.streak + 1
            now.suspect += not report.of_data
            self._log("skipped", {"why": report.skipped})
            self.display.say(f"step {now.step}: skipped, {report.skipped}")
            if now.streak >= patience:
                self._fail(f"{now.streak} iterations in a row were not finite; {report.skipped}", now.streak)
        else:
            now.streak = now.suspect = 0
            far = check(now.step, report.losses)
            if far and check.streak == LASTING:
                self.display.say(f"step {now.step}: warning: {far}; the run may be lost")
            if far and check.streak >= patience:
                terms = ", ".join(f"{name} {value:.3g}" for name, value in self.iteration.reduce(report.logs).items())
                why = f"the run has diverged; {far}, {check.streak} times in a row ({terms})"
                self._fail(why, now.step + 1 - check.began)
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
                with self.signals.at_once(), torch.no_grad(), torch.compiler.set_stance("force_eager"):
                    metrics = [{name: float(value) for name, value in validate(model.eval(), now.step).items()}]
            except Stopped:
                pass  # all processes must hear of it
        stop = agree(self.processes, False, self.signals.received).stop
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

    def _save(self, keep: bool = True) -> None:
        """Writes state and model, unless the model makes numbers that are not finite, or far too large.

        Then the last ones stay. Nor need weights be good that were, until an iteration with them was: the state before
        is kept as well (`keep`).
        """
        now, check = self.state.counters, self.state.check
        far = check.streak >= (LASTING if now.step >= self.settings.steps else 1)
        self.owed = now.suspect > 0 or far or not self.state.finite()
        if self.owed:
            return
        self._save_model(self.folder.last)  # first: of a run that is killed between both, the state makes it again
        if self.logs is not None:
            self.logs.sync()
            if keep and 0 < self.saved < now.step - now.streak:
                keep_copy(self.folder.state, self.folder.previous)
            save_state(self.folder.state, {"config": self.config, "data": self.data, **self.state.state_dict()})
        self.saved = now.step

    def _fail(self, why: str, steps: int) -> NoReturn:
        """Ends the run after so many bad steps, with a state on the disk that an iteration was well after."""
        step = self.state.counters.step
        if self.logs is not None:
            self._log("failed", {"why": why})
            # weights that are not finite are none that were saved
            if self.saved >= step - steps and self.state.finite() and self.folder.previous.exists():
                self.state.load_state_dict(load_state(self.folder.previous))
                self.folder.previous.replace(self.folder.state)
                self.saved = self.state.counters.step
                self._save_model(self.folder.last)
        again = "--resume with a smaller --lr or --clip-norm goes on from there"
        remedy = again if self.saved else "start anew: --overwrite and a smaller --lr"
        raise FloatingPointError(f"step {step}: {why}; {self._kept()}; {remedy}")

    def _save_model(self, path: Path) -> None:
        if self.processes.is_main_process:
            self.state.model.save(path, step=str(self.state.counters.step), run=self.config, **self.notes)

    def _stop(self, number: signal.Signals) -> None:
        self.display.say(f"{number.name} after step {self.state.counters.step}: {self._kept()}")
        raise Stopped(number, told=True)

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
