"""Divergence check: a loss that is finite and far above its own past."""

from collections.abc import Mapping
from statistics import median
from typing import Any

WINDOW = 256
"""Losses that a loss is compared with, at most; the first one suffices: a run can be lost at its second step."""
LASTING = 3
"""So many in a row are no accident."""


class DivergenceCheck:
    """Running statistics of losses, and how many in a row were far above them.

    A loss is far above its past if it exceeds the median m of the last 256 by more than factor · (|m| + the median
    distance from m). Medians forget outliers; the distance carries likelihoods through zero. Losses that are far are
    not taken into the past, so that a lost run does not get used to them. The past is part of the training state.

    Args:
        factor: 0 switches it off.

    Example:
        >>> check = DivergenceCheck(20.0)
        >>> [check(step, {"loss": loss}) for step, loss in enumerate((2.0, 1.0, 40.0), 1)]
        ['', '', '']
        >>> check(4, {"loss": 4e9})
        'loss 4e+09 is far above its own past, 2 ± 1'
        >>> check.began
        4
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.past: dict[str, list[float]] = {}
        self.streaks: dict[str, list[int]] = {}  # by name: how many in a row, and the first one's step

    def __call__(self, step: int, losses: Mapping[str, float]) -> str:
        """Takes in the losses of a step by name; says of one that is far above its past that it is."""
        said = ""
        for name, loss in losses.items():
            past = self.past.setdefault(name, [])
            middle = median(past) if past else 0.0
            spread = median(abs(x - middle) for x in past) if past else 0.0
            unit = abs(middle) + spread
            if self.factor and unit and not loss - middle <= self.factor * unit:
                count, began = self.streaks.get(name, [0, step])
                self.streaks[name] = [count + 1, began]
                said = f"{name} {loss:.3g} is far above its own past, {middle:.3g} ± {spread:.2g}"
            else:
                self.streaks.pop(name, None)
                self.past[name] = [*past, loss][-WINDOW:]
        return said

    @property
    def streak(self) -> int:
        """The longest row of far losses that goes on."""
        return max((count for count, _ in self.streaks.values()), default=0)

    @property
    def began(self) -> int:
        """The step of its first one; 0 if there is none."""
        return max((tuple(row) for row in self.streaks.values()), default=(0, 0))[1]

    def state_dict(self) -> dict[str, Any]:
        """The past, as numbers in containers."""
        return {"past": self.past, "streaks": self.streaks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        self.past = {name: list(past) for name, past in state["past"].items()}
        self.streaks = {name: list(row) for name, row in state["streaks"].items()}
