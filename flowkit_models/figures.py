"""Pictures of a run: a sheet of samples, and the curves of training."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .imageflow import ImageFlow
from .images import to_float
from .metrics import psnr, to_uint8
from .scoring import Pair

WINDOW = 144
"""Side of the windows that a sample sheet shows, in HR pixels."""


@torch.no_grad()
def sample_sheet(
    model: ImageFlow,
    pairs: dict[str, Pair],
    path: str | os.PathLike[str],
    temperature: float = 0.8,
    draws: int = 3,
    seed: int = 0,
    centres: dict[str, tuple[float, float]] | None = None,
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
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    titles = [
        "LR",
        "bicubic",
        "HCFlow τ = 0",
        *[f"τ = {temperature:g}, sample {i + 1}" for i in range(draws)],
        "HR",
    ]
    figure = Figure(figsize=(2.05 * len(titles), 2.3 * len(pairs)), dpi=110, layout="constrained")
    axes = figure.subplots(len(pairs), len(titles), squeeze=False)
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    for title, axis in zip(titles, axes[0], strict=True):
        axis.set_title(title, fontsize=10)
    for row, (name, pair) in zip(axes, pairs.items(), strict=True):
        lr = to_float(pair.lr).to(device)
        samples = model.upscale(lr, draws, temperature, generator).cpu()
        mode = model.upscale(lr, temperature=0.0)[0].cpu()
        shown = [pair.bicubic, *map(to_uint8, [mode, *samples]), pair.hr]
        window = _window(pair.hr, (centres or {}).get(name, (0.5, 0.5)), model.scale)
        rows, columns = window
        small = [slice(w.start // model.scale, w.stop // model.scale) for w in window]
        images = [pair.lr[0, :, small[0], small[1]], *(image[0, :, rows, columns] for image in shown)]
        for column, (axis, image) in enumerate(zip(row, images, strict=True)):
            axis.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if 0 < column < len(titles) - 1:
                value = psnr(shown[column - 1], pair.hr, model.scale).item()
                axis.set_xlabel(f"{value:.2f} dB", fontsize=8)
        row[0].set_ylabel(name, fontsize=10)
    _save(figure, path)


def curves(history: Sequence[dict[str, float]], bicubic: float, path: str | os.PathLike[str]) -> None:
    """Plots bits/dim of the training batches, and held-out PSNR against bicubic's, over the steps."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(9, 3.4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    steps, bits = ([h[key] for h in history] for key in ("step", "bits_per_dim"))
    means = [sum(bits[max(0, i - 24) : i + 1]) / min(i + 1, 25) for i in range(len(bits))]
    left.plot(steps, bits, color="tab:blue", alpha=0.25, label="each batch")
    left.plot(steps, means, color="tab:blue", label="mean of 25")
    left.legend(frameon=False)
    left.set(xlabel="step", ylabel="bits/dim (training batches)", title="likelihood")
    tested = [h for h in history if "psnr" in h]
    right.plot([h["step"] for h in tested], [h["psnr"] for h in tested], "o-", color="tab:blue", label="HCFlow τ = 0")
    right.axhline(bicubic, color="gray", linestyle="--", label="bicubic")
    right.set(xlabel="step", ylabel="PSNR (dB, RGB)", title="held-out images")
    right.legend(frameon=False)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    _save(figure, path)


def _window(hr: Tensor, centre: tuple[float, float], scale: int) -> list[slice]:
    """A window around a centre, inside the image, on the grid of LR pixels."""

    def span(size: int, at: float) -> slice:
        side = min(WINDOW, size) // scale * scale
        start = min(max(0, round(size * at) - side // 2), size - side) // scale * scale
        return slice(start, start + side)

    return [span(size, at) for size, at in zip(hr.shape[2:], centre, strict=True)]


def _save(figure: "Figure", path: str | os.PathLike[str]) -> None:  # type: ignore[name-defined]  # noqa: F821
    temporary = Path(path).with_suffix(".tmp.png")
    figure.savefig(temporary)
    temporary.replace(path)
