"""Autoregressive maps and MADE: who sees whom, both inverses, their gradients, and what is refused."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flowkit
from flowkit import Additive, Affine, Autoregressive, Flow, MixtureLogistic, RationalQuadratic, StandardNormal, sweeps
from flowkit.kinds import Kind
from flowkit.nets import MADE
from flowkit.testing import check_bijector, perturb

SIZES = [1, 2, 7, 64]
KINDS: list[Kind] = [Additive(), Affine("softplus"), RationalQuadratic(4, 3.0), MixtureLogistic(2)]


def made(features: int, kind: Kind, context: int = 0, order: Any = None, **options: Any) -> Autoregressive:
    inverse = options.pop("inverse", "sequential")
    net = MADE(features, kind.parameters, max(8, 2 * features), 1, context, **options)
    return perturb(Autoregressive(net, kind, order, inverse), 0.5).double()  # type: ignore[return-value]


def connections(net: MADE) -> tuple[Tensor, Tensor]:
    """How many paths there are from each input, and from the context, to each output of a MADE, by its masks."""

    def through(layer: Any, paths: Tensor) -> Tensor:
        return layer.mask.double() @ paths

    def outputs(h: Tensor) -> Tensor:
        for block in net.blocks:
            layers = [block.linear1, block.linear2] if net.residual else [block.linear]
            inner = h
            for layer in layers:
                inner = through(layer, inner)
            h = h + inner if net.residual else inner
        return through(net.last, h)

    hidden = net.first.out_features
    return outputs(net.first.mask.double()), outputs(torch.ones(hidden, 1).double())


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("features", SIZES)
def test_every_output_sees_all_inputs_before_it_and_no_other(features: int, context: int, residual: bool) -> None:
    narrowest = max(1, features if context else features - 1)
    paths, of_context = connections(MADE(features, 2, narrowest, 2, context, residual))
    number = torch.arange(features)
    expected = (number[:, None] > number).repeat_interleave(2, 0)
    assert torch.equal(paths > 0, expected)
    assert not context or bool((of_context > 0).all())


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("features", [1, 2, 7])
def test_the_jacobian_is_triangular_in_the_order(features: int, kind: Kind) -> None:
    torch.manual_seed(features)
    order = torch.randperm(features)
    b = made(features, kind, 2, order)
    x, context = torch.randn(1, features).double(), torch.randn(1, 2).double()
    for method in (b, b.inverse):
        jacobian = torch.autograd.functional.jacobian(lambda x, m=method: m(x, context)[0][0], x)[:, 0]
        ordered = jacobian[order][:, order]
        assert torch.equal(ordered.triu(1), torch.zeros_like(ordered))
        assert (ordered.diagonal() > 0).all()
        assert features == 1 or ordered.tril(-1).count_nonzero() == features * (features - 1) // 2
        logdet = method(x, context)[1]
        torch.testing.assert_close(logdet[0], ordered.diagonal().log().sum())


def test_in_64_dimensions_everything_earlier_moves_everything_later() -> None:
    torch.manual_seed(0)
    b = made(64, Affine("softplus"), 3, activation=torch.tanh)
    x, context = torch.randn(1, 64).double(), torch.randn(1, 3).double()
    by_x, by_context = torch.autograd.functional.jacobian(lambda *args: b(*args)[0][0], (x, context))
    assert torch.equal(by_x[:, 0].triu(1), torch.zeros(64, 64).double())
    assert by_x[:, 0].tril().count_nonzero() == 64 * 65 // 2
    assert (by_context[:, 0] != 0).all()


@pytest.mark.parametrize("inverse", ["sequential", "jacobi"])
@pytest.mark.parametrize("features", SIZES)
def test_round_trip(features: int, inverse: Any) -> None:
    torch.manual_seed(0)
    b = made(features, Affine("softplus"), 2, inverse=inverse)
    x, context = torch.randn(5, features).double(), torch.randn(5, 2).double()
    y, logdet = b(x, context)
    with torch.no_grad():
        back, back_logdet = b.inverse(y, context)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(back_logdet, -logdet, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("features", "kind"),
    [
        *((1, kind) for kind in KINDS),
        *((3, kind) for kind in KINDS[:2]),
        *(pytest.param(3, kind, marks=pytest.mark.slow) for kind in KINDS[2:]),  # the registry has such rows
    ],
    ids=str,
)
def test_the_laws_hold(features: int, kind: Kind) -> None:
    torch.manual_seed(1)
    net = MADE(features, kind.parameters, 6, 1, context_features=2, activation=torch.nn.functional.silu)
    b = Autoregressive(net, kind, range(features)[::-1], "jacobi")
    check_bijector(b, torch.randn(2, features), torch.randn(2, 2))


SMALL = 1e-13
"""A loss in small units: whatever stops by a value must not take its gradients for zero."""


def outcome(b: Any, y: Tensor, context: Tensor, through_all: bool, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """x, log-det, first derivatives by all there is, and second ones along a direction."""
    monkeypatch.setattr(sweeps, "unreadable", lambda x: through_all)
    y, context = y.clone().requires_grad_(), context.clone().requires_grad_()
    x, logdet = b.inverse(y, context)
    scalar = (x.sin().sum() + logdet.square().sum()) * SMALL
    inputs = [y, context, *(p for p in b.parameters() if p.requires_grad)]
    first = torch.autograd.grad(scalar, inputs, create_graph=True)
    second = torch.autograd.grad(sum((g.cos() * g).sum() for g in first), inputs)
    return [x, logdet, *first, *second]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("inverse", ["sequential", "jacobi"])
def test_both_derivatives_are_those_through_all_passes(
    kind: Kind, inverse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    b = made(5, kind, 2, [3, 0, 4, 1, 2], activation=torch.nn.functional.silu, inverse=inverse)
    y, context = torch.randn(3, 5).double(), torch.randn(3, 2).double()
    got = outcome(b, y, context, False, monkeypatch)
    want = outcome(b, y, context, True, monkeypatch)
    assert max(float(g.detach().abs().max()) for g in want[2:4]) > 1e-2 * SMALL
    torch.testing.assert_close(got[:2], want[:2])
    torch.testing.assert_close(got[2:], want[2:], rtol=1e-6, atol=1e-7 * SMALL)


def test_gradients_against_differences() -> None:
    torch.manual_seed(0)
    b = made(4, Affine("tanh"), 2, activation=torch.tanh, inverse="jacobi")
    y, context = torch.randn(2, 4).double().requires_grad_(), torch.randn(2, 2).double().requires_grad_()
    names = ["net.first.weight", "net.last.bias"]
    parameters = [b.get_parameter(name).detach().requires_grad_() for name in names]

    def inverse(y: Tensor, context: Tensor, *parameters: Tensor) -> Any:
        state = dict(zip(("bijector." + name for name in names), parameters, strict=True))
        return torch.func.functional_call(b.inv, state, (y, context))

    assert torch.autograd.gradcheck(inverse, (y, context, *parameters))
    assert torch.autograd.gradgradcheck(b.inverse, (y, context))


def test_what_wants_no_gradient_gets_none() -> None:
    b = made(3, Affine()).requires_grad_(False)
    assert not b.inverse(torch.randn(2, 3).double())[0].requires_grad


class Cascade(nn.Module):
    """Shift of each number: a hundred times the one before."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.calls = 0

    def forward(self, x: Tensor, context: Any = None) -> Tensor:
        self.calls += 1
        shift = -self.factor * nn.functional.pad(x[:, :-1], (1, 0))
        return torch.stack([shift, torch.zeros_like(shift)], 2).flatten(1)


def test_jacobi_stops_when_nothing_moves_and_sequential_does_not() -> None:
    calls = {}
    for inverse in ("sequential", "jacobi"):
        net = Cascade(1e-3)
        b = Autoregressive(net, Affine("exp"), inverse=inverse)  # type: ignore[arg-type]
        x = torch.randn(4, 64)
        y = b(x)[0]
        net.calls = 0
        torch.testing.assert_close(b.inverse(y)[0], x)
        calls[inverse] = net.calls
    assert calls["sequential"] == 64
    assert calls["jacobi"] < 8


def test_jacobi_never_stops_too_early_and_never_after_d_passes() -> None:
    net = Cascade(100.0)
    b = Autoregressive(net, Affine("exp"), inverse="jacobi")
    x = torch.ones(2, 12).double()
    x[:, 1:] = 0.5  # every number matters to the last
    y = b(x)[0]
    net.calls = 0
    torch.testing.assert_close(b.inverse(y)[0], x)
    assert net.calls <= 13


class Steep(nn.Module):
    """Log-scale of each number: −800 times the one before, so that one that is still 0 lets the next overflow."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = torch.ones(4, 4).double().tril(-1).diagonal_scatter(-800 * torch.ones(3).double(), -1)

    def forward(self, x: Tensor, context: Any = None) -> Tensor:
        raw = x @ (self.mask * (self.mask < 0)).T  # as in MADE: 0 times what comes after
        return torch.stack([torch.zeros_like(raw), raw], 2).flatten(1)


@pytest.mark.parametrize("inverse", ["sequential", "jacobi"])
def test_what_overflows_on_the_way_does_not_poison_the_rest(inverse: Any) -> None:
    b = Autoregressive(Steep(), Affine("exp", "scale_first"), inverse=inverse)
    x = torch.tensor([[-0.85, 0.3, 0.2, 0.5]]).double()
    y = b(x)[0]
    assert y.isfinite().all()
    with torch.no_grad():
        torch.testing.assert_close(b.inverse(y)[0], x)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("inverse", ["sequential", "jacobi"])
def test_what_is_not_finite_stays_so_and_in_its_row(bad: float, inverse: Any) -> None:
    b = made(5, Affine(), inverse=inverse)
    y = torch.randn(3, 5).double()
    expected = b.inverse(y)[0]
    y[1, 2] = bad
    x, _ = b.inverse(y)
    assert not x[1].isfinite().all()
    torch.testing.assert_close(x[[0, 2]], expected[[0, 2]])


@dataclass(frozen=True)
class FirstIsAdded(Affine):
    """Affine, but channel 0 is shifted only, and channel 2 passes."""

    def counts(self, channels: int) -> tuple[int, ...]:
        return (1, 2, 0, *[2] * channels)[:channels]


def test_channels_may_need_different_numbers_of_parameters() -> None:
    torch.manual_seed(0)
    kind, order = FirstIsAdded("tanh"), [3, 0, 2, 1]
    net = MADE(4, [kind.counts(4)[i] for i in order], 8, 1, 2)
    b = perturb(Autoregressive(net, kind, order, "jacobi"))
    y = b(torch.zeros(1, 4), torch.ones(1, 2))[0]
    assert y[0, 2] == 0
    assert (y[0, [0, 1, 3]] != 0).all()
    check_bijector(b, torch.randn(2, 4), torch.randn(2, 2))


def test_an_inverse_autoregressive_flow_draws_in_one_pass() -> None:
    torch.manual_seed(0)
    net = MADE(6, 2)
    flow = Flow(perturb(Autoregressive(net, Affine("softplus"), inverse="jacobi")).inv, StandardNormal())
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    x, log_prob = flow.sample_and_log_prob(7)
    assert len(calls) == 1
    assert x.shape == (7, 6)
    torch.testing.assert_close(flow.log_prob(x), log_prob, atol=1e-4, rtol=1e-4)


def test_channels_of_an_image_and_tokens_are_items_too() -> None:
    """Items lie along the channels; what else is there, pixels or features of a token, may be seen as a whole."""

    class Earlier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(6, 6)

        def forward(self, x: Tensor, context: Any = None) -> Tensor:
            before = nn.functional.pad(x.cumsum(1)[:, :-1].flatten(2), (0, 0, 1, 0))
            shift = self.mix(before).view(x.shape)
            return torch.stack([shift, shift.sin()], 2).flatten(1, 2)

    torch.manual_seed(0)
    b = Autoregressive(Earlier(), Affine("tanh"), inverse="jacobi")
    check_bijector(b, torch.randn(2, 4, 6))
    check_bijector(b, torch.randn(2, 4, 2, 3))


def test_in_a_reversible_chain() -> None:
    torch.manual_seed(0)
    parts = [made(4, Affine("tanh"), 2, inverse="jacobi"), made(4, Affine("tanh"), 2, [3, 2, 1, 0])]
    x, context = torch.randn(3, 4).double(), torch.randn(3, 2).double()
    grads = []
    for chain in (flowkit.Chain(*parts), flowkit.Reversible(flowkit.Chain(*parts))):
        y, logdet = chain(x, context)
        grads.append(torch.autograd.grad(y.sin().sum() + logdet.sum(), list(parts[0].parameters())))
    for g, w in zip(*grads, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MADE(64, 2, 32), "hidden=32 is too narrow for every dependence among 64 features; take at least 63"),
        (lambda: MADE(8, 2, 7, context_features=1), "8 features and a context; take at least 8"),
        (lambda: MADE(0, 2), "features must be at least 1, got 0"),
        (lambda: MADE(3, [2, 1]), r"one for each of 3, got \[2, 1\]"),
        (lambda: Autoregressive(MADE(2, 2), Affine(), inverse="newton"), 'must be "sequential" or "jacobi"'),  # type: ignore[arg-type]
        (lambda: Autoregressive(MADE(2, 2), Affine(), [0, 0]), "is not a permutation"),
        (lambda: Autoregressive(MADE(2, 2), Affine(), [0, 2, 1]), "an order of 3 channels, but the net takes 2"),
        (lambda: Autoregressive(MADE(2, 3), Affine())(torch.zeros(1, 2)), r"needs \(1, 4\) \(2 parameters per channel"),
        (lambda: Autoregressive(MADE(2, 2), Affine())(torch.zeros(1, 3)), "expected 2 channels"),
        (lambda: Autoregressive(MADE(2, 2, context_features=1), Affine())(torch.zeros(1, 2)), "expected a context"),
    ],
)
def test_what_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
    with pytest.raises(TypeError, match="Autoregressive: kind must be"):
        Autoregressive(MADE(2, 2), nn.Identity())  # type: ignore[arg-type]
