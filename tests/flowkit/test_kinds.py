"""Elementwise maps: each formula against numpy, and the mixture's inverse and gradients."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowkit import (
    Additive,
    Affine,
    Autoregressive,
    Bernstein,
    Coupling,
    DeepDenseSigmoid,
    DeepSigmoid,
    Gaussianization,
    MixtureLogistic,
    Monotonic,
    RationalQuadratic,
    SumOfSquares,
)
from flowkit.kinds import Kind
from flowkit.nets import MADE, MLP

T, R = np.array([0.7, -1.2, 2.0]), np.array([0.5, -2.0, 3.0])
SCALES = {
    "atan": np.exp(0.318 * np.arctan(2 * R)),
    "sigmoid": 1 / (1 + np.exp(-(R + 2))) + 1e-4,
    "tanh": np.exp(2 / (1 + np.exp(-R)) - 1),
    "exp": np.exp(R),
    "soft": np.exp(3 * np.tanh(R / 3)),
    "softplus": np.log1p(np.exp(R)) + 1e-3,
}


def parameters(*columns: Any) -> torch.Tensor:
    """Columns of one number per channel to (1, C, P)."""
    return torch.tensor(np.stack(columns, -1))[None]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("order", ["shift_first", "scale_first"])
def test_affine_is_its_formula(scale: Any, order: Any) -> None:
    x = np.array([1.0, -2.0, 0.3])
    s = SCALES[scale]
    expected = (x + T) * s if order == "shift_first" else x * s + T
    y, logdet = Affine(scale, order).forward(torch.tensor(x)[None], parameters(T, R))
    np.testing.assert_allclose(y[0], expected, rtol=1e-12)
    np.testing.assert_allclose(logdet, [np.log(s).sum()], rtol=1e-12)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("order", ["shift_first", "scale_first"])
def test_inverted_swaps_the_directions(scale: Any, order: Any) -> None:
    x, p = torch.randn(2, 3).double(), parameters(T, R).expand(2, -1, -1)
    plain, inverted = Affine(scale, order), Affine(scale, order, inverted=True)
    torch.testing.assert_close(inverted.forward(x, p), plain.inverse(x, p))
    torch.testing.assert_close(inverted.inverse(x, p), plain.forward(x, p))


def test_affine_inverted_is_a_standardisation() -> None:
    a = np.array([1.0, -2.0, 0.3])
    kind = Affine("exp", "scale_first", inverted=True)
    z, logdet = kind.forward(torch.tensor(a)[None], parameters(T, R))
    np.testing.assert_allclose(z[0], (a - T) / np.exp(R), rtol=1e-12)
    np.testing.assert_allclose(logdet, [-R.sum()], rtol=1e-12)


def test_the_published_constants_are_arguments() -> None:
    x, p = torch.ones(1, 3).double(), parameters(T, R)
    for kind, expected in (
        (Affine("atan", clamp=0.5), 0.5 * np.arctan(2 * R)),
        (Affine("tanh", clamp=0.8), 0.8 * np.tanh(R / 2)),
        (Affine("soft", clamp=2.0, centre=-1.0), -1 + 2 * np.tanh((R + 1) / 2)),
        (Affine("sigmoid", offset=1.0, floor=0.1), np.log(1 / (1 + np.exp(-(R + 1))) + 0.1)),
        (Affine("sigmoid", offset=0.0, floor=0.0, factor=2.0), np.log(2 / (1 + np.exp(-R)))),
        (Affine("softplus", floor=0.1), np.log(np.log1p(np.exp(R)) + 0.1)),
    ):
        np.testing.assert_allclose(kind.forward(x, p)[1], [expected.sum()], rtol=1e-12)


@pytest.mark.parametrize("scale", ["atan", "sigmoid", "tanh", "soft"])
def test_clamped_scales_neither_vanish_nor_explode(scale: Any) -> None:
    p = torch.tensor([[[0.0, -1e4]], [[0.0, 1e4]]])
    kind = Affine(scale)
    x = kind.inverse(kind.forward(torch.ones(2, 1), p)[0], p)[0]
    torch.testing.assert_close(x, torch.ones(2, 1))
    slopes = kind.forward(torch.zeros(2, 1), p)[1].exp()
    assert float(slopes[0]) == pytest.approx(
        {"atan": 0.6068, "sigmoid": 1e-4, "tanh": 0.3679, "soft": 0.0498}[scale], rel=1e-3
    )


def test_additive_shifts() -> None:
    y, logdet = Additive().forward(torch.zeros(1, 3).double(), parameters(T))
    np.testing.assert_allclose(y[0], T)
    assert torch.equal(logdet, torch.zeros(1).double())
    np.testing.assert_allclose(Additive().inverse(y, parameters(T))[0], np.zeros((1, 3)), atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Affine("relu"), 'scale must be "atan", "sigmoid", "tanh", "exp", "soft" or "softplus", got \'relu\''),
        (lambda: Affine("soft", clamp=0.0), 'clamp of "soft" must be positive'),
        (lambda: Affine("sigmoid", factor=0.0), "factor must be positive"),
        (lambda: Affine("exp", "shift"), 'order must be "shift_first" or "scale_first", got \'shift\''),
        (lambda: RationalQuadratic(0), "bins must be at least 1, got 0"),
        (lambda: RationalQuadratic(2000), "2000 bins of the least size do not fit"),
        (lambda: RationalQuadratic(4, tail_bound=-1.0), "tail_bound"),
        (lambda: RationalQuadratic(4, min_slope=1.0), "min_slope"),
        (lambda: MixtureLogistic(0), "components"),
        (lambda: MixtureLogistic(2, offset=-0.1), "offset"),
    ],
)
def test_wrong_arguments(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("kind", "count"),
    [(Additive(), 1), (Affine(), 2), (RationalQuadratic(5), 14), (MixtureLogistic(4), 12)],
    ids=str,
)
def test_parameters_per_channel(kind: Kind, count: int) -> None:
    assert kind.parameters == count


def mixture_by_hand(x: np.ndarray, weights: np.ndarray, means: np.ndarray, log_scales: np.ndarray) -> np.ndarray:
    cdf = (weights / (1 + np.exp(-(x[:, None] - means) / np.exp(log_scales)))).sum(-1)
    return np.log(cdf / (1 - cdf))


def test_mixture_is_the_logit_of_its_cdf() -> None:
    logits, means, log_scales = (
        np.array([0.0, 1.0, -1.0]),
        np.array([-1.0, 0.5, 2.0]),
        np.array([0.0, -0.7, 0.4]),
    )
    weights = np.exp(logits) / np.exp(logits).sum()
    x = np.linspace(-4, 4, 17)
    p = torch.tensor(np.concatenate([logits, means, log_scales])).expand(1, 17, 9)
    y, logdet = MixtureLogistic(3, offset=0).forward(torch.tensor(x)[None], p)
    offset, _ = MixtureLogistic(3).forward(torch.tensor(x)[None], p)
    np.testing.assert_allclose(
        offset[0], mixture_by_hand(x, weights, means + np.array([-0.1, 0, 0.1]), log_scales), rtol=1e-9
    )
    np.testing.assert_allclose(y[0], mixture_by_hand(x, weights, means, log_scales), rtol=1e-9)
    h = 1e-6
    slope = (
        mixture_by_hand(x + h, weights, means, log_scales) - mixture_by_hand(x - h, weights, means, log_scales)
    ) / (2 * h)
    np.testing.assert_allclose(logdet, [np.log(slope).sum()], rtol=1e-6)


def test_mixture_of_zeros_is_the_identity() -> None:
    x = torch.linspace(-8, 8, 33).double()[None]
    for kind in (MixtureLogistic(3, offset=0), MixtureLogistic(1)):
        y, logdet = kind.forward(x, torch.zeros(1, 33, kind.parameters).double())
        torch.testing.assert_close(y, x)
        torch.testing.assert_close(logdet, torch.zeros(1).double(), atol=1e-12, rtol=0)


def test_mixture_of_zeros_is_nearly_the_identity_with_offsets() -> None:
    x = torch.linspace(-8, 8, 33).double()[:, None]
    for components in (2, 3, 8):
        kind = MixtureLogistic(components)
        y, logdet = kind.forward(x, torch.zeros(33, 1, kind.parameters).double())
        torch.testing.assert_close(y, x, atol=6e-3, rtol=0)
        torch.testing.assert_close(logdet, torch.zeros(33).double(), atol=6e-3, rtol=0)


@pytest.mark.parametrize("components", [2, 4, 7])
def test_no_two_components_are_equal_after_one_step_from_the_start(components: int) -> None:
    """Without offsets a network whose last layer is zero leaves the mixture one component for ever."""
    torch.manual_seed(0)
    x = torch.cat([torch.randn(200, 2) - 2, torch.randn(200, 2) + 2])
    for offset, parts in ((0.1, True), (0.0, False)):
        kind = MixtureLogistic(components, offset=offset)
        net = MLP(1, kind.parameters, 8)
        y, logdet = Coupling(net, 1, kind)(x)
        (y.square().sum(1) / 2 - logdet).mean().backward()
        torch.optim.SGD(net.parameters(), 0.1).step()
        logits, means, log_scales = net(x[:, :1])[0].detach().chunk(3)
        raw = torch.stack([logits, means, log_scales], 1)
        distances = torch.cdist(raw, raw) + torch.eye(components)
        assert bool(distances.min() > 1e-6) == parts


@given(seed=st.integers(0, 2**16), components=st.integers(1, 5), spread=st.floats(0.1, 5.0))
def test_mixture_inverts_to_the_stated_tolerance(seed: int, components: int, spread: float) -> None:
    torch.manual_seed(seed)
    p = torch.randn(4, 3, 3 * components).double()
    p[..., components : 2 * components] *= spread
    y = 3 * torch.randn(4, 3).double()
    kind = MixtureLogistic(components, offset=0)
    alone = p[..., components : 2 * components] + p[..., 2 * components :].exp() * y[..., None]
    bracket = (alone.amax(-1) - alone.amin(-1)).clamp_min(1.0)
    exact = kind.inverse(y, p)[0]
    slope = torch.autograd.functional.jacobian(lambda x: kind.forward(x, p)[0].sum(), exact)
    residual = (kind.forward(exact, p)[0] - y).abs() / slope  # the error of x, to first order
    assert bool((residual <= 1e-9 * bracket).all())
    rounded = kind.inverse(y.float(), p.float())[0]
    assert bool(((rounded - exact).abs() <= 1e-5 * bracket * (1 + 1 / slope)).all())


def test_the_mixtures_inverse_has_the_implicit_gradient() -> None:
    torch.manual_seed(0)
    kind = MixtureLogistic(3)
    y = (2 * torch.randn(2, 2).double()).requires_grad_()
    p = torch.randn(2, 2, 9).double().requires_grad_()
    for function in (kind.forward, kind.inverse):
        assert torch.autograd.gradcheck(function, (y, p), eps=1e-6, atol=1e-6)
        assert torch.autograd.gradgradcheck(function, (y, p), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [3.0, 8.0, 15.0])
def test_mixture_is_finite_at_wild_parameters(dtype: torch.dtype, spread: float) -> None:
    """The slope between two narrow components underflows: a Newton step there would leave the bracket for infinity."""
    torch.manual_seed(0)
    kind = MixtureLogistic(3)
    p = (spread * torch.randn(20_000, 1, 9)).to(dtype).requires_grad_()
    y = (3 * torch.randn(20_000, 1)).to(dtype).requires_grad_()
    for function in (kind.forward, kind.inverse):
        value, logdet = function(y, p)
        assert value.isfinite().all()
        assert logdet.isfinite().all()
    x, logdet = kind.inverse(y, p)
    alone = p[..., 3:6] + torch.linspace(-0.1, 0.1, 3) + p[..., 6:].exp() * y[..., None]
    slack = 1e-5 * alone.abs().amax(-1)
    assert bool(((x >= alone.amin(-1) - slack) & (x <= alone.amax(-1) + slack)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mixture_keeps_huge_and_infinite_numbers(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    kind = MixtureLogistic(3)
    x = torch.tensor([3e38, -3e38, 1e30, -1e30, math.inf, -math.inf], dtype=dtype).repeat(200)[:, None]
    p = torch.randn(1200, 1, 9).to(dtype)
    for function in (kind.forward, kind.inverse):
        y, logdet = function(x, p)
        assert not y.isnan().any()
        assert torch.equal(y.sign(), x.sign())
        assert bool(y[x.isinf()].isinf().all())
        assert logdet.isfinite().all()
        widest = p[..., 6:].amax(-1)[:, 0]
        torch.testing.assert_close(logdet, -widest if function == kind.forward else widest, rtol=1e-5, atol=1e-4)
    y, there = kind.forward(x, p)
    back, logdet = kind.inverse(y, p)
    kept = y.isfinite()
    torch.testing.assert_close(back[kept], x[kept])
    torch.testing.assert_close(logdet, -there)
    nan = torch.full((1, 1), math.nan, dtype=dtype)
    assert all(bool(f(nan, p[:1])[0].isnan().all()) for f in (kind.forward, kind.inverse))


def test_soft_has_slope_one_at_its_centre_and_stays_within_its_clamp() -> None:
    for clamp, centre in ((3.0, 0.0), (0.5, -2.0)):
        kind = Affine("soft", clamp=clamp, centre=centre)
        raw = torch.tensor([centre, centre + 1e-4, -1e6, 1e6]).double()[:, None, None]
        logs = kind.forward(torch.zeros(4, 1).double(), torch.cat([torch.zeros_like(raw), raw], 2))[1]
        torch.testing.assert_close(logs[:2], raw[:2].flatten(), atol=1e-11, rtol=0)
        torch.testing.assert_close(logs[2:], torch.tensor([centre - clamp, centre + clamp]).double())
        wanted = torch.tensor([centre - 0.9 * clamp, centre, centre + 0.5 * clamp]).double()
        raw = kind.raw_of(wanted)[:, None, None]
        logs = kind.forward(torch.zeros(3, 1).double(), torch.cat([torch.zeros_like(raw), raw], 2))[1]
        torch.testing.assert_close(logs, wanted)


def test_softplus_never_comes_below_its_floor() -> None:
    kind = Affine("softplus")
    p = torch.tensor([[[0.0, -1e4]], [[0.0, 30.0]]], dtype=torch.float64)
    slopes = kind.forward(torch.zeros(2, 1, dtype=torch.float64), p)[1].exp()
    expected = torch.tensor([1e-3, 30.001 + math.exp(-30)], dtype=torch.float64)
    torch.testing.assert_close(slopes, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mixture_is_finite_in_the_far_tails(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    kind = MixtureLogistic(3)
    x = torch.tensor([[-1e3, -100.0, 100.0, 1e3]], dtype=dtype, requires_grad=True)
    p = torch.randn(1, 4, 9, dtype=dtype, requires_grad=True)
    for function in (kind.forward, kind.inverse):
        y, logdet = function(x, p)
        assert y.isfinite().all()
        assert logdet.isfinite().all()
        for gradient in torch.autograd.grad(y.sum() + logdet.sum(), (x, p)):
            assert gradient.isfinite().all()
    back = kind.inverse(kind.forward(x, p)[0], p)[0]
    torch.testing.assert_close(back, x, rtol=1e-5, atol=1e-3)


ALIKE = [
    Additive(),
    *(
        Affine(scale, order, inverted)  # type: ignore[arg-type]
        for scale in SCALES
        for order in ("shift_first", "scale_first")
        for inverted in (False, True)
    ),
    *(RationalQuadratic(3, 2.0, ends=ends) for ends in ("linear", "box", "circular")),  # type: ignore[arg-type]
    MixtureLogistic(2),
    DeepSigmoid(3),
    DeepDenseSigmoid(2, 2),
    SumOfSquares(2, 2),
    Bernstein(4),
    Gaussianization(2),
    Monotonic(2),
]


@pytest.mark.parametrize("kind", ALIKE, ids=str)
def test_a_channel_alone_is_solved_as_among_others(kind: Kind) -> None:
    torch.manual_seed(0)
    y, p = torch.randn(4, 3).double(), torch.randn(4, 3, kind.parameters).double()
    assert kind.alike
    expected = kind.inverse(y, p)[0]
    torch.testing.assert_close(kind.solve(y, p), expected)
    each = [kind.solve(y[:, i : i + 1], p[:, i : i + 1]) for i in range(3)]
    torch.testing.assert_close(torch.cat(each, 1), expected)


def test_a_kind_that_moves_its_channels_otherwise_inherits_no_shortcut() -> None:
    class Shifted(Affine):
        def forward(self, x: torch.Tensor, parameters: torch.Tensor) -> Any:
            return super().forward(x + torch.arange(x.shape[1]), parameters)

        def inverse(self, y: torch.Tensor, parameters: torch.Tensor) -> Any:
            x, logdet = super().inverse(y, parameters)
            return x - torch.arange(x.shape[1]), logdet

    kind, y, p = Shifted(), torch.randn(4, 3), torch.randn(4, 3, 2)
    torch.testing.assert_close(kind.solve(y, p), kind.inverse(y, p)[0])
    assert not kind.alike
    b = Autoregressive(MADE(3, 2, 8), kind)
    with torch.no_grad():
        torch.testing.assert_close(b(b.inverse(y)[0])[0], y)
