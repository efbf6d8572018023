"""The published models at full size: training steps, draws, a large image; their time, memory and rate."""

from dataclasses import dataclass, replace
from typing import Literal, Self

from rich.console import Console

from benchmark.measure import Label, Measured, Table, Task, measure, table
from benchmark.subjects import ModelOptions, Subject, check_models
from flowkit_models.models.presets import PRESETS

Part = Literal["train", "draws", "bf16", "temperatures", "large"]
TRAIN, LEAN, ONE, FIVE, BF16 = "training step", "training step, lean", "1 draw", "5 draws", "5 draws, bf16 networks"


@dataclass(frozen=True, kw_only=True)
class Models(ModelOptions):
    """The published models at full size: time, memory, and share of the rate of a matrix product."""

    models: tuple[str, ...] = tuple(name for name in PRESETS if not name.endswith(("_small", "_shipped_x4")))
    """Which ones."""
    parts: tuple[Part, ...] = ("train", "draws", "bf16", "temperatures", "large")
    """Training step, plain and lean; 1 draw and 5; with bf16 networks; 4 temperatures × 3 draws; the large image."""
    batch: int = 1
    """Crops per training step."""

    def toy(self) -> Self:
        """Small models in place of those."""
        small = tuple(name for name in PRESETS if name.endswith("_small"))
        return replace(self, models=small, rounds=1, hr=32, lr=8, large=64)

    def measure(self, console: Console) -> list[Table]:
        """The table."""
        check_models(self.models)
        if self.weights is not None and len(self.models) > 1:
            raise ValueError("--weights goes with a single model in --models")
        found: dict[Label, Measured] = {}
        notes = [self.crops]
        for name in self.models:
            plain = Subject(name, self, self.batch)
            half = Subject(name, self, precision="bf16") if "bf16" in self.parts else None
            notes.append(f"{name}: {sum(p.numel() for p in plain.model.parameters()) / 1e6:.1f} M parameters")
            if half is not None:  # asked before the one is trained and the other is not
                difference = (plain.draw(5) - half.draw(5)).abs().max()
                notes.append(f"{name}, bf16 networks: images differ by {difference:.1e} of [0, 1] at most")
            found |= measure(self.tasks(name, plain, half), self, console)
        return [table("Models", ["", ""], found, notes)]

    def tasks(self, name: str, plain: Subject, half: Subject | None) -> dict[Label, Task]:
        """What is measured of one model."""
        tasks: dict[Label, Task] = {(name, ONE): Task(plain.draw, plain.drawing_memory)}
        if "train" in self.parts:
            lean = Subject(name, self, self.batch, memory="lean")
            tasks[name, TRAIN] = Task(plain.step, plain.training_memory)
            tasks[name, LEAN] = Task(lean.step, lean.training_memory, to=(name, TRAIN))
        if {"draws", "bf16"} & set(self.parts):
            tasks[name, FIVE] = Task(lambda: plain.draw(5), lambda: plain.drawing_memory(5), (name, ONE), 5)
        if half is not None:
            tasks[name, BF16] = Task(lambda: half.draw(5), lambda: half.drawing_memory(5), (name, FIVE))
        if "temperatures" in self.parts:
            tasks[name, "4 temperatures × 3 draws"] = Task(plain.temperatures, to=(name, ONE), times=12)
        if "large" in self.parts:
            side = self.large // plain.model.scale
            tasks[name, f"{self.large}×{self.large}"] = Task(
                lambda: plain.draw(side=side), lambda: plain.drawing_memory(side=side)
            )
        return tasks
