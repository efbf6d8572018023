"""Splines that live in a box or on a circle, and those that start as the identity."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

import flowkit
from flowkit import Coupling, RationalQuadratic
from flowkit.nets import MLP


def parameters(kind: RationalQuadratic, rows: int, spread: float = 1.5) -> Tensor:
    torch.manual_seed(0)
    return spread * torch.randn(1, 1, kind.parameters).double().expand(rows, -1, -1)


def grid(low: float, high: float, n: int) -> Tensor:
    """The middles of n cells of an interval, one a row."""
    edges = torch.linspace(low, high, n + 1).double()
    return ((edges[1:] + edges[:-1]) / 2)[:, None]


@pytest.mark.parametrize(("ends", "count"), [("linear", 14), ("box", 16), ("circular", 16)])
def test_parameters_and_support(ends: Any, count: int) -> None:
    kind = RationalQuadratic(5, 2.0, ends=ends)
    assert kind.parameters == count
    expected = {
        "linear": constraints.real,
        "box": constraints.interval(-2.0, 2.0),
        "circular": constraints.half_open_interval(-2.0, 2.0),
    }[ends]
    assert str(kind.support) == str(expected)
    for flip in (False, True):
        b = Coupling(MLP(1, 16), 1, kind, flip)
        inside = b.domain.check(torch.full((1, 2), 5.0))[0].tolist()
        assert inside == ([True, True] if ends == "linear" else [not flip, flip])


@pytest.mark.parametrize("ends", ["box", "circular"])
def test_a_uniform_base_gives_a_density_of_one(ends: Any) -> None:
    kind = RationalQuadratic(5, 2.0, ends=ends)
    x = grid(-2, 2, 20_000)
    _, logdet = kind.forward(x, parameters(kind, len(x)))
    assert float(logdet.exp().mean()) == pytest.approx(1, abs=1e-6)  # ∫ y′/4 over 4


def test_a_box_goes_onto_itself_with_slopes_of_its_own_at_both_ends() -> None:
    kind = RationalQuadratic(4, 2.0, ends="box")
    x = torch.tensor([[-2.0], [2.0]]).double()
    p = parameters(kind, 2)
    y, logdet = kind.forward(x, p)
    torch.testing.assert_close(y, x)
    expected = (1e-3 + torch.nn.functional.softplus(p[0, 0, [8, 12]])).log()
    torch.testing.assert_close(logdet, expected)
    for method in (kind.forward, kind.inverse):
        argument = x.clone().requires_grad_()
        y, logdet = method(argument, p)
        sign = 1 if method == kind.forward else -1
        torch.testing.assert_close(torch.autograd.grad(y.sum(), argument)[0].log()[:, 0], logdet)
        torch.testing.assert_close(logdet, sign * expected)


def test_numbers_outside_of_a_box_have_no_density_and_finite_gradients() -> None:
    kind = RationalQuadratic(4, 2.0, ends="box")
    x = torch.tensor([[-2.5], [2.001], [math.inf], [1.0]], requires_grad=True)
    p = parameters(kind, 4).float().requires_grad_()
    for method in (kind.forward, kind.inverse):
        y, logdet = method(x, p)
        assert y[:3].flatten().tolist() == [-2, 2, 2]
        assert logdet.isneginf().tolist() == [True, True, True, False]
        for gradient in torch.autograd.grad(y.sum() + logdet[3], (x, p)):
            assert gradient.isfinite().all()
    assert kind.forward(torch.tensor([[math.nan]]), p[:1])[0].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_long_chain_never_leaves_its_box_or_circle(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for ends in ("box", "circular"):
        kind = RationalQuadratic(5, math.pi, ends=ends)
        x = (2 * math.pi * torch.rand(5000, 1) - math.pi).to(dtype)
        x[:3, 0] = torch.tensor([-math.pi, 0.0, math.nextafter(math.pi, 0)]).to(dtype)
        x = x.clamp(-math.pi, math.pi)
        for _ in range(20):
            p = 3 * torch.randn(5000, 1, kind.parameters).to(dtype)
            x, logdet = kind.forward(x, p)
            assert kind.support.check(x).all()
            assert logdet.isfinite().all()
            x, logdet = kind.inverse(x, p.roll(1, 0))
            assert kind.support.check(x).all()
            assert logdet.isfinite().all()


def test_a_circular_spline_is_smooth_across_the_seam() -> None:
    kind = RationalQuadratic(4, 2.0, ends="circular")
    p = parameters(kind, 2)
    y, _ = kind.forward(torch.tensor([[-2.0], [2.0 - 1e-9]]).double(), p)
    turn = (y[1] - y[0] + 2) % 4 - 2
    assert abs(float(turn)) < 1e-7
    slopes = [kind.forward(torch.tensor([[v]]).double(), p[:1])[1] for v in (-2.0, 2.0 - 1e-9)]
    torch.testing.assert_close(slopes[0], slopes[1], atol=1e-6, rtol=0)


def test_equal_angles_are_one_angle() -> None:
    kind = RationalQuadratic(4, math.pi, ends="circular")
    x = grid(-3, 3, 50)
    p = parameters(kind, 50)
    for method in (kind.forward, kind.inverse):
        for turns in (-1, 1, 7):
            torch.testing.assert_close(method(x + 2 * math.pi * turns, p), method(x, p), rtol=1e-9, atol=1e-9)


def test_the_last_parameter_turns_y() -> None:
    kind = RationalQuadratic(4, math.pi, ends="circular")
    x, p = grid(-3, 3, 50), parameters(kind, 50).clone()
    y, logdet = kind.forward(x, p)
    p[..., -1] += 1.0
    turned, same = kind.forward(x, p)
    torch.testing.assert_close((turned - y) % (2 * math.pi), torch.ones_like(y))
    assert torch.equal(same, logdet)


@pytest.mark.parametrize("ends", ["linear", "box", "circular"])
def test_zero_parameters_are_the_identity_if_asked(ends: Any) -> None:
    x = grid(-2.9, 2.9, 40)
    for identity in (True, False):
        kind = RationalQuadratic(4, 3.0, ends=ends, identity=identity)
        zeros = torch.zeros(40, 1, kind.parameters).double()
        for method in (kind.forward, kind.inverse):
            y, logdet = method(x, zeros)
            assert torch.allclose(y, x, atol=1e-12) == identity
            assert torch.allclose(logdet, torch.zeros(40).double(), atol=1e-12) == identity


def test_a_flow_of_angles_learns_two_directions() -> None:
    """Two modes, one of them on the seam: the fit is close to the entropy, and no draw leaves the circle."""
    torch.manual_seed(0)
    noise = torch.distributions.VonMises(0.0, 20.0).sample((500, 2))
    modes = math.pi * torch.randint(0, 2, (500, 1)) + noise
    angles = (modes + math.pi) % (2 * math.pi) - math.pi
    kind = RationalQuadratic(8, math.pi, ends="circular")
    b = flowkit.Chain(*(Coupling(MLP(1, kind.parameters, 16), 1, kind, flip) for flip in (False, True) * 2))
    optimizer = torch.optim.Adam(b.parameters(), 0.03)
    for _ in range(100):
        loss = 2 * math.log(2 * math.pi) - b(angles)[1].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    own = -torch.distributions.VonMises(0.0, 20.0).log_prob(noise).mean()
    assert float(loss.detach()) < math.log(2) + 2 * float(own) + 0.2  # both angles share their mode
    drawn = b.inverse(2 * math.pi * torch.rand(1000, 2) - math.pi)[0]
    assert bool((drawn.abs() <= math.pi).all())
    shares = [float((drawn[:, 0].abs() < math.pi / 2).float().mean()), float((drawn[:, 0] > 0).float().mean())]
    assert all(0.4 < share < 0.6 for share in shares)


def test_unknown_ends_are_refused() -> None:
    with pytest.raises(ValueError, match='ends must be "linear", "box" or "circular", got \'torus\''):
        RationalQuadratic(4, ends="torus")  # type: ignore[arg-type]
