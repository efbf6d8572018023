"""How time and memory grow with the size of the image, the depth K, the number of draws and the batch."""

from dataclasses import dataclass, replace
from typing import Any, Self

from rich.console import Console

from benchmark.measure import Label, Measured, Table, Task, measure, spread, table
from benchmark.memory import peak_bytes
from benchmark.subjects import ModelOptions, Subject, check_models, deeper
from flowkit_models.evaluation.figures import new_figure, save

AXES: dict[str, str] = {"size": "HR side", "depth": "K", "draws": "draws n", "batch": "batch"}
"""What grows, with the label of its axis."""


@dataclass(frozen=True, kw_only=True)
class Growth(ModelOptions):
    """Time and memory against the size of the image, K, draws and batch: a table and growth.png."""

    model: str = "hcflow_sr_x4"
    """Which one."""
    size: tuple[int, ...] = (64, 96, 128, 160)
    """HR sides."""
    depth: tuple[int, ...] = (4, 8, 16, 32)
    """K."""
    draws: tuple[int, ...] = (1, 2, 4, 8)
    """n."""
    batch: tuple[int, ...] = (1, 2, 4, 8)
    """Crops per training step."""

    def toy(self) -> Self:
        """A small model, and two values of each axis."""
        small = replace(self, model="hcflow_sr_x4_small", rounds=1, hr=32, lr=8)
        return replace(small, size=(16, 32), depth=(1, 2), draws=(1, 2), batch=(1, 2))

    def measure(self, console: Console) -> list[Table]:
        """The table, and the plot; what belongs to one axis in turns."""
        check_models([self.model])
        found: dict[Label, Measured] = {}
        for axis, heading in AXES.items():
            tasks: dict[Label, Task] = {}
            for value in getattr(self, axis):
                tasks |= {(heading, str(value), what): task for what, task in self.tasks(axis, value).items()}
            found |= measure(tasks, self, console) if tasks else {}
        self.plot(found)
        return [table(f"Growth of {self.model}", ["", "", ""], found, [self.crops])]

    def tasks(self, axis: str, value: int) -> dict[str, Task]:
        """What is done at one value of an axis."""
        if axis == "draws":
            subject = Subject(self.model, self)

            def apart() -> None:
                for _ in range(value):
                    subject.draw()

            return {
                "draws in one call": Task(lambda: subject.draw(value), lambda: subject.drawing_memory(value)),
                "draws in n calls": Task(apart, lambda: peak_bytes(apart, subject.device)),
            }
        options = replace(self, hr=value) if axis == "size" else self
        how: dict[str, Any] = {"batch": value} if axis == "batch" else {}
        how |= deeper(self.model, value) if axis == "depth" else {}
        plain, lean = (Subject(self.model, options, memory=memory, **how) for memory in ("plain", "lean"))
        tasks = {
            "training step": Task(plain.step, plain.training_memory),
            "training step, lean": Task(lean.step, lean.training_memory),
        }
        if axis != "batch":
            side = plain.batch.lr.shape[-1] if axis == "size" else self.lr
            tasks["draw"] = Task(lambda: plain.draw(side=side), lambda: plain.drawing_memory(side=side))
        return tasks

    def plot(self, found: dict[Label, Measured]) -> None:
        """Draws time and memory over every axis, small multiples with logarithmic scales, as growth.png."""
        from matplotlib.ticker import NullFormatter, ScalarFormatter  # noqa: PLC0415 - an extra

        axes = list(dict.fromkeys(axis for axis, _, _ in found))
        names = list(dict.fromkeys(what for _, _, what in found))
        figure = new_figure(3.1 * len(axes), 5.6)
        grid = figure.subplots(2, len(axes), squeeze=False, sharey="row", sharex="col")
        lines: dict[str, Any] = {}
        for (times, weights), axis in zip(grid.T, axes, strict=True):
            for i, name in enumerate(names):
                own = {int(value): one for (of, value, what), one in found.items() if (of, what) == (axis, name)}
                style = {"color": f"C{i}", "marker": "osv^D"[i % 5], "markersize": 4}
                (lines[name],) = times.plot(list(own), [spread(one.seconds).median for one in own.values()], **style)
                weights.plot(list(own), [(one.bytes or 0) / 1e6 for one in own.values()], **style)
            for panel in (times, weights):
                panel.set(xscale="log", yscale="log")
                panel.grid(alpha=0.3)
            weights.set(xlabel=axis, xticks=sorted({int(value) for of, value, _ in found if of == axis}))
            weights.xaxis.set_major_formatter(ScalarFormatter())
            weights.xaxis.set_minor_formatter(NullFormatter())
        grid[0][0].set_ylabel("seconds")
        grid[1][0].set_ylabel("MB beside parameters")
        figure.legend(lines.values(), names, loc="outside lower center", ncols=len(names), frameon=False)
        save(figure, self.out / "growth.png")
