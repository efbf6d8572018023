"""Elementwise maps with parameters from outside: what a coupling or an injector does to each number."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from flowkit.arguments import check_choice, check_numbers
from flowkit.shortcuts import of_another_map
from flowkit.tree import sum_per_sample


class Kind(ABC):
    """An elementwise invertible map.

    `forward` and `inverse` take x of shape (B, C, *spatial) and parameters (B, C, P, *spatial), and return the
    image and the log-det of that direction, shape (B,). It owns no weights.

    Attributes:
        affine: for given parameters it is affine in x, so its log-det does not depend on x.
        keeps_volume: its log-det is zero.
        alike: every channel is moved alike, whichever it is, so one can be moved without the others.
        support: where its x and y live, a constraint of `torch.distributions`; None for "not stated".
    """

    affine: ClassVar[bool] = False
    keeps_volume: ClassVar[bool] = False
    alike: ClassVar[bool] = False
    support: constraints.Constraint | None = constraints.real

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for fact in ("affine", "keeps_volume", "alike"):
            if of_another_map(cls, fact):
                setattr(cls, fact, False)
        if "inverse" in vars(cls) and "solve" not in vars(cls):
            cls.solve = Kind.solve  # type: ignore[method-assign]  # an inherited one undoes another map

    def __str__(self) -> str:
        """The class with the arguments that are not defaults."""
        stated = [f for f in fields(self) if getattr(self, f.name) != f.default]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in stated)})"

    @property
    @abstractmethod
    def parameters(self) -> int:
        """P, the parameters per channel; where channels differ, those of the channel that has most."""

    def counts(self, channels: int) -> tuple[int, ...]:
        """Parameters of each of so many channels: P, unless the kind tells channels apart."""
        return (self.parameters,) * channels

    def parameters_of(self, channels: int) -> int:
        """Parameters of so many channels together: what a network returns, channel by channel."""
        return sum(self.counts(channels))

    @abstractmethod
    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Maps x to y."""

    @abstractmethod
    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Maps y to x."""

    def solve(self, y: Tensor, parameters: Tensor) -> Tensor:
        """Maps y to x alone: of D steps, one after the other, none needs a log-det before all are done."""
        return self.inverse(y, parameters)[0]


@dataclass(frozen=True)
class Additive(Kind):
    """y = x + t, one parameter per channel. It keeps volume (NICE)."""

    affine: ClassVar[bool] = True
    keeps_volume: ClassVar[bool] = True
    alike: ClassVar[bool] = True

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
            "sigmoid", s = factor·σ(r + offset) + floor, factor 1, offset 2 and floor 1e-4 (SRFlow); with 2, 0 and 0 it
            is Jet's 2σ(r), which starts as the identity;
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
        clamp, factor, offset, floor, centre: the constants above; None takes the stated one.

    Raises:
        ValueError: for an unknown scale or order, a factor or a clamp of "soft" that is not positive.
    """

    affine: ClassVar[bool] = True
    alike: ClassVar[bool] = True

    scale: Literal["atan", "sigmoid", "tanh", "exp", "soft", "softplus"] = "atan"
    order: Literal["shift_first", "scale_first"] = "shift_first"
    inverted: bool = False
    clamp: float | None = None
    offset: float = 2.0
    floor: float | None = None
    centre: float = 0.0
    factor: float = 1.0

    def __post_init__(self) -> None:
        check_choice("Affine", ("atan", "sigmoid", "tanh", "exp", "soft", "softplus"), scale=self.scale)
        check_choice("Affine", ("shift_first", "scale_first"), order=self.order)
        check_numbers("Affine", "(0, inf)", factor=self.factor)
        check_numbers("Affine", "(-inf, inf)", offset=self.offset, centre=self.centre)
        for name in ("clamp", "floor"):
            if getattr(self, name) is not None:
                check_numbers("Affine", "[0, inf)", **{name: getattr(self, name)})
        if self.scale == "soft" and self.half_width <= 0:
            raise ValueError(f'Affine: clamp of "soft" must be positive, got {self.clamp}')

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

    def solve(self, y: Tensor, parameters: Tensor) -> Tensor:
        """The other direction, without a logarithm."""
        shift, raw = parameters.unbind(2)
        scale = self._found(raw)[0]
        return self._there(y, shift, scale) if self.inverted else self._back(y, shift, scale)

    def _do(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = parameters.unbind(2)
        scale, log_scale = self._scale(raw)
        return self._there(x, shift, scale), sum_per_sample(log_scale)

    def _undo(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = parameters.unbind(2)
        scale, log_scale = self._scale(raw)
        return self._back(y, shift, scale), -sum_per_sample(log_scale)

    def _there(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return (x + shift) * scale if self.order == "shift_first" else (x * scale).add_(shift)

    def _back(self, y: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return (y / scale).sub_(shift) if self.order == "shift_first" else (y - shift) / scale

    def _scale(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """S and log s."""
        scale, log_scale = self._found(raw)
        return scale, scale.log() if log_scale is None else log_scale

    def _found(self, raw: Tensor) -> tuple[Tensor, Tensor | None]:
        """S, and log s where that comes first."""
        if self.scale == "sigmoid":
            part = torch.sigmoid(raw + self.offset if self.offset else raw)
            return self._floored(part if self.factor == 1 else self.factor * part, 1e-4)
        if self.scale == "softplus":
            return self._floored(F.softplus(raw, threshold=40), 1e-3)  # torch's own threshold is 2e-9 off in float64
        log_scale = raw
        if self.scale == "atan":
            log_scale = torch.atan(2 * raw).mul_(0.318 if self.clamp is None else self.clamp)
        elif self.scale == "tanh":
            log_scale = torch.tanh(raw / 2)
            log_scale = log_scale if self.clamp is None else log_scale * self.clamp
        elif self.scale == "soft":
            h, centred = self.half_width, raw - self.centre if self.centre else raw
            log_scale = torch.tanh(centred / h) * h
            log_scale = log_scale + self.centre if self.centre else log_scale
        return log_scale.exp(), log_scale

    def _floored(self, scale: Tensor, default: float) -> tuple[Tensor, None]:
        floor = default if self.floor is None else self.floor
        return scale + floor if floor else scale, None


def softplus_from_one(raw: Tensor, least: float = 1e-3) -> Tensor:
    """Positive numbers that are 1 where the raw ones are 0, and never below `least`."""
    return least + F.softplus(raw + math.log(math.expm1(1 - least)))
