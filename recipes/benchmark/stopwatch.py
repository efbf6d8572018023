"""Timings that can be compared: everything runs in one process, in turns, round after round."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

Task = Callable[[], object]
"""Something to time, such as a training step."""

Tick = Callable[[str], object]
"""Called with the name of what runs next, for a progress bar."""

Rounds = Mapping[str, Sequence[float]]
"""Seconds per call in each round, by the name of the task."""


def quiet(name: str) -> None:
    """A `Tick` that shows nothing."""


class Spread(NamedTuple):
    """A median and its quartiles."""

    median: float
    low: float
    high: float


def interleave(
    tasks: Mapping[str, Task],
    rounds: int,
    calls: int = 1,
    device: torch.device | str = "cpu",
    tick: Tick = quiet,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Times tasks in turns. Each round calls every one of them, and begins with another one than the round before.

    What disturbs the machine for a while so disturbs all of them, and what a task leaves behind (caches, a warm
    processor) is not always left to the same one. Each task runs once before anything is timed.

    Args:
        tasks: by name.
        rounds: how often each has its turn.
        calls: how often it is called in a turn; the turn counts as their mean.
        device: where they run; a GPU is waited for.
        tick: called before each turn.
        clock: seconds.

    Returns:
        Seconds per call in each round, by name.

    Raises:
        ValueError: for less than one round or call.
    """
    if rounds < 1 or calls < 1:
        raise ValueError(f"rounds and calls must be at least 1, got {rounds} and {calls}")
    names = list(tasks)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        tick(name)
        tasks[name]()
    for i in range(rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            tick(name)
            wait(device)
            start = clock()
            for _ in range(calls):
                tasks[name]()
            wait(device)
            seconds[name].append((clock() - start) / calls)
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
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratios(rounds: Rounds, name: str, base: str) -> Spread:
    """A task's time over that of another one: the median of the ratios of each round, which pairs what ran together.

    Example:
        >>> ratios({"a": [2.0, 20.0, 2.0], "b": [1.0, 10.0, 1.0]}, "a", "b").median
        2.0
    """
    return spread([one / other for one, other in zip(rounds[name], rounds[base], strict=True)])
