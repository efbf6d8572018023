"""Conditional or independent latents? The six designs of the paper's Table 1, trained alike and compared.

Each design is the same network with two arguments changed: what the latents are conditioned on (`given`), and
whether the LR image is a part of the latent (`keep_lr`). All of them get the same data, noise, steps and start, and
as many parameters as HCFlow. With no option: minutes per design on two CPU cores, one seed. It can be stopped at any
moment; started again, it goes on where it was. docs/latent_designs.md explains the designs and shows the results.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console

import flowkit
import flowkit_models
from flowkit_models.data.image_pair import Pair
from flowkit_models.data.loader import Batch, Draws
from flowkit_models.evaluation.evaluator import Distance, Evaluator, means, set_checksum
from flowkit_models.evaluation.figures import comparison_sheet, temperature_curves
from flowkit_models.evaluation.systems import FlowSystem
from flowkit_models.evaluation.tables import markdown, spread, spread_table
from flowkit_models.files import read_text, write_text
from flowkit_models.metrics.registry import METRICS, Rules
from flowkit_models.training.objectives import SRWeights, SuperResolution
from flowkit_models.training.options import PATH, Options
from flowkit_models.training.prior_init import fit_priors
from flowkit_models.training.recipe import command_line, first_batch, fit, fresh_model, main_console, run
from flowkit_models.training.report import learned_distances, score_sr, terminal_table
from flowkit_models.training.run_folder import plain
from flowkit_models.training.settings import RESUMABLE_FIELDS
from flowkit_models.training.validation import HeldOut

Design = Literal["case1", "case2", "case3", "case4", "case5", "hcflow"]
DESIGNS: dict[Design, dict[str, Any]] = {
    "case1": {"given": "independent", "keep_lr": False},
    "case2": {"given": "lr", "keep_lr": False},
    "case3": {"given": "lr", "keep_lr": True},
    "case4": {"given": "independent", "keep_lr": True},
    "case5": {"given": "single", "keep_lr": True},
    "hcflow": {"given": "coarse", "keep_lr": True},
}
"""Table 1 (section 3.2): fields of the config of HCFlow."""
LABELS = {name: "HCFlow" if name == "hcflow" else f"case {name[-1]}" for name in DESIGNS}


@dataclass(frozen=True, kw_only=True)
class Run(Options):
    """Options of one design's training."""

    preset: Literal["small", "paper"] = "small"
    """small: two CPU cores, minutes per design. paper: the published ×4 network and its schedule, for a GPU and days
    per design."""
    loss: SRWeights = field(default_factory=SRWeights)
    """Weights of the losses, the same for all designs."""


@dataclass(frozen=True, kw_only=True)
class Config(Run):
    """Options of the recipe. The defaults shown are those of the chosen preset."""

    designs: tuple[Design, ...] = tuple(DESIGNS)
    """Designs to train and compare."""
    seeds: tuple[int, ...] = (0,)
    """Each design is trained once with each seed; the tables show mean ± standard deviation over them."""
    out: Path = Path("runs/latent_designs")
    """Folder of the comparison; of its runs, PRESET/DESIGN/SEED in it."""
    temperature: float = 0.9
    """τ of the samples in the table and the picture."""
    taus: tuple[float, ...] = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0)
    """Temperatures of the curves, beside 0."""
    shown: int = 2
    """Number of test images in the picture."""
    weights: Annotated[Path | None, PATH] = None
    """File or folder of weights for LPIPS. Without it: torch's cache."""
    seed: Annotated[int, tyro.conf.Suppress] = 0  # each run has its own
    resume: Annotated[bool, tyro.conf.Suppress] = True  # always, unless --overwrite


MODEL = {"small": "hcflow_sr_x4_small", "paper": "hcflow_sr_x4"}
PRESETS: dict[tuple[str, ...], Config] = {
    ("small",): Config(
        steps=300,
        batch=8,
        crop=48,
        lr=1e-3,
        clip_value=5.0,
        clip_norm=100.0,
        average=0.98,
        validate_every=150,
        save_every=50,
        draws=3,
        loss=SRWeights(nll=0.02),
    ),
    ("paper",): Config(
        preset="paper",
        steps=300_000,
        batch=16,
        crop=160,
        milestones=(150_000, 225_000, 270_000, 285_000),
        clip_value=5.0,
        clip_norm=100.0,
    ),
}


def main(config: Config) -> None:
    """Data, models, training, table and pictures."""
    for name, chosen in (("designs", config.designs), ("seeds", config.seeds)):
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(f"--{name}: name at least one, and each once")
    if config.draws < 2 or config.temperature <= 0:
        raise ValueError("--draws must be at least 2, for the diversity, and --temperature above 0")
    config.folder()
    console = main_console()
    sizes = {design: matched(design, config.preset) for design in config.designs}
    pairs = config.test_pairs(4)
    distances = learned_distances(config.weights, console)
    records: dict[Design, list[dict[str, Any]]] = {design: [] for design in config.designs}
    todo = [(seed, design) for seed in config.seeds for design in config.designs]
    for i, (seed, design) in enumerate(todo):
        console.rule(f"{LABELS[design]}, seed {seed} ({i + 1} of {len(todo)})")
        records[design].append(one(config, design, seed, sizes[design], pairs, distances, console))
    if not console.quiet:
        report(config, records, pairs, console)


def matched(design: Design, preset: str) -> dict[str, Any]:
    """The fields of a design's config.

    A design without feature extractors would be a smaller network. So the networks of the steps on the details are as
    wide as gives each design the parameters of HCFlow.
    """

    def parameters(**more: Any) -> int:
        with torch.device("meta"):
            model = flowkit_models.create(MODEL[preset], **more)
        return sum(p.numel() for p in model.parameters())

    widths = (8, 16, 24)  # the number of parameters is a polynomial of degree 2 in the width
    counts = [parameters(**DESIGNS[design], conditional_hidden=width) for width in widths]
    roots = np.roots(np.polyfit(widths, np.array(counts) - parameters(), 2))
    return {**DESIGNS[design], "conditional_hidden": round(float(roots.real.max()))}


def one(
    config: Config,
    design: Design,
    seed: int,
    sizes: dict[str, Any],
    pairs: dict[str, Pair],
    distances: Mapping[str, Distance],
    console: Console,
) -> dict[str, Any]:
    """Trains and scores one design with one seed, or reads what was found before."""
    training = {f.name: getattr(config, f.name) for f in fields(Run)}
    folder = run_folder(config, design, seed)
    options = Run(**{**training, "out": folder, "seed": seed, "resume": not config.overwrite})
    model = fresh_model(MODEL[config.preset], options, **sizes)
    crops = options.crops(model.scale)
    kept = {name: value for name, value in asdict(options).items() if name not in RESUMABLE_FIELDS}
    about = plain(
        {
            "design": design,
            "sizes": sizes,
            "options": {**kept, "steps": config.steps, "test": config.test},
            "data": {"train": crops.fingerprint(), "test": set_checksum(pairs)},
            "scores": {
                "draws": config.draws,
                "temperature": config.temperature,
                "taus": config.taus,
                "distances": list(distances),
            },
        }
    )
    file = folder / "scores.json"
    if file.exists() and not config.overwrite:
        record: dict[str, Any] = json.loads(read_text(file))
        if record["about"] == about:
            console.print(f"{folder}: done before", highlight=False)
            return record
    if config.overwrite and not console.quiet:
        file.unlink(missing_ok=True)  # they are those of the run that is deleted

    # Data (section 4.1) and model (section 3): seed, data and start are those of every other design
    def initialize(model: Any, batch: Batch, draws: Draws) -> None:
        if config.preset == "paper":
            noise = draws.uniform("noise", batch.hr.shape[1:])
            flowkit.initialize(model.flow, model.dequantize(batch.hr, noise=noise)[0], model.context(batch.lr))
        else:  # the best linear guess of the details from what each design conditions them on
            hr, lr = first_batch(crops, 64)
            fit_priors(model, hr.to(batch.hr.device), lr.to(batch.hr.device))
        if not console.quiet:
            start = HeldOut(pairs, config.temperature, {})(model, 0)
            write_text(folder / "start.json", json.dumps({"psnr": start["psnr"]}))

    # Loss (section 3.4), schedule and run
    objective = SuperResolution(model, options.loss)
    held_out = HeldOut(pairs, config.temperature, {})
    trained = fit(objective, crops, options, held_out, console, initialize)
    if console.quiet:
        return {}

    # Scores (section 4.2)
    with console.status("scores"):
        scores = score_sr(trained.model, pairs, config.temperature, config.draws, seed, distances)
        others = [tau for tau in config.taus if tau not in (0.0, config.temperature)]
        rules = Rules(model.scale, ("psnr", "consistency", *distances, "diversity"), config.draws, seed, rounded=True)
        rows = Evaluator(rules, networks=distances).score(FlowSystem(trained.model, design, others), pairs)
    swept = [{"temperature": row["temperature"], **means(row)} for row in rows]
    ends = [{"temperature": tau, "diversity": 0.0, **scores[f"tau_{tau:g}"]} for tau in {0.0, config.temperature}]
    record = {
        "about": about,
        "parameters": sum(p.numel() for p in model.parameters()),
        "start_psnr": json.loads(read_text(folder / "start.json"))["psnr"],
        "train_minutes": trained.seconds / 60,
        "scores": scores,
        "temperatures": sorted([*ends, *swept], key=lambda row: row["temperature"]),
    }
    write_text(file, json.dumps(record, indent=2))
    return record


TABLE1 = {
    name: (METRICS[name].title, METRICS[name].form) for name in ("psnr", "ssim", "lpips", "consistency", "lr_psnr")
}
"""The columns of Table 1."""
BESIDE = {
    "parameters": ("parameters", ",.0f"),
    "start_psnr": ("PSNR untrained", ".2f"),
    "psnr": ("PSNR trained", ".2f"),
    "bits_per_dim": (METRICS["bits_per_dim"].title, ".3f"),
    "diversity": ("diversity", ".2f"),
    "train_minutes": ("minutes", ".1f"),
}
"""Further columns that tell the designs apart."""


def row_of(record: Mapping[str, Any], temperature: float) -> dict[str, float]:
    """Numbers of one run for the tables: PSNR and SSIM at τ = 0, the others at τ where they depend on it."""
    scores = record["scores"]
    warm = scores[f"tau_{temperature:g}"]
    return {
        **{name: scores["tau_0"][name] for name in ("psnr", "ssim")},
        **{name: warm[name] for name in ("lpips", "consistency", "diversity") if name in warm},
        **{name: scores[name] for name in ("lr_psnr", "bits_per_dim") if name in scores},
        **{name: record[name] for name in ("parameters", "start_psnr", "train_minutes")},
    }


def report(
    config: Config, records: Mapping[Design, list[dict[str, Any]]], pairs: dict[str, Pair], console: Console
) -> None:
    """Writes table.md, table.json, tau.png and samples.png, and prints the tables."""
    tau, seeds = config.temperature, config.seeds
    rows = {name: [row_of(record, tau) for record in found] for name, found in records.items()}
    bicubic = next(iter(records.values()))[0]["scores"]["bicubic"]
    trained = {LABELS[name]: spread(found) for name, found in rows.items()}
    summaries = {"bicubic": spread([bicubic]), **trained}
    caption = (
        f"PSNR, SSIM at τ = 0; LPIPS, consistency, diversity at τ = {tau:g}; means over {', '.join(pairs)} (RGB, dB); "
        f"{config.steps} steps; seeds {', '.join(map(str, seeds))}{': mean ± deviation' if len(seeds) > 1 else ''}"
    )
    tables = [spread_table(part, columns) for part, columns in ((summaries, TABLE1), (trained, BESIDE))]
    for headings, cells in tables:
        console.print(terminal_table(headings, cells))
    console.print(caption, highlight=False)

    out = config.out / config.preset
    write_text(out / "table.md", "\n\n".join([*(markdown(*table) for table in tables), caption]) + "\n")
    write_text(out / "table.json", json.dumps({"summary": summaries, "runs": records}, indent=2))
    curves = {LABELS[name]: [record["temperatures"] for record in found] for name, found in records.items()}
    shown = {"psnr": "PSNR (dB)", "lpips": "LPIPS", "diversity": "diversity (grey levels)"}
    temperature_curves(curves, out / "tau.png", shown, [label for label in curves if label != "case 1"])
    models = {
        LABELS[name]: flowkit_models.load(run_folder(config, name, seeds[0]) / "last.safetensors") for name in records
    }
    comparison_sheet(models, dict(list(pairs.items())[: config.shown]), out / "samples.png", tau, seeds[0])
    console.print(f"see {out}: table.md, table.json, tau.png, samples.png", highlight=False)


def run_folder(config: Config, design: Design, seed: int) -> Path:
    """Folder of one run."""
    return config.out / config.preset / design / f"seed{seed}"


parse = partial(command_line, Config, PRESETS, ("preset",), about=__doc__)

if __name__ == "__main__":
    sys.exit(run(lambda: main(parse(sys.argv[1:]))))
