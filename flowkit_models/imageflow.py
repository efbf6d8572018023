"""What every image model offers: encode, decode, upscale, downscale, likelihood, save."""

import contextlib
import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.base import draw, round_straight_through
from flowkit.bijector import Bijector
from flowkit.tree import describe

Memory = Literal["plain", "lean"]
Precision = Literal["float32", "bf16"]


class Encoded(NamedTuple):
    """What `ImageFlow.encode` returns.

    Attributes:
        lr: the generated LR image before clamping and rounding; None for a model without one (SRFlow).
        latents: standard-normal tensors, coarsest first.
        logdet: (B,), log-det of the map, its standardising priors included.
    """

    lr: Tensor | None
    latents: tuple[Tensor, ...]
    logdet: Tensor


class ImageFlow(nn.Module):
    """Base class of the image models. Images are float tensors (B, 3, H, W), RGB, in [0, 1].

    Args:
        config: frozen dataclass with the model's sizes; it is stored in every checkpoint.
        flow: the bijection.
        scale: HR size over LR size.

    Attributes:
        precision: "float32", or "bf16": networks run under autocast, the invertible maps stay in float32.
    """

    config: Any
    flow: Any  # a Bijector; models know which
    precision: Precision = "float32"

    def __init__(self, config: Any, flow: Bijector, scale: int) -> None:
        super().__init__()
        self.config = config
        self.flow = flow
        self.scale = scale

    def forward(self, hr: Tensor, lr: Tensor | None = None) -> Encoded:
        """`encode`, so that hooks, `flowkit.initialize` and DDP see it."""
        return self.encode(hr, lr)

    def _encode(self, hr: Tensor, lr: Tensor | None) -> Encoded:
        raise NotImplementedError

    def _decode(self, lr: Tensor, latents: tuple[Tensor, ...]) -> Tensor:
        raise NotImplementedError

    def latent_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """(C, H, W) of the latents for an LR image of a size, coarsest first."""
        raise NotImplementedError

    def official_layout(self) -> Iterator[tuple[str, nn.Module]]:
        """The official names of all modules with parameters, in the official order."""
        raise NotImplementedError

    def bits_per_dim(self, hr: Tensor, lr: Tensor) -> Tensor:
        """The true bits per sub-pixel, (B,)."""
        raise NotImplementedError

    def not_official(self) -> str | None:
        """Why the official implementation could not open this model's weights; None if it could."""
        return None

    def encode(self, hr: Tensor, lr: Tensor | None = None) -> Encoded:
        """Maps HR images to LR images and latents. Adds no noise.

        Args:
            hr: (B, 3, H, W), sides multiples of the model's stride.
            lr: the LR images, for a model that needs them (SRFlow).

        Raises:
            ValueError: for a size that does not divide, a wrong shape or dtype, NaN.
        """
        self._check_hr(hr)
        with self.precision_policy(hr):
            return self._encode(hr, lr)

    def decode(self, lr: Tensor, latents: tuple[Tensor, ...]) -> Tensor:
        """Maps LR images and latents back to HR: the exact inverse of `encode`, not clamped.

        Raises:
            ValueError: if the latents do not fit the LR images.
        """
        _check_image(lr, "lr")
        self._check_latents(lr, latents)
        with self.precision_policy(lr):
            return self._decode(lr, tuple(latents))

    def upscale(
        self,
        lr: Tensor,
        n: int = 1,
        temperature: float = 0.8,
        generator: torch.Generator | None = None,
        latents: tuple[Tensor, ...] | None = None,
    ) -> Tensor:
        """Draws n HR images for each LR image, of any size.

        Args:
            lr: (B, 3, h, w) in [0, 1].
            n: number of draws.
            temperature: standard deviation τ of the latents, in [0, 1] as a rule; 0 gives one sharpest guess.
            generator: source of the draws, made on its device, coarsest latent first.
            latents: tuple of standard-normal tensors used instead of draws, times the temperature; then n is 1.

        Returns:
            (n, B, 3, scale·h, scale·w), clamped to [0, 1].

        Raises:
            ValueError: for a wrong shape or dtype, NaN, n below 1, or latents together with n above 1.
        """
        _check_image(lr, "lr")
        if not isinstance(n, int) or n < 1 or (latents is not None and n > 1):
            raise ValueError(f"upscale: n must be at least 1, and 1 with latents, got {n}")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"upscale: temperature must be at least 0, got {temperature}")
        images = []
        for _ in range(n):
            z = self.draw(lr, generator) if latents is None else latents
            self._check_latents(lr, z)
            images.append(self.decode(lr, tuple(temperature * part for part in z)))
        return torch.stack(images).clamp(0, 1)

    def draw(self, lr: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Standard-normal latents for LR images, coarsest first; the same on any device for one CPU generator."""
        shapes = self.latent_shapes(*lr.shape[2:])
        return tuple(draw(lr.new_empty(len(lr), *shape), generator) for shape in shapes)

    def downscale(self, hr: Tensor) -> Tensor:
        """The model's LR images of HR images of any size, clamped and rounded to 8 bits as they would be stored.

        Returns:
            (B, 3, ⌈H/scale⌉, ⌈W/scale⌉).

        Raises:
            ValueError: for a wrong shape or dtype, NaN, or a model that makes no LR image.
        """
        _check_image(hr, "hr")
        height, width = hr.shape[2:]
        multiple = math.lcm(self.flow.stride, self.scale)
        padded = F.pad(hr, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        lr = self.encode(padded).lr
        if lr is None:
            raise ValueError(f"downscale: {type(self).__name__} models HR given LR and makes no LR image")
        lr = lr[..., : -(-height // self.scale), : -(-width // self.scale)]
        return round_straight_through(lr)

    def precision_policy(self, x: Tensor) -> AbstractContextManager[Any]:
        """Autocast for the networks, where `precision` asks for it."""
        if self.precision == "bf16":
            return torch.autocast(x.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def save(self, path: str | os.PathLike[str], **about: str) -> None:
        """Writes weights and config to a .safetensors file, atomically. `about`: further notes to store."""
        from .checkpoints import save  # noqa: PLC0415 - it knows the models

        save(self, path, about)

    def official_state_dict(self) -> dict[str, Tensor]:
        """The weights under the official implementation's names and shapes, equal to the last bit."""
        from .official import official_state_dict  # noqa: PLC0415

        return official_state_dict(self)

    def _check_hr(self, hr: Tensor) -> None:
        _check_image(hr, "hr")
        stride = self.flow.stride
        if hr.shape[2] % stride or hr.shape[3] % stride:
            raise ValueError(
                f"hr: height and width must be multiples of {stride}, got {hr.shape[2]} × {hr.shape[3]}; "
                "crop or pad the image (upscale and downscale do it by themselves)"
            )

    def _check_pair(self, hr: Tensor, lr: Tensor) -> None:
        self._check_hr(hr)
        _check_image(lr, "lr")
        expected = (hr.shape[0], 3, hr.shape[2] // self.scale, hr.shape[3] // self.scale)
        if lr.shape != expected:
            raise ValueError(f"lr: expected {expected} for hr {tuple(hr.shape)}, got {tuple(lr.shape)}")

    def _check_latents(self, lr: Tensor, latents: tuple[Tensor, ...]) -> None:
        expected = [(len(lr), *shape) for shape in self.latent_shapes(*lr.shape[2:])]
        if not isinstance(latents, tuple | list) or not all(isinstance(z, Tensor) for z in latents):
            raise ValueError(f"latents: expected a tuple of {len(expected)} tensors, got {describe(latents)}")
        got = [tuple(z.shape) for z in latents]
        if got != expected:
            raise ValueError(f"latents: expected shapes {expected} for lr {tuple(lr.shape)}, got {got}")


def _check_image(x: Tensor, name: str) -> None:
    if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[1] != 3 or min(x.shape) < 1:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}: expected images (B, 3, H, W), got {got}")
    if not x.is_floating_point():
        raise ValueError(f"{name}: expected floats in [0, 1], got {x.dtype}; divide 8-bit images by 255")
    if not torch.compiler.is_compiling() and not bool(x.isfinite().all()):
        raise ValueError(f"{name}: contains NaN or infinity")
