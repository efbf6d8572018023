"""Base class of the image models: encode, decode, upscale, downscale, save."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from flowkit import Dequantize, Hierarchy, Latents, StandardNormal
from flowkit.bases import draw, round_straight_through
from flowkit.bijector import undone
from flowkit.compiling import compiled
from flowkit.tree import describe
from flowkit_models.models import checkpoint_file, official_weights
from flowkit_models.models.checks import (
    check_image,
    check_multiple,
    checked_size,
    padded,
    shown,
    temperatures,
)
from flowkit_models.models.learned_latents import PRIOR, LatentPrior, Prior, predicted
from flowkit_models.models.likelihood import Likelihood
from flowkit_models.models.refinement import RADIUS, refined_lr

Memory = Literal["plain", "lean"]
Precision = Literal["float32", "bf16"]

DRAWN_PIXELS = 2**20
"""HR pixels of the draws that `upscale` makes together: memory grows with them, time only while they are few."""


class Encoded(NamedTuple):
    """Result of `ImageFlow.encode`.

    Attributes:
        lr: the generated LR image before clamping and rounding; None for a model without one (SRFlow).
        latents: standard-normal tensors, coarsest first.
        logdet: (B,), log-det of the map, its standardising priors included.
    """

    lr: Tensor | None
    latents: tuple[Tensor, ...]
    logdet: Tensor


class ImageFlow(Likelihood):
    """Base class of the image models. Images are float tensors (B, 3, H, W), RGB, in [0, 1].

    A model is a hierarchy, what it is given beside the image (`context`), and a base density; all else is here, in
    `Likelihood` and in `SharedModel`.

    Args:
        config: frozen dataclass with the model's sizes; it is stored in every checkpoint.
        flow: the bijection.
        scale: HR size over LR size.
        dequantize: the noise that makes a density of grey levels; None for a model without a likelihood.
        base: density of what `flow` returns, as the official code counts it.

    Attributes:
        precision: "float32", or "bf16": networks run under autocast, the invertible maps stay in float32.
        prior: a learned prior (`learned_latents`), saved with the model; None if it has none.
        usual_temperature: τ of `upscale` where none is given.
        survives_jpeg: a rescaling model was made for LR images that went through JPEG (SAIN).
        any_scale: HR images are of any size (LINF); `scale` is then the largest factor that it was trained for.
    """

    config: Any
    precision: Precision = "float32"
    prior: LatentPrior | None
    usual_temperature: float = 0.8
    survives_jpeg = any_scale = False

    def __init__(
        self,
        config: Any,
        flow: Hierarchy,
        scale: int,
        dequantize: Dequantize | None = None,
        base: StandardNormal | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.flow = flow
        self.scale = scale
        self.dequantize = dequantize
        self.base = base
        self.notes = {}
        self.prior = None

    def context(self, lr: Tensor | None) -> Any:
        """Context of `flow` made of the LR image y*; None if the model makes y itself."""
        return None

    @property
    def makes_lr(self) -> bool:
        """The model makes an LR image y of an HR image, and not only models HR given LR."""
        return self.flow.levels[-1].split is not None

    @property
    def lr_multiple(self) -> int:
        """Sides of an LR image must be multiples of this for `decode`; `upscale` pads by itself."""
        return max(1, self.flow.stride // self.scale)

    def forward(self, hr: Tensor, lr: Tensor | None = None) -> Encoded:
        """`encode`, so that hooks, `flowkit.initialize` and DDP see it."""
        return self.encode(hr, lr)

    def latent_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """(C, H, W) of the latents for an LR image of a size (multiples of `lr_multiple`), coarsest first."""
        shapes: list[tuple[int, int, int]] = []
        channels, shrink = 3, Fraction(1, self.scale)
        for level in self.flow.levels:
            channels, shrink = int(channels * level.body.shrink**2), shrink * level.body.shrink
            size = tuple(side * shrink.denominator // shrink.numerator for side in (height, width))
            if level.split is not None:
                shapes.insert(0, (channels - level.keep, *size))
                channels = level.keep
        return shapes if self.makes_lr else [(channels, *size), *shapes]

    def encode(self, hr: Tensor, lr: Tensor | None = None) -> Encoded:
        """Maps HR images to LR images and latents. Adds no noise.

        Args:
            hr: (B, 3, H, W), sides multiples of the model's stride.
            lr: the LR images, for a model that needs them (SRFlow).

        Raises:
            ValueError: for a size that does not divide, a wrong shape or dtype, NaN.
        """
        self._check_hr(hr) if lr is None else self._check_pair(hr, lr)
        with self.precision_policy(hr):
            (y, z), logdet = self._encode(hr, lr)
        return Encoded(y, z, logdet)

    @compiled
    def _encode(self, hr: Tensor, lr: Tensor | None) -> tuple[Latents, Tensor]:
        latents, logdet = self.flow(hr, self.context(lr))
        return latents, logdet

    def decode(self, lr: Tensor, latents: tuple[Tensor, ...], given: Tensor | None = None) -> Tensor:
        """Maps LR images and latents back to HR: the exact inverse of `encode`, not clamped.

        Args:
            lr: the LR images y.
            latents: as `encode` returns them.
            given: the LR images y* that `encode` got, for a model that both makes an LR image and is given one
                (HCFlow with given="lr"); by default lr, as in generation, where y is y*.

        Raises:
            ValueError: if the latents do not fit the LR images, or these are of a size that does not divide.
        """
        self._check_lr(lr)
        self._check_latents(lr, latents)
        if given is None:
            given = lr
        else:
            check_image(given, "given")
        if given.shape != lr.shape:
            raise ValueError(f"given: expected the shape of lr, {tuple(lr.shape)}, got {tuple(given.shape)}")
        with self.precision_policy(lr):
            return self._decode(lr, self.context(given), latents)

    @compiled
    def _decode(self, lr: Tensor, context: Any, latents: tuple[Tensor, ...]) -> Tensor:
        x: Tensor = undone(self.flow, Latents(lr if self.makes_lr else None, tuple(latents)), context)
        return x

    def upscale(
        self,
        lr: Tensor,
        n: int = 1,
        temperature: float | Sequence[float] | None = None,
        generator: torch.Generator | None = None,
        latents: tuple[Tensor, ...] | None = None,
        size: tuple[int, int] | None = None,
        prior: Prior | None = None,
    ) -> Tensor:
        """Draws n HR images for each LR image, of any size.

        Args:
            lr: (B, 3, h, w) in [0, 1].
            n: number of draws.
            temperature: standard deviation τ of the latents, in [0, 1] as a rule; 0 gives one sharpest guess. Or one τ
                for each of the n draws: what depends on the LR image alone is then computed once for all of them.
                None: the model's learned prior, if it has one, else `usual_temperature`; 1 for latents where that is 0.
            generator: source of the draws, made on its device, coarsest latent first.
            latents: tuple of standard-normal tensors used instead of draws, times the temperature; then n is 1.
            size: (H, W) of the HR images, for a model of any scale (LINF); another one has this size alone.
            prior: predicts the latents of one picture; then n is 1, and there are neither temperature nor latents.

        Returns:
            (n, B, 3, scale·h, scale·w), clamped to [0, 1].

        Raises:
            ValueError: for a wrong shape or dtype, NaN, n below 1, latents or a prior together with n above 1, a prior
                with a temperature or latents, temperatures below 0 or not one for each draw, or a size that is not the
                model's.
        """
        check_image(lr, "lr")
        if prior is None and temperature is None and latents is None:
            prior = self.prior
        taus = temperatures(n, temperature, latents, prior, self.usual_temperature)
        n = len(taus)
        height, width = self.target(lr, size)
        lr = padded(lr, self.lr_multiple)
        if prior is not None:
            latents = predicted(self, lr, prior)
            self._check_latents(lr, latents)
        images = []
        with self.precision_policy(lr):
            context = self.context(lr)
            for start in range(0, n, at_once(lr, self.scale)):  # what the draws share is computed once for each group
                group = range(start, min(n, start + at_once(lr, self.scale)))
                draws = [self.draw(lr, generator) if latents is None else latents for _ in group]
                self._check_latents(lr, draws[0])
                scaled = [self.scaled(draw, taus[i]) for i, draw in zip(group, draws, strict=True)]
                z = tuple(map(torch.cat, zip(*scaled, strict=True)))
                images.append(self._decode(lr, context, z).unflatten(0, (len(group), len(lr))))
        return torch.cat(images)[..., :height, :width].clamp(0, 1)

    def target(self, lr: Tensor, size: tuple[int, int] | None) -> tuple[int, int]:
        """The HR size for LR images: `scale` times theirs.

        Raises:
            ValueError: if another one is asked for.
        """
        height, width = (self.scale * side for side in lr.shape[2:])
        if size is not None and checked_size(size) != (height, width):
            own = f"{type(self).__name__} ×{self.scale} makes {height} × {width} of {lr.shape[2]} × {lr.shape[3]}"
            raise ValueError(f"size: {own} alone, got {size}; LINF models make any size")
        return height, width

    def draw(self, lr: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Standard-normal latents for LR images, coarsest first; the same on any device for one CPU generator."""
        shapes = self.latent_shapes(*lr.shape[2:])
        return tuple(draw(lr.new_empty(len(lr), *shape), generator) for shape in shapes)

    def scaled(self, latents: tuple[Tensor, ...], temperature: float) -> tuple[Tensor, ...]:
        """Latents of a temperature τ, of standard normal ones: τ times them."""
        return tuple(temperature * z for z in latents)

    def downscale(self, hr: Tensor, refine: int = 0, radius: float = RADIUS) -> Tensor:
        """The model's LR images of HR images of any size, clamped and rounded to 8 bits as they would be stored.

        Args:
            hr: (B, 3, H, W) in [0, 1].
            refine: steps of gradient descent on the error of `upscale(lr, temperature=0)`, on HR and then on LR; the
                paper takes 15. See `flowkit_models.models.refinement.refined_lr`.
            radius: how far each of the two may go, rms over an image in grey levels.

        Returns:
            (B, 3, ⌈H/scale⌉, ⌈W/scale⌉).

        Raises:
            ValueError: for a wrong shape or dtype, NaN, steps or radius below 0, or a model that makes no LR image.
        """
        check_image(hr, "hr")
        if not self.makes_lr:
            raise ValueError(
                f"downscale: {type(self).__name__} models HR given LR and makes no LR image; "
                "use flowkit_models.images.resize.bicubic_resize"
            )
        steps = isinstance(refine, Integral) and not isinstance(refine, bool) and refine >= 0
        if not steps or not isinstance(radius, Real) or not 0 <= radius < math.inf:
            told = f"got {shown(refine)} and {shown(radius)}"
            raise ValueError(f"downscale: refine and radius must be at least 0, refine a whole number, {told}")
        with self.precision_policy(hr):
            lr = refined_lr(hr, self._reduced, self._restored, int(refine), radius) if refine else self._reduced(hr)
        return round_straight_through(lr)

    def _reduced(self, hr: Tensor) -> Tensor:
        """LR images of HR images of any size, neither clamped nor rounded."""
        height, width = hr.shape[2:]
        lr = self._down(padded(hr, self.flow.stride))
        return lr[..., : -(-height // self.scale), : -(-width // self.scale)]

    def _restored(self, lr: Tensor, size: Sequence[int]) -> Tensor:
        """HR images of a size at τ = 0, not clamped: what `upscale` makes of LR images, less the padding of HR."""
        return self._up(padded(lr, self.lr_multiple))[..., : size[0], : size[1]]

    def _down(self, hr: Tensor) -> Tensor:
        for level in self.flow.levels:  # the way of y, which no latent touches
            hr = level.body(hr)[0]
            hr = hr if level.split is None else level.split(hr)[0][0]
        return hr

    def _up(self, lr: Tensor) -> Tensor:
        zeros = tuple(lr.new_zeros(len(lr), *shape) for shape in self.latent_shapes(*lr.shape[2:]))
        return self._decode(lr, self.context(lr), zeros)

    def precision_policy(self, x: Tensor) -> AbstractContextManager[Any]:
        """Autocast for the networks, where `precision` asks for it."""
        if self.precision == "bf16":
            return torch.autocast(x.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def save(self, path: str | os.PathLike[str], **about: str) -> None:
        """Writes weights and config to a .safetensors file, atomically. `about`: further notes to store."""
        config = dataclasses.asdict(self.config)
        if self.prior is not None:
            config[PRIOR] = dataclasses.asdict(self.prior.config)
        checkpoint_file.save(path, self.state_dict(), type(self).__name__, config, about)

    def official_state_dict(self) -> dict[str, Tensor]:
        """The weights under the official implementation's names and shapes, equal to the last bit.

        Raises:
            ValueError: for a part that the official implementation has not, or if no official names are known.
        """
        if self.prior is not None:
            raise ValueError("official_state_dict: official files have no place for the learned prior")
        return official_weights.official_state_dict(self)

    def _check_hr(self, hr: Tensor) -> None:
        check_image(hr, "hr")
        check_multiple(hr, "hr", self.flow.stride)

    def _check_lr(self, lr: Tensor) -> None:
        check_image(lr, "lr")
        check_multiple(lr, "lr", self.lr_multiple)

    def _check_pair(self, hr: Tensor, lr: Tensor) -> None:
        self._check_hr(hr)
        check_image(lr, "lr")
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


def at_once(lr: Tensor, scale: int) -> int:
    """Number of draws to make together: as many as a million HR pixels hold, and one at least."""
    return max(1, DRAWN_PIXELS // (lr.shape[0] * lr.shape[2] * lr.shape[3] * scale**2))
