"""A wrong argument of a bijector, kind, base or net is one line that names the class and the argument."""

import inspect
import math
import types
import typing
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

import flowkit
from flowkit import nets
from flowkit.kinds import Kind

AFFINE = flowkit.Affine()
NORMAL = flowkit.StandardNormal()
MADE: dict[Any, dict[str, Any]] = {
    flowkit.ActNorm: {"channels": 2},
    flowkit.Affine: {},
    flowkit.Augment: {"base": NORMAL, "channels": 1},
    flowkit.Autoregressive: {"net": nets.MADE(3, 2), "kind": AFFINE},
    flowkit.Bernstein: {"degree": 3},
    flowkit.Checkerboard: {},
    flowkit.Coupling: {"net": nets.MLP(1, 2), "keep": 1, "kind": AFFINE},
    flowkit.DeepDenseSigmoid: {"units": 2, "layers": 2},
    flowkit.DeepSigmoid: {"units": 2},
    flowkit.Dequantize: {"bins": 8},
    flowkit.Elementwise: {"kind": AFFINE, "channels": 2},
    flowkit.Gaussianization: {"components": 2},
    flowkit.Injector: {"net": nets.MLP(1, 2), "kind": AFFINE},
    flowkit.InvertibleConv1x1: {"channels": 2},
    flowkit.Mixture: {"components": 2, "features": 2},
    flowkit.MixtureLogistic: {"components": 2},
    flowkit.Monotonic: {"hidden": 2},
    flowkit.Near: {},
    flowkit.Normal: {"features": 2},
    flowkit.ODE: {"net": nets.WithTime(nets.MLP(3, 2)), "solver": "rk4"},
    flowkit.Planar: {"features": 2},
    flowkit.Radial: {"features": 2},
    flowkit.RationalQuadratic: {"bins": 4},
    flowkit.Resampled: {"net": nets.MLP(2, 1), "base": flowkit.Normal(2)},
    flowkit.Residual: {"net": nets.MLP(2, 2)},
    flowkit.SharedGaussianization: {"components": 2},
    flowkit.Slice: {"keep": 1, "base": NORMAL},
    flowkit.Split: {"keep": 1},
    flowkit.Squeeze: {},
    flowkit.StudentT: {"features": 2},
    flowkit.SumOfSquares: {"squares": 2, "degree": 2},
    flowkit.Sylvester: {"features": 3, "rank": 2},
    flowkit.TokenAutoregressive: {"net": nets.CausalViT(1, 2, hidden=4, depth=1)},
    flowkit.TokenCoupling: {"net": nets.ViT(1, 2, hidden=4, depth=1)},
    flowkit.jet: {"channels": 1, "size": (4, 4), "patch": 2, "couplings": 1, "hidden": 4, "depth": 1},
    flowkit.tarflow: {"channels": 1, "size": (4, 4), "patch": 2, "blocks": 1, "hidden": 4, "depth": 1},
    nets.CNN: {"in_channels": 1, "out_channels": 2},
    nets.FCN: {"in_channels": 1, "out_channels": 2},
    nets.MADE: {"features": 3, "parameters": 2},
    nets.MLP: {"in_features": 1, "out_features": 2},
    nets.ActNormConv2d: {"in_channels": 1, "out_channels": 2, "kernel": 3},
    nets.CausalViT: {"in_channels": 1, "out_channels": 2, "hidden": 4, "depth": 1},
    nets.ConvResNet: {"in_channels": 1, "out_channels": 2},
    nets.DenseBlock: {"in_channels": 1, "out_channels": 2},
    nets.LocalFourier: {"features": 2, "out_channels": 2, "width": 4, "hidden": 4},
    nets.ResidualMLP: {"in_features": 1, "out_features": 2},
    nets.UNet: {"in_channels": 1, "out_channels": 2, "hidden": 4},
    nets.ViT: {"in_channels": 1, "out_channels": 2, "hidden": 4, "depth": 1},
    nets.ZeroConv2d: {"in_channels": 1, "out_channels": 2},
    nets.lipschitz: {"net": nets.MLP(2, 2)},
}
"""Every class with sizes, numbers, choices or nets among its arguments, made with as few as it needs."""

ELSEWHERE = {
    # bases and containers of parts, whose arguments are maps, tensors or constraints, checked where they are tested
    *("Additive", "Bijector", "Box", "Chain", "CoarseToFine", "Columns", "External", "Flow", "Given", "Haar"),
    *("Hierarchy", "History", "Independent", "Inverse", "Latents", "Level", "NumericKind", "Permutation"),
    *("Reversible", "SingleScale", "StandardNormal", "biject_to", "fit", "flow_matching", "initialize", "summary"),
    *("elementwise", "nets", "objectives"),
    *("ExactConv2d", "Interleave", "MaskedLinear", "WithTime"),  # torch's arguments, and parts
    *("fitting_context", "lowered", "small_xavier", "with_context"),
}
WHOLE = [0.5, "two", True, -1, float("nan")]
NUMBERS = [float("nan"), "two", math.inf, True, -math.inf]


def wrong_values(annotation: Any) -> list[Any]:
    """Values that no argument of this type takes."""
    options = set(typing.get_args(annotation)) if isinstance(annotation, types.UnionType) else {annotation}
    if torch.Tensor in options or typing.get_origin(annotation) is typing.Union:
        return []  # arrays have checks, and tests, of their own
    if any(typing.get_origin(option) is Literal for option in options):
        return ["no such choice", 3]
    if int in options and flowkit.Checkerboard not in options:
        return WHOLE
    if float in options:
        return NUMBERS
    if Kind in options or nn.Module in options:
        return [3, "a net", *([] if type(None) in options else [None])]
    return []


@pytest.mark.parametrize("made", MADE, ids=lambda made: made.__name__)
def test_a_wrong_argument_is_named(made) -> None:
    assert made(**MADE[made]) is not None
    for name, parameter in inspect.signature(made, eval_str=True).parameters.items():
        for wrong in [] if name == "seed" else wrong_values(parameter.annotation):
            with pytest.raises((ValueError, TypeError)) as failed:
                made(**{**MADE[made], name: wrong})
            said = str(failed.value)
            assert name in said, (name, wrong)
            assert "\n" not in said
            assert len(said) < 250
            assert repr(wrong) in said or type(wrong).__name__ in said, (name, wrong)


def test_every_public_class_is_here_or_has_its_checks_elsewhere() -> None:
    public = {*flowkit.__all__, *nets.__all__}
    assert {made.__name__ for made in MADE} | ELSEWHERE == public


def test_numbers_of_numpy_are_whole_numbers_too() -> None:
    assert flowkit.Planar(np.int64(3)).in_channels == 3
    assert flowkit.Bernstein(np.int32(3), np.float32(2.0)).parameters == 4
