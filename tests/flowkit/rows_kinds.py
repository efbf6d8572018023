"""Rows of the registry: couplings by kinds that live in a box or on a circle, differ by column, or have no formula."""

import math

from example import Example

from flowkit import (
    Affine,
    Bernstein,
    Columns,
    Coupling,
    DeepDenseSigmoid,
    DeepSigmoid,
    Gaussianization,
    Injector,
    Monotonic,
    RationalQuadratic,
    SumOfSquares,
)
from flowkit.kinds import Kind
from flowkit.nets import MLP


def coupling(kind: Kind, keep: int = 2) -> Coupling:
    """Of four numbers, two by default move two."""
    return Coupling(MLP(keep, kind.parameters_of(4 - keep), hidden=8), keep, kind)


def columns() -> Coupling:
    angle = RationalQuadratic(3, math.pi, ends="circular", identity=True)
    return coupling(Columns({2: Affine("soft"), 0: angle}), keep=1)


VECTOR = (0,)
ROWS = [
    Example("spline in a box", lambda: coupling(RationalQuadratic(3, 2.0, ends="box")), 4, VECTOR),
    Example("spline on a circle", lambda: coupling(RationalQuadratic(3, 2.0, ends="circular")), 4, VECTOR),
    Example("deep sigmoid", lambda: coupling(DeepSigmoid(3)), 4, VECTOR),
    Example("deep dense sigmoid", lambda: coupling(DeepDenseSigmoid(2, 2)), 4, VECTOR),
    Example("sum of squares", lambda: coupling(SumOfSquares(2, 2)), 4, VECTOR),
    Example("bernstein", lambda: coupling(Bernstein(4)), 4, VECTOR),
    Example("gaussianization", lambda: coupling(Gaussianization(2)), 4, VECTOR),
    Example("monotonic", lambda: coupling(Monotonic(2)), 4, VECTOR),
    Example("columns", columns, 4, VECTOR),
    Example(
        "injected columns",
        lambda: Injector(MLP(3, 14, hidden=8), Columns({(0, 1): Affine(), 3: RationalQuadratic(3, ends="box")})),
        4,
        VECTOR,
        1,
        lambda x: x[:, :3] / 2,
    ),
]
