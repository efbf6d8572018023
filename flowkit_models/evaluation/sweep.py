"""Several models side by side: scores against the temperature, tables with their spread, pictures."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from flowkit_models.data.image_pair import Pair
from flowkit_models.evaluation.figures import Shown, draw_sheet, save
from flowkit_models.evaluation.scores import Distance
from flowkit_models.images.convert import to_float, to_uint8
from flowkit_models.metrics.full_reference import consistency, psnr
from flowkit_models.metrics.stochastic import diversity
from flowkit_models.models.base import ImageFlow

Row = Mapping[str, float]
"""Values of one run by name."""


@torch.no_grad()
def sweep(
    model: ImageFlow,
    pairs: dict[str, Pair],
    temperatures: Sequence[float],
    draws: int = 3,
    seed: int = 0,
    distances: Mapping[str, Distance] | None = None,
) -> list[dict[str, float]]:
    """Scores samples at several temperatures, the same draws at each; measured as in `scoring.score`.

    Args:
        model: in eval mode.
        pairs: test images by name.
        temperatures: τ.
        draws: samples per image, at least 2.
        seed: of the draws.
        distances: learned distances by name.

    Returns:
        For each τ its "temperature", and the means over images and draws of "psnr", "consistency", the distances and
        "diversity".
    """
    device = next(model.parameters()).device
    rows = []
    for temperature in temperatures:
        generator = torch.Generator().manual_seed(seed)
        found: dict[str, list[float]] = {}
        for pair in pairs.values():
            different = draws if temperature else 1  # at τ = 0 all draws are one
            samples = model.upscale(to_float(pair.lr).to(device), different, temperature, generator).cpu()
            samples = samples.expand(draws, *samples.shape[1:])
            images = to_uint8(samples.flatten(0, 1))
            hr, lr = (x.expand(draws, -1, -1, -1) for x in (pair.hr, pair.lr))
            values = {"psnr": psnr(images, hr, model.scale), "consistency": consistency(images, lr)}
            for name, distance in (distances or {}).items():
                values[name] = distance(to_float(images), to_float(hr)).cpu()
            values["diversity"] = diversity(samples)
            for name, value in values.items():
                found.setdefault(name, []).append(float(value.double().mean()))
        rows.append({"temperature": float(temperature), **{name: fmean(value) for name, value in found.items()}})
    return rows


def spread(runs: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation over runs, of every value that all of them have.

    Returns:
        By name, "mean", "std" (n − 1 in the denominator; None for one run, or for infinite values) and "values".

    Example:
        >>> spread([{"psnr": 27.0}, {"psnr": 28.0, "ssim": 0.7}])
        {'psnr': {'mean': 27.5, 'std': 0.7071067811865476, 'values': [27.0, 28.0]}}
    """
    out = {}
    for name in runs[0]:
        if all(name in run for run in runs):
            values = [float(run[name]) for run in runs]
            finite = all(math.isfinite(value) for value in values)
            std = stdev(values) if finite and len(values) > 1 else None
            out[name] = {"mean": fmean(values), "std": std, "values": values}
    return out


def table_cells(
    summaries: Mapping[str, Mapping[str, Mapping[str, Any]]], columns: Mapping[str, tuple[str, str]]
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a table of mean ± standard deviation.

    Args:
        summaries: `spread` of each model, by the name of its row.
        columns: heading and number format by name of the value. One that no model has is left out.

    Returns:
        The headings, the first one empty, and the rows, with "–" for a value that a model has not.
    """
    shown = {key: how for key, how in columns.items() if any(key in summary for summary in summaries.values())}
    rows = []
    for name, summary in summaries.items():
        row = [name]
        for key, (_, form) in shown.items():
            value = summary.get(key)
            if value is None or not math.isfinite(value["mean"]):
                row.append("–")
            else:
                std = f" ± {value['std']:{form}}" if value["std"] else ""  # of one run, or of equal ones: none
                row.append(f"{value['mean']:{form}}{std}")
        rows.append(row)
    return ["", *(heading for heading, _ in shown.values())], rows


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, numbers to the right.

    Example:
        >>> print(markdown(["", "PSNR"], [["bicubic", "28.42"]]))
        |  | PSNR |
        |---|---:|
        | bicubic | 28.42 |
    """
    lines = [headings, None, *rows]
    rule = "|---|" + "---:|" * (len(headings) - 1)
    return "\n".join(rule if line is None else f"| {' | '.join(line)} |" for line in lines)


def temperature_curves(
    curves: Mapping[str, Sequence[Sequence[Row]]],
    path: str | os.PathLike[str],
    shown: Mapping[str, str],
    zoom: Sequence[str] = (),
) -> None:
    """Plots values against the temperature, a line for each model; a band spans its runs.

    Args:
        curves: by name of the model, for each of its runs, what `sweep` returns.
        path: the PNG to write.
        shown: titles of the panels by name of the value; one that is missing is left out.
        zoom: models that get a second row of panels to themselves, where the others are far off.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    first = next(iter(curves.values()))[0][0]
    panels = {key: title for key, title in shown.items() if key in first}
    rows = [list(curves), *([list(zoom)] if 0 < len(zoom) < len(curves) else [])]
    styles = {name: (f"C{i}", "osv^Dxp*"[i % 8]) for i, name in enumerate(curves)}
    figure = Figure(figsize=(4.2 * len(panels), 3.4 * len(rows) + 0.4), dpi=110, layout="constrained")
    grid = figure.subplots(len(rows), len(panels), squeeze=False)
    for i, (axes, names) in enumerate(zip(grid, rows, strict=True)):
        for axis, (key, title) in zip(axes, panels.items(), strict=True):
            for name in names:
                colour, marker = styles[name]
                taus = [row["temperature"] for row in curves[name][0]]
                values = list(zip(*([row[key] for row in run] for run in curves[name]), strict=True))
                axis.fill_between(taus, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.2)
                axis.plot(taus, [fmean(v) for v in values], marker=marker, color=colour, label=name, markersize=4)
            axis.grid(alpha=0.3)
            axis.set(title=title if i == 0 else "", xlabel="τ" if i == len(rows) - 1 else "")
        if i > 0:
            axes[0].set_ylabel(f"without {', '.join(name for name in curves if name not in names)}")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    save(figure, path)


@torch.no_grad()
def comparison_sheet(
    models: Mapping[str, ImageFlow],
    pairs: dict[str, Pair],
    path: str | os.PathLike[str],
    temperature: float,
    seed: int = 0,
    centres: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Draws two rows per image, τ = 0 and a sample at τ: LR or bicubic, each model, HR; windows, enlarged.

    Args:
        models: in eval mode, by title.
        pairs: images by name.
        path: the PNG to write.
        temperature: τ of the samples.
        seed: of the draws.
        centres: where to look, as fractions of height and width; the middle by default.
    """
    rows = {}
    for name, pair in pairs.items():
        for tau, first in ((0.0, Shown("LR, bicubic", pair.lr)), (temperature, Shown("", pair.bicubic))):
            row = [first]
            for title, model in models.items():
                lr = to_float(pair.lr).to(next(model.parameters()).device)
                generator = torch.Generator().manual_seed(seed)
                image = to_uint8(model.upscale(lr, 1, tau, generator)[0].cpu())
                row.append(Shown(title, image, f"{psnr(image, pair.hr, model.scale).item():.2f} dB"))
            rows[f"{Path(name).stem}, τ = {tau:g}"] = [*row, Shown("HR", pair.hr)]
    draw_sheet(rows, path, next(iter(models.values())).scale, centres)
