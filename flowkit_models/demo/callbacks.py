"""Callbacks of the page's widgets: values of widgets in, values of widgets out. Errors become one line on the page."""

import functools
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowkit_models.demo.edits import Change, between, change_region, image_of, level_names, move_content, subjects
from flowkit_models.demo.scene import (
    Draws,
    Fit,
    Kind,
    captions,
    describe,
    heat_map,
    kinds,
    make_draws,
    make_scene,
    measured,
    open_model,
    references,
    scores,
)
from flowkit_models.images.image_file import image_size, write_image
from flowkit_models.inference.editing import resample_mask

KEPT = 50
"""Files that are kept for downloads."""

F = TypeVar("F", bound=Callable[..., Any])


def says_errors(function: F) -> F:
    """Makes a gr.Error, which the page shows, of what a user can do something about."""

    @functools.wraps(function)
    def called(self: "Callbacks", *args: Any) -> Any:
        try:
            return function(self, *args)
        except (ValueError, OSError, ImportError, MemoryError, torch.OutOfMemoryError) as error:
            line = " ".join(str(error).split()) or type(error).__name__
            raise self.gr.Error(line, print_exception=False) from None

    return called  # type: ignore[return-value]


class Callbacks:
    """Callbacks of one page, with its folder and device.

    Args:
        folder: where files to download are written.
        side: longest side of HR images, in pixels.
        device: of the models.
    """

    def __init__(self, folder: Path, side: int, device: str) -> None:
        import gradio  # noqa: PLC0415 - an extra

        self.gr: Any = gradio
        self.folder, self.side, self.device = folder, side, device
        self.files: deque[Path] = deque()

    @says_errors
    def open(self, checkpoint: str, kind: Kind) -> tuple[str, dict[str, Any]]:
        """A checkpoint chosen: a line on it, and what a photograph can be for it."""
        model = open_model(checkpoint, self.device)
        possible = kinds(model)
        value = kind if kind in [name for _, name in possible] else "bicubic"
        return describe(model), self.gr.update(choices=possible, value=value)

    def redraw(self, photo: str | None, *options: Any) -> dict[str, Any]:
        """`draw`, and nothing as long as there is no photograph: for what happens by itself."""
        return self.draw(photo, *options) if photo else {}

    @says_errors
    def draw(
        self,
        photo: str | None,
        checkpoint: str,
        kind: Kind,
        fit: Fit,
        row: float,
        column: float,
        temperature: float,
        seed: float,
        n: float,
    ) -> dict[str, Any]:
        """Draws, and what the page shows of them, by the names of the widgets."""
        if not photo:
            raise ValueError("load a photograph first")
        model = open_model(checkpoint, self.device)
        scene = make_scene(model, photo, kind, self.side, fit, (row / 100, column / 100))
        draws = make_draws(scene, temperature, int(seed), int(n))
        heat = heat_map(draws)
        height, width = draws.images.shape[2:]
        notes = [*scene.notes, f"HR images have {height} × {width} pixels."]
        names, levels = subjects(draws), level_names(draws)
        return {
            "state": draws,
            "draws": list(zip(map(picture, draws.images), captions(draws), strict=True)),
            "references": [(picture(image), caption) for image, caption in references(scene)],
            "heat": picture(heat[0]) if heat else None,
            "legend": legend(heat[1], heat[2]) if heat else "One draw shows no diversity: draw two at least.",
            "scores": scores(draws),
            "notes": " ".join(notes),
            "download": self.download(draws, 0),
            "possible": possible(draws),
            "paste_base": self.gr.update(choices=names, value=names[0]),
            "brush_base": self.gr.update(choices=names, value=names[0]),
            "first": self.gr.update(choices=names, value=names[0]),
            "second": self.gr.update(choices=names, value=names[min(1, len(names) - 1)]),
            "levels": self.gr.update(
                choices=list(zip(levels, range(len(levels)), strict=True)), value=[*range(len(levels))]
            ),
            "editor": canvas(draws, names[0]),
            **dict.fromkeys(("pasted", "paste_result", "brush_result", "way_result", "strip")),
            **dict.fromkeys(("paste_caption", "brush_caption", "way_caption"), ""),
            **dict.fromkeys(("paste_download", "brush_download", "way_download"), self.gr.update(visible=False)),
        }

    @says_errors
    def pick(self, draws: Draws | None, index: int) -> dict[str, Any]:
        """The button that downloads one of the draws."""
        return self.download(_made(draws), index)

    @says_errors
    def place(self, image: str, index: tuple[int, int]) -> tuple[int, int]:
        """A pixel (column, row) that was clicked, as (row, column) in percent of the image."""
        height, width = image_size(image)
        return round(100 * index[1] / height), round(100 * index[0] / width)

    @says_errors
    def show_base(self, draws: Draws | None, name: str | None) -> Any:
        """The image to brush over."""
        return canvas(_made(draws), name)

    @says_errors
    def paste(
        self,
        draws: Draws | None,
        name: str | None,
        source: str | None,
        side: float,
        take_row: float,
        take_column: float,
        put_row: float,
        put_column: float,
        temperature: float,
        over: str,
        toward: float,
        seed: float,
    ) -> tuple[Image.Image, Image.Image, str, dict[str, Any]]:
        """The pixels pasted, the result, a caption, and the button that downloads it."""
        draws = _made(draws)
        if not source:
            raise ValueError("load the photograph that the patch is taken from first")
        centres = (take_row / 100, take_column / 100), (put_row / 100, put_column / 100)
        how = (temperature, over if over != "none" else None, toward, int(seed))
        pasted, made = move_content(draws, name, source, int(side), *centres, *how)  # type: ignore[arg-type]
        caption = f"{measured('pasted', draws.scene, pasted)} → {measured('harmonised', draws.scene, made)}"
        return picture(pasted), picture(made), caption, self.file(draws, made, "pasted")

    @says_errors
    def brush(
        self,
        draws: Draws | None,
        name: str | None,
        painted: dict[str, Any] | None,
        change: Change,
        temperature: float,
        seed: float,
        factor: float,
        levels: list[int],
    ) -> tuple[Image.Image, str, dict[str, Any]]:
        """The result, a caption, and the button that downloads it."""
        draws = _made(draws)
        height, width = draws.images.shape[2:]
        mask = painted_mask(painted, height, width)
        made = change_region(draws, name, mask, change, temperature, int(seed), factor, levels)
        caption = measured(f"{mask.double().mean().item():.1%} of {name} changed", draws.scene, made)
        return picture(made), caption, self.file(draws, made, "brushed")

    @says_errors
    def way(
        self, draws: Draws | None, first: str | None, second: str | None, t: float, way: Any
    ) -> tuple[Image.Image, str, dict[str, Any]]:
        """The image at t, a caption, and the button that downloads it."""
        draws = _made(draws)
        made = between(draws, first, second, t, way)
        caption = measured(f"{1 - t:.0%} {first}, {t:.0%} {second}", draws.scene, made)
        return picture(made), caption, self.file(draws, made, f"t{t:.2f}")

    def move_way(self, draws: Draws | None, *options: Any) -> Any:
        """`way`, and nothing as long as there are no draws."""
        return (self.gr.skip(),) * 3 if draws is None else self.way(draws, *options)

    @says_errors
    def strip(self, draws: Draws | None, first: str | None, second: str | None, way: Any) -> list[Any]:
        """Five images on the way."""
        steps = (0.0, 0.25, 0.5, 0.75, 1.0)
        return [(picture(between(_made(draws), first, second, t, way)), f"t = {t:g}") for t in steps]

    def download(self, draws: Draws, index: int) -> dict[str, Any]:
        """The button that downloads a draw."""
        return self.file(draws, draws.images[index], f"draw{index + 1}", f"draw {index + 1}")

    def file(self, draws: Draws, image: Tensor, what: str, label: str = "the result") -> dict[str, Any]:
        """Writes a PNG file of full resolution; returns the update of a button that downloads it."""
        name = re.sub(r"[^\w.-]+", "_", draws.scene.name)
        # a folder for each: another session may write a file of the same name
        path = Path(tempfile.mkdtemp(dir=self.folder)) / f"{name}_tau{draws.temperature:g}_seed{draws.seed}_{what}.png"
        write_image(path, image)
        self.files.append(path)
        if len(self.files) > KEPT:  # gradio has its own copies
            shutil.rmtree(self.files.popleft().parent, ignore_errors=True)
        height, width = image.shape[1:]
        return self.gr.update(value=str(path), label=f"Download {label} (PNG, {height} × {width} pixels)", visible=True)


def picture(image: Tensor) -> Image.Image:
    """An image uint8 (3, H, W) as gradio takes it."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def canvas(draws: Draws, name: str | None) -> dict[str, Any]:
    """Content of the editor for a brush: an image, and no paint."""
    return {"background": picture(image_of(draws, name)[0]), "layers": [], "composite": None}


def painted_mask(painted: dict[str, Any] | None, height: int, width: int) -> Tensor:
    """Mask of the paint in an editor's layers (h, w, 4): (1, 1, height, width) bool."""
    mask = torch.zeros(1, 1, height, width, dtype=torch.bool)
    for layer in (painted or {}).get("layers", []):
        paint = torch.from_numpy(np.asarray(layer)[..., 3] > 0)
        mask |= resample_mask(paint[None, None], height, width)
    return mask


def legend(top: float, mean: float) -> str:
    """The scale of the heat map, as HTML."""
    return (
        f'<div class="legend"><span>0</span><i></i><span>{top:.1f} grey levels</span></div>'
        f"<p>Standard deviation over the draws at each pixel, of 255; mean {mean:.2f}.</p>"
    )


def possible(draws: Draws) -> str:
    """Limits of editing with this model and photograph, and the way around them."""
    kind = type(draws.scene.model).__name__
    lines = []
    if draws.scene.hr is None:
        lines.append("Only an LR image is loaded: its draws can be edited. To edit a photograph itself, load it as HR.")
    if not draws.scene.model.makes_lr:
        lines.append(f"{kind} makes no LR image of its own: what is pasted is judged by its bicubic LR image.")
    elif draws.scene.model.base is None:
        lines.append(f"{kind} learns no density: its latents hold what its own LR image lacks, whatever that is.")
    return " ".join(lines)


def _made(draws: Draws | None) -> Draws:
    if draws is None:
        raise ValueError("load a photograph and draw first")
    return draws
