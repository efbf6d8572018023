"""Masks of couplings: which numbers pass and steer, and which are moved."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from flowkit.arguments import check_choice, check_whole
from flowkit.columns import PerChannel, Side, moved_in
from flowkit.tree import describe


def whole_numbers(what: str, numbers: Iterable[Any]) -> list[int]:
    """Indices of channels as integers.

    Raises:
        TypeError: that says what they are, if one is no whole number.
    """
    listed = list(numbers)
    try:
        return [operator.index(number) for number in listed]
    except TypeError:
        raise TypeError(f"{what} must be whole numbers, got {listed}") from None


class _Channels:
    """Whole channels are moved, and the net returns parameters of these alone."""

    def steered(self, passive: Tensor, active: Tensor) -> Tensor:
        """A tensor of the shape in which the net returns parameters."""
        return active

    def chosen(self, parameters: Tensor) -> Tensor:
        """Those of what is moved, of the parameters (B, C, P, *spatial) of `steered`."""
        return parameters


@dataclass(frozen=True)
class Leading(_Channels):
    """The first channels pass.

    Args:
        channels: how many.
        flip: the rest passes instead.
    """

    channels: int
    flip: bool = False

    def __post_init__(self) -> None:
        check_whole("Coupling", keep=self.channels)

    def place(self, i: int) -> int:
        """The channel that is the i-th of those that are moved."""
        return i if self.flip else self.channels + i

    def within(self, side: Side) -> Side:
        """Where x lives, if what is moved lives in a set."""
        if isinstance(side, PerChannel):
            return side.at(self.place)
        return moved_in(side, range(self.channels), others=not self.flip)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What passes, and what is moved."""
        if x.shape[1] <= self.channels:
            raise ValueError(f"Coupling: keep={self.channels} leaves nothing of {describe(x)} to transform")
        first, rest = x.split((self.channels, x.shape[1] - self.channels), 1)  # one node of the graph, slices are two
        return (rest, first) if self.flip else (first, rest)

    def join(self, passive: Tensor, active: Tensor) -> Tensor:
        """Puts them back where they were."""
        return torch.cat([active, passive] if self.flip else [passive, active], 1)


class Listed(_Channels, nn.Module):
    """Channels that are listed pass, and the net gets them in this order; the rest is moved, ascending.

    Args:
        channels: their indices. They are in the state dict.
        flip: the rest passes instead, and the listed ones are moved, both ascending.
    """

    channels: Tensor

    def __init__(self, channels: Sequence[int], flip: bool = False) -> None:
        super().__init__()
        listed = whole_numbers("Coupling: keep", channels)
        if not listed or min(listed) < 0 or len(set(listed)) < len(listed):
            raise ValueError(f"Coupling: keep must list different channels, 0 or more each, got {list(channels)}")
        self.register_buffer("channels", torch.tensor(listed))
        self.listed, self.largest, self.count, self.flip = tuple(listed), max(listed), len(listed), flip

    def place(self, i: int) -> int:
        """The channel that is the i-th of those that are moved."""
        if self.flip:
            return sorted(self.listed)[i]
        return [c for c in range(i + self.count + 1) if c not in self.listed][i]

    def within(self, side: Side) -> Side:
        """Where x lives, if what is moved lives in a set."""
        if isinstance(side, PerChannel):
            return side.at(self.place)
        return moved_in(side, self.listed, others=not self.flip)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What passes, and what is moved."""
        if x.shape[1] <= self.largest:
            raise ValueError(f"Coupling: keep lists channel {self.largest}, which {describe(x)} does not have")
        if x.shape[1] == self.count:
            raise ValueError(f"Coupling: keep lists all channels of {describe(x)} and leaves nothing to transform")
        passive, active = self._places(x.shape[1])
        return x.index_select(1, passive), x.index_select(1, active)

    def join(self, passive: Tensor, active: Tensor) -> Tensor:
        """Puts them back where they were."""
        order = torch.cat(self._places(passive.shape[1] + active.shape[1]))
        return torch.cat([passive, active], 1).index_select(1, order.argsort())

    def _places(self, channels: int) -> tuple[Tensor, Tensor]:
        taken = torch.zeros(channels, dtype=torch.long, device=self.channels.device).index_fill(0, self.channels, 1)
        order = taken.argsort(stable=True)
        rest, listed = order[: channels - self.count], order[channels - self.count :]
        return (rest, listed) if self.flip else (self.channels, rest)


@dataclass(frozen=True)
class Checkerboard:
    """Every second pixel passes, in one, two or three dimensions (RealNVP): m = (i + j + … + parity) mod 2, 1 passes.

    y = m·x + (1 − m)·g(x; net(m·x)): the net gets all C channels, with zeros at the pixels that are moved, and returns
    parameters for all of them; the log-det is that of the moved pixels alone. Any image size will do.

    Args:
        parity: 0 moves the pixel at the corner, 1 lets it pass.

    Raises:
        ValueError: for another parity; from a coupling's call, for vectors.

    Source:
        Dinh et al., Density Estimation Using Real NVP (2017), section 3.4.

    Example:
        >>> import flowkit
        >>> net = flowkit.nets.CNN(3, 2 * 3)
        >>> b = flowkit.Coupling(net, flowkit.Checkerboard(), flowkit.Affine("tanh"))
        >>> y, logdet = b(torch.randn(2, 3, 5, 4))
        >>> y.shape
        torch.Size([2, 3, 5, 4])
    """

    parity: int = 0

    def __post_init__(self) -> None:
        check_choice("Checkerboard", (0, 1), parity=self.parity)

    def within(self, side: Side) -> Side:
        """Where x lives: within a channel some pixels are in the set and others pass, which nothing states."""
        return side if side is constraints.real else None

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What passes, with zeros elsewhere; and the moved pixels, (B, C, moved)."""
        if x.ndim < 3:
            raise ValueError(
                f"Checkerboard: expected (B, C, *spatial), got {describe(x)}; for vectors list the channels that "
                "pass, Coupling(net, keep=[0, 2, …], kind)"
            )
        passes = self._passes(x)
        passive = torch.where(passes.view(x.shape[2:]), x, 0.0)  # not m·x: 0·inf would leak
        return passive, x.flatten(2).index_select(2, self._moved(passes))

    def join(self, passive: Tensor, active: Tensor) -> Tensor:
        """Puts them back where they were."""
        passes = self._passes(passive)
        places = torch.arange(len(passes), device=passes.device)
        rank = passes.long().argsort(stable=True).argsort()
        source = torch.where(passes, places, len(passes) + rank)
        return torch.cat([passive.flatten(2), active], 2).index_select(2, source).view(passive.shape)

    def steered(self, passive: Tensor, active: Tensor) -> Tensor:
        """A tensor of the shape in which the net returns parameters."""
        return passive

    def chosen(self, parameters: Tensor) -> Tensor:
        """Those of what is moved, of the parameters (B, C, P, *spatial) of `steered`."""
        spatial = parameters.movedim(2, 1)  # (B, P, C, *spatial)
        moved = self._moved(self._passes(spatial[:, 0]))
        return spatial.flatten(3).index_select(3, moved).movedim(1, 2)

    def _passes(self, x: Tensor) -> Tensor:
        """Which pixels pass, flattened."""
        total = torch.full((), self.parity, device=x.device)
        for size in x.shape[2:]:
            total = total[..., None] + torch.arange(size, device=x.device)
        return total.flatten() % 2 == 1

    def _moved(self, passes: Tensor) -> Tensor:
        """Their places: of N pixels, the colour of the corner has ⌈N/2⌉."""
        number = (len(passes) + 1 - self.parity) // 2
        return passes.long().argsort(stable=True)[:number]


Mask = Leading | Listed | Checkerboard


def mask_of(keep: int | Sequence[int] | Checkerboard, flip: bool) -> Mask:
    """The mask that a coupling's `keep` and `flip` stand for."""
    if isinstance(keep, Checkerboard):
        return Checkerboard(keep.parity ^ flip)
    if isinstance(keep, int | Integral):
        return Leading(int(keep), flip)
    if isinstance(keep, str) or not isinstance(keep, Iterable):
        raise TypeError(f"Coupling: keep must be a number, indices of channels or Checkerboard(), got {keep!r}")
    return Listed(keep, flip)
