"""What a level's latent is conditioned on: the designs of the paper's Table 1, as arguments to a hierarchy."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.tree import Value, describe, repeat_rows


class Given(nn.Module):
    """Source of the condition c_l of a level: the features that its details a_l are modelled with.

    `forward(level, y, coarser, context)` gets the index of the level (finest 0), its kept part y_l, the features
    of the coarser levels from near to far, and the hierarchy's context. It returns c_l, or None. A design of your own
    is a subclass; `beside` puts y_l and what it is conditioned on together.
    """

    def forward(self, level: int, y: Tensor | None, coarser: list[Value], context: Value) -> Value:
        """Returns c_l."""
        raise NotImplementedError

    @staticmethod
    def beside(y: Tensor, *others: Tensor) -> Tensor:
        """concat[y, others…]: each resized (nearest) to y's size, and repeated where several draws share it."""
        size = y.shape[2:]
        fitting = [c if c.shape[2:] == size else F.interpolate(c, size) for c in others]
        return torch.cat([y, *(repeat_rows(c, y.shape[0]) for c in fitting)], 1)


class Independent(Given):
    """No condition: the latents are independent of y (Table 1, cases 1 and 4; what IRN assumes)."""

    def forward(self, level: int, y: Tensor | None, coarser: list[Value], context: Value) -> Value:
        """Returns None."""
        return None


class SingleScale(Given):
    """Condition made of the level's own kept part: c_l = net_l(y_l) (Table 1, case 5; SRFlow's split priors).

    Args:
        nets: one per level, finest first, called `net(y_l)`; None for a level that needs no condition.
    """

    def __init__(self, nets: Sequence[nn.Module | None]) -> None:
        super().__init__()
        self.nets = _listed(nets)

    def forward(self, level: int, y: Tensor | None, coarser: list[Value], context: Value) -> Value:
        """Returns net_l(y_l)."""
        if isinstance(self.nets[level], _Nothing):
            return None
        if y is None:
            raise ValueError(f"SingleScale: level {level} keeps nothing, so there is no y to condition on")
        return self.nets[level](y)


class CoarseToFine(Given):
    """Condition made of all that is known when going up: c_l = net_l(concat[y_l, c_{l+1}, …, c_L]) (HCFlow, eq. (5)).

    The coarser features come from near to far, upsampled (nearest) to the size of y_l.

    Args:
        nets: one per level, finest first, called with that one tensor; None for a level that needs no condition.
        start: "y", the coarsest condition is the flow's own y_L; "lr", it is the given LR image y*, which the
            hierarchy then gets as its context (Table 1, cases 2 and 3).
    """

    def __init__(self, nets: Sequence[nn.Module | None], start: Literal["y", "lr"] = "y") -> None:
        super().__init__()
        if start not in ("y", "lr"):
            raise ValueError(f'CoarseToFine: start must be "y" or "lr", got {start!r}')
        self.nets = _listed(nets)
        self.start = start

    def extra_repr(self) -> str:
        """Representation string: where the conditions start."""
        return f"start={self.start!r}"

    def forward(self, level: int, y: Tensor | None, coarser: list[Value], context: Value) -> Value:
        """Returns net_l of y_l and the coarser features."""
        if isinstance(self.nets[level], _Nothing):
            return None
        if self.start == "lr" and level == len(self.nets) - 1:
            y = context[-1] if isinstance(context, tuple | list) else context
            if y is None:
                raise ValueError('CoarseToFine(start="lr"): pass the LR image y* as context')
        if y is None:
            raise ValueError(f'CoarseToFine: level {level} keeps nothing; condition on the LR image: start="lr"')
        return self.nets[level](self.beside(y, *(c for c in coarser if c is not None)))


class External(Given):
    """Condition handed in by the caller: the hierarchy's context is a tuple, one c_l per level, finest first."""

    def forward(self, level: int, y: Tensor | None, coarser: list[Value], context: Value) -> Value:
        """Returns the level's entry of the context."""
        if not isinstance(context, tuple | list):
            raise ValueError(f"External: expected a context tuple with one entry per level, got {describe(context)}")
        return context[level]


class _Nothing(nn.Module):
    """Holds the place of a net that a level does without."""


def _listed(nets: Sequence[nn.Module | None]) -> nn.ModuleList:
    return nn.ModuleList(_Nothing() if net is None else net for net in nets)
