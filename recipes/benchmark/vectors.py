"""Flows of vectors in several libraries, eager and compiled: training steps and draws at several sizes and batches."""

import time
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from rich.console import Console

from benchmark.measure import Label, Table, duration, interleave
from benchmark.options import Options
from benchmark.vector_flows import KINDS, LIBRARIES, VectorFlow, Widths, is_there, vector_flow
from flowkit_models.devices import find_device
from flowkit_models.terminal import progress_bar


@dataclass(frozen=True, kw_only=True)
class Vectors(Options):
    """Flows of vectors, a few dozen small layers, in several libraries: training step and draws."""

    flows: tuple[str, ...] = tuple(LIBRARIES)
    """Which ones; all are compared with the first."""
    kinds: tuple[str, ...] = tuple(KINDS)
    """Couplings that are affine or rational-quadratic splines, and autoregressive flows of both."""
    features: tuple[int, ...] = (8, 64, 512)
    """Numbers in a vector, D."""
    batch: tuple[int, ...] = (64, 1024)
    """Vectors in a training step, or draws."""
    steps: tuple[int, ...] = (8,)
    """Couplings, or autoregressive maps, K."""
    hidden: int = 128
    """Width of the networks, which have two hidden layers; of autoregressive flows at least D."""
    longest: int = 64
    """Autoregressive flows are drawn from, and measured, up to this D."""
    threads: int = 1
    """Of the CPU."""
    rounds: int = 25
    """How often everything has its turn."""
    calls: int = 3
    """Training steps or draws in a turn."""

    def toy(self) -> Self:
        """Small ones, without a compiler."""
        flows = tuple(name for name in self.flows if "compiled" not in name)
        return replace(self, flows=flows, rounds=1, calls=1, steps=(2,), hidden=8, features=(4,), batch=(3,))

    def measure(self, console: Console) -> list[Table]:
        """A table of the least times."""
        rows, numbers = [], {}
        sizes = [
            (kind, features, steps, batch)
            for kind in self.kinds
            for features in self.features
            for steps in self.steps
            for batch in self.batch
            if not kind.startswith("ar") or features <= self.longest
        ]
        with progress_bar(console, len(sizes), transient=True) as tick:
            for kind, features, steps, batch in sizes:
                tick(f"{kind}, D = {features}, K = {steps}, batch {batch}")
                for (what, name), (seconds, ratio) in self.race(kind, features, steps, batch).items():
                    row = [kind, str(features), str(steps), str(batch), what, name]
                    rows.append([*row, duration(seconds), f"{ratio:.2f}"])
                    numbers[", ".join(row)] = {"seconds": seconds, "ratio": ratio}
        notes = [
            "time: the least of the rounds; of a CPU, its own time, which others on the machine don't lengthen as much",
            f"ratio: over that of {self.flows[0]}",
            "training step: log-densities and gradients, without an optimiser",
        ]
        headings = ["", "D", "K", "batch", "", "", "time", "ratio"]
        title = f"Flows of vectors: K steps, networks of {self.hidden} × {self.hidden}"
        return [Table(title, headings, rows, notes, numbers)]

    def race(self, kind: str, features: int, steps: int, batch: int) -> dict[Label, tuple[float, float]]:
        """Least seconds, and their ratio to those of the first flow, in turns."""
        device = find_device(self.device)
        torch.compiler.reset()
        works: dict[Label, Any] = {}
        for name in self.flows:
            if not is_there(name, kind, features):
                continue
            flow = vector_flow(name, features, kind, Widths(steps=steps, hidden=self.hidden), self.seed)
            flow.module.to(device)
            works["training step", name] = _step(flow, torch.randn(batch, features, device=device))
            works["sample", name] = _draws(flow, batch)
        clock = time.process_time if device.type == "cpu" else time.perf_counter
        seconds = interleave(works, self.rounds, self.calls, device, clock=clock)
        least = {label: min(times) for label, times in seconds.items()}
        return {label: (one, one / least[label[0], self.flows[0]]) for label, one in least.items()}


def _step(flow: VectorFlow, x: torch.Tensor) -> Any:
    def step() -> None:
        flow.module.zero_grad()
        (-flow.log_prob(x).mean()).backward()

    return step


def _draws(flow: VectorFlow, count: int) -> Any:
    @torch.no_grad()
    def draw() -> None:
        flow.sample(count)

    return draw
