"""Export of image models: super-resolution as a program of `torch.export` or an ONNX file, for pictures of any size."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from flowkit import exporting
from flowkit_models.files import atomic_path, write_whole
from flowkit_models.models.base import ImageFlow

OPSET = 20
LARGEST = 8192
"""Largest side of an LR picture that a program takes."""


class Upscale(nn.Module):
    """The HR picture of an LR picture at τ = 0, as a module to export: (1, 3, h, w) to (1, 3, s·h, s·w) in [0, 1]."""

    def __init__(self, model: ImageFlow) -> None:
        super().__init__()
        self.model = model

    def forward(self, lr: Tensor) -> Tensor:
        """`model.upscale(lr, temperature=0)`, of sides that the model takes as they are."""
        zeros = tuple(lr.new_zeros(1, *shape) for shape in self.model.latent_shapes(*lr.shape[2:]))
        return self.model.decode(lr, zeros).clamp(0, 1)


class Decode(nn.Module):
    """The HR picture of an LR picture and latents, as a module to export; τ multiplies the latents."""

    def __init__(self, model: ImageFlow, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, lr: Tensor, latents: tuple[Tensor, ...]) -> Tensor:
        """Lr (1, 3, h, w) and standard-normal latents, coarsest first, to (1, 3, s·h, s·w) in [0, 1]."""
        return self.model.decode(lr, self.model.scaled(latents, self.temperature)).clamp(0, 1)


def program_of(model: ImageFlow, temperature: float = 0.0, half: bool = False) -> ExportedProgram:
    """Program of super-resolution, or of going up again after a rescaling model's downscale.

    At τ = 0 its input is `lr` alone, (1, 3, h, w) in [0, 1], with sides that are multiples of `model.lr_multiple`.
    Above, the latents are inputs too, coarsest first, of the shapes of `model.latent_shapes(h, w)`: standard-normal
    numbers, which the program multiplies by τ.

    Raises:
        ValueError: for a temperature below 0, a model of any scale, or one with a part that can't be exported.
    """
    if model.any_scale:
        raise ValueError(f"export: {type(model).__name__} makes pictures of any size, for which programs have no input")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"export: temperature must be at least 0 and finite, got {temperature}")
    model = model.cpu().float().eval().requires_grad_(False)
    unit = model.lr_multiple
    side = 8 * unit
    height, width = (unit * Dim(name, min=2, max=LARGEST // unit) for name in ("h", "w"))
    lr = torch.rand(1, 3, side, side + unit)
    if temperature == 0:
        return exporting.program(Upscale(model), (lr,), ({2: height, 3: width},), half)
    latents = model.draw(lr, torch.Generator().manual_seed(0))
    return exporting.program(
        Decode(model, temperature), (lr, latents), _shapes(model, lr, latents, (height, width)), half
    )


def write(program: ExportedProgram, path: str | Path, to: Literal["onnx", "pt2"]) -> None:
    """Writes a program of `program_of`, whole or not at all.

    Raises:
        ModuleNotFoundError: without the packages of the extra `export`.
        ValueError: if ONNX has no word for something in it.
    """
    if to == "pt2":
        write_whole(path, lambda file: torch.export.save(program, file))
        return
    names = ["lr", *(f"z{i}" for i in range(len(program.graph_signature.user_inputs) - 1))]
    with atomic_path(path) as unfinished:
        exporting.onnx(program, unfinished, names, "hr", OPSET)


def _shapes(model: ImageFlow, lr: Tensor, latents: tuple[Tensor, ...], sides: tuple[Any, Any]) -> Any:
    """What of each input may vary: a latent's sides are the LR picture's times a whole number, or divided by one."""
    along = {2: sides[0], 3: sides[1]}
    unit = model.lr_multiple
    return along, tuple({d: _times(along[d], z.shape[d], lr.shape[d], unit) for d in along} for z in latents)


def _times(side: Any, latent: int, lr: int, unit: int) -> Any:
    factor = latent * unit // lr
    return factor * side.root if unit > 1 else factor * side
