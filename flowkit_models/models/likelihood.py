"""Likelihood of the image models: bits per pixel as the official code counts them, and the true density."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from torch import Tensor, nn

from flowkit import Chain, Dequantize, Flow, Latents
from flowkit_models.models.hub import SharedModel

Number = TypeVar("Number", float, Tensor)


class Likelihood(SharedModel):
    """Base class of the image models: `nll` as the papers count it, `bits_per_dim` and `density`.

    Attributes:
        flow: the bijection.
        base: density of what `flow` returns, as the official code counts it; None for a model without a likelihood.
        dequantize: the noise that makes a density of grey levels; None for a model without a likelihood.
    """

    flow: Any  # a Hierarchy; its levels have no types
    base: Any
    dequantize: Dequantize | None
    context: Callable[[Tensor | None], Any]
    precision_policy: Callable[[Tensor], AbstractContextManager[Any]]
    _check_pair: Callable[[Tensor, Tensor], None]
    _encode: Callable[[Tensor, Tensor | None], tuple[Latents, Tensor]]

    @property
    def true_base(self) -> nn.Module:
        """The base of a proper density, where the official count is none."""
        base: nn.Module = self.base
        return base

    @property
    def draws_noise(self) -> bool:
        """`nll` draws dequantisation noise when it is given none."""
        return True

    def nll(self, hr: Tensor, lr: Tensor, noise: Tensor | None = None) -> Tensor:
        """The paper's negative log-likelihood (eq. (6)), as the official code counts it.

        Args:
            hr: HR images (B, 3, H, W) in [0, 1].
            lr: their LR images y*.
            noise: uniform [0, 1) of hr's shape, added as noise/quant, or (noise − ½)/quant if the model centres it.
                None: HCFlow draws it; SRFlow goes without, as officially, unless its config says `noisy`.

        Returns:
            (B,), bits per HR pixel (not per channel), the offset log(quant), where there is noise, once per pixel: the
            official count. `bits_per_dim` is the true one.

        Raises:
            ValueError: for images that do not fit together, or a model without a likelihood (IRN).
        """
        self._check_likelihood("nll")
        self._check_pair(hr, lr)
        noisy = noise is not None or self.draws_noise
        if noisy:
            hr = self._dequantize(hr, noise=noise)[0]
        with self.precision_policy(hr):
            latents, logdet = self._encode(hr, lr)
        return self._bits(latents, logdet, lr, hr.shape[2] * hr.shape[3], noisy)

    def _bits(self, latents: Latents, logdet: Tensor, lr: Tensor, pixels: int, noisy: bool) -> Tensor:
        """Bits per pixel of what was encoded, as `nll` counts them."""
        offset = math.log(self.config.quant) * pixels if noisy else 0.0
        bits: Tensor = (offset - logdet - self.base.log_prob(latents, lr)) / (math.log(2) * pixels)
        return bits

    def per_dim(self, nll: Number) -> Number:
        """A value of `nll` as bits per sub-pixel: a third of it, and the part of the offset that it leaves out."""
        return (nll + (2 * math.log2(self.config.quant) if self.draws_noise else 0)) / 3

    @property
    def density(self) -> Flow:
        """p(x | y*) of dequantised images, on the same parameters (eq. (2)); its context is that of `flow`, or y*."""
        self._check_likelihood("density")
        return Flow(Chain(self._dequantize, self.flow), self.true_base)

    def bits_per_dim(self, hr: Tensor, lr: Tensor) -> Tensor:
        """Bits per sub-pixel of the true density p(x | y*) of dequantised grey levels (eq. (2)).

        It differs from `nll` by more than a factor: the noise's offset log₂(quant) counts for every sub-pixel, not once
        for a pixel, and the y that a flow makes is not rounded.

        Args:
            hr: HR images (B, 3, H, W) in [0, 1].
            lr: their LR images y*.

        Returns:
            (B,). A model that draws noise draws it anew.

        Raises:
            ValueError: for images that do not fit together, or a model without a likelihood (IRN).
        """
        self._check_likelihood("bits_per_dim")
        self._check_pair(hr, lr)
        with self.precision_policy(hr):
            context = self.context(lr)
            return self.density.bits_per_dim(hr, lr if context is None else context)

    @property
    def _dequantize(self) -> Dequantize:
        assert self.dequantize is not None, "checked before"
        return self.dequantize

    def _check_likelihood(self, call: str) -> None:
        if self.base is None:
            raise ValueError(f"{call}: {type(self).__name__} has no likelihood: no density is assumed of its LR image")
