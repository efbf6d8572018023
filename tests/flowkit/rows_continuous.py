"""Rows of the registry: continuous flows. Their velocities are mild, so that few steps are exact to the laws' 1e-7."""

import torch
from example import Example

from flowkit import ODE
from flowkit.nets import FCN, MLP, WithTime

ROWS = [
    Example(
        "ode",
        lambda: ODE(WithTime(FCN(3, 2, 4, 3)), solver="rk4", steps=4),
        2,
        (2,),
        1,
        lambda x: torch.randn(len(x), 3, *x.shape[2:]),
    ),
    Example("adaptive ode", lambda: ODE(WithTime(MLP(3, 2, 6, 1)), rtol=1e-9, atol=1e-9, steps=4), 2, (0,)),
]
