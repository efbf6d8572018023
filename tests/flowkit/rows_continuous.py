"""Rows of the registry: continuous and residual flows, as mild as few steps take to be exact to the laws' 1e-7."""

import torch
from example import Example

from flowkit import ODE, Residual
from flowkit.nets import CNN, FCN, MLP, WithTime, lipschitz

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
    Example("residual", lambda: Residual(lipschitz(MLP(3, 3, 6, 1), 0.3), 0.3), 3, (0,)),
    Example(
        "residual on images",
        lambda: Residual(lipschitz(CNN(2, 2, 4, 3), 0.3), 0.3, exact=60),
        2,
        (2,),
        1,
        lambda x: torch.randn(len(x), 3, *x.shape[2:]),
    ),
]
