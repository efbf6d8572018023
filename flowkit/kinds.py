"""Elementwise maps with parameters from outside: what a coupling or an injector does to each number."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from flowkit.shortcuts import of_another_map
from flowkit.tree import sum_per_sample


class Kind(ABC):
    """An elementwise invertible map.

    `forward` and `inverse` take x of shape (B, C, *spatial) and parameters (B, C, P, *spatial), and return the
    image and the log-det of that direction, shape (B,).

    Attributes:
        affine: for given parameters it is affine in x, so its log-det does not depend on x.
        keeps_volume: its log-det is zero.
    """

    affine: ClassVar[bool] = False
    keeps_volume: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for fact in ("affine", "keeps_volume"):
            if of_another_map(cls, fact):
                setattr(cls, fact, False)

    def __str__(self) -> str:
        """The class with the arguments that are not defaults."""
        stated = [f for f in fields(self) if getattr(self, f.name) != f.default]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in stated)})"

    @property
    @abstractmethod
    def parameters(self) -> int:
        """P, the parameters per channel."""

    @abstractmethod
    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Maps x to y."""

    @abstractmethod
    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Maps y to x."""


@dataclass(frozen=True)
class Additive(Kind):
    """y = x + t, one parameter per channel. It keeps volume (NICE)."""

    affine: ClassVar[bool] = True
    keeps_volume: ClassVar[bool] = True

    @property
    def parameters(self) -> int:
        """The shift."""
        return 1

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the shift."""
        return x + parameters[:, :, 0], x.new_zeros(x.shape[0])

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Subtracts the shift."""
        return y - parameters[:, :, 0], y.new_zeros(y.shape[0])


@dataclass(frozen=True)
class Affine(Kind):
    """Shift t and positive scale s, from parameters (t, r) per channel.

    Args:
        scale: how the raw scale r becomes s:
            "atan", s = exp(clamp·atan 2r), clamp 0.318, so e^±0.5 (HCFlow);
            "sigmoid", s = σ(r + offset) + floor, offset 2 and floor 1e-4 (SRFlow);
            "tanh", s = exp(clamp·tanh(r/2)), clamp 1 (IRN: its 2σ(r) − 1);
            "exp", s = exp(r), unclamped (the learned priors of HCFlow and SRFlow). Not for couplings: they multiply
            along a chain, nothing holds r, and one that says 90 overflows float32, forward or on the way back;
            "softplus", s = softplus(r) + floor, floor 1e-3 (nflows' masked autoregressive flow). Its slope in r is at
            most 1, and no scale comes below the floor;
            "soft", log s = centre + clamp·tanh((r − centre)/clamp), clamp 3: within e^(centre ± clamp) whatever the
            network says, with slope 1 at the centre.
            Zero parameters are the identity for "atan", "tanh", "exp", and "soft" with centre 0; "sigmoid" starts at
            s = 0.88, "softplus" at 0.69.
        order: "shift_first", (x + t)·s (HCFlow, SRFlow), or "scale_first", x·s + t (IRN).
        inverted: swaps forward and inverse. `Affine("exp", "scale_first", inverted=True)` standardises,
            z = (x − m)/σ with t = m and r = log σ: a learned Gaussian prior.
        clamp, offset, floor, centre: the constants above; None takes the stated one.

    Raises:
        ValueError: for an unknown scale or order, or a clamp of "soft" that is not positive.
    """

    affine: ClassVar[bool] = True

    scale: Literal["atan", "sigmoid", "tanh", "exp", "soft", "softplus"] = "atan"
    order: Literal["shift_first", "scale_first"] = "shift_first"
    inverted: bool = False
    clamp: float | None = None
    offset: float = 2.0
    floor: float | None = None
    centre: float = 0.0

    def __post_init__(self) -> None:
        if self.scale not in ("atan", "sigmoid", "tanh", "exp", "soft", "softplus"):
            raise ValueError(
                f'Affine: scale must be "atan", "sigmoid", "tanh", "exp", "soft" or "softplus", got {self.scale!r}'
            )
        if self.scale == "soft" and self.half_width <= 0:
            raise ValueError(f'Affine: clamp of "soft" must be positive, got {self.clamp}')
        if self.order not in ("shift_first", "scale_first"):
            raise ValueError(f'Affine: order must be "shift_first" or "scale_first", got {self.order!r}')

    @property
    def half_width(self) -> float:
        """How far "soft" lets log s go from its centre: the clamp."""
        return 3.0 if self.clamp is None else self.clamp

    def raw_of(self, log_scale: Tensor) -> Tensor:
        """Raw scales r that give these log s, for "exp" and "soft"; "soft" reaches up to 0.99·clamp.

        Raises:
            ValueError: for the other scales.
        """
        if self.scale == "exp":
            return log_scale
        if self.scale != "soft":
            raise ValueError(f'Affine: raw scales are known for "exp" and "soft", this is {self.scale!r}')
        h = self.half_width
        return self.centre + h * ((log_scale - self.centre) / h).clamp(-0.99, 0.99).atanh()

    @property
    def parameters(self) -> int:
        """Shift and raw scale."""
        return 2

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Shifts and scales (or undoes it, if inverted)."""
        return self._undo(x, parameters) if self.inverted else self._do(x, parameters)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The other direction."""
        return self._do(y, parameters) if self.inverted else self._undo(y, parameters)

    def _do(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = parameters.unbind(2)
        scale, log_scale = self._scale(raw)
        y = (x + shift) * scale if self.order == "shift_first" else (x * scale).add_(shift)
        return y, sum_per_sample(log_scale)

    def _undo(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = parameters.unbind(2)
        scale, log_scale = self._scale(raw)
        x = (y / scale).sub_(shift) if self.order == "shift_first" else (y - shift) / scale
        return x, -sum_per_sample(log_scale)

    def _scale(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """S and log s."""
        if self.scale == "sigmoid":
            return self._floored(torch.sigmoid(raw + self.offset), 1e-4)
        if self.scale == "softplus":
            return self._floored(F.softplus(raw, threshold=40), 1e-3)  # torch's own threshold is 2e-9 off in float64
        log_scale = raw
        if self.scale == "atan":
            log_scale = torch.atan(2 * raw).mul_(0.318 if self.clamp is None else self.clamp)
        elif self.scale == "tanh":
            log_scale = torch.tanh(raw / 2) * (1.0 if self.clamp is None else self.clamp)
        elif self.scale == "soft":
            h = self.half_width
            log_scale = torch.tanh((raw - self.centre) / h) * h + self.centre
        return log_scale.exp(), log_scale

    def _floored(self, scale: Tensor, default: float) -> tuple[Tensor, Tensor]:
        floor = default if self.floor is None else self.floor
        scale = scale + floor if floor else scale
        return scale, scale.log()


@dataclass(frozen=True)
class MixtureLogistic(Kind):
    """y = logit of a mixture of k logistic CDFs, from (logits, means, log-scales) per channel (Flow++, eq. 16).

    The means get offsets, equally spaced in [−offset, offset]: components that start alike get the same gradient, and
    a network whose last layer is zero would leave them one for ever. Zero parameters are so the identity up to
    offset²: 1e-3 in y, 1e-3 in the log-slope.

    The inverse is bisected and polished by Newton steps until y is met to about 1e-10 in float64 and 1e-6 in float32
    (x itself is as well known as the slope there allows). Two more Newton steps carry the gradient (implicit function
    theorem): first and second derivatives are exact in both directions. Numbers so large that a component would
    overflow go on along the tangent; infinite ones stay infinite.

    Args:
        components: k.
        bisections: halvings of the bracket before the Newton steps.
        offset: half the width of the offsets' range. 0 for weights that were trained without.

    Raises:
        ValueError: without components, or for a negative or infinite offset.
    """

    components: int
    bisections: int = 32
    offset: float = 0.1

    def __post_init__(self) -> None:
        if self.components < 1 or self.bisections < 0 or not 0 <= self.offset < math.inf:
            raise ValueError(f"MixtureLogistic: needs components ≥ 1, bisections ≥ 0 and offset ≥ 0, got {self}")

    @property
    def parameters(self) -> int:
        """3 k: logits, means, log-scales."""
        return 3 * self.components

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates logit(F(x)) and its log-derivative, stable in both tails."""
        mixture = self._mixture(parameters)
        reach = mixture.reach()
        near = x.clamp(-reach, reach)
        y, log_slope = mixture.evaluate(near)
        return y + (x - near) * _exp(log_slope), sum_per_sample(log_slope)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Solves logit(F(x)) = y."""
        mixture = self._mixture(parameters)
        reach = mixture.reach(inverse=True)
        near = y.clamp(-reach, reach)
        with torch.no_grad():
            x = self._solve(mixture, near)
        for _ in range(2):  # Newton steps, of value 0 here; each doubles the number of derivatives that are right
            value, log_slope = mixture.evaluate(x)
            miss = value - near
            x = x - (miss - miss.detach()) * _exp(-log_slope)
        log_slope = mixture.evaluate(x)[1]
        return x + (y - near) * _exp(-log_slope), -sum_per_sample(log_slope)

    def _mixture(self, parameters: Tensor) -> "_Mixture":
        logits, means, log_scales = parameters.chunk(3, 2)
        if self.offset and self.components > 1:
            offsets = torch.linspace(-self.offset, self.offset, self.components, dtype=means.dtype, device=means.device)
            means = means + offsets.view(-1, *(1 for _ in means.shape[3:]))
        return _Mixture(logits.log_softmax(2), means, log_scales)

    def _solve(self, mixture: "_Mixture", y: Tensor) -> Tensor:
        alone = mixture.means + mixture.log_scales.exp() * y.unsqueeze(2)  # where each component alone would reach y
        largest = torch.finfo(y.dtype).max / 8
        low, high = alone.amin(2).clamp(-largest, largest), alone.amax(2).clamp(-largest, largest)
        for _ in range(self.bisections):
            middle = low / 2 + high / 2
            below = mixture.value(middle) < y
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        x = low / 2 + high / 2
        for _ in range(3):  # held in the bracket: between narrow components the slope vanishes
            value, log_slope = mixture.evaluate(x)
            x = torch.minimum(torch.maximum(x - (value - y) * _exp(-log_slope), low), high)
        return x


@dataclass(frozen=True)
class _Mixture:
    """A mixture of logistics for each number: log-weights, means and log-scales, (B, C, k, *spatial)."""

    log_weights: Tensor
    means: Tensor
    log_scales: Tensor

    def reach(self, inverse: bool = False) -> Tensor:
        """How large |x|, or |y|, may be before some component overflows; there every slope has long been constant."""
        log_scales = -self.log_scales if inverse else self.log_scales
        largest = torch.finfo(log_scales.dtype).max / 8
        return (largest * log_scales.detach().amin(2).clamp_max(0).exp()).clamp_min(1)

    def value(self, x: Tensor) -> Tensor:
        """logit(F(x))."""
        below, above = self._tails(x)
        return (self.log_weights + below).logsumexp(2) - (self.log_weights + above).logsumexp(2)

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """logit(F(x)), and the logarithm of its slope f / (F·(1 − F))."""
        below, above = self._tails(x)
        lower, upper = self.log_weights + below, self.log_weights + above
        log_cdf, log_survival = lower.logsumexp(2), upper.logsumexp(2)
        # f/F and f/(1 − F) are means of the components' over their shares of F, or of 1 − F: no difference of large
        # logarithms in the tail that the share belongs to
        in_lower = (lower.log_softmax(2) + above - self.log_scales).logsumexp(2) - log_survival
        in_upper = (upper.log_softmax(2) + below - self.log_scales).logsumexp(2) - log_cdf
        return log_cdf - log_survival, torch.where(log_cdf < log_survival, in_lower, in_upper)

    def _tails(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = (x.unsqueeze(2) - self.means) * (-self.log_scales).exp()
        return F.logsigmoid(u), F.logsigmoid(-u)


def _exp(log: Tensor) -> Tensor:
    """Its exponential, but finite."""
    return log.clamp_max(math.log(torch.finfo(log.dtype).max) - 1).exp()
