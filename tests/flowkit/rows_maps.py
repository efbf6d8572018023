"""Rows of the registry: elementwise maps, linear maps, classics."""

import torch
from example import Example

from flowkit import (
    Affine,
    Elementwise,
    InvertibleConv1x1,
    Planar,
    Radial,
    RationalQuadratic,
    SharedGaussianization,
    Sylvester,
)
from flowkit.elementwise import (
    Asinh,
    Cdf,
    Exp,
    Leaky,
    Matrix,
    Scale,
    Shift,
    Sigmoid,
    SignedPower,
    SinhArcsinh,
    Softplus,
    Tanh,
)

VECTOR = (0,)
ANY = (0, 2)
FOUR = torch.tensor([0.5, 2.0, 1.5, -1.0])
MATRIX = torch.eye(4) + 0.3 * torch.arange(16.0).sin().view(4, 4)

ROWS = [
    Example("sigmoid", Sigmoid, dims=ANY),
    Example("sigmoid per channel", lambda: Sigmoid(-FOUR.abs(), FOUR.exp(), margin=0.05), dims=VECTOR),
    Example("inverse of sigmoid", lambda: Sigmoid(-2.0, 1.0).inv, dims=ANY),
    Example("exp", Exp, dims=VECTOR),
    Example("softplus", Softplus, dims=VECTOR),
    Example("inverse of softplus", lambda: Softplus().inv, dims=VECTOR),
    Example("tanh", Tanh, dims=VECTOR),
    Example("asinh", Asinh, dims=VECTOR),
    Example("sinh-arcsinh", lambda: SinhArcsinh(skew=FOUR, tail=0.7), dims=ANY),
    Example("leaky", lambda: Leaky(0.3), dims=ANY),
    Example("signed power", lambda: SignedPower(1.5), dims=VECTOR),
    Example("scale", lambda: Scale(-0.7)),
    Example("fixed linear", lambda: Shift(FOUR) >> Scale(FOUR) >> Matrix(MATRIX, FOUR) >> Shift(0.5), dims=ANY),
    Example("cdf", lambda: Cdf(torch.distributions.Normal(FOUR, 2 + FOUR)), dims=ANY),
    Example("cdf of positives", lambda: Cdf(torch.distributions.Exponential(0.2)), dims=VECTOR),
    Example("learned spline", lambda: Elementwise(RationalQuadratic(3), 4), dims=VECTOR),
    Example("learned scale of some", lambda: Elementwise(Affine("exp"), [2, 0]), dims=ANY),
    *(
        Example(f"conv1x1 {form}", lambda form=form: InvertibleConv1x1(4, form), dims=ANY)
        for form in ("lu", "householder", "qr", "svd", "expm", "cayley")
    ),
    Example("shared gaussianization", lambda: SharedGaussianization(3), dims=VECTOR),
    Example("planar", lambda: Planar(4), dims=VECTOR),
    Example("radial", lambda: Radial(4), dims=ANY),
    Example("sylvester", lambda: Sylvester(4, 2), dims=VECTOR),
]
