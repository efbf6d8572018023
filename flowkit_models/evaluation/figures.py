"""Pictures of a run: sheets of images, and the curves of training."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowkit_models.data.image_pair import Pair
from flowkit_models.evaluation.systems import FlowSystem
from flowkit_models.files import atomic_path
from flowkit_models.images.convert import luma, to_uint8
from flowkit_models.metrics.full_reference import psnr
from flowkit_models.models.base import ImageFlow

WINDOW = 144
"""Side of the windows that a sheet shows, in HR pixels."""


class Shown(NamedTuple):
    """One picture of a sheet: uint8 (1, 3, H, W), its title and a note below it."""

    title: str
    image: Tensor
    note: str = ""


def new_figure(width: float, height: float) -> Any:
    """An empty figure of this size in inches.

    Raises:
        ModuleNotFoundError: without matplotlib; it names the extra that brings it.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise ModuleNotFoundError('pictures need matplotlib: pip install "flowkit-torch[metrics]"') from None
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def with_psnr(title: str, image: Tensor, pair: Pair, border: int, on_luma: bool = False) -> Shown:
    """A result, uint8 or in [0, 1], with its PSNR below it, on RGB or on Y; nan where the border leaves nothing."""
    image = to_uint8(image)
    if 2 * border >= min(pair.hr.shape[2:]):
        decibels = math.nan
    elif on_luma:
        decibels = psnr(luma(image), luma(pair.hr), border).item()
    else:
        decibels = psnr(image, pair.hr, border).item()
    return Shown(title, image, f"{decibels:.2f} dB{' (Y)' if on_luma else ''}")


@torch.no_grad()
def sample_sheet(
    model: ImageFlow,
    pairs: dict[str, Pair],
    path: str | os.PathLike[str],
    temperature: float = 0.8,
    draws: int = 3,
    seed: int = 0,
    centres: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Draws a row per image: LR, bicubic, τ = 0, the learned prior's, samples at τ, HR; windows of them, enlarged.

    Args:
        model: in eval mode.
        pairs: images by name.
        path: the PNG to write.
        temperature: τ of the samples.
        draws: number of samples; none at τ = 0, whose image is there already.
        seed: of the draws.
        centres: where to look, as fractions of height and width; the middle by default.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = draws if temperature else 0
    prior = [] if model.prior is None else [None]
    system = FlowSystem(model, type(model).__name__, (0.0, *prior, temperature))
    titles = ["bicubic", f"{system.name} τ = 0", *("learned prior" for _ in prior)]
    titles += [f"τ = {temperature:g}, sample {i + 1}" for i in range(draws)]
    rows = {}
    for key, pair in pairs.items():
        single = [system.draw(key, pair, tau, 1, None).images for tau in (0.0, *prior)]
        samples = system.draw(key, pair, temperature, draws, generator).images.split(1) if draws else ()
        made = zip(titles, (pair.bicubic, *single, *samples), strict=True)
        rows[key] = [
            Shown("LR", pair.lr),
            *(with_psnr(title, image, pair, model.scale) for title, image in made),
            Shown("HR", pair.hr),
        ]
    draw_sheet(rows, path, model.scale, centres)


@torch.no_grad()
def rescaling_sheet(
    model: ImageFlow,
    pairs: dict[str, Pair],
    path: str | os.PathLike[str],
    temperature: float = 1.0,
    seed: int = 0,
    centres: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Draws a row per image: bicubic LR, the model's LR, each of them up again, HR. Arguments as `sample_sheet`."""
    generator = torch.Generator().manual_seed(seed)
    system = FlowSystem(model, type(model).__name__, (temperature,), rescaling=True)
    rows = {}
    for key, pair in pairs.items():
        drawn = system.draw(key, pair, temperature, 1, generator)
        assert drawn.lr is not None, "it makes its own"
        rows[key] = [
            Shown("bicubic LR", pair.lr),
            Shown(f"{system.name}'s LR", to_uint8(drawn.lr)),
            with_psnr("bicubic down and up", pair.bicubic, pair, model.scale, on_luma=True),
            with_psnr(f"{system.name} down and up", drawn.images, pair, model.scale, on_luma=True),
            Shown("HR", pair.hr),
        ]
    draw_sheet(rows, path, model.scale, centres)


def curves(
    rows: Sequence[Mapping[str, float]],
    path: str | os.PathLike[str],
    held_out: str = "psnr",
    lines: Mapping[str, float] | None = None,
) -> None:
    """Plots bits/dim or the loss of the training batches, and a held-out metric, over the steps.

    Args:
        rows: of the log, with "step" and the values of that step; validations have `held_out`.
        path: the PNG to write.
        held_out: the metric to plot.
        lines: levels to compare it with, by name.
    """
    figure = new_figure(9, 3.4)
    left, right = figure.subplots(1, 2)
    names = ("bits_per_dim", "loss", "all_loss", "discriminator_loss")  # of several phases, each has a loss of its own
    shown = next(name for name in names if any(name in row for row in rows))
    steps, values = zip(*((row["step"], row[shown]) for row in rows if shown in row), strict=True)
    means = [sum(values[max(0, i - 24) : i + 1]) / min(i + 1, 25) for i in range(len(values))]
    left.plot(steps, values, color="tab:blue", alpha=0.25, label="each batch")
    left.plot(steps, means, color="tab:blue", label="mean of 25")
    left.legend(frameon=False)
    if shown != "bits_per_dim" and min(values) > 0:
        left.set_yscale("log")
    left.set(
        xlabel="step", ylabel=shown.replace("bits_per_dim", "bits/dim").replace("_", " "), title="training batches"
    )
    tested = [row for row in rows if held_out in row]
    right.plot([row["step"] for row in tested], [row[held_out] for row in tested], "o-", color="tab:blue")
    for (name, level), colour in zip((lines or {}).items(), ("gray", "tab:orange"), strict=False):
        right.axhline(level, color=colour, linestyle="--", label=name)
    right.set(xlabel="step", ylabel=held_out, title="held-out images")
    if lines:
        right.legend(frameon=False)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    save(figure, path)


def temperature_curves(
    curves: Mapping[str, Sequence[Sequence[Mapping[str, float]]]],
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
    first = next(iter(curves.values()))[0][0]
    panels = {key: title for key, title in shown.items() if key in first}
    rows = [list(curves), *([list(zoom)] if 0 < len(zoom) < len(curves) else [])]
    styles = {name: (f"C{i}", "osv^Dxp*"[i % 8]) for i, name in enumerate(curves)}
    figure = new_figure(4.2 * len(panels), 3.4 * len(rows) + 0.4)
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
    """Draws two rows per image, τ = 0 and a sample at τ: LR or bicubic, each model, HR. Arguments as `sample_sheet`.

    `models`: in eval mode, by title.
    """
    rows = {}
    for name, pair in pairs.items():
        for tau, first in ((0.0, Shown("LR, bicubic", pair.lr)), (temperature, Shown("", pair.bicubic))):
            row = [first]
            for title, model in models.items():
                generator = torch.Generator().manual_seed(seed)
                image = FlowSystem(model, title, (tau,)).draw(name, pair, tau, 1, generator).images
                row.append(with_psnr(title, image, pair, model.scale))
            rows[f"{Path(name).stem}, τ = {tau:g}"] = [*row, Shown("HR", pair.hr)]
    draw_sheet(rows, path, next(iter(models.values())).scale, centres)


@torch.no_grad()
def scales_sheet(
    model: ImageFlow,
    scales: Mapping[float, dict[str, Pair]],
    path: str | os.PathLike[str],
    centres: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Draws a row per factor of the first test image: LR, bicubic, τ = 0, HR.

    Args:
        model: of any scale, in eval mode.
        scales: test images by factor and name.
        path: the PNG to write.
        centres: as for `sample_sheet`.
    """
    rows, name = {}, next(iter(next(iter(scales.values()))))
    for scale, pairs in scales.items():
        pair, border = pairs[name], math.ceil(scale)
        image = FlowSystem(model, "model", (0.0,), scale=scale).draw(name, pair, 0.0, 1, None).images
        made = ((type(model).__name__, image), ("bicubic", pair.bicubic))
        shown = [with_psnr(title, x, pair, border) for title, x in reversed(made)]
        rows[f"{Path(name).stem} ×{scale:g}"] = [Shown("LR", pair.lr), *shown, Shown("HR", pair.hr)]
    centre = (centres or {}).get(name, (0.5, 0.5))
    draw_sheet(rows, path, 1, dict.fromkeys(rows, centre))


def draw_sheet(
    rows: Mapping[str, Sequence[Shown]],
    path: str | os.PathLike[str],
    scale: int,
    centres: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Draws windows of images in rows. An image that is smaller than the row's last one, an LR image, is enlarged.

    Args:
        rows: pictures by the row's name; the first row's titles are those of the columns.
        path: the PNG to write.
        scale: HR size over LR size.
        centres: where to look, as fractions of height and width; the middle by default.
    """
    columns = len(next(iter(rows.values())))
    figure = new_figure(2.05 * columns, 2.3 * len(rows))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for i, (name, row) in enumerate(rows.items()):
        whole = row[-1].image
        window = _window(whole.shape[2:], (centres or {}).get(name, (0.5, 0.5)), scale)
        for axis, shown in zip(axes[i], row, strict=True):
            sides = zip(window, shown.image.shape[2:], whole.shape[2:], strict=True)
            part = [slice(w.start * own // full, w.stop * own // full) for w, own, full in sides]
            axis.imshow(shown.image[0, :, part[0], part[1]].permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(shown.note, fontsize=8)
            if i == 0:
                axis.set_title(shown.title, fontsize=10)
        axes[i][0].set_ylabel(os.fsencode(name).decode(errors="replace"), fontsize=10)  # it may be no UTF-8
    save(figure, path)


def _window(sizes: Iterable[int], centre: tuple[float, float], scale: int) -> list[slice]:
    """A window around a centre, inside the image, on the grid of LR pixels."""

    def span(size: int, at: float) -> slice:
        side = min(WINDOW, size) // scale * scale
        start = min(max(0, round(size * at) - side // 2), size - side) // scale * scale
        return slice(start, start + side)

    return [span(size, at) for size, at in zip(sizes, centre, strict=True)]


def save(figure: Any, path: str | os.PathLike[str]) -> None:
    """Writes a figure as PNG; the old file stays until the new is whole."""
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, format="png")
