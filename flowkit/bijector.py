"""The one protocol: `y, logdet = b(x, context)` and `x, logdet = b.inverse(y, context)`, checked in one place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from flowkit.checks import autocasting, checked_alone, checked_method
from flowkit.shortcuts import Written, author, of_another_map, recorded
from flowkit.tree import Value


class Bijector(nn.Module):
    """Base class of the invertible maps.

    A subclass defines exactly `forward(x, context=None)` and `inverse(y, context=None)`. Each returns the
    image and the log-determinant of its own Jacobian, shape (batch,), float32 or wider; the inverse's is minus
    the forward's. Tensors are (B, C, *spatial), spatial possibly empty. Both methods are wrapped with the
    checks below, so a map need not check its own input. A context may have B rows where x has n·B: n draws that share
    it, all B of the first draw first. A map may define `inverse_alone(y, context)` beside the two, x without the
    log-det: draws call it.

    Its attributes are facts that the checks, `summary` and `Flow.sample` rely on; what is not stated is not checked.

    Attributes:
        in_channels, out_channels: channels of x and of y, None for "any".
        stride: the spatial sizes of x must be multiples of it.
        shrink: how much smaller the sides of y are than those of x, None for "not stated".
        x_is_tensor, y_is_tensor: x, or y, is one tensor and no tree.
        constant_logdet: the log-det does not depend on the values of x.
        domain, codomain: where x and y live, constraints of `torch.distributions`, both all reals if nothing else is
            said; None for "not stated". `flowkit.testing.check_bijector` draws its values there.
        shares_y: in the inverse, a part of y may have fewer rows, shared by several draws of the rest.

    Raises:
        ValueError: from a call, if shape, channels, dtype or size are not what this layer takes.

    Example:
        >>> class Double(Bijector):
        ...     def forward(self, x, context=None):
        ...         return 2 * x, x.new_full((len(x),), x[0].numel() * 0.6931)
        ...     def inverse(self, y, context=None):
        ...         return y / 2, y.new_full((len(y),), -y[0].numel() * 0.6931)
        >>> (Double() >> Double().inv)(torch.ones(1, 2))[0]
        tensor([[1., 1.]])
    """

    in_channels: int | None = None
    out_channels: int | None = None
    stride: int = 1
    shrink: Fraction | None = None
    x_is_tensor: bool = False
    y_is_tensor: bool = False
    constant_logdet: bool = False
    domain: constraints.Constraint | None = constraints.real
    codomain: constraints.Constraint | None = constraints.real
    shares_y: bool = False
    written: ClassVar[Written] = {}

    # what `>>` makes: flowkit.chain sets it, since a chain is itself a bijector
    _chain: ClassVar[Callable[..., Bijector]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("forward", "inverse"):
            if name in cls.__dict__:
                setattr(cls, name, checked_method(cls.__dict__[name], forward=name == "forward"))
        if "inverse_alone" in cls.__dict__:
            cls.inverse_alone = checked_alone(cls.inverse_alone)  # type: ignore[attr-defined]
        if of_another_map(cls, "constant_logdet"):
            cls.constant_logdet = False
        cls.written = recorded(cls, Bijector)

    def inverse(self, y: Value, context: Value = None) -> tuple[Value, Tensor]:
        """Maps y back to x. Returns x and the log-det of the inverse map, shape (batch,)."""
        raise NotImplementedError(f"{type(self).__name__} defines no inverse")

    @property
    def inv(self) -> Bijector:
        """The inverse map as a module of its own, on the same parameters."""
        return Inverse(self)

    def __rshift__(self, other: nn.Module) -> Bijector:
        return self._chain(self, other)

    def __rrshift__(self, other: nn.Module) -> Bijector:
        return self._chain(other, self)


class Inverse(Bijector):
    """The inverse of a bijector, as a bijector: hooks, `torch.compile` and DDP see its forward.

    `b.inv` makes one; `b.inv.inv` is b again.
    """

    bijector: Any

    def __init__(self, bijector: nn.Module) -> None:
        super().__init__()
        self.bijector = bijector
        its = facts(bijector)
        self.in_channels, self.out_channels = its.out_channels, its.in_channels
        self.x_is_tensor, self.y_is_tensor = its.y_is_tensor, its.x_is_tensor
        self.shrink = None if its.shrink is None else 1 / its.shrink
        if author(self, "forward") is Inverse:
            self.constant_logdet = its.constant_logdet
        self.domain, self.codomain = getattr(bijector, "codomain", None), getattr(bijector, "domain", None)

    @property
    def inv(self) -> Bijector:
        """The bijector that this is the inverse of."""
        if author(self, "forward") is Inverse and isinstance(self.bijector, Bijector):
            return self.bijector
        return Inverse(self)

    def forward(self, x: Value, context: Value = None) -> tuple[Value, Tensor]:
        """Applies the inverse of the wrapped map."""
        out: tuple[Value, Tensor] = self.bijector.inverse(x, context)
        return out

    def inverse(self, y: Value, context: Value = None) -> tuple[Value, Tensor]:
        """Applies the wrapped map."""
        out: tuple[Value, Tensor] = self.bijector(y, context)
        return out


def facts(part: nn.Module) -> Bijector:
    """Where a part's facts are stated: in itself or what `torch.compile` wraps; a foreign part states none."""
    part = getattr(part, "_orig_mod", part)
    return part if isinstance(part, Bijector) else Bijector()


def undone(part: nn.Module, y: Value, context: Value = None) -> Value:
    """The x of y alone, for draws: by `inverse_alone` where a part has it, which computes no log-det."""
    if author(part, "inverse_alone"):
        return part.inverse_alone(y, context)  # type: ignore[operator]
    return part.inverse(y, context)[0]  # type: ignore[operator]


class TensorMap(Bijector):
    """A bijector from one tensor to one tensor of the same spatial sizes, unless it states another `shrink`."""

    shrink = Fraction(1)
    x_is_tensor = y_is_tensor = True


_NOTHING = contextlib.nullcontext()


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Switches autocast off: only conditioner networks may run in low precision, never the map itself."""
    return torch.autocast(x.device.type, enabled=False) if autocasting(x) else _NOTHING


def no_logdet(x: Tensor) -> Tensor:
    """The log-det of a map that keeps volume: zeros, shape (batch,)."""
    return x.new_zeros(x.shape[0])


def widest(device: torch.device) -> torch.dtype:
    """The dtype of what is computed once and must be exact: float64, where a device has it."""
    return torch.float32 if device.type == "mps" else torch.float64
