"""An image model with all that is needed to train it and to draw from it: what is timed and weighed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import flowkit
import flowkit_models
from benchmark.memory import peak_bytes, training_bytes
from benchmark.options import Options
from flowkit_models import ImageFlow
from flowkit_models.data.loader import Batch, Draws
from flowkit_models.data.sample_photos import test_photos
from flowkit_models.devices import find_device
from flowkit_models.images.convert import to_float
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.models.presets import PRESETS
from flowkit_models.training.objective import Objective
from flowkit_models.training.objectives import (
    AnyScale,
    AnyScaleWeights,
    IRNRescaling,
    IRNWeights,
    Rescaling,
    RescalingWeights,
    SAINRescaling,
    SAINWeights,
    SRFlowLikelihood,
    SRWeights,
    SuperResolution,
)

TEMPERATURES = (0.3, 0.5, 0.7, 0.9)
"""Those of the "4 temperatures × 3 draws"."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Options of the subcommands that measure image models."""

    hr: int = 160
    """Side of the HR crops for training, rounded down to what a model's squeezes divide."""
    lr: int = 40
    """Side of the LR image for draws."""
    large: int = 640
    """HR side of the large image."""
    weights: Path | None = None
    """A checkpoint in place of fresh weights; for a single model."""

    @property
    def crops(self) -> str:
        """A note for the table."""
        return (
            f"training: HR crops of {self.hr} pixels, or the next multiple below, and one of them, unless said; "
            f"draws: an LR image of {self.lr}×{self.lr}"
        )


class Subject:
    """A model, an optimiser, a batch and an LR image.

    Fresh weights are made livelier than a published start, so that the numbers are those of a working network: what
    starts at zero gets small random numbers, and the ActNorms are set from the batch.

    Args:
        name: of a preset.
        options: sizes, device, seed, weights.
        batch: HR crops per training step.
        memory, precision: as for `flowkit_models.create`.
        **overrides: fields of the model's config.
    """

    def __init__(
        self,
        name: str,
        options: ModelOptions,
        batch: int = 1,
        memory: str = "plain",
        precision: str = "float32",
        **overrides: Any,
    ) -> None:
        torch.manual_seed(options.seed)
        self.options, self.device = options, find_device(options.device)
        model = (
            flowkit_models.create(name, memory, precision, **overrides)
            if options.weights is None
            else flowkit_models.load(options.weights, memory=memory, precision=precision, **overrides)
        )
        self.model: ImageFlow = model.to(self.device)
        stride = self.model.flow.stride
        side = max(1, options.hr // stride) * stride
        hr = torch.stack([photo(side, i) for i in range(batch)])
        lr = bicubic_resize(hr, Fraction(1, self.model.scale)).clamp(0, 1)
        self.batch = Batch(hr, lr, torch.arange(batch)).to(self.device)
        if options.weights is None:
            liven(self.model, self.batch)
        self.objective = objective_of(self.model)
        self.adam = torch.optim.Adam([p for p in self.model.parameters() if p.requires_grad], 1e-5, fused=True)

    def step(self, fresh: bool = True) -> None:
        """A training step with the paper's first loss. `fresh`: gradients are dropped before, else zeroed in place."""
        self.adam.zero_grad(set_to_none=fresh)
        draws = Draws(self.options.seed, self.batch.index, self.device)
        phase = self.objective.phases[0].name
        self.objective(phase, self.batch, draws, 1).loss.backward()
        self.adam.step()

    @torch.no_grad()
    def draw(self, n: int = 1, temperature: float | Sequence[float] = 0.8, side: int | None = None) -> Tensor:
        """N draws for one LR image, (n, 1, 3, H, W), the same numbers each time. `side`: of the LR image."""
        generator = torch.Generator().manual_seed(self.options.seed)
        lr = photo(side or self.options.lr)[None].to(self.device)
        return self.model.upscale(lr, n, temperature, generator)

    def temperatures(self) -> Tensor:
        """3 draws at each of 4 temperatures, in one call."""
        return self.draw(3 * len(TEMPERATURES), [tau for tau in TEMPERATURES for _ in range(3)])

    def training_memory(self) -> int:
        """Bytes of a training step beside parameters, gradients and Adam's state."""
        return training_bytes(lambda: self.step(fresh=False), self.model, self.device)

    def drawing_memory(self, n: int = 1, side: int | None = None) -> int:
        """Bytes of n draws beside the parameters."""
        return peak_bytes(lambda: self.draw(n, side=side), self.device)


def check_models(names: Sequence[str]) -> None:
    """Raises ValueError for the name of no preset."""
    for name in names:
        if name not in PRESETS:
            raise ValueError(f"no model {name!r}; there are {', '.join(PRESETS)}")


def deeper(name: str, k: int) -> dict[str, Any]:
    """Fields of a preset's config for a depth K: of its main flow, and of HCFlow's conditional one as well."""
    family, config = PRESETS[name]
    if family == "IRN":
        return {"blocks": (k,) * len(config.get("blocks", (8, 8)))}
    return {"steps": k, "conditional_steps": k} if family == "HCFlow" else {"steps": k}


def objective_of(model: Any) -> Objective:
    """What the recipe of a model minimises first."""
    match type(model).__name__:
        case "HCFlow":
            return SuperResolution(model, SRWeights()) if model.config.tap else Rescaling(model, RescalingWeights())
        case "SRFlow":
            return SRFlowLikelihood(model)
        case "LINF":
            return AnyScale(model, AnyScaleWeights())
        case "SAIN":
            return SAINRescaling(model, SAINWeights())
        case _:
            return IRNRescaling(model, IRNWeights())


@torch.no_grad()
def liven(model: ImageFlow, batch: Batch) -> None:
    """Small random weights where they start at zero, a twentieth of what keeps the variance; ActNorms from a batch."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 4 and not parameter.count_nonzero():
            small = 0.05 / math.sqrt(math.prod(parameter.shape[1:]))
            parameter.copy_(small * torch.randn(parameter.shape, generator=generator))
    flowkit.initialize(model.flow, batch.hr, model.context(batch.lr))


@lru_cache
def photo(side: int, index: int = 0) -> Tensor:
    """The middle of a test photograph in [0, 1], mirrored where it is too small, (3, side, side)."""
    photos = list(test_photos().values())
    image = to_float(photos[index % len(photos)])
    while min(image.shape[1:]) < side:
        image = torch.cat([image, image.flip(1)], 1)
        image = torch.cat([image, image.flip(2)], 2)
    top, left = ((size - side) // 2 for size in image.shape[1:])
    return image[:, top : top + side, left : left + side].contiguous()
