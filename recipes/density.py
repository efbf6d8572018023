"""Density estimation on tables and MNIST: flowkit's flows, nflows' and zuko's, under one budget.

Every system gets the same rows, the same training (`flowkit.fit`) and, by its width, at most the same number of
parameters. Each is trained once with each seed, which chooses split, noise and first weights; tables show mean ±
standard deviation. With no option: minutes per system on two CPU cores. It can be stopped at any moment; started again,
it goes on where it was. docs/density.md explains it and shows results.
"""

import dataclasses
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from density_data import Split, read_sets, split_images, split_table
from density_systems import SYSTEMS, Sizes, System, bits_per_dim, count, nats
from rich.console import Console

import flowkit
from flowkit_models.devices import find_device
from flowkit_models.evaluation.tables import markdown, spread, spread_table
from flowkit_models.files import read_text, write_text
from flowkit_models.images.image_file import check_writable
from flowkit_models.terminal import progress_bar
from flowkit_models.training.options import NUMBER, PATH
from flowkit_models.training.recipe import command_line, main_console, run
from flowkit_models.training.report import terminal_table


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the recipe. The defaults shown are those of the chosen preset."""

    preset: Literal["small", "published"] = "small"
    """small: two CPU cores, minutes per system. published: sizes and schedule of neural spline flows' own script (10
    layers of width 256, 200,000 steps), for a GPU; it has not been run."""
    sets: tuple[str, ...] = ("protein_tertiary_structure", "power_plant", "kin8nm")
    """Sets of --data to use; with none named: all of them."""
    data: Annotated[Path | None, PATH] = None
    """An .npz of tables (or with train_images and test_images), an .npy, a .csv, or a folder of these. Without it:
    data/density in the folder that the variable FLOWKIT_SHARED names, ../shared if it is not set."""
    task: Literal["joint", "conditional"] = "joint"
    """joint: density of all columns. conditional: of the last, given the others."""
    targets: Annotated[int | None, NUMBER] = None
    """Number of last columns that are targets; without it: one, of naval_propulsion_plant two."""
    systems: tuple[str, ...] = (
        "realnvp",
        "glow",
        "nsf",
        "nsf_ar",
        "nsf_orders",
        "nsf_plain",
        "maf",
        "glow_images",
        "realnvp_images",
        "tarflow_images",
    )
    """Flows to train; those for images run on images, couplings on two columns or more."""
    against: tuple[Literal["nflows", "zuko"], ...] = ()
    """Libraries whose flows to train as well, all of them, on tables."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each system is trained once with each."""
    steps: int = 500
    """Steps of the optimiser, rounded up to whole epochs."""
    batch: int = 512
    """Rows a step."""
    lr: float = 1e-3
    """First learning rate; it falls to 0 along a cosine."""
    parameters: int = 240_000
    """Each system is as wide as this number of parameters lets it be."""
    hidden: Annotated[int | None, NUMBER] = None
    """Width of all networks, in place of --parameters."""
    layers: Annotated[int | None, NUMBER] = None
    """Couplings or autoregressive maps; without it: each system's own, 5 to 8."""
    blocks: int = 2
    """Residual blocks of a network; of nsf_plain's and zuko's, which are plain: hidden layers."""
    bins: int = 8
    """Bins of splines."""
    tail: float = 3.0
    """Splines of flowkit and nflows act in [−tail, tail]; nsf_plain's and zuko's in [−5, 5]."""
    dropout: float = 0.0
    """In the networks of splines of flowkit and nflows."""
    rows: Annotated[int | None, NUMBER] = None
    """Use this many training images only."""
    out: Path = Path("runs/density")
    """Folder of the results."""
    overwrite: bool = False
    """Train again what was trained before."""
    device: str = "auto"
    """auto: the GPU, if there is one."""


PRESETS: dict[tuple[str, ...], Config] = {
    ("small",): Config(),
    ("published",): Config(
        preset="published",
        steps=200_000,
        lr=3e-4,
        hidden=256,
        layers=10,
        dropout=0.25,
        systems=("nsf", "nsf_ar", "maf"),
    ),
}


def main(config: Config) -> None:
    """Data, training, tables."""
    unknown = [name for name in config.systems if name not in SYSTEMS]
    if unknown or not config.seeds or len(set(config.seeds)) < len(config.seeds):
        known = ", ".join(SYSTEMS)
        raise ValueError(f"--systems {' '.join(unknown)}: there is {known}" if unknown else "--seeds: each one once")
    if min(config.steps, config.batch, config.parameters, config.rows or 1) < 1 or not config.lr > 0:
        raise ValueError("--steps, --batch, --parameters and --rows must be at least 1, and --lr positive")
    out = check_writable(config.out / config.preset / config.task)
    shared = Path(os.environ.get("FLOWKIT_SHARED", "../shared")) / "data" / "density"
    if config.data is None and not shared.is_dir():
        raise ValueError(f"--data: name a file or folder of tables; there is no {shared}")
    console = main_console()
    sections = []
    for name, table in read_sets(config.data or shared, config.sets).items():
        found: dict[str, list[dict[str, Any]]] = {}
        notes: tuple[str, ...] = ()
        for seed in config.seeds:
            if isinstance(table, tuple):
                split = split_images(*table, config.rows)
            else:
                split = split_table(name, table, config.task == "conditional", config.targets, seed)
            notes = split.notes
            for key in chosen(config, split):
                console.rule(f"{name}: {SYSTEMS[key].label}, seed {seed}")
                found.setdefault(key, []).append(one(config, key, name, split, seed, out, console))
        if found:
            sections.append(section(name, found, notes, console))
    write_text(out / "table.md", "\n\n".join([*sections, f"{about(config)}\n"]))
    console.print(about(config), highlight=False)
    console.print(f"see {out}: table.md, and a file for each run", highlight=False)


def chosen(config: Config, split: Split) -> list[str]:
    """Systems that can take the rows of a set."""
    columns = split.x["train"].shape[1]
    peers = [key for key, system in SYSTEMS.items() if system.library in config.against]
    wanted = {key: SYSTEMS[key] for key in (*config.systems, *peers)}
    fitting = [key for key, system in wanted.items() if system.images == split.is_image]
    return [key for key in fitting if split.is_image or columns >= wanted[key].columns]


def one(config: Config, key: str, name: str, split: Split, seed: int, out: Path, console: Console) -> dict[str, Any]:
    """Trains and scores one system on one set with one seed, or reads what was found before."""
    system = SYSTEMS[key]
    file = out / name / key / f"seed{seed}.json"
    shape = split.x["train"].shape[1:]
    features = 0 if split.context is None else split.context["train"].shape[1]
    sizes = sizes_of(config, system, shape, features)
    left_out = ("seeds", "sets", "systems", "against", "out", "overwrite", "data")
    options = {k: v for k, v in dataclasses.asdict(config).items() if k not in left_out}
    told = {
        "options": options,
        "sizes": dataclasses.asdict(sizes),
        "rows": {k: len(x) for k, x in split.x.items()},
        "checksum": checksum(split),
    }
    if file.exists() and not config.overwrite:
        record: dict[str, Any] = json.loads(read_text(file))
        if record["about"] == told:
            console.print(f"{file}: done before", highlight=False)
            return record
    torch.manual_seed(seed)
    flow = system.made(shape, features, sizes).to(find_device(config.device))
    epochs = math.ceil(config.steps / math.ceil(len(split.x["train"]) / config.batch))
    x = torch.cat([split.x["train"], split.x["validation"]])
    context = None if split.context is None else torch.cat([split.context["train"], split.context["validation"]])
    clock = time.process_time if config.device == "cpu" or not torch.cuda.is_available() else time.perf_counter
    start = clock()
    with progress_bar(console, epochs, f"{count(flow):,} parameters", transient=True) as tick:
        history = flowkit.fit(
            flow,
            x,
            context,
            epochs=epochs,
            batch=config.batch,
            lr=config.lr,
            validation=torch.arange(len(split.x["train"]), len(x)),
            patience=epochs,
            seed=seed,
            callback=lambda history: tick(f"{count(flow):,} parameters, {history.validation[-1]:.3f} nats"),
        )
    seconds = clock() - start
    flow.eval()
    given = split.context or {}
    scores = {which: nats(flow, split.x[which], given.get(which)) for which in ("validation", "test")}
    measure = {k: bits_per_dim(v, shape) for k, v in scores.items()} if split.is_image else scores
    record = {
        "about": told,
        "parameters": count(flow),
        **measure,
        "seconds": seconds,
        "epochs": len(history.train),
        "best_epoch": history.best_epoch,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(record, indent=2))
    console.print(f"{measure['test']:.3f} on the test rows, {seconds:.0f} s", highlight=False)
    return json.loads(json.dumps(record))  # as it is when it is read


def checksum(split: Split) -> str:
    """SHA-256 of the rows and their conditions."""
    digest = hashlib.sha256()
    for part in (split.x, split.context or {}):
        for name, rows in part.items():
            digest.update(f"{name}{tuple(rows.shape)}".encode())
            digest.update(rows.contiguous().numpy().tobytes())
    return digest.hexdigest()


def sizes_of(config: Config, system: System, shape: tuple[int, ...], features: int) -> Sizes:
    """Sizes of a system: as the options say, or as wide as its parameters allow."""
    sizes = Sizes(config.hidden or 8, config.layers, config.blocks, config.bins, config.tail, config.dropout)
    return sizes if config.hidden else system.matched(shape, features, sizes, config.parameters)


def section(name: str, found: Mapping[str, list[dict[str, Any]]], notes: tuple[str, ...], console: Console) -> str:
    """The table of a set, printed and as Markdown."""
    images = any(SYSTEMS[key].images for key in found)
    unit, form = ("bits/dim ↓", ".3f") if images else ("nats ↑", ".3f")
    columns = {
        "test": (f"test {unit}", form),
        "validation": (f"validation {unit}", form),
        "parameters": ("parameters", ",.0f"),
        "seconds": ("seconds", ".0f"),
        "best_epoch": ("best epoch", ".0f"),
    }
    kept = ("test", "validation", "parameters", "seconds", "best_epoch")
    rows = {SYSTEMS[key].label: spread([{k: r[k] for k in kept} for r in runs]) for key, runs in found.items()}
    table = spread_table(rows, columns)
    console.print(terminal_table(*table))
    said = "; ".join(notes)
    console.print(said, highlight=False)
    return f"## {name}\n\n{markdown(*table)}\n\n{said}."


def about(config: Config) -> str:
    """How the numbers came about."""
    width = f"width {config.hidden}" if config.hidden else f"at most {config.parameters:,} parameters"
    seeds = ", ".join(map(str, config.seeds))
    return (
        f"{config.task} densities of standardised columns; {config.steps} steps of {config.batch} rows, Adam "
        f"{config.lr:g} with a cosine, weights by validation; {width}; seeds {seeds}: mean ± deviation; seconds of "
        "processor time (on a GPU: of the clock)."
    )


parse = partial(command_line, Config, PRESETS, ("preset",), about=__doc__)

if __name__ == "__main__":
    sys.exit(run(lambda: main(parse(sys.argv[1:]))))
