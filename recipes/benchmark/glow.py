"""Glow in several libraries: time, memory, precision and graph breaks, compared with the hand-written one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark.contenders import BASE, Contender, Sizes, contender
from benchmark.measures import flops, graph_breaks, largest_error, parameters
from benchmark.memory import saved_bytes, training_bytes
from benchmark.report import Results, duration, megabytes, quartiles
from benchmark.stopwatch import Task, Tick, interleave, quiet, ratios, spread
from flowkit_models.data.sample_photos import test_photos
from flowkit_models.images.convert import to_float


@dataclass(frozen=True)
class Conditions:
    """How everything is measured.

    Attributes:
        device: where.
        rounds, calls: of the stopwatch.
        seed: of weights and data.
        trained: steps of Adam before precision is measured, so that no network is still at zero.
        compiled: training steps and inverses go through `torch.compile`, where the library lets them.
        channels_last: images and weights in that memory format.
    """

    device: str = "cpu"
    rounds: int = 15
    calls: int = 3
    seed: int = 0
    trained: int = 50
    compiled: bool = False
    channels_last: bool = False


class Racer:
    """A contender with an optimiser and data: what is timed.

    Args:
        name: of the contender.
        sizes: of the Glow.
        how: conditions.
        bf16: networks, or whatever the library lets run so, under autocast.
    """

    def __init__(self, name: str, sizes: Sizes, how: Conditions, bf16: bool = False) -> None:
        self.contender: Contender = contender(name, sizes, how.seed)
        self.module = self.contender.module.to(how.device)
        self.x = images(sizes, how.seed).to(how.device)
        if how.channels_last:
            self.module = self.module.to(memory_format=torch.channels_last)
            self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.how, self.bf16 = how, bf16
        self.trained = [p for p in self.module.parameters() if p.requires_grad]
        self.adam = torch.optim.Adam(self.trained, 1e-3, fused=True)
        self.loss: Callable[[Tensor], Tensor] = self.contender.loss
        self.decode: Callable[[Sequence[Tensor]], Tensor] = self.contender.decode
        if how.compiled:
            self.loss, self.decode = torch.compile(self.loss), torch.compile(self.decode)
        self.step()  # libraries that set their ActNorms from the first batch do it now
        with torch.no_grad():
            self.latents = [z.detach() for z in self.contender.encode(self.x)[0]]

    def autocast(self) -> torch.autocast:
        """Mixed precision, or none."""
        return torch.autocast(torch.device(self.how.device).type, torch.bfloat16, enabled=self.bf16)

    def forward(self) -> Tensor:
        """The loss of the batch."""
        with self.autocast():
            return self.loss(self.x)

    def step(self, fresh: bool = True) -> None:
        """A training step. `fresh`: the gradients of the last one are dropped, otherwise zeroed in place."""
        self.adam.zero_grad(set_to_none=fresh)
        self.forward().backward()
        self.adam.step()

    @torch.no_grad()
    def inverse(self) -> Tensor:
        """Latents to images."""
        with self.autocast():
            return self.decode(self.latents)

    @torch.no_grad()
    def precision(self) -> dict[str, Any]:
        """Errors of an image that was encoded and decoded, in float32 and under bf16 autocast; and of the log-det."""
        found: dict[str, Any] = {}
        logdets = []
        for key, bf16 in (("float32", False), ("bf16", True)):
            with torch.autocast(torch.device(self.how.device).type, torch.bfloat16, enabled=bf16):
                latents, logdet = self.contender.encode(self.x)
                again = self.contender.decode(latents)
            found[f"round_trip_{key}"] = largest_error(again, self.x)
            found[f"logdet_{key}"] = str(logdet.dtype).removeprefix("torch.")
            logdets.append(logdet)
        return found | {"logdet_error": largest_error(*logdets) / math.prod(self.x.shape[1:])}


def images(sizes: Sizes, seed: int = 0) -> Tensor:
    """Crops of test photographs with uniform noise of a grey level, in [−½, ½]: (batch, 3, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    photos = list(test_photos().values())
    crops = []
    for i in range(sizes.batch):
        photo = photos[i % len(photos)]
        top, left = (int(torch.randint(size - sizes.side + 1, (), generator=generator)) for size in photo.shape[1:])
        crops.append(to_float(photo[:, top : top + sizes.side, left : left + sizes.side]))
    x = torch.stack(crops)
    return x + torch.rand(x.shape, generator=generator) / 256 - 0.5


def race(
    names: Sequence[str], sizes: Sizes, how: Conditions, tick: Tick = quiet, task: str = "step", bf16: bool = False
) -> dict[str, list[float]]:
    """Times one task, "step" or "inverse", of several contenders in turns. Returns the stopwatch's rounds."""
    racers = {name: Racer(name, sizes, how, bf16) for name in names}
    tasks: dict[str, Task] = {name: getattr(racer, task) for name, racer in racers.items()}
    return interleave(tasks, how.rounds, how.calls, how.device, tick)


def facts(name: str, sizes: Sizes, how: Conditions) -> dict[str, Any]:
    """What needs no clock: parameters, operations, memory, precision, graph breaks."""
    plain = Conditions(how.device, seed=how.seed, channels_last=how.channels_last)
    racer = Racer(name, sizes, plain)
    found: dict[str, Any] = {
        "parameters": parameters(racer.module),
        "step_flops": flops(racer.step),
        "inverse_flops": flops(racer.inverse),
    }
    found["saved_bytes"], found["peak_bytes"] = memory(racer)
    for _ in range(how.trained):
        racer.step()
    found |= racer.precision()
    with torch.no_grad():
        found["breaks_inverse"] = graph_breaks(racer.contender.decode, racer.latents)
    found["breaks_forward"] = graph_breaks(racer.contender.encode, racer.x)
    found["note"] = racer.contender.note
    return found


def memory(racer: Racer) -> tuple[int, int]:
    """Bytes that autograd keeps of a forward pass, and the most that a training step holds."""
    saved = saved_bytes(racer.forward, racer.module, racer.x)
    return saved, training_bytes(lambda: racer.step(fresh=False), racer.module, racer.how.device)


TIMES = {"step": "training step", "inverse": "inverse", "step_bf16": "training step, bf16 autocast"}
"""What is timed, with its heading."""


def compare(names: Sequence[str], sizes: Sizes, how: Conditions, tick: Tick = quiet) -> list[Results]:
    """Contenders beside the hand-written one: a table of times, and one of what needs no clock.

    Args:
        names: of contenders; the hand-written one is always among them.
        sizes: of the Glow.
        how: conditions.
        tick: called with what comes next, for a progress bar.
    """
    names = with_base(names)
    known = {}
    for name in names:
        tick(name)
        known[name] = facts(name, sizes, how)
    rounds = {
        "step": race(names, sizes, how, tick),
        "inverse": race(names, sizes, how, tick, "inverse"),
        "step_bf16": race(names, sizes, how, tick, bf16=True),
    }
    title = f"Glow, 3×{sizes.side}×{sizes.side}, batch {sizes.batch}, L = {sizes.levels}, K = {sizes.steps}"
    return [_times(f"{title}: time", names, rounds, known), _facts(f"{title}: memory and precision", known, how)]


def with_base(names: Sequence[str]) -> list[str]:
    """The names, each once, after the hand-written one."""
    return list(dict.fromkeys([BASE, *names]))


def turns(names: Sequence[str], how: Conditions) -> int:
    """How often `compare` calls `tick`."""
    return len(with_base(names)) * (len(TIMES) * (how.rounds + 1) + 1)


def _times(title: str, names: list[str], rounds: dict[str, Any], known: dict[str, Any]) -> Results:
    headings = ["", *TIMES.values(), "GFLOP, step / inverse"]
    rows = []
    numbers: dict[str, Any] = {}
    for name in names:
        row, numbers[name] = [name], {}
        for what, seconds in rounds.items():
            median, ratio = spread(seconds[name]), ratios(seconds, name, BASE)
            numbers[name][what] = {"seconds": median, "ratio": ratio, "rounds": seconds[name]}
            row.append(duration(median.median) + ("" if name == BASE else f"; {quartiles(ratio)}"))
        rows.append([*row, f"{known[name]['step_flops'] / 1e9:.3g} / {known[name]['inverse_flops'] / 1e9:.3g}"])
    note = f"median time; its ratio to the {BASE} one: median over the rounds, both in the same round, and quartiles"
    return Results(title, headings, rows, [note], numbers)


def _facts(title: str, known: dict[str, Any], how: Conditions) -> Results:
    rows = [
        [
            name,
            f"{facts['parameters']:,}",
            megabytes(facts["saved_bytes"]),
            megabytes(facts["peak_bytes"]),
            f"{facts['round_trip_float32']:.0e}",
            f"{facts['round_trip_bf16']:.0e}",
            f"{facts['logdet_bf16']}, {facts['logdet_error']:.0e}",
            f"{facts['breaks_forward']} / {facts['breaks_inverse']}",
        ]
        for name, facts in known.items()
    ]
    headings = [
        "",
        "parameters",
        "saved",
        "peak",
        "round trip, float32",
        "bf16 autocast",
        "log-det there: type, error",
        "graph breaks, forward / inverse",
    ]
    notes = [
        *(f"{name}: {facts['note']}" for name, facts in known.items() if facts["note"]),
        "saved: what autograd keeps beside parameters and input; peak: the most that a training step holds beside "
        "parameters, gradients and Adam's state",
        f"round trip: largest error of an image in [−½, ½] after {how.trained} steps of training; error of the "
        "log-det: the largest difference from float32, in nats per dimension",
    ]
    return Results(title, headings, rows, notes, known)
