"""Time, operations and memory of tasks, all measured in one way; tables of them.

Everything runs in one process, in turns, round after round, and ratios are taken within a round: what disturbs the
machine for a while disturbs all of it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmark.options import Options
from flowkit_models.devices import find_device
from flowkit_models.evaluation.tables import markdown
from flowkit_models.terminal import progress_bar

Label = tuple[str, ...]
"""First cells of a task's row; they tell tasks apart."""

PRODUCT = ("matrix product",)
"""Label of the product that is timed beside all others: the rate that the machine can reach."""


@dataclass(frozen=True)
class Task:
    """A piece of work to measure.

    Attributes:
        run: does it once.
        memory: its bytes, where they are asked for.
        to: label of the task that its time is compared with.
        times: how often that one counts.
    """

    run: Callable[[], object]
    memory: Callable[[], int] | None = None
    to: Label | None = None
    times: int = 1


class Spread(NamedTuple):
    """A median and its quartiles."""

    median: float
    low: float
    high: float


class Measured(NamedTuple):
    """Results of a task.

    Attributes:
        seconds: of a call, in each round.
        flops: floating-point operations (`flops`).
        share: operations per second over those of the matrix product in the same round.
        bytes: memory, where it was asked for.
        ratio: time over that of the task it is compared with, both of the same round.
        to: that task, in words.
    """

    seconds: list[float]
    flops: int
    share: Spread
    bytes: int | None = None
    ratio: Spread | None = None
    to: str = ""


@dataclass(frozen=True)
class Table:
    """A table of results, and the numbers that it was made of.

    Attributes:
        title: its heading.
        headings: of the columns; the first column names the row.
        rows: cells as text.
        notes: lines below it.
        numbers: for results.json.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Markdown."""
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"## {self.title}\n\n{markdown(self.headings, self.rows)}\n\n{notes}\n"


def measure(tasks: Mapping[Label, Task], options: Options, console: Console) -> dict[Label, Measured]:
    """Measures tasks side by side: each is called once, then timed in turns, then counted and weighed."""
    device = find_device(options.device)
    product = matrix_product(device, (64,) if options.quick else (1024, 2048, 3072))
    works = {label: task.run for label, task in tasks.items()} | {PRODUCT: product}
    with progress_bar(console, len(works) * (options.rounds + 2), transient=True) as tick:
        seconds = interleave(works, options.rounds, options.calls, device, lambda label: tick(", ".join(label)))
        operations = {}
        for label, work in works.items():
            tick(f"{', '.join(label)}: operations and memory")
            operations[label] = flops(work)
        return {
            label: Measured(
                seconds[label],
                operations[label],
                ratios(seconds[PRODUCT], seconds[label], operations[label] / operations[PRODUCT]),
                task.memory() if task.memory else None,
                ratios(seconds[label], seconds[task.to], 1 / task.times) if task.to else None,
                f"{task.times} × {task.to[-1]}".removeprefix("1 × ") if task.to else "",
            )
            for label, task in tasks.items()
        }


def interleave(
    works: Mapping[Label, Callable[[], object]],
    rounds: int,
    calls: int = 1,
    device: torch.device | str = "cpu",
    tick: Callable[[Label], object] = lambda label: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Label, list[float]]:
    """Times works in turns. Each round calls every one of them, and begins with another one than the round before.

    What one leaves behind (caches, a warm processor) so is not always left to the same one. Each runs once before
    anything is timed.

    Args:
        works: by label.
        rounds: how often each has its turn.
        calls: how often it is called in a turn; the turn counts as their mean.
        device: where they run; a GPU is waited for.
        tick: called before each turn.
        clock: seconds.

    Returns:
        Seconds per call in each round, by label.
    """
    labels = list(works)
    seconds: dict[Label, list[float]] = {label: [] for label in labels}
    for i in range(-1, rounds):
        first = max(i, 0) % len(labels)
        for label in labels[first:] + labels[:first]:
            tick(label)
            wait(device)
            start = clock()
            for _ in range(calls if i >= 0 else 1):
                works[label]()
            wait(device)
            if i >= 0:
                seconds[label].append((clock() - start) / calls)
    return seconds


def wait(device: torch.device | str) -> None:
    """Waits until a GPU has done what it was asked for."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles (inclusive, interpolated).

    Example:
        >>> spread([4.0, 1.0, 2.0, 3.0, 5.0])
        Spread(median=3.0, low=2.0, high=4.0)
    """
    return Spread(*np.percentile(values, (50, 25, 75)).tolist())


def ratios(seconds: Sequence[float], base: Sequence[float], factor: float = 1.0) -> Spread:
    """Spread of times over those of another task, each pair of one round, times a factor.

    Example:
        >>> ratios([2.0, 20.0, 2.0], [1.0, 10.0, 1.0], 0.5).median
        1.0
    """
    return spread([factor * one / other for one, other in zip(seconds, base, strict=True)])


@cache
def matrix_product(device: torch.device, sizes: tuple[int, ...]) -> Callable[[], object]:
    """A product of square float32 matrices of the size with the highest rate."""

    def product(size: int) -> Callable[[], object]:
        a, b, out = (torch.ones(size, size, device=device) for _ in range(3))
        return lambda: torch.mm(a, b, out=out)

    works: dict[Label, Callable[[], object]] = {(str(size),): product(size) for size in sizes}
    seconds = interleave(works, 3, device=device)
    best = min(sizes, key=lambda size: min(seconds[str(size),]) / size**3)
    return works[str(best),]


def flops(work: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products in a piece of work, two per multiply-add.

    Those of a backward pass, and of a forward pass that it repeats, are among them. Elementwise operations are not.
    The formulas are those of torch's `FlopCounterMode`, which itself can't follow modules that run in a backward pass.
    """
    with torch.compiler.set_stance("force_eager"), _Counter() as counter:
        work()
    return counter.total


class _Counter(TorchDispatchMode):
    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket not in flop_registry:
            with self:  # an operation that is made of others
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if func._overloadpacket in flop_registry:
            self.total += int(flop_registry[func._overloadpacket](*args, **kwargs, out_val=out))
        return out


def table(title: str, headings: Sequence[str], found: Mapping[Label, Measured], notes: Sequence[str] = ()) -> Table:
    """What `measure` found: a row for each task, under the headings of its label."""
    rows = [
        [
            *label,
            duration(spread(one.seconds).median),
            f"{quartiles(one.ratio)} × {one.to}" if one.ratio else "",
            f"{one.flops / 1e9:.3g}",
            f"{one.share.median:.2f}",
            "" if one.bytes is None else megabytes(one.bytes),
        ]
        for label, one in found.items()
    ]
    notes = [
        "time, ratio: medians over the rounds, and the ratio's quartiles",
        "share: operations per second over those of a large float32 matrix product in the same round",
        "memory: the most held beside parameters, and in training beside gradients and Adam's state",
        *notes,
    ]
    numbers = {", ".join(label): one._asdict() for label, one in found.items()}
    return Table(title, [*headings, "time", "ratio", "GFLOP", "share", "memory"], rows, notes, numbers)


def duration(seconds: float) -> str:
    """Three digits, in ms or s.

    Example:
        >>> duration(0.01234), duration(12.34)
        ('12.3 ms', '12.3 s')
    """
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def megabytes(size: float) -> str:
    """Three digits, in MB of 10⁶ bytes.

    Example:
        >>> megabytes(1.234e6), megabytes(1332e6)
        ('1.23 MB', '1332 MB')
    """
    return f"{size / 1e6:.3g} MB" if size < 999.5e6 else f"{size / 1e6:.0f} MB"


def quartiles(ratio: Spread) -> str:
    """A ratio with its quartiles.

    Example:
        >>> quartiles(Spread(1.0, 0.98, 1.03))
        '1.00 [0.98, 1.03]'
    """
    return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
