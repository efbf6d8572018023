"""nflows and flowkit in each other's chains."""

import math
from typing import Any

import pytest
import torch
from examples import two_levels
from nflows import distributions, flows, transforms
from nflows.nn.nets import ResidualNet
from torch import Tensor, nn

import flowkit
from flowkit import ActNorm, Affine, Chain, Coupling, Flow, Hierarchy, InvertibleConv1x1, StandardNormal
from flowkit.nets import MLP
from flowkit.nflows import from_nflows, to_nflows
from flowkit.testing import check_bijector, perturb

# nflows calls torch functions that are on their way out
pytestmark = pytest.mark.filterwarnings("ignore:torch.triangular_solve is deprecated")


def spline_coupling(context: int | None = None) -> transforms.Transform:
    return transforms.PiecewiseRationalQuadraticCouplingTransform(
        torch.tensor([1, 0, 1, 0]),
        lambda i, o: ResidualNet(i, o, 8, context_features=context, num_blocks=1),
        num_bins=4,
        tails="linear",
        tail_bound=3.0,
    )


THEIRS = {
    "spline coupling": spline_coupling,
    "LU linear": lambda: transforms.LULinear(4, identity_init=False),
    "MAF": lambda: transforms.MaskedAffineAutoregressiveTransform(4, 8, num_blocks=1),
    "composite": lambda: transforms.CompositeTransform([transforms.RandomPermutation(4), spline_coupling()]),
}


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("wrap", [Chain, from_nflows], ids=["duck", "adapted"])
def test_their_transforms_obey_our_laws_in_a_chain(name: str, wrap: Any) -> None:
    torch.manual_seed(0)
    check_bijector(ActNorm(4) >> wrap(THEIRS[name]()) >> InvertibleConv1x1(4), torch.randn(2, 4))


def test_their_conditional_transforms_take_our_context() -> None:
    torch.manual_seed(0)
    check_bijector(Chain(spline_coupling(3), ActNorm(4)), torch.randn(2, 4), torch.randn(2, 3))
    maf = transforms.MaskedAffineAutoregressiveTransform(4, 8, context_features=3, num_blocks=1)
    check_bijector(from_nflows(maf), torch.randn(2, 4), torch.randn(2, 3))


def test_our_chains_obey_their_protocol() -> None:
    b = perturb(ActNorm(4) >> Coupling(MLP(2, 4, 8), 2, Affine()))
    composite = transforms.CompositeTransform([b, transforms.LULinear(4), transforms.InverseTransform(b)])
    check_bijector(Chain(composite), torch.randn(2, 4))


def test_adapted_transforms_stay_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    transform = spline_coupling()
    x = torch.randn(5, 4)
    expected = transform(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, logdet = from_nflows(transform)(x)
    assert y.dtype == logdet.dtype == torch.float32
    torch.testing.assert_close((y, logdet), expected)


@pytest.mark.parametrize("wrap", [Chain, from_nflows], ids=["duck", "adapted"])
def test_features_in_bfloat16_reach_a_foreign_conditioner(wrap: Any) -> None:
    """Under autocast a feature extractor returns bfloat16; the foreign part runs with autocast off."""
    b = wrap(spline_coupling(3))
    with torch.autocast("cpu", torch.bfloat16):
        _, logdet = b(torch.randn(2, 4), torch.randn(2, 3).bfloat16())
    assert logdet.dtype == torch.float32


def test_a_transform_without_an_inverse_raises_one_exception() -> None:
    class OneWay(transforms.Transform):
        def forward(self, inputs: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
            return inputs, inputs.new_zeros(len(inputs))

    with pytest.raises(NotImplementedError, match="OneWay has no inverse"):
        from_nflows(OneWay()).inverse(torch.zeros(2, 1))


def test_adapters_undo_each_other() -> None:
    b, t = ActNorm(2), transforms.LULinear(2)
    assert from_nflows(to_nflows(b)) is b
    assert to_nflows(from_nflows(t)) is t


def test_adapters_check_what_they_get() -> None:
    with pytest.raises(TypeError, match="from_nflows: expected an nflows Transform, got Linear"):
        from_nflows(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"FromNflows\(LULinear\): expected floating-point"):
        from_nflows(transforms.LULinear(2))(torch.zeros(2, 2, dtype=torch.int64))


def two_moons(n: int) -> Tensor:
    angle = math.pi * torch.rand(n)
    upper = torch.rand(n) < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos())
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
    return torch.stack([x, y], 1) + 0.1 * torch.randn(n, 2)


def entropy_of_two_moons(n: int = 20_000) -> float:
    """By Monte Carlo over the known density: a mixture of Gaussians along two half circles."""
    angle = math.pi * (torch.arange(200) + 0.5) / 200
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    centres = torch.cat([upper, torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)])
    log_kernel = -torch.cdist(two_moons(n), centres).square() / (2 * 0.1**2) - math.log(2 * math.pi * 0.1**2)
    return -float((log_kernel.logsumexp(1) - math.log(400)).mean())


def planar_flow() -> Chain:
    kind = flowkit.RationalQuadratic(6, tail_bound=4.0)
    parts = []
    for i in range(4):
        parts += [
            ActNorm(2),
            Coupling(MLP(1, kind.parameters, 32), 1, kind, flip=i % 2 == 1),
            InvertibleConv1x1(2),
        ]
    return Chain(*parts)


def test_our_chain_trains_as_an_nflows_flow() -> None:
    torch.manual_seed(0)
    b = planar_flow()
    flowkit.initialize(b, two_moons(1000))
    flow = flows.Flow(b, distributions.StandardNormal([2]))
    test = two_moons(4000)
    with torch.no_grad():
        untrained = -float(flow.log_prob(test).mean())
    steps = 150
    optimiser = torch.optim.Adam(flow.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        (-flow.log_prob(two_moons(256)).mean()).backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        trained = -float(flow.log_prob(test).mean())
        ours = -float(Flow(b, StandardNormal()).log_prob(test).mean())
        samples = flow.sample(1000)
    entropy = entropy_of_two_moons()
    assert trained < untrained - 0.3
    assert entropy - 0.05 < trained < entropy + 0.15
    assert trained == pytest.approx(ours, abs=1e-4)
    assert float(torch.cdist(samples, test).amin(1).median()) < 0.1


def test_a_hierarchy_flattens_and_comes_back() -> None:
    torch.manual_seed(0)
    b = perturb(two_levels("coarse"))
    t = to_nflows(b, (1, 8, 4))
    x = torch.randn(3, 1, 8, 4)
    z, logdet = t(x)
    latents, expected = b(x)
    assert z.shape == (3, 32)
    assert torch.equal(z[:, : latents.y[0].numel()], latents.y.flatten(1))
    assert torch.equal(logdet, expected)
    back, inverse = t.inverse(z)
    torch.testing.assert_close(back, x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(inverse, -logdet, atol=1e-3, rtol=1e-4)


def test_a_hierarchy_is_the_transform_of_an_nflows_flow() -> None:
    torch.manual_seed(0)
    flow = flows.Flow(to_nflows(two_levels("coarse"), (1, 4, 4)), distributions.StandardNormal([16]))
    assert flow.log_prob(torch.randn(3, 1, 4, 4)).shape == (3,)
    assert flow.sample(2).shape == (2, 1, 4, 4)


def test_the_one_context_of_nflows_goes_to_every_level() -> None:
    torch.manual_seed(0)
    levels = [
        flowkit.Level(flowkit.Squeeze() >> Coupling(flowkit.nets.FCN(2, 4, 4), 2, Affine()), 1),
        flowkit.Level(Chain()),
    ]
    seen = []
    for level in levels:
        level.body.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    t, c = to_nflows(Hierarchy(levels)), torch.zeros(2, 3)
    z, _ = t(torch.randn(2, 1, 4, 4), c)
    assert len(seen) == 2
    assert all(context is c for context in seen)
    assert t.inverse(z, c)[0].shape == (2, 1, 4, 4)


def test_the_shape_is_learned_from_the_first_call_or_asked_for() -> None:
    t = to_nflows(two_levels("independent"))
    with pytest.raises(ValueError, match=r"to_nflows: the shape of x is not known yet; pass to_nflows\(b, shape="):
        t.inverse(torch.zeros(2, 16))
    t(torch.zeros(2, 1, 4, 4))
    assert t.inverse(torch.zeros(2, 16))[0].shape == (2, 1, 4, 4)
    assert t(torch.zeros(2, 1, 8, 4))[0].shape == (2, 32)
    with pytest.raises(ValueError, match=r"to_nflows: expected \(B, 16\), got \(2, 15\) float32"):
        t.inverse(torch.zeros(2, 15))


def test_another_size_has_a_shape_of_its_own() -> None:
    t = to_nflows(two_levels("independent"))
    small, large = torch.randn(2, 1, 4, 8), torch.randn(2, 1, 8, 8)
    for x, z in [(x, t(x)[0]) for x in (small, large)]:
        torch.testing.assert_close(t.inverse(z)[0], x, atol=1e-4, rtol=1e-4)
    z = t(torch.randn(2, 1, 8, 4))[0]
    with pytest.raises(ValueError, match=r"may be any of \[\(1, 4, 8\), \(1, 8, 4\)\]; pass to_nflows\(b, shape="):
        t.inverse(z)


def test_values_that_are_one_tensor_keep_their_shape() -> None:
    t = to_nflows(flowkit.Squeeze() >> ActNorm(4))
    z, _ = t(torch.zeros(2, 1, 4, 4))
    assert z.shape == (2, 4, 2, 2)
    assert t.inverse(z)[0].shape == (2, 1, 4, 4)
