"""End of a training recipe: final scores, metrics.json, tables for the terminal, curve and picture sheet."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from flowkit_models.data.crops import AlignedCrops
from flowkit_models.data.image_pair import Pair
from flowkit_models.diagnostics.lr_provenance import calibrate
from flowkit_models.evaluation.evaluator import Distance, Evaluator, means
from flowkit_models.evaluation.figures import curves, rescaling_sheet, sample_sheet, scales_sheet
from flowkit_models.evaluation.systems import Bicubic, FlowSystem, System
from flowkit_models.files import jsonable, write_text
from flowkit_models.metrics.perceptual import LPIPS
from flowkit_models.metrics.pretrained import WeightsError, is_cached
from flowkit_models.metrics.registry import METRICS, Rules, jpeg_metric
from flowkit_models.models import factory
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.checkpoint_file import read_about
from flowkit_models.training.logs import read_log
from flowkit_models.training.options import Options
from flowkit_models.training.trainer import Result

LOOK_AT = {"astronaut": (0.22, 0.45), "chelsea": (0.4, 0.5), "coffee": (0.45, 0.5)}
"""Centres of the windows that a sheet shows of the bundled test photographs, as fractions of height and width."""


CALIBRATION = 16
"""Crops of training photographs that a model's own LR images are told by."""

JPEG = tuple(map(jpeg_metric, (30, 70)))
"""PSNR on Y where the LR image is stored as JPEG: columns of the tables of rescaling."""


def score_sr(
    model: ImageFlow,
    pairs: dict[str, Pair],
    temperature: float = 0.8,
    draws: int = 5,
    seed: int = 0,
    distances: Mapping[str, Distance] | None = None,
) -> dict[str, Any]:
    """Final scores of a super-resolution model and of the bicubic upscale (section 4.2).

    Args:
        model: in eval mode.
        pairs: test images by name.
        temperature: τ of the draws; τ = 0 is always scored as well.
        draws: samples per image for the means and the diversity.
        seed: of the draws and of the dequantisation noise in bits/dim.
        distances: networks of learned metrics by the metric's name, to be scored as well.

    Returns:
        The means over the images: PSNR and SSIM (RGB, 8 bits, cropped borders) of bicubic, τ = 0, τ, and the learned
        prior of a model that has one ("learned"), and their consistency with the LR file, that at τ once more on top;
        diversity (grey levels); true bits per dim; LR-PSNR of the generated LR, for a model that makes it; the largest
        round-trip error; and the protocol, in words.
    """
    of_model = ("lr_psnr", "bits_per_dim", "roundtrip_error")
    metrics = ("psnr", "ssim", *(distances or {}), "consistency", "diversity", *of_model)
    evaluator = Evaluator(Rules(model.scale, metrics, draws, seed, rounded=True), networks=distances)
    (bicubic,) = evaluator.score(Bicubic(model.scale), pairs)
    prior = [] if model.prior is None else [None]
    mode, sample, *learned = evaluator.score(FlowSystem(model, "model", (0.0, temperature, *prior)), pairs)
    rows = {"bicubic": bicubic, "tau_0": mode, f"tau_{temperature:g}": sample}
    rows |= {"learned": learned[0]} if learned else {}
    table = {name: {k: v for k, v in means(row).items() if k not in of_model} for name, row in rows.items()}
    own = means(mode)
    errors = mode["metrics"]["roundtrip_error"]["images"].values()
    return {
        **table,
        **({"lr_psnr": own["lr_psnr"]} if "lr_psnr" in own else {}),
        "consistency": table[f"tau_{temperature:g}"]["consistency"],
        "bits_per_dim": own["bits_per_dim"],
        "roundtrip_max_error": max(error for (error,) in errors),
        "protocol": {**evaluator.rules.protocol(), "images": list(pairs), "temperature": temperature},
    }


def score_scales(model: ImageFlow, scales: Mapping[float, dict[str, Pair]]) -> dict[str, dict[str, dict[str, float]]]:
    """Final scores of a model of any scale at several factors, at τ = 0, and of the bicubic upscale.

    Args:
        model: in eval mode.
        scales: test images by factor and name.

    Returns:
        For each factor, as a word, the means over the images of PSNR (RGB; Y) and SSIM (Y) by "bicubic" and "model".
    """
    found = {}
    for scale, pairs in scales.items():
        evaluator = Evaluator(Rules(scale, ("psnr", "psnr_y", "ssim_y")))
        systems: dict[str, System] = {
            "bicubic": Bicubic(scale),
            "model": FlowSystem(model, "model", (0.0,), scale=scale),
        }
        found[f"{scale:g}"] = {name: means(evaluator.score(system, pairs)[0]) for name, system in systems.items()}
    return found


def score_rescaling(
    model: ImageFlow, pairs: dict[str, Pair], temperature: float = 1.0, draws: int = 1, seed: int = 0
) -> dict[str, Any]:
    """Final scores of a rescaling model, and of bicubic down and up again (section 4.3, Table 4).

    Args:
        model: in eval mode, one that makes LR images.
        pairs: test images by name; their LR images are the bicubic ones.
        temperature: τ of the latents that the image is made again with.
        draws: how often.
        seed: of the draws.

    Returns:
        The means over the images: PSNR and SSIM on Y (8-bit images, Y not rounded, cropped borders) of bicubic and of
        the model, that PSNR with the LR images stored as JPEG, PSNR of the model's LR against the bicubic one, and the
        protocol.
    """
    evaluator = Evaluator(Rules(model.scale, ("psnr_y", "ssim_y", "lr_psnr", *JPEG), draws, seed))
    (bicubic,) = evaluator.score(Bicubic(model.scale), pairs)
    (row,) = evaluator.score(FlowSystem(model, "model", (temperature,), rescaling=True), pairs)
    return {
        "bicubic": means(bicubic),
        "model": means(row),
        "protocol": {**evaluator.rules.protocol(), "images": list(pairs), "temperature": temperature},
    }


def finish_sr(
    trained: Result,
    pairs: dict[str, Pair],
    options: Options,
    temperature: float,
    distances: Mapping[str, Distance],
    console: Console,
    by: str = "psnr",
    scales: Mapping[float, dict[str, Pair]] | None = None,
) -> None:
    """Scores a super-resolution model and draws its pictures, with the curve of one metric, on the first process.

    Of a model of any scale, `scales` has the test images at further factors.
    """
    if console.quiet:
        return
    out = options.out
    metrics = score_sr(trained.model, pairs, temperature, options.draws, options.seed, distances)
    if scales:
        metrics["scales"] = score_scales(trained.model, scales)
    _save_metrics(metrics, options, trained)
    curves(_training(out), out / "curve.png", by, {"bicubic": metrics["bicubic"][by]})
    sample_sheet(trained.model, pairs, out / "samples.png", temperature, seed=options.seed, centres=LOOK_AT)
    console.print(sr_table(metrics, type(trained.model).__name__, temperature))
    if scales:
        scales_sheet(trained.model, scales, out / "scales.png", LOOK_AT)
        console.print(scales_table(metrics["scales"], type(trained.model).__name__))
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


def sr_table(metrics: Mapping[str, Any], name: str, temperature: float) -> Table:
    """The results of a super-resolution model, as a table for the terminal."""
    rows = {"bicubic": "bicubic", f"{name} τ = 0": "tau_0", f"{name} τ = {temperature:g}": f"tau_{temperature:g}"}
    rows |= {f"{name}, learned prior": "learned"} if "learned" in metrics else {}
    columns = ("psnr", "ssim", "lpips", "consistency", "diversity")
    shown = [key for key in columns if any(key in metrics[row] for row in rows.values())]
    lr = f"LR-PSNR of the generated LR {metrics['lr_psnr']:.2f} dB; " if "lr_psnr" in metrics else ""
    table = _means_table(metrics, rows, shown, "dB, RGB")
    table.caption = (
        f"{lr}{metrics['bits_per_dim']:.2f} bits/dim; largest round-trip error {metrics['roundtrip_max_error']:.1e}"
    )
    return table


def scales_table(scores: Mapping[str, Any], name: str) -> Table:
    """The results of a model of any scale, as a table for the terminal."""
    headings = ["", *(f"{METRICS[key].heading} of {row}" for key in ("psnr", "psnr_y") for row in ("bicubic", name))]
    rows = [
        [f"×{scale}", *(f"{one[row][key]:.2f}" for key in ("psnr", "psnr_y") for row in ("bicubic", "model"))]
        for scale, one in scores.items()
    ]
    table = terminal_table(headings, rows)
    table.title = "one model at every factor, τ = 0 (dB)"
    return table


def rescaling_table(metrics: Mapping[str, Any], name: str) -> Table:
    """The results of a rescaling model, as a table for the terminal."""
    rows = {"bicubic down and up": "bicubic", f"{name} down and up": "model"}
    columns = ("psnr_y", "ssim_y", "lr_psnr", *(key for key in JPEG if key in metrics["model"]))
    return _means_table(metrics, rows, columns, "dB")


def _means_table(metrics: Mapping[str, Any], rows: Mapping[str, str], columns: Sequence[str], unit: str) -> Table:
    """The means of some metrics, a row for each system."""
    cells = [
        [label, *(format(metrics[row][key], METRICS[key].form) if key in metrics[row] else "–" for key in columns)]
        for label, row in rows.items()
    ]
    table = terminal_table(["", *(METRICS[key].heading for key in columns)], cells)
    table.title = f"means over {', '.join(metrics['protocol']['images'])} ({unit})"
    return table


def terminal_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table for the terminal, numbers to the right."""
    table = Table()
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _note_own_lr(out: Path, crops: AlignedCrops, device: torch.device) -> None:
    """Notes in a run's checkpoints, as "own_lr", what their LR images are told by (see `lr_provenance.calibrate`)."""
    found: dict[str, float] = {}
    for path in (out / "last.safetensors", out / "best.safetensors"):
        if path.is_file():
            model, about = factory.load(path), read_about(path)
            if about["step"] not in found:
                photos = (crops.part(i, 48 * model.scale).to(device) for i in range(CALIBRATION))
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
    write_text(options.out / "metrics.json", json.dumps(jsonable(metrics), indent=2, default=str) + "\n")
