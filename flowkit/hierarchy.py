"""The heart: levels that split details off, and a hierarchy that models them coarse to fine (HCFlow, section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from flowkit.bijector import Bijector, no_logdet, undone
from flowkit.chain import Chain, pace
from flowkit.conditioning import CoarseToFine, External, Given, Independent, SingleScale
from flowkit.spatial import Split
from flowkit.tree import Value, channels_last, describe, leaves, map_leaves, repeat_rows


class Latents(NamedTuple):
    """What a hierarchy maps an image to (eq. (1): x ↔ (y, z)).

    Attributes:
        y: what the last level keeps, for HCFlow the LR image; None if it keeps nothing.
        z: the details of the levels, coarsest first.
    """

    y: Tensor | None
    z: tuple[Tensor, ...]


class Level(nn.Module):
    """One level: body y_{l−1} → h, split h = (y_l, a_l), latent a_l → z_l given features c_l (eq. (4), eq. (5)).

    Args:
        body: the level's own flow, usually a squeeze and K steps.
        keep: channels of y_l, which go on to the next level. None: no split; at the last level everything that
            is left becomes the last latent, and there is no y (as 0 does).
        latent: the conditional flow of the details; `Chain()` leaves them as they are.
    """

    body: Bijector
    split: Split | None
    latent: Bijector

    def __init__(self, body: nn.Module, keep: int | None = None, latent: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body if isinstance(body, Bijector) else Chain(body)
        self.keep = keep
        self.split = Split(keep) if keep else None
        self.latent_given = latent is not None
        if latent is None:
            latent = Chain()
        self.latent = latent if isinstance(latent, Bijector) else Chain(latent)


class Hierarchy(Bijector):
    """Maps x to `Latents(y, z)`: fine to coarse through the bodies, then details to latents coarse to fine.

    The inverse goes coarse to fine throughout. Which design of Table 1 it is, `given` says.

    Args:
        levels: finest first.
        given: how the features c_l arise: `Independent()` (the default), `SingleScale(nets)`,
            `CoarseToFine(nets)` or `External()`.

    The context is None; or a tuple with one entry per level (each goes to that level's body, and with `External`
    to its latent too); or a label or vector, (B,), (B, C) or (B, C, 1, 1), which goes to every level's body, where
    networks see it at every pixel; or an image, y*, which only `CoarseToFine(start="lr")` looks at. Labels beside y*
    are a tuple, and the base gets y* itself: `Near().log_prob(latents, y)`.

    The inverse takes several draws at once: z of n·B rows, with y and a context of B rows, all B of the first draw
    first. What depends on y and the context alone is then computed for B rows.

    Raises:
        ValueError: if the number of nets, of context entries or of latents is not that of the levels.
    """

    x_is_tensor = True
    shares_y = True
    levels: Any  # an nn.ModuleList of Level, which has no type for its members

    def __init__(self, levels: Sequence[Level], given: Given | None = None) -> None:
        super().__init__()
        given = Independent() if given is None else given
        if not levels:
            raise ValueError("Hierarchy: needs at least one level")
        for i, level in enumerate(levels[:-1]):
            if level.keep == 0:
                raise ValueError(f"Hierarchy: level {i} is not the last and must keep channels, or all with keep=None")
            if level.keep is None and level.latent_given:
                raise ValueError(f"Hierarchy: level {i} has a latent, but with keep=None it splits nothing off")
        if isinstance(given, SingleScale | CoarseToFine) and len(given.nets) != len(levels):
            raise ValueError(f"Hierarchy: {len(levels)} levels, but {type(given).__name__} has {len(given.nets)} nets")
        self.levels = nn.ModuleList(levels)
        self.given = given
        self.in_channels = levels[0].body.in_channels
        self.stride, self.shrink = pace(level.body for level in levels)
        # the levels with details, coarsest first: the order of z
        last = len(levels) - 1
        self.split_levels = [i for i in range(last, -1, -1) if levels[i].split is not None or i == last]

    def forward(self, x: Tensor, context: Value = None) -> tuple[Latents, Tensor]:
        """Encodes: returns (y, z) and the log-det, shape (B,)."""
        contexts = self._contexts(context)
        logdet = no_logdet(x)
        h: Tensor | None = x
        kept: list[Tensor | None] = []
        dropped: list[Tensor | None] = []
        for i, level in enumerate(self.levels):
            h, term = level.body(h, contexts[i])
            logdet = logdet + term
            h, a = self._part(i, h)
            kept.append(h)
            dropped.append(a)
        z: list[Tensor] = []
        features: list[Value] = []
        for i in self.split_levels:
            features.insert(0, map_leaves(channels_last, self.given(i, kept[i], features, context)))
            latent, term = self.levels[i].latent(dropped[i], features[0])
            logdet = logdet + term
            z.append(latent)
        return Latents(kept[-1], tuple(z)), logdet

    def inverse(self, y: Value, context: Value = None) -> tuple[Value, Tensor]:
        """Decodes (y, z): each level restores its details given the coarser, joins them, and undoes its body."""
        terms = [no_logdet(next(leaves(self._latents(y)[1])))]

        def undo(part: nn.Module, y: Value, context: Value) -> Value:
            x, term = part.inverse(y, context)  # type: ignore[operator]
            terms.append(term)
            return x

        x = self._decoded(y, context, undo)
        return x, sum(terms[1:], terms[0])

    def inverse_alone(self, y: Value, context: Value = None) -> Value:
        """The inverse without its log-det."""
        return self._decoded(y, context, undone)

    def _decoded(self, y: Value, context: Value, undo: Callable[[nn.Module, Value, Value], Value]) -> Value:
        kept, latents = self._latents(y)
        contexts = self._contexts(context)
        features: list[Value] = []
        for i in reversed(range(len(self.levels))):
            level = self.levels[i]
            if i in self.split_levels:
                c = self.given(i, kept, features, context)  # once for all draws that share y
                features.insert(0, map_leaves(channels_last, c))
                a = undo(level.latent, latents[len(features) - 1], features[0])
                if level.split is None:
                    kept = a
                else:
                    assert kept is not None, "a level that splits is given y"
                    kept = level.split.inverse((repeat_rows(kept, a.shape[0]), a))[0]
            kept = undo(level.body, kept, contexts[i])
        return kept

    def _part(self, i: int, h: Tensor) -> tuple[Tensor | None, Tensor | None]:
        split = self.levels[i].split
        if split is not None:
            pair: tuple[Tensor, Tensor] = split(h)[0]
            return pair
        return (None, h) if i == len(self.levels) - 1 else (h, None)

    def _contexts(self, context: Value) -> Sequence[Value]:
        if context is None or isinstance(context, Tensor):
            if isinstance(self.given, External):
                raise ValueError(f"Hierarchy: External needs a tuple with one entry per level, got {describe(context)}")
            vector = context is not None and math.prod(context.shape[2:]) == 1
            return [context if vector else None] * len(self.levels)
        if len(context) != len(self.levels):
            raise ValueError(f"Hierarchy: {len(self.levels)} levels, but {len(context)} context entries")
        entries: Sequence[Value] = context
        return entries

    def _latents(self, value: Value) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        expected = f"(y, z) with {len(self.split_levels)} latents in z, coarsest first"
        if not isinstance(value, tuple) or len(value) != 2 or not isinstance(value[1], tuple | list):
            raise ValueError(f"Hierarchy: expected {expected}, got {describe(value)}")
        y, z = value
        if len(z) != len(self.split_levels) or (y is None) != (self.levels[-1].split is None):
            raise ValueError(f"Hierarchy: expected {expected}, got {describe(value)}")
        return y, tuple(z)
