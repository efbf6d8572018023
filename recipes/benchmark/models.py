"""The published models at full size: training steps, draws, a large image; their time, memory and rate."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from benchmark.measures import MatrixProduct, flops, parameters
from benchmark.report import Results, duration, megabytes, quartiles
from benchmark.stopwatch import Rounds, Task, Tick, interleave, quiet, ratios, spread
from benchmark.subjects import Conditions, Subject, share

Part = Literal["train", "draws", "temperatures", "large"]
PARTS: tuple[Part, ...] = ("train", "draws", "temperatures", "large")
"""What is measured of a model: its training step, plain and lean; one draw and five; 4 temperatures × 3; 640×640."""

MATMUL = "matrix product"


def measure(
    name: str, parts: Sequence[Part], how: Conditions, batch: int = 1, tick: Tick = quiet
) -> dict[str, dict[str, Any]]:
    """Measures one model.

    Args:
        name: of a preset.
        parts: what of it.
        how: conditions.
        batch: crops per training step.
        tick: called with what comes next.

    Returns:
        By task its "seconds" in each round, "flops", "bytes", "share" of the rate of a matrix product, and "ratio" to
        the task that it is compared with, whose name is "to"; under "model" its "parameters".
    """
    plain = Subject(name, how, batch)
    product = MatrixProduct(how.device, how.products)
    tasks: dict[str, Task] = {MATMUL: product}
    weigh: dict[str, Callable[[], int]] = {}
    compared: dict[str, tuple[str, float]] = {}
    if "train" in parts:
        lean = Subject(name, how, batch, memory="lean")
        tasks |= {"training step": plain.step, "training step, lean": lean.step}
        weigh |= {"training step": plain.training_memory, "training step, lean": lean.training_memory}
        compared["training step, lean"] = ("training step", 1)
    if {"draws", "temperatures"} & set(parts):
        tasks["1 draw"] = plain.draw
        weigh["1 draw"] = plain.drawing_memory
    if "draws" in parts:
        tasks["5 draws"] = lambda: plain.draw(5)
        weigh["5 draws"] = lambda: plain.drawing_memory(5)
        compared["5 draws"] = ("1 draw", 5)
    if "temperatures" in parts:
        tasks["4 temperatures × 3 draws"] = plain.temperatures
        compared["4 temperatures × 3 draws"] = ("1 draw", 12)
    if "large" in parts:
        task = f"{how.large}×{how.large}"
        tasks[task] = plain.large
        weigh[task] = lambda: plain.drawing_memory(side=how.large // plain.model.scale)
    rounds = interleave(tasks, how.rounds, device=how.device, tick=tick)
    found: dict[str, dict[str, Any]] = {"model": {"parameters": parameters(plain.model)}}
    for task in [task for task in tasks if task != MATMUL]:
        tick(f"{name}, {task}: memory")
        operations = flops(tasks[task])
        known: dict[str, Any] = {"rounds": rounds[task], "flops": operations}
        known["share"] = share(rounds[task], operations, rounds[MATMUL], product.flops)
        if task in weigh:
            known["bytes"] = weigh[task]()
        if task in compared:
            other, times = compared[task]
            known |= {"to": other, "times": times, "ratio": _ratio(rounds, task, other, times)}
        found[task] = known
    return found


def _ratio(rounds: Rounds, task: str, other: str, times: float) -> Any:
    ratio = ratios(rounds, task, other)
    return type(ratio)(*(value / times for value in ratio))


def turns(parts: Sequence[Part], how: Conditions) -> int:
    """How often `measure` calls `tick`."""
    tasks = 2 * ("train" in parts) + bool({"draws", "temperatures"} & set(parts))
    tasks += len({"draws", "temperatures", "large"} & set(parts))
    return (tasks + 1) * (how.rounds + 1) + tasks


def table(found: dict[str, dict[str, dict[str, Any]]], how: Conditions) -> Results:
    """What `measure` found of several models, by their names."""
    rows = []
    for name, tasks in found.items():
        for task, known in tasks.items():
            if task == "model":
                continue
            ratio = f"{quartiles(known['ratio'])} × {known['times']} × {known['to']}" if "ratio" in known else ""
            rows.append(
                [
                    name,
                    task,
                    duration(spread(known["rounds"]).median),
                    ratio.replace(" × 1 ×", " ×"),
                    f"{known['flops'] / 1e9:.3g}",
                    f"{known['share'].median:.2f}",
                    megabytes(known["bytes"]) if "bytes" in known else "",
                ]
            )
    sizes = ", ".join(f"{name} {tasks['model']['parameters'] / 1e6:.1f} M" for name, tasks in found.items())
    notes = [
        f"training: HR crops of {how.hr} pixels, or the next multiple below; draws: an LR image of {how.lr}×{how.lr}",
        "share: operations per second over those of a large float32 matrix product in the same round",
        "memory: the most held beside parameters, and in training beside gradients and Adam's state",
        f"parameters: {sizes}",
    ]
    headings = ["", "", "time", "ratio", "GFLOP", "share", "memory"]
    return Results("Models" if not how.small else "Models, small ones in their place", headings, rows, notes, found)
