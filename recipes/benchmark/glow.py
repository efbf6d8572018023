"""Glow in several libraries: time, memory, precision and graph breaks, compared with one of them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from rich.console import Console
from torch import Tensor

from benchmark.contenders import BASE, CONTENDERS, Sizes, contender
from benchmark.measure import Label, Measured, Table, Task, measure, megabytes, table
from benchmark.memory import saved_bytes, training_bytes
from benchmark.options import Options
from flowkit_models.data.sample_photos import test_photos
from flowkit_models.devices import find_device
from flowkit_models.images.convert import to_float


@dataclass(frozen=True, kw_only=True)
class Glow(Options, Sizes):
    """Glow, 3×32×32, in several libraries: training step, inverse, memory, precision, graph breaks."""

    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Which ones."""
    base: str = BASE
    """What the others are compared with; it is always among them."""
    rounds: int = 15
    """How often everything has its turn."""
    calls: int = 3
    """Training steps or inverses in a turn."""
    trained: int = 50
    """Training steps before precision is measured, so that no network is still at zero."""
    compiled: bool = False
    """Through torch.compile."""
    channels_last: bool = False
    """Images and weights in that memory format."""

    def toy(self) -> Self:
        """A small Glow."""
        return replace(self, rounds=1, calls=1, trained=2, steps=1, hidden=8, side=8, batch=2)

    def measure(self, console: Console) -> list[Table]:
        """A table of times, and one of what needs no clock."""
        racers = {name: Racer(name, self) for name in dict.fromkeys([self.base, *self.contenders])}
        found: dict[Label, Measured] = {}
        for what in ("training step", "inverse", "training step, bf16 autocast"):
            base = (self.base, what)
            tasks: dict[Label, Task] = {
                (name, what): replace(racer.tasks()[what], to=None if name == self.base else base)
                for name, racer in racers.items()
            }
            found |= measure(tasks, self, console)
        title = f"Glow, 3×{self.side}×{self.side}, batch {self.batch}, L = {self.levels}, K = {self.steps}"
        facts = {name: Racer(name, replace(self, compiled=False)).facts() for name in racers}
        rows = [[name, *known.values()] for name, known in facts.items()]
        notes = [
            "saved: what autograd keeps beside parameters and input",
            f"round trip: largest error of an image in [−½, ½] after {self.trained} steps of training; error of the "
            "log-det: the largest difference from float32, in nats per dimension",
            "another size: it encodes and decodes images of twice the height",
        ]
        headings = ["", *next(iter(facts.values()))]
        return [table(title, ["", ""], found), Table(f"{title}: facts", headings, rows, notes, facts)]


class Racer:
    """A contender with an optimiser and data.

    Args:
        name: of the contender.
        options: sizes, device, seed, torch.compile, memory format.
    """

    def __init__(self, name: str, options: Glow) -> None:
        self.options, self.device = options, find_device(options.device)
        self.contender = contender(name, options, options.seed)
        self.module = self.contender.module.to(self.device)
        self.x = images(options, options.seed).to(self.device)
        if options.channels_last:
            self.module = self.module.to(memory_format=torch.channels_last)
            self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.adam = torch.optim.Adam([p for p in self.module.parameters() if p.requires_grad], 1e-3, fused=True)
        self.loss, self.decode = self.contender.loss, self.contender.decode
        if options.compiled:
            self.loss, self.decode = torch.compile(self.loss), torch.compile(self.decode)
        self.step()  # libraries that set their ActNorms from the first batch do it now
        with torch.no_grad():
            self.latents = [z.detach() for z in self.contender.encode(self.x)[0]]

    def autocast(self, bf16: bool) -> torch.autocast:
        """Mixed precision, or none."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def step(self, bf16: bool = False, fresh: bool = True) -> None:
        """A training step. `fresh`: the gradients of the last one are dropped, otherwise zeroed in place."""
        self.adam.zero_grad(set_to_none=fresh)
        with self.autocast(bf16):
            loss = self.loss(self.x)
        loss.backward()
        self.adam.step()

    @torch.no_grad()
    def inverse(self) -> Tensor:
        """Latents to images."""
        return self.decode(self.latents)

    def tasks(self) -> dict[str, Task]:
        """What is timed."""

        def memory(bf16: bool = False) -> int:
            with torch.compiler.set_stance("force_eager"):
                return training_bytes(lambda: self.step(bf16, fresh=False), self.module, self.device)

        return {
            "training step": Task(self.step, memory),
            "inverse": Task(self.inverse),
            "training step, bf16 autocast": Task(lambda: self.step(bf16=True), lambda: memory(bf16=True)),
        }

    def facts(self) -> dict[str, str]:
        """What needs no clock, by heading of its column."""
        saved = saved_bytes(lambda: self.loss(self.x), self.module, self.x)
        for _ in range(self.options.trained):
            self.step()
        with torch.no_grad():
            _, logdet = self.contender.encode(self.x)
            error = largest_error(self.contender.decode(self.contender.encode(self.x)[0]), self.x)
            with self.autocast(bf16=True):
                latents, low = self.contender.encode(self.x)
                error16 = largest_error(self.contender.decode(latents), self.x)
            back = graph_breaks(self.contender.decode, self.latents)
        return {
            "parameters": f"{sum(p.numel() for p in self.module.parameters() if p.requires_grad):,}",
            "saved": megabytes(saved),
            "round trip, float32": f"{error:.0e}",
            "bf16 autocast": f"{error16:.0e}",
            "latents there": dtype(latents[-1]),
            "log-det there: type, error": f"{dtype(low)}, {largest_error(low, logdet) / self.x[0].numel():.0e}",
            "graph breaks, forward / inverse": f"{graph_breaks(self.contender.encode, self.x)} / {back}",
            "another size": "yes" if self.takes(torch.cat([self.x, self.x], 2)) else "no",
        }

    @torch.no_grad()
    def takes(self, x: Tensor) -> bool:
        """Tells whether images of this size, for which it was not built, come back from their latents."""
        try:
            return largest_error(self.contender.decode(self.contender.encode(x)[0]), x) < 1e-4
        except (AssertionError, RuntimeError, ValueError):
            return False


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


def graph_breaks(call: Callable[..., Any], *arguments: Any) -> str:
    """How often `torch.compile` has to leave the graph of a call.

    Returns:
        "0" where `fullgraph=True` takes it; else the number of breaks, or that it fails.
    """
    logging.getLogger("torch._dynamo").setLevel(logging.CRITICAL)  # it would log what its exceptions say
    torch._dynamo.reset()
    try:
        torch.compile(call, backend="eager", fullgraph=True)(*arguments)
        return "0"
    except Exception:  # whatever dynamo raises: it is what is asked here
        torch._dynamo.reset()
    breaks: int = torch._dynamo.explain(call)(*arguments).graph_break_count
    return str(breaks) if breaks else "fails with fullgraph=True"


def largest_error(a: Tensor, b: Tensor) -> float:
    """The largest |a − b|."""
    return float((a.double() - b.double()).abs().max())


def dtype(x: Tensor) -> str:
    """The dtype's short name."""
    return str(x.dtype).removeprefix("torch.")
