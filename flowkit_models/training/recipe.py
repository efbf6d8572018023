"""Parts that training recipes share: command line, first weights, and the end with its table and pictures."""

import dataclasses
import json
import math
import os
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

import flowkit_models
from flowkit_models.data.crops import AlignedCrops
from flowkit_models.data.image_pair import Pair
from flowkit_models.diagnostics.lr_provenance import calibrate
from flowkit_models.evaluation.figures import curves, rescaling_sheet, sample_sheet
from flowkit_models.evaluation.scores import Distance, score, score_rescaling
from flowkit_models.files import write_text
from flowkit_models.metrics.perceptual import LPIPS
from flowkit_models.metrics.pretrained import WeightsError, is_cached
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.checkpoint_file import read_about
from flowkit_models.training.logs import read_log
from flowkit_models.training.objective import Objective
from flowkit_models.training.optim import Adam
from flowkit_models.training.options import Options
from flowkit_models.training.run_folder import RunFolder
from flowkit_models.training.trainer import Initialize, Result, Validate, train

LOOK_AT = {"astronaut": (0.22, 0.45), "chelsea": (0.4, 0.5), "coffee": (0.45, 0.5)}
"""Where a picture of the bundled test photographs looks, as fractions of height and width."""

C = TypeVar("C", bound=Options)


def first_batch(samples: Any, count: int) -> tuple[Tensor, Tensor]:
    """The first samples of training data, as one batch: hr and lr."""
    hr, lr = zip(*(samples[i] for i in range(count)), strict=True)
    return torch.stack(hr), torch.stack(lr)


def fresh_model(name: str, options: Options, **sizes: Any) -> Any:
    """The model of a preset with first weights by the seed; of a resumed run, in the sizes that it was started with."""
    folder = RunFolder(options.out)
    if options.resume and folder.state.exists() and folder.config.exists():
        sizes = {**json.loads(folder.config.read_text()).get("sizes", {}), **sizes}
    torch.manual_seed(options.seed)
    return flowkit_models.create(name, options.memory, options.networks, **sizes)


def initial_model(path: Path, like: ImageFlow, stages: tuple[str, ...], memory: str, networks: str) -> ImageFlow:
    """The model of a checkpoint to start from, which must be one of the sizes of `like` and of one of the stages.

    A checkpoint that says nothing of its stage, a published one, is taken for what it is given as.

    Raises:
        ValueError: if it is another model, or was trained in another stage.
    """
    model = flowkit_models.load(path, memory, networks)
    own = {"quant", "centred", "lr_rounded", "gain", "init", "prior", "purpose"}  # no sizes, so they may differ
    sizes = {f.name for f in dataclasses.fields(like.config)} - own
    if type(model) is not type(like) or any(getattr(model.config, o) != getattr(like.config, o) for o in sizes):
        raise ValueError(f"--init {path}: another model than this preset's: {model.config}")
    stage = stage_of(path)
    if stage is not None and stage not in stages:
        raise ValueError(f"--init {path}: trained in stage {stage!r}; this one starts from {' or '.join(stages)}")
    return model.train()


def command_line(
    kind: type[C], presets: Mapping[tuple[str, ...], C], names: tuple[str, ...], arguments: list[str], about: str | None
) -> C:
    """Parses a command line: the options called `names` choose a preset, whose values are all others' defaults."""
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    default = next(iter(presets.values()))
    for name in names:
        first.add_argument(f"--{name}")
    chosen, _ = first.parse_known_args(arguments)
    wanted = {name: getattr(chosen, name) for name in names if getattr(chosen, name) is not None}
    matches = [p for p in presets.values() if all(getattr(p, name) == value for name, value in wanted.items())]
    return tyro.cli(kind, args=arguments, default=matches[0] if matches else default, description=about)


def run(main: Callable[[], object]) -> int | str:
    """Runs a recipe; returns 0, or one line that says what was wrong."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        main()
    except KeyboardInterrupt:
        return "stopped"
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        return f"error: {error}"
    return 0


def fit(
    objective: Objective,
    samples: Any,
    options: Options,
    validate: Validate,
    console: Console,
    initialize: Initialize | None = None,
    discriminator: Adam | None = None,
) -> Result:
    """Trains an objective as the options say, in their folder; they are saved with the run and in each checkpoint."""
    model = objective.model
    console.print(
        f"{type(model).__name__} ×{model.scale}: {sum(p.numel() for p in model.parameters()):,} parameters; "
        f"{len(samples.names)} photographs; {options.steps} steps"
    )
    result = train(
        objective,
        samples,
        options.settings(discriminator),
        options.out,
        config={"options": options, "sizes": model.config},
        validate=validate,
        initialize=initialize,
        resume=options.resume,
        overwrite=options.overwrite,
        console=console,
    )
    if result.skipped:
        console.print(f"warning: {result.skipped} steps were skipped, their loss or gradient was not finite")
    return result


def finish_sr(
    trained: Result,
    pairs: dict[str, Pair],
    options: Options,
    temperature: float,
    distances: Mapping[str, Distance],
    console: Console,
    by: str = "psnr",
) -> None:
    """Scores a super-resolution model and draws its pictures, with the curve of one metric, on the first process."""
    if console.quiet:
        return
    out = options.out
    metrics = score(trained.model, pairs, temperature, options.draws, options.seed, distances)
    _save_metrics(metrics, options, trained)
    curves(_training(out), out / "curve.png", by, {"bicubic": metrics["bicubic"][by]})
    sample_sheet(trained.model, pairs, out / "samples.png", temperature, seed=options.seed, centres=LOOK_AT)
    console.print(results_table(metrics, type(trained.model).__name__, temperature))
    _farewell(trained, out, console)


def finish_rescaling(
    trained: Result,
    crops: AlignedCrops,
    pairs: dict[str, Pair],
    options: Options,
    temperature: float,
    console: Console,
) -> None:
    """Scores a rescaling model, draws its pictures, and notes what its LR images are told by, on the first process."""
    if console.quiet:
        return
    out = options.out
    _note_own_lr(out, crops, next(trained.model.parameters()).device)
    metrics = score_rescaling(trained.model, pairs, temperature, options.draws, options.seed)
    _save_metrics(metrics, options, trained)
    curves(_training(out), out / "curve.png", lines={"bicubic down and up": metrics["bicubic"]["psnr_y"]})
    rescaling_sheet(trained.model, pairs, out / "samples.png", temperature, options.seed, LOOK_AT)
    console.print(rescaling_table(metrics, type(trained.model).__name__))
    _farewell(trained, out, console)


def _note_own_lr(out: Path, crops: AlignedCrops, device: torch.device) -> None:
    """Notes in a run's checkpoints, as "own_lr", what their LR images are told by (see `lr_provenance.calibrate`)."""
    found: dict[str, float] = {}
    for path in (out / "last.safetensors", out / "best.safetensors"):
        if path.is_file():
            model, about = flowkit_models.load(path), read_about(path)
            if about["step"] not in found:
                photos = (crops.part(i, 48 * model.scale).to(device) for i in range(16))
                found[about["step"]] = calibrate(model.to(device), photos)
            model.cpu().save(path, **{**about, "own_lr": f"{found[about['step']]:.4g}"})


def _training(out: Path) -> list[dict[str, Any]]:
    return [row for row in read_log(out / "log.jsonl") if row["kind"] in ("train", "validation")]


def _farewell(trained: Result, out: Path, console: Console) -> None:
    console.print(
        f"trained in {trained.seconds / 60:.1f} minutes; "
        f"see {out}: samples.png, curve.png, metrics.json, last.safetensors"
    )


def _save_metrics(metrics: dict[str, Any], options: Options, trained: Result) -> None:
    """Writes the results as JSON, with how they came about; numbers that are not finite become null."""
    metrics["protocol"] |= {"options": dataclasses.asdict(options), "train_minutes": round(trained.seconds / 60, 2)}
    write_text(options.out / "metrics.json", json.dumps(_finite(metrics), indent=2, default=str) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main_console() -> Console:
    """The console of a recipe: silent on all processes but the first."""
    return Console(quiet=os.environ.get("RANK", "0") != "0")


def learned_distances(weights: Path | None, console: Console) -> dict[str, Distance]:
    """LPIPS by name, if its weights are at hand: in `weights`, or in torch's cache. Nothing is downloaded."""
    if weights is None and not is_cached("alexnet"):
        console.print("LPIPS: not computed: no weights at hand; --weights names their file or folder")
        return {}
    try:
        return {"lpips": LPIPS("alexnet", weights)}
    except WeightsError as error:
        console.print(f"LPIPS: not computed: {error}")
        return {}


def results_table(metrics: Mapping[str, Any], name: str, temperature: float) -> Table:
    """The results of a super-resolution model, as a table for the terminal."""
    rows = {"bicubic": "bicubic", f"{name} τ = 0": "tau_0", f"{name} τ = {temperature:g}": f"tau_{temperature:g}"}
    formats = {"psnr": ".2f", "ssim": ".4f", "lpips": ".4f", "consistency": ".2f", "diversity": ".2f"}
    shown = [key for key in formats if any(key in metrics[row] for row in rows.values())]
    table = Table(title=f"means over {', '.join(metrics['protocol']['images'])} (dB, RGB)")
    table.add_column("")
    for key in shown:
        table.add_column(key.upper() if key in ("psnr", "ssim", "lpips") else key, justify="right")
    for label, row in rows.items():
        table.add_row(
            label, *(format(metrics[row][key], formats[key]) if key in metrics[row] else "–" for key in shown)
        )
    lr = f"LR-PSNR of the generated LR {metrics['lr_psnr']:.2f} dB; " if "lr_psnr" in metrics else ""
    table.caption = (
        f"{lr}{metrics['bits_per_dim']:.2f} bits/dim; largest round-trip error {metrics['roundtrip_max_error']:.1e}"
    )
    return table


def rescaling_table(metrics: Mapping[str, Any], name: str) -> Table:
    """The results of a rescaling model, as a table for the terminal."""
    table = Table(title=f"means over {', '.join(metrics['protocol']['images'])} (Y)")
    for heading in ("", "PSNR", "SSIM", "LR-PSNR"):
        table.add_column(heading, justify="right" if heading else "left")
    for label, key in (("bicubic down and up", "bicubic"), (f"{name} down and up", "model")):
        row = metrics[key]
        lr = f"{row['lr_psnr']:.2f}" if "lr_psnr" in row else "–"
        table.add_row(label, f"{row['psnr_y']:.2f}", f"{row['ssim_y']:.4f}", lr)
    return table


def stage_of(path: Path) -> str | None:
    """The stage that a checkpoint says it was trained in."""
    options = json.loads(read_about(path).get("run", "{}")).get("options", {})
    stage: str | None = options.get("stage")
    return stage
