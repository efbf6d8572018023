"""A row of the registry: how to make a bijector, and what it takes. The rows are in examples.py, and in rows_*.py."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributions import constraints

from flowkit import Bijector
from flowkit.testing import perturb


@dataclass(frozen=True)
class Example:
    """How to make a bijector, and what it takes: x of (B, channels, *spatial), spatial in multiples."""

    name: str
    make: Callable[[], Bijector]
    channels: int = 4
    dims: tuple[int, ...] = (0, 1, 2, 3)  # numbers of spatial dimensions that it takes
    multiple: int = 1
    context: Callable[[torch.Tensor], Any] = lambda x: None

    def bijector(self, seed: int) -> Bijector:
        """Makes it with every parameter moved, so that no log-det is zero by accident."""
        torch.manual_seed(seed)
        return perturb(self.make())

    @property
    def keeps_shape(self) -> bool:
        """Whether it may stand anywhere in a chain: 4 channels to 4, all reals to all reals."""
        if self.multiple > 1 or self.channels != 4 or self.name.endswith("split"):
            return False
        b = self.make()
        return b.domain is b.codomain is constraints.real
