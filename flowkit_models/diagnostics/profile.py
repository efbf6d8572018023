"""Profile of a model: latents, parameters by part, multiply-accumulates per pixel, receptive field."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from flowkit_models.models.base import ImageFlow
from flowkit_models.models.factory import build
from flowkit_models.models.words import PURPOSES

NARROW = {"hidden": 1, "conditional_hidden": 1, "features": 1, "growth": 1}
"""Widths of a twin that looks exactly as far."""

FARTHEST = 4096
"""LR pixels at which the search for the reach gives up."""


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one pass: `per_hr_pixel` times the HR pixels, and `fixed`, whatever the size."""

    per_hr_pixel: float
    fixed: float


@dataclass(frozen=True)
class Profile:
    """Size and cost of a model, whatever its weights.

    Attributes:
        family, purpose, scale: what it is, and what for: "super-resolution" or "rescaling".
        config: its config's fields.
        lr_size: height and width of the LR image that `latents` holds for.
        latents: (C, H, W) of each latent, coarsest first.
        parameters: their number, by part.
        encode, draw, further_draw: cost of encoding, of one draw given an LR image, and of each further draw of the
            same image.
        reach: how many LR pixels beside an HR pixel's own LR pixel can change it in `upscale` (see `reach`).
        any_scale: `scale` is the largest of the factors that it was trained for.
    """

    family: str
    purpose: str
    scale: int
    config: dict[str, Any]
    lr_size: tuple[int, int]
    latents: list[tuple[int, int, int]]
    parameters: dict[str, int]
    encode: Cost
    draw: Cost
    further_draw: Cost
    reach: int
    any_scale: bool = False

    @property
    def total(self) -> int:
        """Number of all parameters."""
        return sum(self.parameters.values())

    @property
    def receptive_field(self) -> int:
        """Side of the square of LR pixels that an HR pixel depends on."""
        return 2 * self.reach + 1


def profile_model(model: ImageFlow, lr_size: tuple[int, int] = (160, 160)) -> Profile:
    """Profile of a model: size and cost.

    Args:
        model: any image model; it is left as it is.
        lr_size: height and width of an LR image to state the latents for.

    Raises:
        ValueError: if these are no multiples of `model.lr_multiple`, or not positive.
    """
    if min(lr_size) < 1 or any(side % model.lr_multiple for side in lr_size):
        got = " × ".join(map(str, lr_size))
        raise ValueError(f"profile_model: sides of an LR image must be multiples of {model.lr_multiple}, got {got}")
    draw = cost(model, lambda lr: model.upscale(lr, 1, 0.0, torch.Generator()))
    both = cost(model, lambda lr: model.upscale(lr, 2, 0.0, torch.Generator()))
    return Profile(
        type(model).__name__,
        PURPOSES[model.config.purpose],
        model.scale,
        dataclasses.asdict(model.config),
        lr_size,
        model.latent_shapes(*lr_size),
        parameters_by_part(model),
        cost(model, lambda lr: model.encode(lr.new_full((1, 3, *(model.scale * n for n in lr.shape[2:])), 0.5), lr)),
        draw,
        Cost(both.per_hr_pixel - draw.per_hr_pixel, both.fixed - draw.fixed),
        reach(model),
        model.any_scale,
    )


def parameters_by_part(model: ImageFlow) -> dict[str, int]:
    """Number of parameters in bodies, latents and feature networks of the levels (finest 0), and in the rest."""
    parts: dict[str, nn.Module] = {}
    for i, level in enumerate(model.flow.levels):
        parts[f"level {i}: body"] = level.body
        parts[f"level {i}: latent"] = level.latent
    for i, net in enumerate(getattr(model.flow.given, "nets", ())):
        parts[f"level {i}: features"] = net
    parts |= {name: child for name, child in model.named_children() if name not in ("flow", "base", "dequantize")}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return {name: count for name, count in counts.items() if count}


@torch.no_grad()
def cost(model: ImageFlow, run: Callable[[Tensor], object]) -> Cost:
    """Multiply-accumulates of convolutions and matrix products, as torch's flop counter counts them (two flops each).

    Padding counts as if it were pixels, elementwise work does not count, nor does the inversion of matrices. What
    does not grow with the image (matrices of the 1×1 convolutions, multiplied with each other) is told apart by
    counting at two sizes.

    Args:
        model: gives the sizes.
        run: is given LR images (1, 3, h, w).
    """
    side = 2 * model.lr_multiple
    like = next(model.parameters())
    small, large = (_macs(run, like.new_full((1, 3, side, width), 0.5)) for width in (side, 2 * side))
    pixels = side * side * model.scale**2
    return Cost((large - small) / pixels, 2 * small - large)


def _macs(run: Callable[[Tensor], object], lr: Tensor) -> float:
    counter = FlopCounterMode(display=False)
    with counter:
        run(lr)
    return counter.get_total_flops() / 2


@torch.no_grad()
def reach(model: ImageFlow) -> int:
    """Reach of `upscale`: how many LR pixels to a side can change an HR pixel, whatever the weights.

    One LR pixel is made NaN, which no operation swallows, not even a weight of zero; the HR pixels that become NaN
    depend on it. Width and weights don't matter, so a twin of the same depth and kernels with narrow networks is
    asked, on a strip of the least height, and in float64, whose convolutions keep pixels apart (fast float32 ones
    work on tiles). The result is what the structure allows; a trained model hardly uses the outer part of it.

    Raises:
        ValueError: if it exceeds what is searched for, some thousand pixels.
    """
    fields = dataclasses.asdict(model.config)
    narrow = {name: width for name, width in NARROW.items() if name in fields}
    with torch.random.fork_rng([]):  # its weights are drawn, and don't matter
        twin = build(type(model).__name__, {**fields, **narrow}).double().eval()
    width = 64
    while width <= FARTHEST:
        found = _reach_in_strip(twin, width)
        if found is not None:
            return found
        width *= 2
    raise ValueError(f"reach: an HR pixel sees more than {FARTHEST // 2} LR pixels to a side")


def _reach_in_strip(model: ImageFlow, width: int) -> int | None:
    """Largest reach of all places on the grid of the squeezes, in a strip; None if an end of the strip is reached."""
    multiple = model.lr_multiple
    farthest = 0
    for column in range(width // 2, width // 2 + multiple):
        lr = torch.full((1, 3, multiple, width), 0.5, dtype=torch.float64)
        lr[..., column] = math.nan
        latents = tuple(lr.new_zeros(1, *shape) for shape in model.latent_shapes(*lr.shape[2:]))
        hr = model._decode(lr, model.context(lr), latents)  # `decode` takes no NaN
        seen = hr.isnan().any(1).any(1).nonzero()[:, 1] // model.scale
        first, last = int(seen.min()), int(seen.max())
        if first == 0 or last == width - 1:
            return None
        farthest = max(farthest, column - first, last - column)
    return farthest
