"""Measures speed and memory: Glow against other libraries, the models at full size, growth, and the bars to clear.

Everything runs in one process, in turns; ratios are taken within a round. Timings mean something on a machine that
does nothing else. Each subcommand prints its tables and writes table.md and results.json to --out.
docs/benchmarks.md explains them and shows the results.
"""

import os
import sys
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, which counts memory, else writes to the terminal

if not __package__:  # started as `python recipes/benchmark`: this folder is the package `benchmark`
    sys.path[0] = str(Path(__file__).parents[1])

import torch
import tyro
from rich.console import Console

from benchmark import bars, glow, growth, models, report
from benchmark.contenders import CONTENDERS, Sizes
from benchmark.models import PARTS, Part
from benchmark.subjects import Conditions, check_models, full_size
from flowkit_models.devices import find_device
from flowkit_models.images.image_file import check_writable
from flowkit_models.progress import progress_bar
from flowkit_models.training.recipe import run as run_recipe


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
    tf32: bool = False
    """Let a GPU compute float32 products in TF32."""
    quick: bool = False
    """Toy sizes and one round: to see that it runs."""

    def prepare(self) -> str:
        """Sets the threads; returns the device.

        Raises:
            ValueError: for numbers that make no sense, or a GPU that is not there.
        """
        if self.threads < 1 or self.rounds < 1:
            raise ValueError("threads and rounds must be at least 1")
        device = str(find_device(self.device))
        check_writable(self.out)
        torch.set_num_threads(self.threads)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.tf32
        return device


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
        with progress_bar(console, glow.turns(self.contenders, how), transient=True) as tick:
            return glow.compare(self.contenders, sizes, how, tick)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Options of the subcommands that measure image models."""

    rounds: int = 5
    """How often everything has its turn."""
    hr: int = 160
    """Side of the HR crops for training, rounded down to what a model's squeezes divide."""
    lr: int = 40
    """Side of the LR image for draws."""
    large: int = 640
    """HR side of the large image."""
    weights: Path | None = None
    """A checkpoint in place of fresh weights; for a single model."""

    def conditions(self, device: str) -> Conditions:
        """As the measurements take them."""
        if self.quick:
            return Conditions(device, 1, self.seed, 32, 8, 64, (64,), small=True)
        if min(self.hr, self.lr, self.large) < 1:
            raise ValueError("hr, lr and large must be at least 1")
        return Conditions(device, self.rounds, self.seed, self.hr, self.lr, self.large, weights=self.weights)


@dataclass(frozen=True, kw_only=True)
class Models(ModelOptions):
    """The published models at full size: time, memory, and share of the rate of a matrix product."""

    models: tuple[str, ...] = tuple(full_size())
    """Which ones."""
    parts: tuple[Part, ...] = PARTS
    """Training step, plain and lean; one draw and five; 4 temperatures × 3 draws; the large image."""
    batch: int = 1
    """Crops per training step."""

    def run(self, device: str, console: Console) -> list[report.Results]:
        """The table."""
        check_models(self.models)
        how = self.conditions(device)
        if how.weights is not None and len(self.models) > 1:
            raise ValueError("--weights goes with a single model in --models")
        with progress_bar(console, len(self.models) * models.turns(self.parts, how), transient=True) as tick:
            found = {name: models.measure(name, self.parts, how, self.batch, tick) for name in self.models}
        return [models.table(found, how)]


@dataclass(frozen=True, kw_only=True)
class Growth(ModelOptions):
    """Time and memory against the size of the image, K, draws and batch: a table and growth.png."""

    model: str = "hcflow_sr_x4"
    """Which one."""
    size: tuple[int, ...] = growth.VALUES["size"]
    """HR sides."""
    depth: tuple[int, ...] = growth.VALUES["depth"]
    """K."""
    draws: tuple[int, ...] = growth.VALUES["draws"]
    """n."""
    batch: tuple[int, ...] = growth.VALUES["batch"]
    """Crops per training step."""

    def run(self, device: str, console: Console) -> list[report.Results]:
        """The table, and the plot."""
        check_models([self.model])
        how = self.conditions(device)
        values = {"size": self.size, "depth": self.depth, "draws": self.draws, "batch": self.batch}
        if self.quick:
            values = {"size": (16, 32), "depth": (1, 2), "draws": (1, 2), "batch": (1, 2)}
        if any(value < 1 for chosen in values.values() for value in chosen):
            raise ValueError("size, depth, draws and batch must be at least 1")
        values = {axis: chosen for axis, chosen in values.items() if chosen}
        with progress_bar(console, growth.turns(how, values), transient=True) as tick:
            points = growth.measure(self.model, how, values, tick)
        growth.plot(points, self.out / "growth.png")
        return [growth.table(self.model, points, how)]


@dataclass(frozen=True, kw_only=True)
class Bars(ModelOptions):
    """What flowkit has to reach, beside what it reaches here."""

    only: tuple[str, ...] = tuple(bars.BARS)
    """Which bars."""
    models: tuple[str, ...] = tuple(full_size())
    """Those whose share of the machine's rate is asked for."""
    glow_rounds: int = 25
    """How often everything has its turn, of a Glow."""

    def run(self, device: str, console: Console) -> list[report.Results]:
        """The table."""
        check_models(self.models)
        unknown = [name for name in self.only if name not in bars.BARS]
        if unknown:
            raise ValueError(f"no bar {unknown[0]!r}; there are {', '.join(bars.BARS)}")
        sizes, how = Sizes(), glow.Conditions(device, self.glow_rounds, seed=self.seed)
        if self.quick:
            sizes, how = Sizes(2, 1, 8, 8, 2), glow.Conditions(device, 1, 1, self.seed, 2)
        found = {}
        with progress_bar(console, len(self.only), transient=True) as tick:
            for name in self.only:
                tick(name)
                say = partial(tick, advance=0)
                setting = bars.Setting(sizes, how, self.conditions(device), self.models, say)
                found[name] = bars.BARS[name].measure(setting)
        return [bars.table(found)]


def main(options: Glow | Models | Growth | Bars) -> None:
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


def parse(arguments: list[str]) -> Glow | Models | Growth | Bars:
    """The command line: a subcommand and its options."""
    chosen: Any = Glow | Models | Growth | Bars
    options: Glow | Models | Growth | Bars = tyro.cli(chosen, args=arguments, description=__doc__)
    return options


def run(arguments: list[str]) -> int | str:
    """Runs the recipe; returns 0, or one line that says what was wrong."""
    return run_recipe(lambda: main(parse(arguments)))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
