"""Display of a training run: a bar on a terminal; elsewhere a line at the first step, each minute, each validation."""

import time
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType

import psutil
import torch
from rich.console import Console
from rich.table import Table

from flowkit_models.terminal import make_progress

EVERY = 60.0
"""Seconds between lines where there is no terminal."""


class Display:
    """Progress on a console: bits/dim of the last steps, held-out PSNR, speed, time left, memory.

    Args:
        console: where to write.
        steps: of the whole run.
        done: of an earlier part of it.
        device: whose memory counts.
    """

    def __init__(self, console: Console, steps: int, done: int, device: torch.device) -> None:
        self._progress = make_progress(console, status=True)
        self._task = self._progress.add_task("training", total=steps, completed=done, status="")
        self._device = device
        self._bits: deque[float] = deque(maxlen=20)
        self._tested = ""
        self._steps, self._done, self._since = steps, done, time.monotonic()
        self._losses = ""
        self._next = 0.0

    def __enter__(self) -> "Display":
        self._progress.start()
        self._since = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._progress.stop()

    def step(self, step: int, row: Mapping[str, float]) -> None:
        """After each step, with what was logged of it."""
        if "bits_per_dim" in row:
            self._bits.append(row["bits_per_dim"])
        self._progress.update(self._task, completed=step, status=self._status())
        losses = [f"{name.replace('_', ' ')} {x:.4g}" for name, x in row.items() if name.endswith("loss")]
        self._losses = ", ".join(losses) or self._losses
        if not self._progress.console.is_terminal and time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY
            known = ", ".join(filter(None, [self._losses, self._status()]))
            self.say(f"step {step} of {self._steps}: {known}{self._left(step)}")

    def _left(self, step: int) -> str:
        """Time left, by the mean time of the steps so far, validations included."""
        seconds = (time.monotonic() - self._since) * (self._steps - step) / max(1, step - self._done)
        return f", {timedelta(seconds=round(seconds))} left"

    def validation(self, step: int, metrics: Mapping[str, float], best: bool) -> None:
        """After a validation: the table of its metrics, or a line of them where there is no terminal."""
        if "psnr" in metrics:
            self._tested = f"{metrics['psnr']:.2f} dB held out"
        self._progress.update(self._task, status=self._status())
        if self._progress.console.is_terminal:
            table = Table(title=f"step {step}" + (", the best so far" if best else ""))
            for name in metrics:
                table.add_column(name, justify="right")
            table.add_row(*(f"{value:.4f}" for value in metrics.values()))
            self._progress.console.print(table)
        else:
            numbers = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            self._next = time.monotonic() + EVERY
            self.say(f"step {step}: {self._status()}{self._left(step)}; {numbers}{', the best so far' if best else ''}")

    def say(self, text: str) -> None:
        """A line of its own."""
        self._progress.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _status(self) -> str:
        speed = self._progress.tasks[0].speed
        known = [f"{sum(self._bits) / len(self._bits):.2f} bits/dim"] if self._bits else []
        known += [self._tested] if self._tested else []
        known += [f"{speed:.2g} it/s" if speed < 10 else f"{speed:.0f} it/s"] if speed else []
        return ", ".join([*known, f"{self._memory() / 2**30:.2f} GiB"])

    def _memory(self) -> int:
        """Bytes: the most that torch has taken of a GPU, or what the process holds."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return int(psutil.Process().memory_info().rss)
