"""An image model with all that is needed to train it and to draw from it: what the benchmarks time and weigh."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

import flowkit
import flowkit_models
from benchmark.memory import peak_bytes, training_bytes
from benchmark.stopwatch import Spread, spread
from flowkit_models import ImageFlow
from flowkit_models.data.loader import Batch, Draws
from flowkit_models.data.sample_photos import test_photos
from flowkit_models.images.convert import to_float
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.training.objective import Objective
from flowkit_models.training.objectives import (
    IRNRescaling,
    IRNWeights,
    Rescaling,
    RescalingWeights,
    SRFlowLikelihood,
    SRWeights,
    SuperResolution,
)

TEMPERATURES = (0.3, 0.5, 0.7, 0.9)
"""Those of the "4 temperatures × 3 draws"."""


@dataclass(frozen=True)
class Conditions:
    """How the models are measured.

    Attributes:
        device: where.
        rounds: of the stopwatch.
        seed: of weights, data and draws.
        hr: side of the HR crops for training; rounded down to what the model's squeezes divide.
        lr: side of the LR image for draws.
        large: HR side of the large image.
        products: sizes of the matrix products that are tried for the machine's rate.
        small: the recipes' small models stand in for the published sizes, to see that everything runs.
        weights: a checkpoint in place of fresh weights, for the models of its kind.
    """

    device: str = "cpu"
    rounds: int = 5
    seed: int = 0
    hr: int = 160
    lr: int = 40
    large: int = 640
    products: tuple[int, ...] = (1024, 2048, 3072)
    small: bool = False
    weights: str | os.PathLike[str] | None = None


class Subject:
    """A model, an optimiser, a batch and an LR image.

    Fresh weights are made livelier than a published start, so that the numbers are those of a working network: what
    starts at zero gets small random numbers, and the ActNorms are set from the batch.

    Args:
        name: of a preset.
        how: conditions.
        batch: HR crops per training step.
        memory, precision: as for `flowkit_models.create`.
        hr: another size of the crops than that of `how`.
        **overrides: fields of the model's config.
    """

    def __init__(
        self,
        name: str,
        how: Conditions,
        batch: int = 1,
        memory: str = "plain",
        precision: str = "float32",
        hr: int | None = None,
        **overrides: Any,
    ) -> None:
        torch.manual_seed(how.seed)
        self.how = how
        self._lr: dict[int, Tensor] = {}
        if how.weights is None:
            kind = stand_in(name) if how.small else name
            model = flowkit_models.create(kind, memory, precision, **overrides)
        else:
            model = flowkit_models.load(how.weights, memory=memory, precision=precision, **overrides)
        self.model: ImageFlow = model.to(how.device)
        stride = self.model.flow.stride
        side = max(1, (hr or how.hr) // stride) * stride
        self.batch = _batch(batch, side, self.model.scale).to(how.device)
        if how.weights is None:
            liven(self.model, self.batch)
        self.objective = objective_of(self.model)
        self.adam = torch.optim.Adam([p for p in self.model.parameters() if p.requires_grad], 1e-5, fused=True)

    def step(self, fresh: bool = True) -> None:
        """A training step with the paper's first loss. `fresh`: gradients are dropped before, else zeroed in place."""
        self.adam.zero_grad(set_to_none=fresh)
        draws = Draws(self.how.seed, self.batch.index, self.how.device)
        phase = self.objective.phases[0].name
        self.objective(phase, self.batch, draws, 1).loss.backward()
        self.adam.step()

    @torch.no_grad()
    def draw(self, n: int = 1, temperature: float | Sequence[float] = 0.8, side: int | None = None) -> Tensor:
        """N draws for one LR image, (n, 1, 3, H, W), the same numbers each time. `side`: of the LR image."""
        generator = torch.Generator().manual_seed(self.how.seed)
        return self.model.upscale(self.lr_image(side or self.how.lr), n, temperature, generator)

    def large(self) -> Tensor:
        """One draw of the large image."""
        return self.draw(side=self.how.large // self.model.scale)

    def temperatures(self) -> Tensor:
        """3 draws at each of 4 temperatures, in one call."""
        return self.draw(3 * len(TEMPERATURES), [tau for tau in TEMPERATURES for _ in range(3)])

    def lr_image(self, side: int) -> Tensor:
        """An LR image (1, 3, side, side), the same each time."""
        if side not in self._lr:
            self._lr[side] = photo(side, side)[None].to(self.how.device)
        return self._lr[side]

    def training_memory(self) -> int:
        """Bytes of a training step beside parameters, gradients and Adam's state."""
        return training_bytes(lambda: self.step(fresh=False), self.model, self.how.device)

    def drawing_memory(self, n: int = 1, side: int | None = None) -> int:
        """Bytes of n draws beside the parameters."""
        self.draw(n, side=side)
        return peak_bytes(lambda: self.draw(n, side=side), self.how.device)


def stand_in(name: str) -> str:
    """The small model of the recipes that a published one is tried with."""
    small = [known for known in flowkit_models.list_models() if known.endswith("_small")]
    family = "_".join(name.split("_")[:2]) if name.startswith("hcflow") else name.split("_", maxsplit=1)[0]
    return next((known for known in small if known.startswith(family)), "hcflow_sr_x4_small")


def check_models(names: Sequence[str]) -> None:
    """Raises ValueError for the name of no preset."""
    for name in names:
        if name not in flowkit_models.list_models():
            raise ValueError(f"no model {name!r}; there are {', '.join(flowkit_models.list_models())}")


def deeper(name: str, k: int) -> dict[str, Any]:
    """Fields of a preset's config for a depth K: of its main flow, and of HCFlow's conditional one as well."""
    config = flowkit_models.models.presets.PRESETS[name][1]
    if name.startswith("irn"):
        return {"blocks": (k,) * len(config.get("blocks", (8, 8)))}
    return {"steps": k, "conditional_steps": k} if name.startswith("hcflow") else {"steps": k}


def full_size() -> list[str]:
    """The published models."""
    return [name for name in flowkit_models.list_models() if not name.endswith(("_small", "_shipped_x4"))]


def objective_of(model: ImageFlow) -> Objective:
    """What the recipe of a model minimises first."""
    match type(model).__name__:
        case "HCFlow":
            known: Any = model
            return SuperResolution(known, SRWeights()) if known.config.tap else Rescaling(known, RescalingWeights())
        case "SRFlow":
            return SRFlowLikelihood(model)  # type: ignore[arg-type]
        case _:
            return IRNRescaling(model, IRNWeights())  # type: ignore[arg-type]


@torch.no_grad()
def liven(model: ImageFlow, batch: Batch) -> None:
    """Small random weights where they start at zero, a twentieth of what keeps the variance; ActNorms from a batch."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 4 and not parameter.count_nonzero():
            small = 0.05 / math.sqrt(math.prod(parameter.shape[1:]))
            parameter.copy_(small * torch.randn(parameter.shape, generator=generator))
    flowkit.initialize(model.flow, batch.hr, model.context(batch.lr))


def photo(height: int, width: int, index: int = 0) -> Tensor:
    """A piece of a test photograph in [0, 1], mirrored where it is too small, (3, height, width)."""
    photos = list(test_photos().values())
    image = to_float(photos[index % len(photos)])
    while image.shape[1] < height or image.shape[2] < width:
        image = torch.cat([image, image.flip(1)], 1)
        image = torch.cat([image, image.flip(2)], 2)
    top, left = ((size - side) // 2 for size, side in zip(image.shape[1:], (height, width), strict=True))
    return image[:, top : top + height, left : left + width].contiguous()


def _batch(size: int, side: int, scale: int) -> Batch:
    hr = torch.stack([photo(side, side, i) for i in range(size)])
    lr = bicubic_resize(hr, Fraction(1, scale)).clamp(0, 1)
    return Batch(hr, lr, torch.arange(size))


def share(seconds: Sequence[float], operations: int, base: Sequence[float], base_operations: int) -> Spread:
    """A task's rate of operations over that of another one, such as a matrix product, both of the same round.

    Example:
        >>> share([2.0, 4.0], 100, [1.0, 2.0], 100)
        Spread(median=0.5, low=0.5, high=0.5)
    """
    pairs = zip(seconds, base, strict=True)
    return spread([operations / own / (base_operations / other) for own, other in pairs])
