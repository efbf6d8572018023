"""MADE number by number: the steps of a draw say what passes say, and passes are taken where they could not."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit import Affine, Autoregressive, MixtureLogistic, RationalQuadratic
from flowkit.kinds import Kind
from flowkit.nets import MADE, MaskedLinear
from flowkit.testing import perturb

KINDS: list[Kind] = [Affine("softplus"), RationalQuadratic(4, 3.0), MixtureLogistic(2)]


def made(features: int, context: int = 0, **options: Any) -> MADE:
    return perturb(MADE(features, 2, max(8, 2 * features), 2, context, **options), 0.5).double()  # type: ignore[return-value]


def by_passes(b: Autoregressive, y: Tensor, context: Any = None) -> Tensor:
    """x from D full passes, each number taken from the first pass that knows it."""
    x = torch.zeros_like(y)
    with torch.no_grad():
        for _ in range(y.shape[1]):
            x = b.kind.inverse(y, b.net(x, context).unflatten(1, (y.shape[1], -1)))[0]
    return x


class Calls:
    """Counts the calls of a class's forward, which no hook would tell: hooks change how a draw is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, forward = 0, MADE.forward

        def counted(net: MADE, *args: Any) -> Tensor:
            self.count += 1
            return forward(net, *args)

        monkeypatch.setattr(MADE, "forward", counted)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("features", [1, 2, 7])
def test_steps_give_the_parameters_of_a_pass(features: int, context: int, residual: bool) -> None:
    net = made(features, context, residual=residual, activation=partial(F.leaky_relu, negative_slope=0.3))
    x, given = torch.randn(5, features).double(), torch.randn(5, context).double() if context else None
    with torch.no_grad():
        after = net.decoder(x, given)
        assert after is not None
        steps = [after(number) for number in [None, *x.split(1, 1)][:-1]]
        torch.testing.assert_close(torch.cat(steps, 1), net(x, given))


def test_numbers_may_have_different_numbers_of_parameters_and_none() -> None:
    net = perturb(MADE(3, [2, 0, 1], 8), 0.5).double()
    x = torch.randn(4, 3).double()
    with torch.no_grad():
        after = net.decoder(x)
        steps = [after(number) for number in (None, x[:, :1], x[:, 1:2])]
        torch.testing.assert_close(torch.cat(steps, 1), net(x))
    assert [step.shape[1] for step in steps] == [2, 0, 1]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_draw_calls_no_pass_and_gradients_three(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    net = perturb(MADE(6, kind.parameters, 16), 0.5).double()
    b, y = Autoregressive(net, kind), torch.randn(3, 6).double()
    expected, calls = by_passes(b, y), Calls(monkeypatch)
    with torch.no_grad():
        x, logdet = b.inverse(y)
        assert calls.count == 0
        torch.testing.assert_close(x, expected)
        torch.testing.assert_close(logdet, -b(x)[1])
    calls.count = 0
    assert b.inverse(y)[0].requires_grad
    assert calls.count == 3


def shifted(net: MADE) -> MADE:
    net.register_forward_hook(lambda module, args, out: out + 0.1)
    return net


def pre_shifted(net: MADE) -> MADE:
    net.blocks[0].linear1.register_forward_pre_hook(lambda module, args: (args[0] * 1.1,))  # type: ignore[union-attr, operator]
    return net


def patched(net: MADE) -> MADE:
    forward = net.forward
    net.forward = lambda x, context=None: forward(x, context).tanh()  # type: ignore[method-assign]
    return net


def patched_within(net: MADE) -> MADE:
    layer = net.first
    layer.forward = lambda x: MaskedLinear.forward(layer, x).tanh()  # type: ignore[method-assign]
    return net


class Doubled(MaskedLinear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def replaced(net: MADE) -> MADE:
    layer = Doubled(net.last.mask).double()
    layer.load_state_dict(net.last.state_dict())
    net.last = layer
    return net


def parametrized(net: MADE) -> MADE:
    nn.utils.parametrizations.weight_norm(net.first)
    return net


class Halved(MADE):
    def forward(self, x: Tensor, context: Any = None) -> Tensor:
        return super().forward(x, context) / 2


def subclassed(net: MADE) -> MADE:
    other = Halved(net.features, 2, net.first.out_features, 2).double()
    other.load_state_dict(net.state_dict())
    return other


CHANGES = [shifted, pre_shifted, patched, patched_within, replaced, parametrized, subclassed]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changes_a_net_changes_its_draws(change: Callable[[MADE], MADE], monkeypatch: pytest.MonkeyPatch) -> None:
    b = Autoregressive(change(made(5)), Affine("softplus"))
    y = torch.randn(4, 5).double()
    expected, calls = by_passes(b, y), Calls(monkeypatch)
    with torch.no_grad():
        x, logdet = b.inverse(y)
        assert change is patched or calls.count >= 5
        torch.testing.assert_close(x, expected)
        torch.testing.assert_close((y, -logdet), b(x))


def test_global_hooks_are_called() -> None:
    b, calls = Autoregressive(made(5), Affine("softplus")), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: calls.append(type(module)))
    try:
        with torch.no_grad():
            b.inverse(torch.randn(2, 5).double())
    finally:
        handle.remove()
    assert calls.count(MADE) == 5


@pytest.mark.parametrize(
    "activation", [nn.PReLU(10).double(), lambda h: h.tanh() * torch.linspace(0.5, 1, 10)], ids=["PReLU", "lambda"]
)
def test_activations_that_may_tell_units_apart_take_passes(activation: Any) -> None:
    net = made(5, activation=activation)
    assert net.decoder(torch.zeros(2, 5).double()) is None
    b, y = Autoregressive(net, Affine("softplus")), torch.randn(4, 5).double()
    with torch.no_grad():
        torch.testing.assert_close(b(b.inverse(y)[0])[0], y)


def test_dropout_takes_passes_in_train_mode() -> None:
    net = made(3, dropout=0.5)
    assert net.decoder(torch.zeros(2, 3).double()) is None
    assert net.eval().decoder(torch.zeros(2, 3).double()) is not None


def test_weights_and_masks_that_change_are_read_again() -> None:
    b, other = (Autoregressive(made(5), Affine("softplus")) for _ in range(2))
    y = torch.randn(4, 5).double()

    def holds(b: Autoregressive) -> None:
        with torch.no_grad():
            torch.testing.assert_close(b.inverse(y)[0], by_passes(b, y))

    holds(b)
    for parameter in b.parameters():
        parameter.data += 0.1  # counted by nobody
    holds(b)
    copied = copy.deepcopy(b)
    perturb(copied)
    holds(copied)
    order = torch.arange(9, -1, -1)  # the hidden units of another program, in another order
    state = {k: v[order] if len(v) == 10 and ".last" not in k else v for k, v in other.state_dict().items()}
    state = {k: v[:, order] if v.shape[1:] == (10,) else v for k, v in state.items()}
    state |= {k: v for k, v in other.state_dict().items() if k == "net.last.bias"}
    b.load_state_dict(state)
    holds(b)
    with torch.no_grad():
        torch.testing.assert_close(b.inverse(y), other.inverse(y))
    with torch.inference_mode():
        made_there = Autoregressive(made(5), Affine("softplus"))
        torch.testing.assert_close(made_there.inverse(y)[0], by_passes(made_there, y))


def test_masks_that_no_degrees_explain_take_passes() -> None:
    net = made(3, residual=False)
    with torch.no_grad():
        net.blocks[0].linear.mask.fill_(1)  # type: ignore[union-attr, operator]
    assert net.decoder(torch.zeros(2, 3).double()) is None


def test_masks_are_stored_as_booleans_and_read_as_what_they_are() -> None:
    net = MADE(3, 2, 4)
    state = net.state_dict()
    assert state["first.mask"].dtype == torch.bool
    assert net.first.mask.dtype == net.first.weight.dtype
    other = MADE(3, 2, 4).double()
    other.load_state_dict(state)
    assert other.first.mask.dtype == torch.float64
    torch.testing.assert_close(other(torch.ones(1, 3).double()), net(torch.ones(1, 3)).double())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_row(bad: float) -> None:
    b = Autoregressive(made(5), Affine())
    y = torch.randn(3, 5).double()
    with torch.no_grad():
        expected = b.inverse(y)[0]
        y[1, 2] = bad
        x = b.inverse(y)[0]
    assert not x[1].isfinite().all()
    torch.testing.assert_close(x[[0, 2]], expected[[0, 2]])
    torch.testing.assert_close(x[1, :2], expected[1, :2])
