"""Measures speed and memory: Glow against other libraries, the models at full size, growth, and the bars to clear.

Everything runs in one process, in turns; ratios are taken within a round. Timings mean something on a machine that
does nothing else. Each subcommand prints its tables and writes table.md and results.json to --out.
docs/benchmarks.md explains them and shows the results.
"""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, which counts memory, else writes to the terminal

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flowkit_models.benchmarks import glow, report
from flowkit_models.benchmarks.contenders import CONTENDERS, Sizes
from flowkit_models.benchmarks.stopwatch import Tick
from flowkit_models.images import check_writable
from flowkit_models.recipe import run as run_recipe


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every subcommand."""

    out: Path = Path("runs/benchmark")
    """Folder of the results."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU, if there is one."""
    threads: int = 2
    """Of the CPU."""
    rounds: int = 15
    """How often everything has its turn."""
    seed: int = 0
    """Of weights and data."""
    quick: bool = False
    """Toy sizes and one round: to see that it runs."""

    def prepare(self) -> str:
        """Sets the threads; returns the device.

        Raises:
            ValueError: for numbers that make no sense, or a GPU that is not there.
        """
        if self.threads < 1 or self.rounds < 1:
            raise ValueError("threads and rounds must be at least 1")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: torch sees no GPU")
        check_writable(self.out)
        torch.set_num_threads(self.threads)
        return "cpu" if self.device == "cpu" or not torch.cuda.is_available() else "cuda"


@dataclass(frozen=True, kw_only=True)
class Glow(Options):
    """Glow, 3×32×32, in several libraries: training step, inverse, memory, precision, graph breaks."""

    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Which ones; the hand-written one is always among them."""
    calls: int = 3
    """Training steps or inverses in a turn."""
    batch: int = 16
    """Images per training step."""
    levels: int = 2
    """L."""
    steps: int = 8
    """K."""
    hidden: int = 64
    """Width of the couplings' networks."""
    trained: int = 50
    """Training steps before precision is measured."""
    compiled: bool = False
    """Through torch.compile."""
    channels_last: bool = False
    """Images and weights in that memory format."""

    def run(self, device: str, console: Console) -> list[report.Results]:
        """The tables."""
        sizes = Sizes(self.levels, self.steps, self.hidden, batch=self.batch)
        rounds, calls, trained = self.rounds, self.calls, self.trained
        if self.quick:
            sizes, rounds, calls, trained = Sizes(2, 1, 8, 8, 2), 1, 1, 2
        how = glow.Conditions(device, rounds, calls, self.seed, trained, self.compiled, self.channels_last)
        with progress(console, glow.turns(self.contenders, how)) as tick:
            return glow.compare(self.contenders, sizes, how, tick)


@contextmanager
def progress(console: Console, total: int) -> Iterator[Tick]:
    """A bar; gives the function that moves it on."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda name: bar.update(task, advance=1, description=name)


def main(options: Glow) -> None:
    """Measures, prints, writes."""
    device = options.prepare()
    console = Console()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the other libraries
        results = options.run(device, console)
    for result in results:
        console.print(result.as_rich())
    about = report.protocol(options, device)
    report.write(options.out, results, about)
    console.print(f"see {options.out}: table.md, results.json", highlight=False)


def run(arguments: list[str]) -> int | str:
    """Runs the recipe; returns 0, or one line that says what was wrong."""
    return run_recipe(lambda: main(tyro.cli(Glow, args=arguments, description=__doc__)))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
