"""Degradations of HR to LR images: stages to swap and compose, deterministic under a generator.

The papers use `Bicubic` alone. Blur before it, noise and JPEG after it are offered for other settings:

>>> degrade = Compose((GaussianBlur((0.2, 2.0)), Bicubic(4), GaussianNoise((0, 10)), Jpeg((60, 95))))
>>> hr = torch.full((3, 32, 24), 128, dtype=torch.uint8)
>>> degrade.scale, degrade(hr, np.random.default_rng(0)).shape
(4, torch.Size([3, 8, 6]))
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from flowkit_models.images.convert import to_float, to_uint8
from flowkit_models.images.jpeg import jpeg_file
from flowkit_models.images.resize import Edges, Ties, bicubic_resize


class Degradation(Protocol):
    """A stage, or several: called with an image and a generator, it returns the degraded image.

    Images are (3, H, W) or (B, 3, H, W), RGB, uint8 or floating point in [0, 1]. Each image of a batch has its own
    draws. The same generator state gives the same result; the image is not written into.
    """

    @property
    def scale(self) -> int:
        """HR size over LR size."""
        ...

    def __call__(self, x: Tensor, generator: np.random.Generator) -> Tensor:
        """The degraded image or batch."""
        ...


class _Stage(ABC):
    """Checks the images, and takes a batch apart."""

    @property
    def scale(self) -> int:
        """HR size over LR size: 1, unless a stage says otherwise."""
        return 1

    def __call__(self, x: Tensor, generator: np.random.Generator) -> Tensor:
        """The degraded image or batch; see `Degradation`."""
        if x.ndim not in (3, 4) or x.shape[-3] != 3 or 0 in x.shape:
            raise ValueError(f"{type(self).__name__} takes images ([B,] 3, H, W), got {tuple(x.shape)}")
        if not (x.is_floating_point() or x.dtype == torch.uint8):
            raise ValueError(f"{type(self).__name__} takes uint8 or floating-point images, got {x.dtype}")
        return torch.stack([self._apply(i, generator) for i in x]) if x.ndim == 4 else self._apply(x, generator)

    @abstractmethod
    def _apply(self, x: Tensor, generator: np.random.Generator) -> Tensor:
        """The stage on one image (3, H, W)."""


@dataclass(frozen=True)
class Bicubic(_Stage):
    """MATLAB-equivalent bicubic reduction (`bicubic_resize`).

    Attributes:
        scale: HR size over LR size; the image's sides must be multiples of it.
        edges: what lies outside the image: "mirror" or "clamp".
        ties: where 8-bit images round halves: to "even", or "up".
        rounded: True gives uint8, as LR files are. False gives float32, neither rounded nor clipped, so that it may
            leave [0, 1] a little: the reference of IRN.
    """

    scale: int = 4
    edges: Edges = "mirror"
    ties: Ties = "even"
    rounded: bool = True

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise ValueError(f"scale is a whole number from 1 on, got {self.scale}")

    def _apply(self, x: Tensor, generator: np.random.Generator) -> Tensor:
        if x.shape[1] % self.scale or x.shape[2] % self.scale:
            raise ValueError(f"{x.shape[1]} × {x.shape[2]} pixels are no multiples of scale {self.scale}: crop them")
        if x.dtype == torch.uint8 and not self.rounded:
            x = to_float(x)
        y = bicubic_resize(x, Fraction(1, self.scale), self.edges, self.ties)
        return to_uint8(y) if self.rounded else y


@dataclass(frozen=True)
class GaussianBlur(_Stage):
    """Blur by a Gaussian whose width is drawn per image; returns float32, unrounded.

    Attributes:
        sigma: range of the standard deviation in pixels.
        anisotropic: draw one deviation for each axis of the Gaussian, and its angle.
    """

    sigma: tuple[float, float] = (0.2, 3.0)
    anisotropic: bool = False

    def __post_init__(self) -> None:
        _check_range("sigma", self.sigma)

    def _apply(self, x: Tensor, generator: np.random.Generator) -> Tensor:
        x = to_float(x) if x.dtype == torch.uint8 else x
        first = second = max(generator.uniform(*self.sigma), 1e-3)
        angle = 0.0
        if self.anisotropic:
            second, angle = max(generator.uniform(*self.sigma), 1e-3), generator.uniform(0, math.pi)
        radius = math.ceil(3 * max(first, second))
        at = torch.arange(-radius, radius + 1, dtype=torch.float64)
        down, right = torch.meshgrid(at, at, indexing="ij")
        along = (math.cos(angle) * right + math.sin(angle) * down) / first
        across = (math.cos(angle) * down - math.sin(angle) * right) / second
        kernel = torch.exp(-(along.square() + across.square()) / 2)
        kernel = (kernel / kernel.sum()).to(x.dtype)
        for dim in (1, 2):  # mirrored edges, as the bicubic has them; F.pad would need an image larger than the radius
            size = x.shape[dim]
            outside = torch.arange(-radius, size + radius) % (2 * size)
            x = x.index_select(dim, torch.minimum(outside, 2 * size - 1 - outside))
        return F.conv2d(x[:, None], kernel[None, None])[:, 0]


@dataclass(frozen=True)
class GaussianNoise(_Stage):
    """White Gaussian noise, independent per sub-pixel; uint8 stays uint8, floating point is not clipped.

    Attributes:
        sigma: range of the standard deviation in grey levels (of 255), drawn per image.
    """

    sigma: tuple[float, float] = (0.0, 25.0)

    def __post_init__(self) -> None:
        _check_range("sigma", self.sigma)

    def _apply(self, x: Tensor, generator: np.random.Generator) -> Tensor:
        deviation = generator.uniform(*self.sigma) / 255
        noise = torch.from_numpy(generator.standard_normal(x.shape, dtype=np.float32)) * deviation
        return to_uint8(to_float(x) + noise) if x.dtype == torch.uint8 else x + noise


@dataclass(frozen=True)
class Jpeg(_Stage):
    """JPEG compression with Pillow's defaults (4:2:0 chroma); rounds to 8 bits first and returns uint8.

    Attributes:
        quality: range of the quality, 1…100, both ends included, drawn per image.
    """

    quality: tuple[int, int] = (30, 95)

    def __post_init__(self) -> None:
        if not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise ValueError(f"quality is a range within 1 and 100, got {self.quality}")

    def _apply(self, x: Tensor, generator: np.random.Generator) -> Tensor:
        low, high = self.quality
        quality = int(generator.integers(low, high, endpoint=True))
        return jpeg_file(to_uint8(x), quality)


@dataclass(frozen=True)
class Compose(_Stage):
    """Stages one after the other.

    Attributes:
        stages: first to last; at least one.
    """

    stages: tuple[Degradation, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("Compose needs at least one stage")

    @property
    def scale(self) -> int:
        """Product of the stages' scales."""
        return math.prod(stage.scale for stage in self.stages)

    def _apply(self, x: Tensor, generator: np.random.Generator) -> Tensor:
        for stage in self.stages:
            x = stage(x, generator)
        return x


def photo(scale: int) -> Compose:
    """Damage of photographs as people have them: optical blur, bicubic reduction, noise of a sensor, and JPEG.

    Blur of up to 2 HR pixels, noise of up to 8 grey levels and JPEG of quality 50 to 95 in the LR image, each drawn for
    every image by itself.
    """
    return Compose((GaussianBlur((0.1, 2.0)), Bicubic(scale), GaussianNoise((0.0, 8.0)), Jpeg((50, 95))))


def _check_range(name: str, given: tuple[float, float]) -> None:
    if not 0 <= given[0] <= given[1] < math.inf:
        raise ValueError(f"{name} is a range (low, high), not negative and finite, got {given}")
