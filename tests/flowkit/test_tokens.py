"""Transformer flows: which tokens steer which, the formulas, three ways to one inverse, Jet and TarFlow."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowkit import Flow, Reversible, StandardNormal, TokenAutoregressive, TokenCoupling, jet, tarflow
from flowkit.nets import CausalViT, ViT
from flowkit.testing import perturb

LAYOUTS = ("checkerboard", "rows", "columns")


class Given(nn.Module):
    """Returns what it was made with, and notes what it saw."""

    def __init__(self, parameters: Any) -> None:
        super().__init__()
        self.answer = parameters
        self.seen: list[Any] = []

    def forward(self, x: Tensor, context: Any = None) -> Tensor:
        self.seen.append((x, context))
        return self.answer


def jacobian(b: nn.Module, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Which tokens of y depend on which of x, (T, T)."""
    tokens = x[0, 0].numel()
    with torch.enable_grad():
        slopes = torch.autograd.functional.jacobian(lambda x: b(x, context)[0], x)
    each = slopes[0].flatten(1, x.ndim - 2)[:, :, 0].flatten(2 + x.ndim - 3)
    return each.view(x.shape[1], tokens, x.shape[1], tokens).abs().amax((0, 2))


SIZED = [(layout, size) for layout in LAYOUTS for size in ((4, 6), (2, 2, 4))]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("layout", "size"), [*SIZED, ("checkerboard", (6,)), ("columns", (6,))])  # no rows there
def test_half_of_the_tokens_pass_and_steer_the_others(layout: Any, flip: bool, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    half = [*size]
    half[-2 if layout == "rows" else -1] //= 2
    b = perturb(TokenCoupling(ViT(2, 4, 8, 1, 2, grid=tuple(half)), layout, flip=flip), 1.0)
    x = torch.randn(1, 2, *size)
    indices = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij"))
    index = {"checkerboard": indices.sum(0), "rows": indices[-2 % len(size)], "columns": indices[-1]}[layout]
    active = (index % 2 == (0 if flip else 1)).flatten()
    moved = (b(x)[0] != x)[0].all(0).flatten()
    assert torch.equal(moved, active)
    steered = jacobian(b, x) > 0
    assert steered[active][:, ~active].all()
    assert torch.equal(steered[~active], torch.eye(len(active), dtype=torch.bool)[~active])
    assert not (steered & ~torch.eye(len(active), dtype=torch.bool))[:, active].any()


def test_jets_formula_and_log_det() -> None:
    parameters = torch.randn(3, 4, 4, 3).double()
    net = Given(parameters)
    x = torch.randn(3, 2, 4, 6).double()
    y, logdet = TokenCoupling(net, "columns")(x)
    shift, raw = parameters[:, 0::2], parameters[:, 1::2]
    torch.testing.assert_close(y[..., 1::2], (x[..., 1::2] + shift) * 2 * raw.sigmoid())
    torch.testing.assert_close(y[..., 0::2], x[..., 0::2])
    torch.testing.assert_close(logdet, (2 * raw.sigmoid()).log().flatten(1).sum(1))
    assert torch.equal(net.seen[0][0], x[..., 0::2])


def test_a_context_of_xs_size_is_halved_with_it_and_another_is_not() -> None:
    net = Given(torch.zeros(2, 2, 2, 1))
    x = torch.arange(4.0).view(1, 1, 2, 2).expand(2, -1, -1, -1)
    b = TokenCoupling(net)
    b(x, x[:1])
    b(x, torch.ones(2, 3))
    assert net.seen[0][1][0].flatten().tolist() == [0, 3, 1, 2]
    assert net.seen[0][1].shape == (2, 2, 2, 1)
    assert net.seen[1][1].shape == (2, 3)


def test_what_a_token_coupling_does_not_take() -> None:
    net = ViT(2, 4, 8, 1, 2)
    with pytest.raises(ValueError, match='layout must be "checkerboard", "rows" or "columns", got \'halves\''):
        TokenCoupling(net, "halves")
    with pytest.raises(ValueError, match=r"TokenCoupling: checkerboard of even spatial sizes, got \(2, 2\) float32"):
        TokenCoupling(net)(torch.ones(2, 2))
    with pytest.raises(ValueError, match="TokenCoupling: rows of even spatial sizes"):
        TokenCoupling(net, "rows")(torch.ones(2, 2, 4))
    with pytest.raises(ValueError, match="multiples of 2"):
        TokenCoupling(net)(torch.ones(2, 2, 4, 3))
    with pytest.raises(ValueError, match="even spatial sizes"):
        TokenCoupling(net).inverse(torch.ones(2, 2, 4, 3))
    with pytest.raises(ValueError, match="TokenCoupling: the net returned"):
        TokenCoupling(ViT(2, 2, 8, 1, 2))(torch.ones(2, 2, 4, 4))


def causal(flip: bool = False, inverse: Any = "sequential", context: int = 0) -> TokenAutoregressive:
    torch.manual_seed(0)
    net = CausalViT(2, 4, 8, 2, 2, grid=(2, 3), context_channels=context)
    return perturb(TokenAutoregressive(net, flip=flip, inverse=inverse), 1.0)


@pytest.mark.parametrize("flip", [False, True])
def test_a_token_depends_on_all_before_it_and_on_none_behind(flip: bool) -> None:
    steered = jacobian(causal(flip).double(), torch.randn(1, 2, 2, 3).double()) > 0
    assert torch.equal(steered, torch.ones(6, 6).tril().bool() if not flip else torch.ones(6, 6).triu().bool())


@pytest.mark.parametrize("flip", [False, True])
def test_every_token_depends_on_the_context_the_first_too(flip: bool) -> None:
    b = causal(flip, context=3)
    x, context = torch.randn(1, 2, 2, 3), torch.randn(2, 3)
    one, other = (b(x, c[None])[0] for c in context)
    assert (one != other).all()
    spatial = torch.randn(1, 3, 2, 3)
    changed = spatial.clone()
    changed[..., 0, 1] += 1
    moved = (b(x, spatial)[0] != b(x, changed)[0])[0].any(0).flatten()
    assert moved.tolist() == ([True, True] + 4 * [False] if flip else [False] + 5 * [True])


def test_tarflows_formula() -> None:
    parameters = torch.randn(3, 4, 2, 3).double()
    x = torch.randn(3, 2, 2, 3).double()
    y, logdet = TokenAutoregressive(Given(parameters))(x)
    shift, log_scale = parameters[:, 0::2], parameters[:, 1::2]
    torch.testing.assert_close(y, (x - shift) * (-log_scale).exp())
    torch.testing.assert_close(logdet, -log_scale.flatten(1).sum(1))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("context", [None, (3,), (3, 2, 3)])
def test_the_cache_jacobi_and_all_passes_say_the_same(flip: bool, context: tuple[int, ...] | None) -> None:
    channels = 0 if context is None else 3
    b, jacobi = (causal(flip, inverse, channels).double() for inverse in ("sequential", "jacobi"))
    given = None if context is None else torch.randn(2, *context).double()
    y = torch.randn(4, 2, 2, 3).double()
    with torch.no_grad():
        x, logdet = b.inverse(y, given)
        torch.testing.assert_close(jacobi.inverse(y, given), (x, logdet))
        torch.testing.assert_close(b(x, given), (y, -logdet))
    passes = b.inverse(y, given)  # with gradients
    assert passes[0].requires_grad
    torch.testing.assert_close(passes, (x, logdet))


def test_the_decoder_gives_the_parameters_of_a_pass_token_by_token() -> None:
    net = causal(context=3).net
    x, context = torch.randn(4, 2, 2, 3), torch.randn(4, 3)
    after = net.decoder(x, context)
    tokens = [None, *x.flatten(2).split(1, 2)][:-1]
    torch.testing.assert_close(torch.cat([after(token) for token in tokens], 2), net(x, context).flatten(2))


def test_how_often_the_net_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = CausalViT.forward
    monkeypatch.setattr(CausalViT, "forward", lambda self, *args: calls.append(1) or forward(self, *args))
    y = 0.1 * torch.randn(2, 2, 8, 8)
    with torch.no_grad():
        causal().inverse(y)
        assert not calls
        jacobi = perturb(TokenAutoregressive(CausalViT(2, 4, 8, 2, 2), inverse="jacobi"), 0.1)
        jacobi.inverse(y)
    assert 2 < len(calls) < 32  # 64 tokens


def test_under_autocast_the_round_trip_is_that_of_float32() -> None:
    b, x = causal(), torch.randn(4, 2, 2, 3)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(b.inverse(b(x)[0])[0], x, rtol=1e-5, atol=1e-5)


def test_a_net_without_a_decoder_takes_passes() -> None:
    b = causal().double()
    plain = TokenAutoregressive(Given(None))
    plain.net.forward = b.net.forward
    y = torch.randn(3, 2, 2, 3).double()
    with torch.no_grad():
        torch.testing.assert_close(plain.inverse(y), b.inverse(y))


def test_what_a_hook_changes_changes_the_inverse_too() -> None:
    b = causal().double()
    b.net.register_forward_hook(lambda net, args, out: out + 0.1)
    y = torch.randn(3, 2, 2, 3).double()
    with torch.no_grad():
        torch.testing.assert_close(b(b.inverse(y)[0])[0], y)


def test_what_token_autoregression_does_not_take() -> None:
    net = CausalViT(2, 4, 8, 1, 2)
    with pytest.raises(ValueError, match='inverse must be "sequential" or "jacobi", got \'cache\''):
        TokenAutoregressive(net, inverse="cache")
    with pytest.raises(ValueError, match=r"tokens are \(B, C, \*spatial\), got \(2, 2\) float32"):
        TokenAutoregressive(net)(torch.ones(2, 2))
    with pytest.raises(ValueError, match="TokenAutoregressive: the net returned"):
        TokenAutoregressive(CausalViT(2, 2, 8, 1, 2))(torch.ones(2, 2, 2, 2))


def test_jet() -> None:
    chain = jet(3, (8, 8), patch=2, couplings=16, hidden=8, depth=1)
    kinds = [type(part).__name__ for part in chain]
    step = 4 * ["Permutation", "Coupling"] + ["TokenCoupling"]
    assert kinds == ["Squeeze", *3 * step, "Permutation", "Coupling"]
    assert [part.layout for part in chain if isinstance(part, TokenCoupling)] == list(LAYOUTS)
    assert [part.flip for part in chain if isinstance(part, TokenCoupling)] == [False, True, False]
    x = torch.randn(2, 3, 8, 8)
    y, logdet = chain(x)
    assert torch.equal(logdet, torch.zeros(2))  # it starts as a permutation of the numbers
    assert torch.equal(y.flatten(1).sort()[0], x.flatten(1).sort()[0])
    perturb(chain)
    torch.testing.assert_close(chain.inverse(chain(x)[0])[0], x, rtol=1e-4, atol=1e-4)
    grads = []
    for b in (chain, Reversible(chain)):
        y, logdet = b(x)
        grads.append(torch.autograd.grad(y.square().sum() - logdet.sum(), list(b.parameters())))
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-3)
    assert chain(torch.randn(1, 3, 12, 8))[0].shape == (1, 12, 6, 4)


@pytest.mark.parametrize("inverse", ["sequential", "jacobi"])
def test_tarflow(inverse: Any) -> None:
    torch.manual_seed(0)
    chain = perturb(tarflow(3, (8, 8), patch=2, blocks=3, hidden=8, depth=1, context_channels=4, inverse=inverse))
    assert [part.flip for part in chain if isinstance(part, TokenAutoregressive)] == [False, True, False]
    flow = Flow(chain, StandardNormal(), shape=(3, 8, 8))
    labels = torch.eye(4)
    with torch.no_grad():
        x, log_prob = flow.sample_and_log_prob(2, labels)
        assert x.shape == (2, 4, 3, 8, 8)
        torch.testing.assert_close(flow.log_prob(x[0], labels), log_prob[0], rtol=1e-4, atol=1e-3)
