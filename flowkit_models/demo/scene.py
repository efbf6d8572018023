"""Scenes of the page: a photograph cut to a size that can be handled, its draws, and their diversity. No gradio."""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from flowkit_models.evaluation.tables import markdown
from flowkit_models.images.convert import to_float, to_uint8
from flowkit_models.images.image_file import read_image
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.inference.editing import diversity_map
from flowkit_models.metrics.full_reference import consistency, psnr
from flowkit_models.models import factory
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.checkpoint_file import read_about
from flowkit_models.models.registry import default_temperature
from flowkit_models.models.words import factors

Kind = Literal["lr", "bicubic", "model"]
"""Kind of a photograph: the LR image itself, or HR, of which LR is made by bicubic or by the model."""

Fit = Literal["cut", "shrink"]
"""Treatment of a photograph that is too large."""

COLOURS = torch.tensor([[0, 0, 8], [66, 18, 104], [160, 45, 100], [232, 98, 46], [250, 178, 40], [253, 253, 180]])
"""Colours of the heat map, evenly spaced from no difference to the largest."""


@dataclass(frozen=True)
class Scene:
    """A photograph in front of a model.

    Attributes:
        model: in eval mode.
        name: of the photograph, for the names of files.
        lr: float (1, 3, h, w) on 8-bit levels, on the model's device.
        hr: float (1, 3, s·h, s·w); None if the photograph is the LR image.
        notes: what was done to it, sentences.
    """

    model: ImageFlow
    name: str
    lr: Tensor
    hr: Tensor | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draws:
    """Draws of a scene.

    Attributes:
        scene: what they were drawn for.
        temperature: τ.
        seed: of the generator.
        latents: of each draw, standard normal, before τ.
        images: uint8 (n, 3, H, W).
        consistency: dB, of each: bicubic downscale against the LR image.
        psnr: dB, of each against the HR image, if there is one.
    """

    scene: Scene
    temperature: float
    seed: int
    latents: list[tuple[Tensor, ...]]
    images: Tensor
    consistency: list[float]
    psnr: list[float] = field(default_factory=list)


@lru_cache(maxsize=2)
def _opened(path: str, changed: int, device: str) -> ImageFlow:
    return factory.load(path).to(device).eval().requires_grad_(False)


def open_model(path: str, device: str = "cpu", largest: float = math.inf) -> ImageFlow:
    """The model of a checkpoint, kept in memory until two others were opened or the file changes.

    Args:
        path: the file.
        device: of the model.
        largest: bytes of a file that is opened.

    Raises:
        ValueError: if there is no such file, none that flowkit can open, or a larger one; one line.
        FileNotFoundError: for a bare name that is no file, and none of `list_bundled`; one line.
    """
    file = checkpoint_file(path)
    if not path.strip() or not file.is_file():
        raise ValueError(f"{path.strip() or 'checkpoint'}: no such file; give the path of a .safetensors or .pth file")
    size = file.stat().st_size
    if size > largest:
        raise ValueError(
            f"{file}: {size / 1e6:.0f} MB, more than the {largest / 1e6:g} MB of a checkpoint (--max-upload)"
        )
    return _opened(str(file), file.stat().st_mtime_ns, device)


def checkpoint_file(path: str) -> Path:
    """The file that a path as it was typed, or a name of `list_bundled`, stands for.

    Raises:
        FileNotFoundError: for a bare name that is neither.
    """
    return factory.find_checkpoint(Path(path.strip()).expanduser())


def recommended(model: ImageFlow, path: str) -> float:
    """τ that a model's checkpoint recommends, or that suits its kind."""
    return default_temperature(model, read_about(checkpoint_file(path)))


def describe(model: ImageFlow) -> str:
    """A line on a model: its kind, size, and what it can't do."""
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    able = "makes LR images of its own" if model.makes_lr else "makes no LR image of its own"
    return f"{type(model).__name__} {factors(model.scale, model.any_scale)} · {millions:.2f} M parameters · {able}"


def kinds(model: ImageFlow) -> list[tuple[str, Kind]]:
    """Choices of what a photograph can be for a model, HR or LR: (label, `Kind`)."""
    own: list[tuple[str, Kind]] = [(f"HR; LR made by {type(model).__name__}", "model")] if model.makes_lr else []
    return [("HR; LR made by bicubic", "bicubic"), *own, ("the LR image itself", "lr")]


def suited_kind(model: ImageFlow) -> Kind:
    """The kind of photograph that a model was made for: what a rescaling model upscales, it downscaled itself."""
    return "model" if model.config.purpose == "rescaling" else "bicubic"


def make_scene(
    model: ImageFlow,
    path: str | Path,
    kind: Kind = "bicubic",
    side: int = 512,
    fit: Fit = "cut",
    centre: tuple[float, float] = (0.5, 0.5),
) -> Scene:
    """Reads a photograph and makes it fit: no HR side is longer than `side`, and all are multiples that can be coded.

    Args:
        model: what is to draw.
        path: an image file.
        kind: see `Kind`.
        side: longest side of HR images, in pixels.
        fit: cut a window out of a larger photograph, or shrink it by bicubic.
        centre: of the window, (row, column) as fractions of the photograph.

    Raises:
        ValueError: if it is not an image, too small, or the model makes no LR image; one line.
    """
    photo = read_image(path)
    notes = []
    limit, multiple = side, model.flow.stride
    if kind == "lr":
        limit, multiple = side // model.scale, model.lr_multiple
    height, width = photo.shape[1:]
    what = "LR image" if kind == "lr" else "photograph"
    if max(height, width) > limit and fit == "shrink":
        photo = _shrunk(photo, limit)
        notes.append(f"The {what} was shrunk from {width} × {height} to {photo.shape[2]} × {photo.shape[1]} pixels.")
    photo, taken = _window(photo, limit, multiple, centre)
    if taken:
        notes.append(f"The {what} of {width} × {height} pixels was cut to {taken}.")
    image = to_float(photo[None]).to(next(model.parameters()).device)
    name = Path(path).stem
    if kind == "lr":
        return Scene(model, name, image, None, tuple(notes))
    if kind == "model":
        return Scene(model, name, model.downscale(image), image, tuple(notes))
    lr = to_float(bicubic_resize(photo[None], Fraction(1, model.scale))).to(image.device)
    return Scene(model, name, lr, image, tuple(notes))


def _shrunk(photo: Tensor, limit: int) -> Tensor:
    small = bicubic_resize(photo, Fraction(limit, max(photo.shape[1:])))
    return small[:, :limit, :limit]  # a side is rounded up


def _window(photo: Tensor, limit: int, multiple: int, centre: tuple[float, float]) -> tuple[Tensor, str]:
    """The part of a photograph that is used, and words for it if that isn't all."""
    sizes = [min(length, limit) // multiple * multiple for length in photo.shape[1:]]
    if min(sizes) == 0:
        raise ValueError(f"the image is {photo.shape[2]} × {photo.shape[1]} pixels, too small for this model")
    starts = [
        min(max(round(middle * length - size / 2), 0), length - size)
        for middle, length, size in zip(centre, photo.shape[1:], sizes, strict=True)
    ]
    (top, left), (height, width) = starts, sizes
    taken = f"{width} × {height}, from row {top} and column {left}" if (height, width) != photo.shape[1:] else ""
    return photo[:, top : top + height, left : left + width].contiguous(), taken


@torch.no_grad()
def make_draws(scene: Scene, temperature: float = 0.8, seed: int = 0, n: int = 4) -> Draws:
    """Draws HR images: those of `model.upscale(lr, n, temperature, torch.Generator().manual_seed(seed))`."""
    model, lr = scene.model, scene.lr
    images = to_uint8(model.upscale(lr, n, temperature, torch.Generator().manual_seed(seed))[:, 0])
    generator = torch.Generator().manual_seed(seed)
    latents = [model.draw(lr, generator) for _ in range(n)]
    return Draws(scene, temperature, seed, latents, images.cpu(), consistencies(scene, images), psnrs(scene, images))


def consistencies(scene: Scene, images: Tensor) -> list[float]:
    """Consistency with the LR image of images (n, 3, H, W), dB."""
    return consistency(to_uint8(images), scene.lr.expand(len(images), -1, -1, -1)).tolist()


def psnrs(scene: Scene, images: Tensor) -> list[float]:
    """PSNR (RGB, 8 bits) of images (n, 3, H, W) to the HR image, dB; none if it isn't known."""
    if scene.hr is None:
        return []
    return psnr(to_uint8(images), to_uint8(scene.hr).expand(len(images), -1, -1, -1)).tolist()


def references(scene: Scene) -> list[tuple[Tensor, str]]:
    """Images to compare draws with, uint8 (3, H, W) with titles: LR in large pixels, bicubic, and HR where known."""
    scale = scene.model.scale
    big = to_uint8(scene.lr[0]).repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    bicubic = to_uint8(bicubic_resize(scene.lr, scale))[0]
    height, width = scene.lr.shape[2:]
    images = [(big, f"LR, {width} × {height} pixels"), (bicubic, "bicubic")]
    return images if scene.hr is None else [*images, (to_uint8(scene.hr[0]), "HR, the truth")]


def measured(name: str, scene: Scene, image: Tensor) -> str:
    """A caption for an image, uint8 (3, H, W)."""
    images = image[None].to(scene.lr.device)
    return title(name, *consistencies(scene, images), *psnrs(scene, images))


def title(name: str, agreement: float, fidelity: float | None = None) -> str:
    """A caption with consistency and, where HR is known, PSNR.

    >>> title("draw 1", 41.234, 27.5)
    'draw 1 · consistency 41.2 dB · PSNR 27.5 dB'
    """
    return f"{name} · consistency {agreement:.1f} dB" + ("" if fidelity is None else f" · PSNR {fidelity:.1f} dB")


def captions(draws: Draws) -> list[str]:
    """A short caption for each draw."""
    return [f"draw {i}: {decibels:.1f} dB" for i, decibels in enumerate(draws.consistency, 1)]


def scores(draws: Draws) -> str:
    """Bicubic and the draws in numbers, as a Markdown table."""
    scene = draws.scene
    bicubic = bicubic_resize(scene.lr, scene.model.scale)
    agreement, fidelity = ([*consistencies(scene, bicubic), *draws.consistency], [*psnrs(scene, bicubic), *draws.psnr])
    names = ["bicubic", *(f"draw {i + 1}" for i in range(len(draws.images)))]
    cells = [[name, f"{decibels:.2f}"] for name, decibels in zip(names, agreement, strict=True)]
    head = ["", "consistency, dB"]
    if fidelity:
        head.append("PSNR to HR, dB")
        cells = [[*row, f"{decibels:.2f}"] for row, decibels in zip(cells, fidelity, strict=True)]
    return markdown(head, cells)


def heat_map(draws: Draws) -> tuple[Tensor, float, float] | None:
    """Heat map of the diversity of draws.

    Returns:
        uint8 (3, H, W) in `COLOURS`, the grey levels that its last colour stands for, and their mean over pixels. None
        for a single draw.
    """
    if len(draws.images) < 2:
        return None
    spread = diversity_map(draws.images[:, None])[0]
    top = max(torch.quantile(spread.flatten()[:: max(1, spread.numel() // 100_000)], 0.995).item(), 1e-9)
    return coloured(spread / top), top, spread.mean().item()


def coloured(values: Tensor) -> Tensor:
    """Values (H, W), 0 … 1 and clamped to it, as colours, uint8 (3, H, W)."""
    place = values.clamp(0, 1) * (len(COLOURS) - 1)
    below = place.long().clamp_max(len(COLOURS) - 2)
    part = (place - below)[..., None]
    colours = COLOURS.to(values)
    return to_uint8((colours[below] * (1 - part) + colours[below + 1] * part).permute(2, 0, 1) / 255)
