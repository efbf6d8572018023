"""Edits of the page: latents of a region, pasted content, interpolation between images. No gradio."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flowkit_models.demo.scene import Draws
from flowkit_models.images.convert import to_float, to_uint8
from flowkit_models.images.image_file import read_image
from flowkit_models.inference.editing import Collection, Way, interpolate, paste, region_latents, transfer

Change = Literal["redraw", "temperature", "zero", "scale"]
"""New latents of a region: another draw, its own at another τ, none, or times a factor."""

HR = "HR photograph"


@dataclass(frozen=True)
class Subject:
    """An image that can be edited, with what it decodes from.

    Attributes:
        lr: (1, 3, h, w), what the model's inverse gets.
        latents: with their temperature.
        unit: latents before temperature; those of a photograph count as τ = 1.
    """

    lr: Tensor
    latents: tuple[Tensor, ...]
    unit: tuple[Tensor, ...]


def subjects(draws: Draws) -> list[str]:
    """The names of what can be edited: the draws, and the HR photograph where there is one."""
    names = [f"draw {i + 1}" for i in range(len(draws.images))]
    return names if draws.scene.hr is None else [*names, HR]


@torch.no_grad()
def subject(draws: Draws, name: str | None) -> Subject:
    """One of `subjects` by name.

    Raises:
        ValueError: if there is none of that name.
    """
    scene = draws.scene
    index = _index(draws, name)
    if name == HR:
        encoded = scene.model.encode(_hr(draws, name), scene.lr)
        lr = scene.lr if encoded.lr is None else encoded.lr
        return Subject(lr, encoded.latents, encoded.latents)
    unit = draws.latents[index]
    latents = tuple(draws.temperature * z for z in unit)
    return Subject(scene.lr, latents, unit)


def image_of(draws: Draws, name: str | None) -> Tensor:
    """One of `subjects` as an image, uint8 (1, 3, H, W) on the CPU.

    Raises:
        ValueError: if there is none of that name.
    """
    return to_uint8(_hr(draws, name).cpu()) if name == HR else draws.images[_index(draws, name), None]


def _hr(draws: Draws, name: str | None) -> Tensor:
    _index(draws, name)
    assert draws.scene.hr is not None, "listed only then"
    return draws.scene.hr


def _index(draws: Draws, name: str | None) -> int:
    names = subjects(draws)
    if name not in names:
        raise ValueError(f"there is no {name or 'image'} to edit: draw some, or load an HR photograph")
    return names.index(name)


def level_names(draws: Draws) -> list[str]:
    """Labels of the levels of latents (width × height × channels), coarsest first."""
    shapes = draws.scene.model.latent_shapes(*draws.scene.lr.shape[2:])
    return [f"{width} × {height} × {channels} channels" for channels, height, width in shapes]


@torch.no_grad()
def change_region(
    draws: Draws,
    name: str | None,
    mask: Tensor,
    change: Change = "redraw",
    temperature: float = 0.8,
    seed: int = 1,
    factor: float = 1.0,
    levels: list[int] | None = None,
) -> Tensor:
    """Changes the latents of a region.

    Args:
        draws: with what it is about.
        name: which of `subjects`.
        mask: (1, 1, H, W), true inside.
        change: see `Change`.
        temperature: τ of "redraw" and "temperature".
        seed: of "redraw".
        factor: of "scale".
        levels: which levels to change, 0 the coarsest; None: all.

    Returns:
        uint8 (3, H, W).

    Raises:
        ValueError: if the mask or the levels are empty, or there is no such image.
    """
    if not mask.any():
        raise ValueError("nothing is painted: brush over a region of the image first")
    if levels is not None and not levels:
        raise ValueError("choose at least one level of latents")
    model, given = draws.scene.model, subject(draws, name)
    if change == "redraw":
        fresh = model.draw(draws.scene.lr, torch.Generator().manual_seed(seed))
        other = tuple(temperature * z for z in fresh)
    else:
        base, by = {
            "temperature": (given.unit, temperature),
            "zero": (given.unit, 0.0),
            "scale": (given.latents, factor),
        }[change]
        other = tuple(by * z for z in base)
    if levels is not None:
        other = tuple(z if i in levels else given.latents[i] for i, z in enumerate(other))
    return _decoded(draws, given.lr, region_latents(given.latents, mask, other))


@torch.no_grad()
def between(draws: Draws, first: str | None, second: str | None, t: float, way: Way = "spherical") -> Tensor:
    """The image at t on the way from one of `subjects` (t = 0) to another (t = 1), uint8 (3, H, W).

    Latents before temperature go the way; LR image and temperature go straight (a photograph's is 1).
    """
    a, b = subject(draws, first), subject(draws, second)
    (cold, warm) = (1.0 if name == HR else draws.temperature for name in (first, second))
    tau = (1 - t) * cold + t * warm
    latents = tuple(tau * z for z in interpolate(a.unit, b.unit, t, way))
    return _decoded(draws, (1 - t) * a.lr + t * b.lr, latents)


@torch.no_grad()
def move_content(
    draws: Draws,
    name: str | None,
    source: str,
    side: int,
    taken: tuple[float, float],
    placed: tuple[float, float],
    temperature: float = 0.8,
    over: Collection | None = "position",
    toward: float = 0.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Pastes a square of another photograph, and lets LR image and latents take care of the rest.

    Args:
        draws: with what it is about.
        name: which of `subjects` it is laid into.
        source: image file that it comes from.
        side: of the square, in pixels; less where an image is smaller.
        taken: its centre in the source, (row, column) as fractions.
        placed: its centre in the target; it is moved inside where it would reach beyond.
        temperature: τ that the region's latents are normalised to.
        over: see `flowkit_models.inference.editing.normalize`; None leaves them as they are.
        toward: how much of the pasted pixels' own LR image to take, in [0, 1].
        seed: of the normalisation.

    Returns:
        The image with the pixels pasted, and with the result, both uint8 (3, H, W).
    """
    scene = draws.scene
    image = to_float(image_of(draws, name)).to(scene.lr.device)
    photo = to_float(read_image(source)[None]).to(image.device)
    size = min(side, *photo.shape[2:], *image.shape[2:])
    top, left = _corner(taken, size, photo)
    patch = photo[..., top : top + size, left : left + size]
    edited, mask = paste(image, patch, *_corner(placed, size, image))
    made = transfer(
        scene.model,
        image,
        scene.lr,
        edited,
        mask,
        temperature if over else None,
        over or "position",
        toward,
        torch.Generator().manual_seed(seed),
    )
    return to_uint8(edited[0]).cpu(), to_uint8(made[0]).cpu()


def _corner(centre: tuple[float, float], size: int, image: Tensor) -> tuple[int, int]:
    """Top and left of a square with a centre, moved inside the image."""
    height, width = image.shape[2:]
    row, column = (round(c * n - size / 2) for c, n in zip(centre, (height, width), strict=True))
    return min(max(row, 0), height - size), min(max(column, 0), width - size)


def _decoded(draws: Draws, lr: Tensor, latents: tuple[Tensor, ...]) -> Tensor:
    made = draws.scene.model.decode(lr, latents, draws.scene.lr)
    return to_uint8(made[0].clamp(0, 1)).cpu()
