"""flowkit's own maps with nflows' weights: the same densities and inverses, and what has no equal."""

from typing import Any

import pytest
import torch
from nflows import distributions, flows, transforms
from nflows.nn.nets import ResidualNet
from nflows.transforms.made import MADE as NflowsMADE  # noqa: N811
from torch import Tensor, nn

import flowkit
from flowkit.nflows import convert
from flowkit.testing import check_bijector, perturb

# nflows calls torch functions that are on their way out
pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.triangular_solve is deprecated"),
    pytest.mark.filterwarnings("ignore:Inputs to the softmax are not scaled down"),
]
D, C = 5, 3
MASK = torch.tensor([1, 0, 1, 1, 0])


def net(context: int | None = None) -> Any:
    return lambda i, o: ResidualNet(i, o, 12, context_features=context, num_blocks=2)


def spline(context: int | None = None, unconditional: bool = False) -> transforms.Transform:
    return transforms.PiecewiseRationalQuadraticCouplingTransform(
        MASK, net(context), num_bins=4, tails="linear", tail_bound=3.0, apply_unconditional_transform=unconditional
    )


def masked_spline(**options: Any) -> transforms.Transform:
    return transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
        D, 16, num_bins=4, tails="linear", tail_bound=3.0, min_derivative=1e-2, **options
    )


MAF = transforms.MaskedAffineAutoregressiveTransform
THEIRS = {
    "MAF": lambda: MAF(D, 16),
    "MAF with a context": lambda: MAF(D, 16, C, 3),
    "MAF of plain layers": lambda: MAF(D, 16, C, use_residual_blocks=False, activation=torch.tanh),
    "MAF with random masks": lambda: MAF(D, 16, use_residual_blocks=False, random_mask=True),
    "MAF too narrow": lambda: MAF(D, 3, C),
    "MAF of one number": lambda: MAF(1, 4, C),
    "MAF without blocks": lambda: MAF(D, 16, num_blocks=0),
    "RQ-NSF (AR)": masked_spline,
    "RQ-NSF (AR) with a context": lambda: masked_spline(context_features=C),
    "RQ-NSF (C)": spline,
    "RQ-NSF (C) with a context": lambda: spline(C),
    "RQ-NSF (C) that moves both halves": lambda: spline(C, unconditional=True),
    "RealNVP": lambda: transforms.AffineCouplingTransform(MASK, net(C)),
    "NICE": lambda: transforms.AdditiveCouplingTransform(1 - MASK, net()),
    "LU": lambda: transforms.LULinear(D, identity_init=False),
    "ActNorm": lambda: transforms.ActNorm(D),
    "BatchNorm": lambda: transforms.BatchNorm(D),
    "inverse of MAF": lambda: transforms.InverseTransform(MAF(D, 16, C)),
    "composite": lambda: transforms.CompositeTransform(
        [
            transforms.RandomPermutation(D),
            spline(C),
            transforms.CompositeTransform([transforms.LULinear(D, identity_init=False), MAF(D, 16, C)]),
            transforms.ReversePermutation(D),
            transforms.IdentityTransform(),
        ]
    ),
}
FLOWS = {
    "MaskedAutoregressiveFlow": lambda: flows.MaskedAutoregressiveFlow(D, 16, 3, 2, batch_norm_between_layers=True),
    "SimpleRealNVP": lambda: flows.SimpleRealNVP(D, 16, 4, 2, batch_norm_between_layers=True),
    "NSF with an embedding": lambda: flows.Flow(spline(C), distributions.StandardNormal([D]), nn.Linear(2, C)),
}
CASES = [(torch.float32, 1e-5), (torch.float64, 1e-10)]


def moved(theirs: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Trained, in a sense: all weights and statistics moved."""
    theirs = perturb(theirs, 0.5)
    for module in theirs.modules():
        if isinstance(module, transforms.BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, transforms.ActNorm):
            module.initialized.fill_(True)
    return theirs.to(dtype).eval()


@pytest.mark.parametrize(("dtype", "tolerance"), CASES, ids=str)
@pytest.mark.parametrize("name", THEIRS)
def test_a_converted_transform_is_the_same_map(name: str, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    theirs = moved(THEIRS[name](), dtype)
    ours = convert(theirs)
    features = 1 if "one number" in name else D
    x, context = torch.randn(20, features, dtype=dtype), torch.randn(20, C, dtype=dtype)
    context = context if takes_context(theirs) else None
    for got, want in ((ours(x, context), theirs(x, context)), (ours.inverse(x, context), theirs.inverse(x, context))):
        torch.testing.assert_close(got, tuple(want), rtol=tolerance, atol=tolerance)
    assert not any(type(module).__module__.startswith("nflows") for module in ours.modules())


def takes_context(theirs: nn.Module) -> bool:
    return any("context_layer" in name for name, _ in theirs.named_modules())


@pytest.mark.parametrize(("dtype", "tolerance"), CASES, ids=str)
@pytest.mark.parametrize("name", FLOWS)
def test_a_converted_flow_has_the_same_densities(name: str, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    theirs = moved(FLOWS[name](), dtype)
    ours = convert(theirs)
    x = torch.randn(20, D, dtype=dtype)
    context = torch.randn(20, 2, dtype=dtype) if "embedding" in name else None
    torch.testing.assert_close(ours.log_prob(x, context), theirs.log_prob(x, context), rtol=tolerance, atol=tolerance)
    noise = theirs.transform_to_noise(x, context)
    torch.testing.assert_close(ours.encode(x, context), noise, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours.decode(noise, context), x, rtol=10 * tolerance, atol=10 * tolerance)
    drawn = ours.sample(7, context)
    assert drawn.dtype == dtype
    if context is None:
        assert drawn.shape == (7, D)
    else:  # draws come first here, and contexts there
        assert drawn.shape == (7, 20, D)
        if dtype == torch.float32:  # the only one in which theirs draw
            assert theirs.sample(7, context).shape == (20, 7, D)


@pytest.mark.parametrize("residual", [True, False])
def test_a_converted_made_is_the_same_network(residual: bool) -> None:
    theirs = perturb(NflowsMADE(D, 16, C, 2, 3, residual)).eval()
    x, context = torch.randn(4, D), torch.randn(4, C)
    torch.testing.assert_close(convert(theirs)(x, context), theirs(x, context))


def test_a_converted_map_is_a_copy_that_keeps_the_laws() -> None:
    torch.manual_seed(0)
    theirs = transforms.CompositeTransform(
        [MAF(3, 8, 2, 1), transforms.LULinear(3), MAF(3, 8, 2, 1, activation=nn.PReLU())]
    )
    before = [p.clone() for p in theirs.parameters()]
    ours = convert(theirs)
    check_bijector(ours, torch.randn(2, 3), torch.randn(2, 2))
    perturb(ours)
    for p, old in zip(theirs.parameters(), before, strict=True):
        assert torch.equal(p, old)
    assert all(p.requires_grad for p in ours.parameters())


def test_what_the_page_says_of_their_maf() -> None:
    """It runs without the context that it was made for, hides it from the first number, and may be too narrow."""
    torch.manual_seed(0)
    theirs = moved(MAF(3, 8, 2), torch.float64)
    x, context = torch.randn(1, 3).double(), torch.randn(1, 2).double()
    assert not torch.allclose(theirs(x)[0], theirs(x, context)[0])
    with pytest.raises(ValueError, match="expected a context with 2 channels"):
        convert(theirs)(x)
    by_context = torch.autograd.functional.jacobian(lambda c: theirs(x, c)[0][0], context)[:, 0]
    assert not by_context[0].any()
    assert by_context[1:].all()
    narrow = moved(MAF(20, 8, activation=torch.tanh), torch.float64)
    by_x = torch.autograd.functional.jacobian(lambda x: narrow(x)[0][0], torch.randn(1, 20).double())[:, 0]
    assert int((by_x.tril(-1) == 0).sum()) - 20 * 21 // 2 == 66


def tanh_net(i: int, o: int) -> nn.Module:
    return ResidualNet(i, o, 8, activation=torch.tanh)


class Foreign(transforms.Transform):
    def forward(self, inputs: Tensor, context: Any = None) -> Any:
        return inputs, inputs.new_zeros(len(inputs))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Foreign, r"no equal of Foreign; from_nflows\(transform\) takes it as it is"),
        (lambda: MAF(3, 8, use_batch_norm=True), "no equal of MADE with batch norm"),
        (
            lambda: transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(3, 8, num_bins=4),
            "no equal of MaskedPiecewise.* with tails=None",
        ),
        (
            lambda: transforms.AffineCouplingTransform(MASK, nn.Linear),
            "no equal of Linear",
        ),
        (
            lambda: transforms.AdditiveCouplingTransform(MASK, tanh_net),
            "no equal of ResidualNet with another activation",
        ),
        (
            lambda: transforms.AffineCouplingTransform([1, 1], lambda _, o: nn.Linear(1, o)),
            "no equal of AffineCouplingTransform whose mask moves all features, or none",
        ),
        (lambda: transforms.RandomPermutation(3, dim=2), "no equal of RandomPermutation along dimension 2"),
        (
            lambda: flows.Flow(transforms.LULinear(2), distributions.ConditionalDiagonalNormal([2])),
            "no equal of ConditionalDiagonalNormal",
        ),
    ],
)
def test_what_has_no_equal_is_named(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        convert(make())


def test_a_subclass_of_a_transform_is_another_transform() -> None:
    class Mine(transforms.LULinear):
        pass

    with pytest.raises(TypeError, match="no equal of Mine"):
        convert(Mine(3))
    assert isinstance(convert(transforms.LULinear(3)), flowkit.Chain)
