"""How time and memory grow with the size of the image, the depth K, the number of draws and the batch."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmark.memory import peak_bytes
from benchmark.report import Results, duration, megabytes
from benchmark.stopwatch import Task, Tick, interleave, quiet, spread
from benchmark.subjects import Conditions, Subject, deeper
from flowkit_models.evaluation.figures import save

AXES: dict[str, str] = {"size": "HR side", "depth": "K", "draws": "draws n", "batch": "batch"}
"""What grows, with the label of its axis."""

VALUES: dict[str, tuple[int, ...]] = {
    "size": (64, 96, 128, 160),
    "depth": (4, 8, 16, 32),
    "draws": (1, 2, 4, 8),
    "batch": (1, 2, 4, 8),
}


class Point(NamedTuple):
    """One measurement: the axis and its value, what was done, median seconds, bytes."""

    axis: str
    value: int
    series: str
    seconds: float
    bytes: int


def measure(
    name: str, how: Conditions, values: Mapping[str, Sequence[int]] = VALUES, tick: Tick = quiet
) -> list[Point]:
    """Measures a model along every axis; all that belongs to one axis in turns.

    Args:
        name: of a preset.
        how: conditions; `hr` and `lr` where another axis varies.
        values: of each axis.
        tick: called with what comes next.
    """
    points = []
    for axis, chosen in values.items():
        tasks: dict[tuple[int, str], tuple[Task, Callable[[], int]]] = {}
        for value in chosen:
            tasks |= {(value, series): task for series, task in _tasks(name, how, axis, value).items()}
        timed = {f"{axis} {value}: {series}": task[0] for (value, series), task in tasks.items()}
        rounds = interleave(timed, how.rounds, device=how.device, tick=tick)
        for (value, series), (_, weigh) in tasks.items():
            tick(f"{axis} {value}: memory")
            seconds = spread(rounds[f"{axis} {value}: {series}"]).median
            points.append(Point(axis, value, series, seconds, weigh()))
    return points


def turns(how: Conditions, values: Mapping[str, Sequence[int]] = VALUES) -> int:
    """How often `measure` calls `tick`."""
    series = sum(len(chosen) * (2 if axis in ("draws", "batch") else 3) for axis, chosen in values.items())
    return series * (how.rounds + 2)


def _tasks(name: str, how: Conditions, axis: str, value: int) -> dict[str, tuple[Task, Callable[[], int]]]:
    """What is done at one value of an axis: by name, the task and what weighs it."""
    if axis == "draws":
        subject = Subject(name, how)

        def apart() -> None:
            for _ in range(value):
                subject.draw()

        return {
            "draws in one call": (lambda: subject.draw(value), lambda: subject.drawing_memory(value)),
            "draws in n calls": (apart, lambda: peak_bytes(apart, how.device)),
        }
    options: dict[str, Any] = {}
    if axis == "size":
        options["hr"] = value
    if axis == "batch":
        options["batch"] = value
    if axis == "depth":
        options |= deeper(name, value)
    plain, lean = (Subject(name, how, memory=memory, **options) for memory in ("plain", "lean"))
    tasks: dict[str, tuple[Task, Callable[[], int]]] = {
        "training step": (plain.step, plain.training_memory),
        "training step, lean": (lean.step, lean.training_memory),
    }
    if axis != "batch":
        side = plain.batch.lr.shape[-1] if axis == "size" else how.lr
        tasks["draw"] = (lambda: plain.draw(side=side), lambda: plain.drawing_memory(side=side))
    return tasks


def table(name: str, points: Sequence[Point], how: Conditions) -> Results:
    """The measurements as a table."""
    rows = [
        [AXES[point.axis], str(point.value), point.series, duration(point.seconds), megabytes(point.bytes)]
        for point in points
    ]
    notes = [f"else: HR crops of {how.hr} pixels, batch 1, an LR image of {how.lr}×{how.lr} for draws"]
    numbers = {"points": [point._asdict() for point in points]}
    return Results(f"Growth of {name}", ["", "", "", "time", "memory"], rows, notes, numbers)


def plot(points: Sequence[Point], path: str | os.PathLike[str]) -> None:
    """Draws time and memory over every axis, small multiples with logarithmic scales, as a PNG."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    from matplotlib.ticker import NullFormatter, ScalarFormatter  # noqa: PLC0415

    axes = [axis for axis in AXES if any(point.axis == axis for point in points)]
    figure = Figure(figsize=(3.1 * len(axes), 5.6), dpi=110, layout="constrained")
    grid = figure.subplots(2, len(axes), squeeze=False, sharey="row", sharex="col")
    names = list(dict.fromkeys(point.series for point in points))
    styles = {name: (f"C{i}", "osv^D"[i % 5]) for i, name in enumerate(names)}
    for j, axis in enumerate(axes):
        for i, (label, unit) in enumerate((("seconds", 1.0), ("bytes", 1e6))):
            for name in names:
                own = [point for point in points if point.axis == axis and point.series == name]
                colour, marker = styles[name]
                values = [getattr(point, label) / unit for point in own]
                grid[i][j].plot([p.value for p in own], values, marker=marker, color=colour, markersize=4)
            grid[i][j].set(xscale="log", yscale="log")
            grid[i][j].grid(alpha=0.3)
        ticks = sorted({point.value for point in points if point.axis == axis})
        grid[1][j].set_xticks(ticks)
        grid[1][j].xaxis.set_major_formatter(ScalarFormatter())
        grid[1][j].xaxis.set_minor_formatter(NullFormatter())
        grid[1][j].set_xlabel(AXES[axis])
    grid[0][0].set_ylabel("seconds")
    grid[1][0].set_ylabel("MB beside parameters")
    handles = [
        grid[0][0].plot([], [], marker=m, color=c, markersize=4, label=name)[0] for name, (c, m) in styles.items()
    ]
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    save(figure, path)
