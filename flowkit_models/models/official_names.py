"""Official checkpoint names, for all families: where modules stand, RRDB trunks, counting names."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of every tensor of a checkpoint, by name."""


@dataclass(frozen=True)
class HaarKernels:
    """The constants that official checkpoints store for a Haar transform of a number of channels."""

    channels: int
    dtype: torch.dtype


Placed = tuple[str, nn.Module | HaarKernels]
"""An official name, up to its last part, and our module that stands there."""


def haar_kernels(model: nn.Module, channels: int) -> HaarKernels:
    """The Haar constants in the precision of a model."""
    return HaarKernels(channels, next(model.parameters()).dtype)


def rrdb_trunk(trunk: Iterable[Any], prefix: str) -> Iterator[Placed]:
    """The dense blocks of an RRDB trunk."""
    for b, block in enumerate(trunk):
        for r, residual in enumerate(block.blocks):
            yield f"{prefix}{b}.RDB{r + 1}", residual.dense


def count(names: Shapes, pattern: str, start: int = 0) -> int:
    """Number of names there are when the braces of the pattern run from `start`."""
    found = 0
    while pattern.format(start + found) in names:
        found += 1
    return found


def growth(names: Shapes, default: int) -> int:
    """Growth of the first RRDB among the names, or the default without one."""
    return next((shape[0] for name, shape in names.items() if name.endswith("RDB1.conv1.weight")), default)
