"""Flows as distributions: densities that integrate to one, and samples that agree with them."""

import math
from typing import Any

import pytest
import torch
from examples import extractor, lr_only, per_level, srflow_like, two_levels
from torch import nn

from flowkit import (
    ActNorm,
    Affine,
    Chain,
    CoarseToFine,
    Coupling,
    Dequantize,
    Flow,
    Haar,
    Hierarchy,
    Injector,
    InvertibleConv1x1,
    Latents,
    Level,
    MixtureLogistic,
    Near,
    Permutation,
    RationalQuadratic,
    Squeeze,
    StandardNormal,
)
from flowkit.nets import FCN, MLP
from flowkit.testing import perturb


def plane(context: int = 0) -> Flow:
    def coupling(kind: Any, flip: bool) -> Coupling:
        return Coupling(MLP(1, kind.parameters, 8, context_features=context), 1, kind, flip)

    torch.manual_seed(0)
    b = Chain(
        coupling(Affine("tanh"), False),
        InvertibleConv1x1(2),
        coupling(RationalQuadratic(4, 3.0), True),
        coupling(MixtureLogistic(2), False),
        ActNorm(2),
    )
    return Flow(perturb(b), StandardNormal())


def images() -> Flow:
    torch.manual_seed(0)
    return Flow(perturb(two_levels("coarse"), 0.05), Near(0.1))


def test_a_density_in_the_plane_integrates_to_one() -> None:
    side = torch.linspace(-12, 12, 401)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        mass = plane().log_prob(grid).exp().sum() * (side[1] - side[0]) ** 2
    assert float(mass) == pytest.approx(1, abs=2e-3)


def test_log_prob_is_base_plus_logdet() -> None:
    flow, x, y = images(), torch.randn(2, 1, 8, 8), torch.randn(2, 3, 2, 2)
    latents, logdet = flow.bijector(x, y)
    torch.testing.assert_close(flow.log_prob(x, y), Near(0.1).log_prob(latents, y) + logdet)
    torch.testing.assert_close(flow(x, y), flow.log_prob(x, y))


def test_bits_per_dim_by_hand() -> None:
    flow = Flow(Chain(), StandardNormal())
    x = torch.zeros(2, 3, 4, 4)
    torch.testing.assert_close(flow.bits_per_dim(x), torch.full((2,), 0.5 * math.log2(2 * math.pi)))
    halved = Flow(ActNorm(3), StandardNormal())
    nn.init.constant_(halved.bijector.log_scale, math.log(2))
    torch.testing.assert_close(halved.bits_per_dim(x), flow.bits_per_dim(x) - 1)


def test_encode_and_decode_are_the_bijector() -> None:
    flow, x = images(), torch.randn(2, 1, 8, 8)
    latents = flow.encode(x)
    assert isinstance(latents, Latents)
    torch.testing.assert_close(flow.decode(latents), x, atol=1e-4, rtol=1e-4)


def test_sample_shapes() -> None:
    assert plane().sample(5).shape == (5, 2)
    assert plane(3).sample(5, torch.randn(4, 3)).shape == (5, 4, 2)
    assert images().sample(5, torch.randn(4, 3, 2, 3)).shape == (5, 4, 1, 8, 12)
    assert Flow(Squeeze(), StandardNormal(), shape=(1, 4, 6)).sample(3).shape == (3, 1, 4, 6)
    assert Flow(ActNorm(2), StandardNormal()).sample(1).shape == (1, 2)


def test_sample_shapes_of_every_design() -> None:
    lr = torch.randn(2, 3, 2, 2)
    assert Flow(lr_only(), StandardNormal()).sample(3, lr).shape == (3, 2, 1, 8, 8)
    assert Flow(two_levels("lr"), Near()).sample(3, lr).shape == (3, 2, 1, 8, 8)
    context = per_level(torch.zeros(2, 1, 8, 8), 3)
    assert Flow(srflow_like(), StandardNormal(), (1, 8, 8)).sample(3, context).shape == (3, 2, 1, 8, 8)
    coloured = Hierarchy([Level(Haar() >> ActNorm(12), 3)], CoarseToFine([extractor(3)]))
    assert Flow(coloured, Near()).sample(2, torch.rand(1, 3, 5, 7)).shape == (2, 1, 3, 10, 14)


def test_each_sample_belongs_to_its_context() -> None:
    flow = images()
    lr = torch.stack([torch.zeros(3, 2, 2), torch.full((3, 2, 2), 5.0)])
    x = flow.sample(4, lr)
    for i in range(2):
        y = flow.encode(x[:, i]).y
        assert bool(((y - lr[i]).abs() < 0.7).all())


def test_at_temperature_zero_all_samples_are_the_mode() -> None:
    flow, lr = images(), torch.rand(2, 3, 2, 2)
    x = flow.sample(3, lr, temperature=0.0)
    assert torch.equal(x[0], x[1])
    latents = flow.encode(x[0])
    torch.testing.assert_close(latents.y, lr, atol=1e-5, rtol=1e-5)
    assert all(float(z.detach().abs().max()) < 1e-4 for z in latents.z)


def test_a_generator_makes_the_draws_repeatable() -> None:
    flow, lr = images(), torch.rand(2, 3, 2, 2)
    state = torch.get_rng_state()
    first, second, other = (flow.sample(2, lr, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is not touched


def test_the_global_generator_serves_without_one() -> None:
    flow = plane()
    torch.manual_seed(5)
    first = flow.sample(3)
    torch.manual_seed(5)
    assert torch.equal(flow.sample(3), first)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sample_and_log_prob_agree_with_log_prob(temperature: float) -> None:
    for flow, context in ((plane(), None), (plane(3), torch.randn(4, 3)), (images(), torch.rand(4, 3, 2, 2))):
        x, log_prob = flow.double().sample_and_log_prob(3, None if context is None else context.double(), temperature)
        if context is None:
            assert log_prob.shape == (3,)
            torch.testing.assert_close(flow.log_prob(x), log_prob)
            continue
        assert log_prob.shape == (3, 4)
        for row, its in zip(x, log_prob, strict=True):
            torch.testing.assert_close(flow.log_prob(row, context.double()), its, rtol=1e-6, atol=1e-6)


def test_samples_follow_the_density() -> None:
    """E[log p] over samples is the negative entropy: of a linear flow, known in closed form."""
    torch.manual_seed(0)
    flow = Flow(ActNorm(2), StandardNormal())
    nn.init.constant_(flow.bijector.log_scale, 0.8)
    entropy = 1 + math.log(2 * math.pi) - 1.6
    assert -float(flow.sample_and_log_prob(20_000)[1].mean().detach()) == pytest.approx(entropy, abs=0.03)


@pytest.mark.parametrize(
    ("bijector", "context"),
    [
        (Squeeze(), None),
        (Coupling(FCN(1, 2), 1, Affine()), None),
        (two_levels("independent"), None),
        (two_levels("external"), per_level(torch.zeros(2, 1, 8, 8), 2)),
    ],
    ids=["no channels", "no channels either", "no size", "contexts per level"],
)
def test_an_unknown_shape_is_asked_for(bijector: Any, context: Any) -> None:
    message = r"Flow.sample: the shape of x is not known; pass it once, Flow\(bijector, base, shape=\(C, H, W\)\)"
    with pytest.raises(ValueError, match=message):
        Flow(bijector, StandardNormal()).sample(2, context)


def test_at_least_one_sample() -> None:
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        plane().sample(0)


def test_samples_of_a_flow_without_parameters_have_the_contexts_dtype() -> None:
    flow = Flow(Hierarchy([Level(Squeeze(), 3)]), Near(), shape=(3, 4, 4))
    assert flow.sample(2, torch.rand(1, 3, 2, 2).double()).dtype == torch.float64
    assert flow.bijector.in_channels is None
    assert Flow(Permutation(2), StandardNormal()).double().sample(2).shape == (2, 2)


def test_sampling_carries_gradients_to_the_parameters() -> None:
    flow = Flow(Injector(MLP(1, 4), Affine("exp")), StandardNormal(), shape=(2,))
    flow.sample(3, torch.randn(2, 1)).sum().backward()
    assert flow.bijector.net.layers[-1].bias.grad.abs().sum() > 0


def test_sampling_leaves_the_global_generator_alone() -> None:
    flow = Flow(Dequantize(256) >> ActNorm(3), StandardNormal())
    torch.manual_seed(0)
    before = torch.get_rng_state()
    flow.sample(2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)
