"""Stochastic maps: variational dequantisation, importance-weighted bits, channels added and dropped under a density."""

import math

import pytest
import torch
from torch import Tensor

import flowkit
from flowkit import ActNorm, Affine, Augment, Bijector, Coupling, Dequantize, Flow, Slice, StandardNormal
from flowkit.elementwise import Sigmoid
from flowkit.nets import FCN, MLP
from flowkit.testing import perturb


def given_density(channels: int, context: int) -> Flow:
    """A density of `channels` real numbers that depends on `context` others."""
    torch.manual_seed(0)
    steps = flowkit.Injector(MLP(context, 2 * channels, hidden=8), Affine("exp", "scale_first", inverted=True))
    return Flow(perturb(steps, 0.5), StandardNormal()).double()  # type: ignore[arg-type]


def in_the_cell(channels: int) -> Flow:
    inside = given_density(channels, channels)
    return Flow(Sigmoid().inv >> inside.bijector, StandardNormal())


def test_learned_noise_stays_in_its_cell_and_its_logdet_counts_it() -> None:
    b = Dequantize(256, density=in_the_cell(3)).double()
    x = torch.randint(256, (500, 3)).double() / 256
    y, logdet = b(x)
    u = (y - x) * 256
    assert bool(((u > 0) & (u < 1)).all())
    torch.testing.assert_close(logdet, -3 * math.log(256) - b.density.log_prob(u, x))  # type: ignore[union-attr]
    back, inverse = b.inverse(y)
    assert torch.equal(back, x)
    torch.testing.assert_close(inverse, -logdet)
    assert not b.constant_logdet
    assert Dequantize(256).constant_logdet


def test_noise_that_is_given_makes_the_draw() -> None:
    b = Dequantize(16, centred=True, density=in_the_cell(2)).double()
    x, noise = torch.randint(16, (4, 2)).double() / 16, torch.randn(4, 2).double()
    y, _ = b(x, noise=noise)
    u = b.density.decode(noise, x)  # type: ignore[union-attr]
    torch.testing.assert_close(y, x + (u - 0.5) / 16)
    gradients = torch.autograd.grad(b(x, noise=noise)[1].sum(), list(b.parameters()))
    assert all(g.isfinite().all() and g.any() for g in gradients)


def test_the_bound_is_tight_for_every_draw_where_the_density_is_the_flows_own() -> None:
    """One cell, [0, 1): noise of the density that the flow behind has there leaves log p(x) = 0, whatever is drawn."""
    own = Sigmoid().inv
    flow = Flow(Dequantize(1, density=Flow(own, StandardNormal())) >> own, StandardNormal())
    torch.testing.assert_close(flow.log_prob(torch.zeros(50, 3).double()), torch.zeros(50).double(), atol=1e-9, rtol=0)


def test_importance_weights_bring_the_bits_down_to_the_truth() -> None:
    torch.manual_seed(0)
    flow = Flow(Dequantize(2) >> Sigmoid().inv, StandardNormal())
    x = torch.tensor([[0.0], [0.5]]).double()
    truth = torch.ones(2).double()  # either half has half the mass
    many = x.repeat_interleave(4000, 0)

    def bits(k: int) -> Tensor:
        return flow.bits_per_dim(many, k=k).view(2, -1).mean(1)

    gaps = [bits(k) - truth for k in (1, 4, 16)]
    assert bool((gaps[0] > gaps[1]).all())
    assert bool((gaps[1] > gaps[2]).all())
    torch.testing.assert_close(bits(64), truth, atol=0.02, rtol=0)
    with pytest.raises(ValueError, match=r"bits_per_dim: k must be at least 1, got 0"):
        flow.bits_per_dim(x, k=0)


def test_several_draws_of_a_deterministic_flow_say_what_one_does() -> None:
    flow, x = Flow(ActNorm(2), StandardNormal()), torch.randn(3, 2)
    torch.testing.assert_close(flow.bits_per_dim(x, k=5), flow.bits_per_dim(x))


@pytest.mark.parametrize("spatial", [(), (3, 2)])
def test_augment_and_slice_undo_each_other(spatial: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = MLP(3, 4, hidden=8) if not spatial else FCN(3, 4, hidden=8)
    prior = flowkit.Injector(net, Affine("exp", "scale_first", inverted=True))
    base = Flow(perturb(prior, 0.5), StandardNormal()).double()  # type: ignore[arg-type]
    x, e = torch.randn(5, 3, *spatial).double(), torch.randn(5, 2, *spatial).double()
    augment, cut = Augment(base, 2), Slice(3, base, drop=2)
    y, logdet = augment(x, noise=e)
    assert torch.equal(y[:, :3], x)
    torch.testing.assert_close(logdet, -base.log_prob(y[:, 3:], x))
    for out, its in ((augment.inverse(y), x), (cut(y), x)):
        assert torch.equal(out[0], its)
        torch.testing.assert_close(out[1], -logdet)
    torch.testing.assert_close(cut.inverse(x, noise=e), (y, logdet))
    assert augment(x)[0].shape == cut.inverse(x)[0].shape == (5, 5, *spatial)


def test_a_slice_integrates_out_what_it_drops() -> None:
    """p(x) of a rotated Gaussian through Slice is the marginal's density by the conditional's."""
    flow = Flow(Slice(1, torch.distributions.Normal(0.0, 1.0), drop=1), StandardNormal(), shape=(2,))
    x = torch.randn(6, 2)
    torch.testing.assert_close(flow.log_prob(x), StandardNormal().log_prob(x))
    assert flow.sample(7).shape == (7, 2)


def test_an_augmented_flow_bounds_the_density() -> None:
    """E log of the weights is at most log p, and their mean is p: here p is known."""
    torch.manual_seed(0)
    turn = flowkit.InvertibleConv1x1(2)
    flow = Flow(Augment(flowkit.Normal(1), 1) >> turn, StandardNormal()).double()  # a rotation: x is N(0, 1)
    x = torch.linspace(-2, 2, 5).double()[:, None]
    torch.testing.assert_close(flow.log_prob(x), StandardNormal().log_prob(x), atol=1e-6, rtol=0)  # q is p(e|x): tight
    wide = Flow(Augment(torch.distributions.Normal(0.0, 2.0), 1) >> turn, StandardNormal()).double()
    logs = wide.log_prob(x.repeat(20000, 1)).view(20000, 5)
    truth = StandardNormal().log_prob(x)
    assert bool((logs.mean(0) < truth).all())
    torch.testing.assert_close(logs.logsumexp(0) - math.log(20000), truth, atol=0.03, rtol=0)


def test_they_stand_in_a_chain_that_samples() -> None:
    steps = Coupling(MLP(2, 4, hidden=8), 2, Affine("tanh"))
    flow = Flow(Augment(StandardNormal(), 1) >> steps >> ActNorm(4), StandardNormal(), shape=(3,))
    assert flow.log_prob(torch.randn(6, 3)).shape == (6,)
    assert flow.decode(torch.randn(6, 4)).shape == (6, 3)


class Odd(Bijector):
    def forward(self, x: Tensor, context: object = None) -> tuple[Tensor, Tensor]:
        return x, x.new_zeros(len(x))

    def inverse(self, y: Tensor, context: object = None) -> tuple[Tensor, Tensor]:
        return y[:, :1], y.new_zeros(len(y))


def test_errors() -> None:
    with pytest.raises(ValueError, match="Augment: channels must be at least 1"):
        Augment(StandardNormal(), 0)
    with pytest.raises(ValueError, match=r"Augment\(channels=2\): nothing is left of \(1, 2\)"):
        Augment(StandardNormal(), 2).inverse(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"the density drew .* expected 2 channels"):
        Augment(Flow(Odd(), StandardNormal()), 2)(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="Slice: keep must be at least 1"):
        Slice(0, StandardNormal())
    with pytest.raises(ValueError, match=r"Slice\(2\): there is nothing to drop of \(1, 2\)"):
        Slice(2, StandardNormal())(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"Slice\(2\): how many channels to draw is not known; pass drop="):
        Slice(2, StandardNormal()).inverse(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"Dequantize: density must be of numbers in \(0, 1\)"):
        Dequantize(256, density=Flow(ActNorm(2), StandardNormal()))


def test_no_generator_reaches_what_a_slice_restores() -> None:
    flow = flowkit.Flow(flowkit.Slice(2, flowkit.Normal(1)), flowkit.StandardNormal(), shape=(3,))
    with pytest.raises(ValueError, match=r"a Slice draws what it restores from torch's global generator"):
        flow.sample(3, generator=torch.Generator().manual_seed(0))
    draws = []
    for _ in range(2):
        torch.manual_seed(0)
        draws.append(flow.sample(3))
    assert torch.equal(*draws)
