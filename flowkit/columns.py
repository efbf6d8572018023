"""Another elementwise map in every column: angles, positive numbers and reals in one flow."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints
from torch.distributions.transforms import identity_transform

from flowkit.kinds import Kind


def _is_channel(i: object) -> bool:
    return isinstance(i, int) and not isinstance(i, bool) and i >= 0


@dataclass(frozen=True)
class Columns(Kind):
    """A kind for every channel, or group of them; channels that are not listed pass.

    The network returns `parameters_of(C)` numbers, channel by channel, each channel as many as its kind takes: none for
    one that passes. In a coupling the channels are counted from the first that it moves, in an injector or an
    autoregressive map from the first of x. Behind a circular column only permutations and circular maps may follow.

    Args:
        kinds: channels to their kind, such as {0: kind, (1, 2): kind}.

    Raises:
        ValueError: if a channel is listed twice, or is not there; TypeError if something listed is no kind.

    Example:
        >>> import math, flowkit
        >>> angle = flowkit.RationalQuadratic(8, math.pi, ends="circular")
        >>> kind = Columns({0: angle, (1, 2): flowkit.Affine("soft")})
        >>> kind.parameters_of(3)
        29
        >>> b = flowkit.Coupling(flowkit.nets.MLP(2, 29), keep=2, kind=kind)
        >>> b(torch.zeros(4, 5))[0].shape
        torch.Size([4, 5])
    """

    kinds: Mapping[int | tuple[int, ...], Kind]
    groups: tuple[tuple[tuple[int, ...], Kind], ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        if not isinstance(self.kinds, Mapping):
            raise TypeError(f"Columns: expected {{channel: kind}} such as {{0: Affine()}}, got {self.kinds!r}")
        groups = [(key if isinstance(key, tuple) else (key,), kind) for key, kind in self.kinds.items()]
        listed = [i for channels, _ in groups for i in channels]
        if not listed or not all(_is_channel(i) for i in listed) or len(set(listed)) < len(listed):
            raise ValueError(f"Columns: every channel must be listed once, by a number from 0 on, got {listed}")
        for _, kind in groups:
            if not isinstance(kind, Kind):
                raise TypeError(f"Columns: expected elementwise maps such as Affine(), got {kind!r}")
        facts = {"groups": tuple(groups)} | {
            fact: all(getattr(kind, fact) for _, kind in groups) for fact in ("affine", "keeps_volume")
        }
        for name, value in facts.items():
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        return f"Columns({{{', '.join(f'{key}: {kind}' for key, kind in self.kinds.items())}}})"

    @property
    def parameters(self) -> int:
        """P of the kind that has most."""
        return max(kind.parameters for _, kind in self.groups)

    @property
    def support(self) -> constraints.Constraint | None:  # type: ignore[override]
        """All reals, or where each channel lives."""
        sides = {i: kind.support for channels, kind in self.groups for i in channels}
        if None in sides.values():
            return None
        bounded = {i: side for i, side in sides.items() if side is not None and side is not constraints.real}
        return PerChannel(bounded) if bounded else constraints.real

    def counts(self, channels: int) -> tuple[int, ...]:
        """Parameters of each channel: those that its kind takes, or none."""
        counts = [0] * channels
        for listed, kind in self.groups:
            if max(listed) >= channels:
                raise ValueError(f"{self}: there is no channel {max(listed)}, it is applied to {channels} channels")
            for i in listed:
                counts[i] = kind.parameters
        return tuple(counts)

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Maps each channel by its kind."""
        return self._each(x, parameters, lambda kind: kind.forward)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Maps each channel back."""
        return self._each(y, parameters, lambda kind: kind.inverse)

    def _each(self, x: Tensor, parameters: Tensor, way: Callable[[Kind], Any]) -> tuple[Tensor, Tensor]:
        columns = list(x.split(1, 1))
        logdet = x.new_zeros(x.shape[0])
        for listed, kind in self.groups:
            image, its_logdet = way(kind)(_picked(x, listed), _picked(parameters, listed)[:, :, : kind.parameters])
            for i, column in zip(listed, image.split(1, 1), strict=True):
                columns[i] = column
            logdet = logdet + its_logdet
        return torch.cat(columns, 1), logdet


def _picked(x: Tensor, channels: tuple[int, ...]) -> Tensor:
    """These channels, by slices: an index would be a tensor to copy to the device."""
    if channels == tuple(range(channels[0], channels[0] + len(channels))):
        return x[:, channels[0] : channels[0] + len(channels)]
    return torch.cat([x[:, i : i + 1] for i in channels], 1)


class Passing(constraints.Constraint):
    """All reals, for a channel that a map lets pass: it stays in whatever set it comes from."""

    def __repr__(self) -> str:
        return "Passing()"

    def check(self, value: Tensor) -> Tensor:
        """Which numbers are finite."""
        return value.isfinite()


class PerChannel(constraints.Constraint):
    """A constraint of its own for some channels of (B, C, *spatial), and one for all others.

    Args:
        sides: channels to their constraints.
        dim: the dimension that the channels are along; −1 for vectors, −3 for images, if there are any leading ones.
        rest: the constraint of the others.
    """

    def __init__(
        self,
        sides: Mapping[int, constraints.Constraint],
        dim: int = 1,
        rest: constraints.Constraint = constraints.real,
    ) -> None:
        self.sides = dict(sides)
        self.dim = dim
        self.rest = rest
        super().__init__()

    def __repr__(self) -> str:
        return f"PerChannel({self.sides}" + (")" if self.rest is constraints.real else f", rest={self.rest})")

    def at(self, place: Callable[[int], int]) -> "PerChannel":
        """The same constraints, of channel i at channel place(i)."""
        return PerChannel({place(i): side for i, side in self.sides.items()}, self.dim, self.rest)

    def along(self, dim: int) -> "PerChannel":
        """The same constraints, of channels along another dimension."""
        return PerChannel(self.sides, dim, self.rest)

    def check(self, value: Tensor) -> Tensor:
        """Which numbers lie in their set."""
        return _by_channel(value, {i: side.check for i, side in self.sides.items()}, self.rest.check, self.dim)


Side = constraints.Constraint | None


def moved_in(side: Side, channels: Sequence[int], others: bool) -> Side:
    """Where x lives, if a map moves some channels within a set and lets all others pass.

    Args:
        side: the set.
        channels: which are moved; or, if others, which pass.
        others: the channels that are not listed are moved.
    """
    if side is None or side is constraints.real:
        return side
    inside, rest = (Passing(), side) if others else (side, Passing())
    return PerChannel(dict.fromkeys(sorted(channels), inside), rest=rest)


def ends(parts: Sequence[tuple[Side, Side]]) -> tuple[Side, Side]:
    """Domain and codomain of maps one after the other, if each reaches just what the next takes; else None for both.

    A channel that one of them lets pass is in the set that the others state.
    """
    first, last = parts[0]
    for taken, reached in parts[1:]:
        if last is None or taken is None:
            return None, None
        if repr(last) == repr(taken):
            last = reached
            continue
        met = _met(first, last, taken, reached)
        if met is None:
            return None, None
        first, last = met
    return first, last


def _met(*sides: Side) -> tuple[Side, Side] | None:
    """Two maps' domains and codomains as those of both, where they differ in channels that one of them lets pass."""
    if any(side is None or side.event_dim > 0 for side in sides):
        return None
    tables = [side if isinstance(side, PerChannel) else PerChannel({}, rest=side) for side in sides]  # type: ignore[arg-type]
    places = sorted({i for table in tables for i in table.sides})
    found = []
    for first, last, taken, reached in ([t.sides.get(i, t.rest) for t in tables] for i in (*places, -1)):
        if isinstance(last, Passing):
            found.append((taken, reached))
        elif isinstance(taken, Passing):
            found.append((first, last))
        elif repr(last) == repr(taken):
            found.append((first, reached))
        else:
            return None
    one, other = (
        _of_channels(dict(zip(places, each[:-1], strict=True)), each[-1]) for each in zip(*found, strict=True)
    )
    return one, other


def _of_channels(sides: dict[int, constraints.Constraint], rest: constraints.Constraint) -> constraints.Constraint:
    """One constraint where all are the same."""
    return PerChannel(sides, rest=rest) if any(repr(side) != repr(rest) for side in sides.values()) else rest


class _PerChannelTransform(Transform):
    """The reals onto the sets of the channels, each by the transform that torch has for it."""

    bijective = True
    domain = constraints.real

    def __init__(self, constraint: PerChannel) -> None:
        super().__init__()
        self.codomain = constraint
        self.each = {i: biject_to(side) for i, side in constraint.sides.items()}
        self.rest = biject_to(constraint.rest)
        self.dim = constraint.dim

    def _call(self, x: Tensor) -> Tensor:
        return _by_channel(x, self.each, self.rest, self.dim)

    def _inverse(self, y: Tensor) -> Tensor:
        return _by_channel(y, {i: transform.inv for i, transform in self.each.items()}, self.rest.inv, self.dim)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The logarithms of the slopes, number by number."""
        columns = zip(x.split(1, self.dim), y.split(1, self.dim), strict=True)
        slopes = [self.each.get(i, self.rest).log_abs_det_jacobian(a, b) for i, (a, b) in enumerate(columns)]
        return torch.cat(slopes, self.dim)


biject_to.register(PerChannel, _PerChannelTransform)
biject_to.register(Passing, lambda constraint: identity_transform)


def _by_channel(value: Tensor, listed: Mapping[int, Any], other: Callable[[Tensor], Tensor], dim: int) -> Tensor:
    return torch.cat([listed.get(i, other)(column) for i, column in enumerate(value.split(1, dim))], dim)
