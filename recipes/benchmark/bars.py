"""The bars: what flowkit has to reach, each with its measurement."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from benchmark import glow
from benchmark.contenders import BASE, Sizes
from benchmark.measures import MatrixProduct, flops, graph_breaks, has_bf16, largest_error
from benchmark.report import Results
from benchmark.stopwatch import Task, Tick, interleave, quiet, ratios
from benchmark.subjects import Conditions, Subject, deeper, full_size, share


class Measured(NamedTuple):
    """One number beside its bar.

    Attributes:
        what: of it there is.
        value: what was measured.
        bar: what it must not exceed, or with `at_least` must not fall below.
        form: how both are written, as for `str.format`.
        excused: why the bar does not apply here, if so.
    """

    what: str
    value: float
    bar: float
    form: str = "{:.2f}"
    at_least: bool = False
    excused: str = ""

    @property
    def met(self) -> bool:
        """Whether the bar is cleared."""
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def cells(self) -> list[str]:
        """Bar, measurement and verdict as text."""
        sign = "≥" if self.at_least else "≤"
        verdict = f"– ({self.excused})" if self.excused else "yes" if self.met else "no"
        return [f"{sign} {self.form.format(self.bar)}", self.form.format(self.value), verdict]


@dataclass(frozen=True)
class Setting:
    """What all bars are measured with.

    Attributes:
        sizes, glow: of the Glow, and its conditions.
        models: conditions of the image models.
        full_size: the models whose share of the machine's rate is asked for.
        tick: called with what comes next.
    """

    sizes: Sizes
    glow: glow.Conditions
    models: Conditions
    full_size: Sequence[str] = ()
    tick: Tick = quiet


class Bar(NamedTuple):
    """A bar: its row in the table, and how it is measured."""

    what: str
    elsewhere: str
    measure: Callable[[Setting], list[Measured]]


def glow_step(s: Setting) -> list[Measured]:
    """Training step of flowkit's Glow over the hand-written one's."""
    rounds = glow.race([BASE, "flowkit"], s.sizes, s.glow, s.tick)
    return [Measured("time", ratios(rounds, "flowkit", BASE).median, 1.0)]


def glow_inverse(s: Setting) -> list[Measured]:
    """Inverse of flowkit's Glow over the hand-written one's."""
    rounds = glow.race([BASE, "flowkit"], s.sizes, s.glow, s.tick, "inverse")
    return [Measured("time", ratios(rounds, "flowkit", BASE).median, 0.95)]


def breaks(s: Setting) -> list[Measured]:
    """Graph breaks of the Glow, both ways, with conditional latents too."""
    found = []
    for name in ("flowkit", "flowkit conditional"):
        s.tick(name)
        racer = glow.Racer(name, s.sizes, s.glow)
        with torch.no_grad():
            back = graph_breaks(racer.contender.decode, racer.latents)
        for way, said in (("forward", graph_breaks(racer.contender.encode, racer.x)), ("inverse", back)):
            value = float(said) if said.isdigit() else float("inf")
            found.append(Measured(f"{name}, {way}", value, 0, "{:.0f}"))
    return found


def bf16_round_trip(s: Setting) -> list[Measured]:
    """Round trip of the Glow under bf16 autocast, and the type of its log-det."""
    racer = glow.Racer("flowkit", s.sizes, s.glow)
    for _ in range(s.glow.trained):
        racer.step()
    s.tick("flowkit")
    found = racer.precision()
    wide = 1.0 if found["logdet_bf16"] in ("float32", "float64") else 0.0
    return [
        Measured("round trip", found["round_trip_bf16"], 1e-3, "{:.1e}"),
        Measured("log-det in float32", wide, 1, "{:.0f}", at_least=True),
    ]


def reversible(s: Setting) -> list[Measured]:
    """The reversible Glow over the plain one."""
    names = ["flowkit", "flowkit reversible"]
    found = {}
    for name in names:
        s.tick(name)
        racer = glow.Racer(name, s.sizes, s.glow)
        found[name] = glow.memory(racer)
    (saved, peak), (lean_saved, lean_peak) = found.values()
    rounds = glow.race(names, s.sizes, s.glow, s.tick)
    return [
        Measured("saved", lean_saved / saved, 0.02, "{:.3f}"),
        Measured("peak", lean_peak / peak, 0.35),
        Measured("time", ratios(rounds, names[1], names[0]).median, 1.6),
    ]


def hcflow_lean(s: Setting) -> list[Measured]:
    """Memory of a lean training step of HCFlow ×4, and its time over the plain one's."""
    plain, lean = _plain_and_lean("hcflow_sr_x4", s)
    rounds = _timed(s, plain=plain.step, lean=lean.step)
    return [
        Measured("memory, MB", lean.training_memory() / 1e6, 450, "{:.0f}"),
        Measured("time", ratios(rounds, "lean", "plain").median, 1.35),
    ]


def hcflow_draws(s: Setting) -> list[Measured]:
    """5 draws of HCFlow ×4 over 5 times one draw."""
    subject = Subject("hcflow_sr_x4", s.models)
    rounds = _timed(s, one=subject.draw, five=lambda: subject.draw(5))
    return [Measured("time", ratios(rounds, "five", "one").median / 5, 0.88)]


def hcflow_bf16(s: Setting) -> list[Measured]:
    """5 draws of HCFlow ×4 with bf16 networks over float32, and how far the images differ."""
    subjects = {p: Subject("hcflow_sr_x4", s.models, precision=p) for p in ("float32", "bf16")}
    rounds = _timed(s, **{name: _five(subject) for name, subject in subjects.items()})
    full, half = (subject.draw(5) for subject in subjects.values())
    excused = "" if has_bf16(s.models.device) else "no bf16 in this processor"
    return [
        Measured("time", ratios(rounds, "bf16", "float32").median, 0.70, excused=excused),
        Measured("image difference", largest_error(full, half), 2e-3, "{:.1e}"),
    ]


def srflow_draws(s: Setting) -> list[Measured]:
    """A further draw of SRFlow ×4 over the first one: a quarter of what 5 draws take more than one."""
    subject = Subject("srflow_x4", s.models)
    rounds = _timed(s, one=subject.draw, five=lambda: subject.draw(5))
    return [Measured("time", (ratios(rounds, "five", "one").median - 1) / 4, 0.08)]


def srflow_large(s: Setting) -> list[Measured]:
    """Memory of a draw of a large image with SRFlow ×4."""
    subject = Subject("srflow_x4", s.models)
    s.tick("srflow_x4")
    return [Measured("memory, MB", subject.drawing_memory(side=s.models.large // 4) / 1e6, 700, "{:.0f}")]


def irn_lean(s: Setting) -> list[Measured]:
    """Memory per sample of a lean training step of IRN ×4, batch 4, HR 144, and its time over the plain one's."""
    plain, lean = _plain_and_lean("irn_x4", s, batch=4, hr=s.models.hr if s.models.small else 144)
    rounds = _timed(s, plain=plain.step, lean=lean.step)
    return [
        Measured("memory per sample, MB", lean.training_memory() / 4e6, 75, "{:.0f}"),
        Measured("time", ratios(rounds, "lean", "plain").median, 1.6),
    ]


def rate(s: Setting) -> list[Measured]:
    """Share of a matrix product's rate that plain training steps and single draws reach."""
    found = []
    for name in s.full_size or full_size():
        subject, product = Subject(name, s.models), MatrixProduct(s.models.device, s.models.products)
        tasks: dict[str, Task] = {"training step": subject.step, "1 draw": subject.draw}
        rounds = interleave(tasks | {"": product}, s.models.rounds, device=s.models.device, tick=s.tick)
        for task, work in tasks.items():
            reached = share(rounds[task], flops(work), rounds[""], product.flops)
            found.append(Measured(f"{name}, {task}", reached.median, 0.80, at_least=True))
    return found


def depth(s: Setting) -> list[Measured]:
    """Memory of a lean training step of HCFlow ×4 with 32 steps over one with 8."""
    sizes = []
    for k in (8, 32):
        s.tick(f"K = {k}")
        sizes.append(Subject("hcflow_sr_x4", s.models, memory="lean", **deeper("hcflow_sr_x4", k)).training_memory())
    return [Measured("memory, K = 32 / K = 8", sizes[1] / sizes[0], 1.15)]


BARS: dict[str, Bar] = {
    "glow_step": Bar(
        "Glow training step / hand-written",
        "FrEIA 0.99 (no learned 1×1), nflows 1.12, normflows 1.23",
        glow_step,
    ),
    "glow_inverse": Bar("Glow inverse / hand-written", "FrEIA fused 1.02, normflows 1.24", glow_inverse),
    "breaks": Bar("graph breaks, both ways, conditional latents too", "FrEIA 0", breaks),
    "bf16_round_trip": Bar("round trip under bf16 autocast", "2e-2 in every library", bf16_round_trip),
    "reversible": Bar("reversible Glow / plain", "no flow library has it", reversible),
    "hcflow_lean": Bar(
        "HCFlow ×4, HR 160: training step, lean",
        "official 1462 MB; checkpointed blocks alone 514 MB",
        hcflow_lean,
    ),
    "hcflow_draws": Bar("HCFlow ×4: 5 draws / 5 × one draw", "official 1.0; floor by operations 0.84", hcflow_draws),
    "hcflow_bf16": Bar("HCFlow ×4: 5 draws, bf16 nets / float32", "bf16 convolutions alone 0.63", hcflow_bf16),
    "srflow_draws": Bar("SRFlow ×4: a further draw / the first", "official 1.0; a prototype 0.07", srflow_draws),
    "srflow_large": Bar("SRFlow ×4, 640×640: a draw", "official 1332 MB; without unused features 871 MB", srflow_large),
    "irn_lean": Bar("IRN ×4: training step, lean", "official 620 MB; a prototype 70 MB at 1.7 × the time", irn_lean),
    "rate": Bar("plain training step and single draw: share of the matrix product's rate", "official 0.9", rate),
    "depth": Bar("HCFlow ×4: memory of training against K, lean", "grows", depth),
}
"""All of them by name, in the order of the table."""


def table(found: Mapping[str, Sequence[Measured]]) -> Results:
    """The bars that were measured, by their names."""
    rows = []
    for name, measured in found.items():
        for i, one in enumerate(measured):
            label = [BARS[name].what, BARS[name].elsewhere] if i == 0 else ["", ""]
            rows.append([label[0], one.what, label[1], *one.cells()])
    numbers: dict[str, Any] = {
        name: [
            {**one._asdict(), "value": one.value if math.isfinite(one.value) else None, "met": one.met}
            for one in measured
        ]
        for name, measured in found.items()
    }
    headings = ["", "", "measured elsewhere", "bar", "measured", "met"]
    notes = ["ratios of times: medians over rounds; memory: beside parameters, gradients and Adam's state"]
    return Results("Bars", headings, rows, notes, numbers)


def _plain_and_lean(name: str, s: Setting, **options: Any) -> tuple[Subject, Subject]:
    plain, lean = (Subject(name, s.models, memory=memory, **options) for memory in ("plain", "lean"))
    return plain, lean


def _five(subject: Subject) -> Task:
    return lambda: subject.draw(5)


def _timed(s: Setting, **tasks: Task) -> dict[str, list[float]]:
    return interleave(tasks, s.models.rounds, device=s.models.device, tick=s.tick)
