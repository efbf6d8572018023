"""Tasks of the page's workers: checkpoints, photographs and widgets' values in, words and PNG files out. No gradio.

Whatever a user sent is opened here, and nowhere else. Results are what JSON can hold; images are paths of files.
"""

import functools
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowkit_models.demo.edits import Change, between, change_region, image_of, level_names, move_content, subjects
from flowkit_models.demo.enlarging import Sample, enlarge_file, look, vary
from flowkit_models.demo.scene import (
    Draws,
    Fit,
    Kind,
    captions,
    checkpoint_file,
    describe,
    heat_map,
    kinds,
    make_draws,
    make_scene,
    measured,
    open_model,
    recommended,
    references,
    scores,
    suited_kind,
)
from flowkit_models.images.image_file import image_size, write_image
from flowkit_models.inference.editing import Way, resample_mask
from flowkit_models.models.base import ImageFlow

Recipe = tuple[Any, ...]
"""Draws as what makes them again: arguments of `Tasks.draw` after the folder, and when the checkpoint was changed."""


@dataclass
class Tasks:
    """Tasks for one device.

    Attributes:
        side: longest side of HR images, in pixels.
        device: of the models.
        largest: bytes of a checkpoint that is opened.
        progress: is called with (steps done, steps in all) by tasks that take long.
    """

    side: int
    device: str
    largest: float
    progress: Callable[[int, int], None] = field(default=lambda done, total: None, repr=False)
    _draws: Callable[[Recipe], Draws] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Keeps the last draws: edits need them again."""
        self._draws = functools.lru_cache(maxsize=4)(self._drawn)

    def _drawn(self, recipe: Recipe) -> Draws:
        photo, checkpoint, kind, fit, row, column, temperature, seed, n, changed = recipe
        model = open_model(checkpoint, self.device, self.largest)
        if checkpoint_file(checkpoint).stat().st_mtime_ns != changed:
            raise ValueError(f"{checkpoint}: changed since these draws were made; draw again")
        scene = make_scene(model, photo, kind, self.side, fit, (row / 100, column / 100))
        return make_draws(scene, temperature, int(seed), int(n))

    def open(self, checkpoint: str) -> dict[str, Any]:
        """A line on a checkpoint, what a photograph can be for it, and its recommended τ."""
        model = open_model(checkpoint, self.device, self.largest)
        return {
            "about": f"{Path(checkpoint).name} · {describe(model)}",
            "kinds": kinds(model),
            "kind": suited_kind(model),
            "temperature": recommended(model, checkpoint),
        }

    def look(
        self, folder: str, photo: str, checkpoint: str, sample: list[float] | None, row: float, column: float
    ) -> dict[str, Any]:
        """A window of an enlarged photograph, before and after; see `flowkit_models.demo.enlarging.look`."""
        model = open_model(checkpoint, self.device, self.largest)
        chosen = self._sample(model, checkpoint, sample)
        shown = look(model, photo, Path(folder), chosen, (row / 100, column / 100), self.progress)
        return {**shown, "temperature": chosen.temperature}

    def vary(
        self, folder: str, photo: str, checkpoint: str, temperature: float, seed: float, row: float, column: float
    ) -> list[tuple[str, str]]:
        """The window as each of four draws."""
        model = open_model(checkpoint, self.device, self.largest)
        samples = [Sample(temperature, int(seed), draw) for draw in range(4)]
        return vary(model, photo, Path(folder), samples, (row / 100, column / 100), self.progress)

    def enlarge(self, folder: str, photo: str, checkpoint: str, sample: list[float] | None) -> dict[str, Any]:
        """The whole photograph as a file; see `flowkit_models.demo.enlarging.enlarge_file`."""
        model = open_model(checkpoint, self.device, self.largest)
        return enlarge_file(model, photo, Path(folder), self._sample(model, checkpoint, sample), self.progress)

    def _sample(self, model: ImageFlow, checkpoint: str, chosen: list[float] | None) -> Sample:
        """What a variation stands for, [τ, seed, draw]; None: what the checkpoint recommends."""
        if chosen is None:
            return Sample(recommended(model, checkpoint) if model.prior is None else None)
        temperature, seed, draw = chosen
        return Sample(temperature, int(seed), int(draw))

    def draw(
        self,
        folder: str,
        photo: str,
        checkpoint: str,
        kind: Kind,
        fit: Fit,
        row: float,
        column: float,
        temperature: float,
        seed: float,
        n: float,
    ) -> dict[str, Any]:
        """Draws, and what the page shows of them; "state" is the recipe by which edits name them."""
        open_model(checkpoint, self.device, self.largest)  # its words, where there is no such file
        changed = checkpoint_file(checkpoint).stat().st_mtime_ns
        recipe = (photo, checkpoint.strip(), kind, fit, row, column, temperature, seed, n, changed)
        draws = self._draws(recipe)
        scene, heat = draws.scene, heat_map(draws)
        height, width = draws.images.shape[2:]
        notes = [*scene.notes, f"HR images have {width} × {height} pixels."]
        if temperature == 0 and len(draws.images) > 1:
            notes.append("At τ = 0 all draws are the same image; others come from a higher τ.")
        if temperature > 1:
            notes.append(f"⚠ τ = {temperature:g} is above 1: noise prevails over detail.")
        shown = [_file(folder, draws, image, f"draw{i}") for i, image in enumerate(draws.images, 1)]
        others = [
            (_file(folder, draws, image, f"reference{i}"), words) for i, (image, words) in enumerate(references(scene))
        ]
        return {
            "state": recipe,
            "draws": list(zip(shown, captions(draws), strict=True)),
            "references": others,
            "heat": _file(folder, draws, heat[0], "diversity") if heat else None,
            "legend": legend(heat[1], heat[2]) if heat else "One draw shows no diversity: draw two at least.",
            "scores": scores(draws),
            "notes": " ".join(notes),
            "download": download(shown[0], draws.images[0], "draw 1"),
            "possible": possible(draws),
            "names": subjects(draws),
            "levels": level_names(draws),
        }

    def pick(self, folder: str, recipe: Recipe, index: int) -> tuple[str, str]:
        """One of the draws as a file."""
        draws = self._draws(tuple(recipe))
        return _saved(folder, draws, draws.images[index], f"draw{index + 1}", f"draw {index + 1}")

    def show_base(self, folder: str, recipe: Recipe, name: str | None) -> str:
        """The image to brush over, as a file."""
        draws = self._draws(tuple(recipe))
        return _file(folder, draws, image_of(draws, name)[0], "base")

    def place(self, folder: str, image: str, index: tuple[int, int]) -> tuple[int, int]:
        """A pixel (column, row) that was clicked, as (row, column) in percent of the image."""
        height, width = image_size(image)
        return round(100 * index[1] / height), round(100 * index[0] / width)

    def paste(
        self,
        folder: str,
        recipe: Recipe,
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
    ) -> tuple[str, str, str, tuple[str, str]]:
        """The pixels pasted, the result, a caption, and the file of the result with its label."""
        if not source:
            raise ValueError("load the photograph that the patch is taken from first")
        draws = self._draws(tuple(recipe))
        centres = (take_row / 100, take_column / 100), (put_row / 100, put_column / 100)
        how = (temperature, over if over != "none" else None, toward, int(seed))
        pasted, made = move_content(draws, name, source, int(side), *centres, *how)  # type: ignore[arg-type]
        caption = f"{measured('pasted', draws.scene, pasted)} → {measured('harmonised', draws.scene, made)}"
        saved = _saved(folder, draws, made, "pasted")
        return _file(folder, draws, pasted, "pixels"), saved[0], caption, saved

    def brush(
        self,
        folder: str,
        recipe: Recipe,
        name: str | None,
        painted: list[str | bytes],
        change: Change,
        temperature: float,
        seed: float,
        factor: float,
        levels: list[int],
    ) -> tuple[str, str, tuple[str, str]]:
        """The result, a caption, and the file of the result with its label."""
        draws = self._draws(tuple(recipe))
        height, width = draws.images.shape[2:]
        mask = painted_mask(painted, height, width)
        made = change_region(draws, name, mask, change, temperature, int(seed), factor, levels)
        caption = measured(f"{mask.double().mean().item():.1%} of {name} changed", draws.scene, made)
        if torch.equal(made, image_of(draws, name)[0]):
            caption += " · the same image: these latents are those that it had (at τ = 0 all are zero)"
        saved = _saved(folder, draws, made, "brushed")
        return saved[0], caption, saved

    def way(
        self, folder: str, recipe: Recipe, first: str | None, second: str | None, t: float, way: Way
    ) -> tuple[str, str, tuple[str, str]]:
        """The image at t, a caption, and its file with a label."""
        draws = self._draws(tuple(recipe))
        made = between(draws, first, second, t, way)
        caption = measured(f"{1 - t:.0%} {first}, {t:.0%} {second}", draws.scene, made)
        saved = _saved(folder, draws, made, f"t{t:.2f}")
        return saved[0], caption, saved

    def strip(
        self, folder: str, recipe: Recipe, first: str | None, second: str | None, way: Way
    ) -> list[tuple[str, str]]:
        """Five images on the way, with captions."""
        draws, steps = self._draws(tuple(recipe)), (0.0, 0.25, 0.5, 0.75, 1.0)
        images = [between(draws, first, second, t, way) for t in steps]
        return [(_file(folder, draws, image, f"way{t}"), f"t = {t:g}") for t, image in zip(steps, images, strict=True)]


def _file(folder: str, draws: Draws, image: Tensor, what: str) -> str:
    """Writes an image uint8 (3, H, W) under a name that says how it was made."""
    name = re.sub(r"[^\w.-]+", "_", draws.scene.name)[:100]
    path = Path(folder) / f"{name}_tau{draws.temperature:g}_seed{draws.seed}_{what}.png"
    write_image(path, image)
    return str(path)


def _saved(folder: str, draws: Draws, image: Tensor, what: str, label: str = "the result") -> tuple[str, str]:
    return download(_file(folder, draws, image, what), image, label)


def download(path: str, image: Tensor, label: str) -> tuple[str, str]:
    """A file, and the label of the button that downloads it."""
    height, width = image.shape[1:]
    return path, f"Download {label} (PNG, {width} × {height} pixels)"


def painted_mask(layers: list[str | bytes], height: int, width: int) -> Tensor:
    """Mask of the paint in an editor's layers, PNG files or their bytes: (1, 1, height, width) bool."""
    mask = torch.zeros(1, 1, height, width, dtype=torch.bool)
    for layer in layers:
        with Image.open(io.BytesIO(layer) if isinstance(layer, bytes) else layer, formats=["PNG"]) as image:
            paint = torch.from_numpy(np.asarray(image.convert("RGBA"))[..., 3] > 0)
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
