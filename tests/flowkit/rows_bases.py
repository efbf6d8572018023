"""Rows of the registry: maps onto supports, and transforms of torch."""

import torch
from example import Example
from torch.distributions import ComposeTransform, ExpTransform, SoftplusTransform, constraints

from flowkit import biject_to
from flowkit.distributions import from_transform

ROWS = [
    Example("onto a half-line", lambda: biject_to(constraints.less_than(torch.arange(4.0))), dims=(0,)),
    Example(
        "onto a product",
        lambda: biject_to(constraints.cat([constraints.positive, constraints.real], -1, [1, 3])),
        dims=(0,),
    ),
    Example(
        "transform of torch",
        lambda: from_transform(ComposeTransform([SoftplusTransform(), ExpTransform().inv])),
        dims=(0,),
    ),
]
