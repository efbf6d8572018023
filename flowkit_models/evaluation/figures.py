"""Pictures of a run: sheets of images, and the curves of training."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowkit_models.data.image_pair import Pair
from flowkit_models.files import atomic_path
from flowkit_models.images.convert import luma, to_float, to_uint8
from flowkit_models.metrics.full_reference import psnr
from flowkit_models.models.base import ImageFlow

WINDOW = 144
"""Side of the windows that a sheet shows, in HR pixels."""


class Shown(NamedTuple):
    """One picture of a sheet: uint8 (1, 3, H, W), its title and a note below it."""

    title: str
    image: Tensor
    note: str = ""


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
    """Draws a row per image: LR, bicubic, τ = 0, samples at τ, HR; windows of the images, enlarged.

    Args:
        model: in eval mode.
        pairs: images by name.
        path: the PNG to write.
        temperature: τ of the samples.
        draws: number of samples.
        seed: of the draws.
        centres: where to look, as fractions of height and width; the middle by default.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    name = type(model).__name__
    rows = {}
    for key, pair in pairs.items():
        lr = to_float(pair.lr).to(device)
        images = [model.upscale(lr, temperature=0.0)[0], *model.upscale(lr, draws, temperature, generator)]
        titles = [f"{name} τ = 0", *(f"τ = {temperature:g}, sample {i + 1}" for i in range(draws))]
        made = [("bicubic", pair.bicubic), *zip(titles, (to_uint8(image.cpu()) for image in images), strict=True)]
        rows[key] = [
            Shown("LR", pair.lr),
            *(Shown(title, image, f"{psnr(image, pair.hr, model.scale).item():.2f} dB") for title, image in made),
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
    device = next(model.parameters()).device
    name = type(model).__name__
    rows = {}
    for key, pair in pairs.items():
        height, width = pair.hr.shape[2:]
        lr = model.downscale(to_float(pair.hr).to(device))
        again = to_uint8(model.upscale(lr, temperature=temperature, generator=generator)[0].cpu())
        up = [("bicubic down and up", pair.bicubic), (f"{name} down and up", again[..., :height, :width])]
        notes = [f"{psnr(luma(image), luma(pair.hr), model.scale).item():.2f} dB (Y)" for _, image in up]
        rows[key] = [
            Shown("bicubic LR", pair.lr),
            Shown(f"{name}'s LR", to_uint8(lr.cpu())),
            *(Shown(title, image, note) for (title, image), note in zip(up, notes, strict=True)),
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
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(9, 3.4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    names = ("bits_per_dim", "loss", "all_loss", "discriminator_loss")  # of several turns, each has a loss of its own
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
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    columns = len(next(iter(rows.values())))
    figure = Figure(figsize=(2.05 * columns, 2.3 * len(rows)), dpi=110, layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for i, (name, row) in enumerate(rows.items()):
        whole = row[-1].image
        window = _window(whole.shape[2:], (centres or {}).get(name, (0.5, 0.5)), scale)
        for axis, shown in zip(axes[i], row, strict=True):
            part = (
                window
                if shown.image.shape == whole.shape
                else [slice(w.start // scale, w.stop // scale) for w in window]
            )
            axis.imshow(shown.image[0, :, part[0], part[1]].permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(shown.note, fontsize=8)
            if i == 0:
                axis.set_title(shown.title, fontsize=10)
        axes[i][0].set_ylabel(name, fontsize=10)
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
