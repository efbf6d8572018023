"""A shortcut changes no answer: chains of whatever people make of the bijectors are their parts one by one."""

import math
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from examples import EXAMPLES, case
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import flowkit
from flowkit import ActNorm, Affine, Bijector, Chain, Coupling, Injector, InvertibleConv1x1, Permutation, Reversible
from flowkit.bijector import undone
from flowkit.fusion import runs_of
from flowkit.linear import ChannelLinear
from flowkit.nets import MLP
from flowkit.testing import perturb
from flowkit.tree import leaves

Results = list[Tensor]


def one_by_one(parts: Any, x: Any, context: Any, inverse: bool = False) -> tuple[Any, Tensor]:
    logdet = torch.zeros(())
    for part in list(parts)[:: -1 if inverse else 1]:
        x, term = part.inverse(x, context) if inverse else part(x, context)
        logdet = logdet + term
    return x, logdet


def results(call: Callable[..., Any], x: Tensor, context: Any, parameters: list[Tensor]) -> Results:
    """Value, log-det, and the gradients of x, the context and the parameters."""
    x = x.clone().requires_grad_()
    context = None if context is None else context.clone().requires_grad_()
    y, logdet = call(x, context)
    wrt = [x, *parameters, *leaves(context)]
    target = sum(leaf.sin().sum() for leaf in leaves(y)) + logdet.square().sum()
    grads = torch.autograd.grad(target, wrt, allow_unused=True)
    return [*leaves(y), logdet, *(torch.zeros(()) if g is None else g for g in grads)]


def check_chains(parts: list[Any], x: Tensor, context: Any = None) -> None:
    """`Chain` and `Reversible` of the parts, both ways, are the parts by hand."""
    shared = list({id(p): p for part in parts for p in part.parameters() if p.requires_grad}.values())
    for inverse in (False, True):
        start = one_by_one(parts, x, context)[0].detach() if inverse else x
        expected = results(lambda v, c, i=inverse: one_by_one(parts, v, c, i), start, context, shared)
        for b in (Chain(*parts), Reversible(Chain(*parts)), Chain(Chain(*parts[:1]), Chain(*parts[1:]))):
            if inverse:
                for g, e in zip(leaves(undone(b, start, context)), expected, strict=False):
                    torch.testing.assert_close(g, e, rtol=1e-8, atol=1e-8)
            got = results(b.inverse if inverse else b, start, context, shared)
            for g, e in zip(got, expected, strict=True):
                torch.testing.assert_close(g, e, rtol=1e-8, atol=1e-8, msg=lambda m, b=b: f"{type(b).__name__}: {m}")


def scaled(base: type[Bijector]) -> type[Bijector]:
    """A subclass that scales what its base makes: both directions overridden, all else inherited."""

    class Scaled(base):  # type: ignore[misc, valid-type]
        def forward(self, x: Any, context: Any = None) -> Any:
            y, logdet = super().forward(x, context)
            return 3 * y, logdet + math.prod(y.shape[1:]) * math.log(3)

        def inverse(self, y: Any, context: Any = None) -> Any:
            x, logdet = super().inverse(y / 3, context)
            return x, logdet - math.prod(y.shape[1:]) * math.log(3)

    return Scaled


def bent(base: type[Bijector]) -> type[Bijector]:
    """A subclass whose log-det depends on x."""

    class Bent(base):  # type: ignore[misc, valid-type]
        def forward(self, x: Any, context: Any = None) -> Any:
            y, logdet = super().forward(x, context)
            return y.sinh(), logdet + y.cosh().log().flatten(1).sum(1)

        def inverse(self, y: Any, context: Any = None) -> Any:
            inner = y.asinh()
            x, logdet = super().inverse(inner, context)
            return x, logdet - inner.cosh().log().flatten(1).sum(1)

    return Bent


def conditional(base: type[Bijector]) -> type[Bijector]:
    """A subclass that shifts by the context."""

    class Conditional(base):  # type: ignore[misc, valid-type]
        def forward(self, x: Any, context: Any = None) -> Any:
            y, logdet = super().forward(x, context)
            return y + context.mean(1, keepdim=True), logdet

        def inverse(self, y: Any, context: Any = None) -> Any:
            return super().inverse(y - context.mean(1, keepdim=True), context)

    return Conditional


def constructor_only(base: type[Bijector]) -> type[Bijector]:
    """A subclass that changes nothing about the map."""
    return type("Named", (base,), {})


WAYS = [scaled, bent, conditional, constructor_only]
SAME_SHAPE = [e for e in EXAMPLES if e.keeps_shape and 2 in e.dims]


def remade(b: Any, way: Callable[[type[Bijector]], type[Bijector]]) -> Any:
    """The bijector as an instance of a user's subclass of its class."""
    b.__class__ = way(type(b))
    return b


@st.composite
def users_chains(draw: st.DrawFn) -> tuple[list[Any], Tensor, Tensor]:
    """Parts of the library and users' subclasses of them, side by side."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    linear = [e for e in SAME_SHAPE if e.name in ("actnorm", "conv1x1", "conv1x1 plu", "permutation")]
    x, parts = torch.randn(2, 4, 3, 2).double(), []
    for _ in range(draw(st.integers(2, 5))):
        example = draw(st.sampled_from([*SAME_SHAPE, *(4 * linear)]))
        b = case(example, draw(st.integers(0, 2**16)), 2, 2, (3, 2)).b.double()
        parts.append(remade(b, draw(st.sampled_from(WAYS))) if draw(st.booleans()) else b)
    context = torch.randn(2, 3, 3, 2).double()
    with torch.no_grad():
        assume(one_by_one(parts, x, context)[0].abs().max() < 1e6)  # bent twice, numbers leave the floats
    return parts, x, context


@given(chain=users_chains())
@settings(max_examples=60)
def test_chains_of_users_subclasses_are_their_parts(chain: Any) -> None:
    check_chains(*chain)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("example", SAME_SHAPE, ids=lambda example: example.name)
def test_every_map_may_be_subclassed(example: Any, way: Any) -> None:
    its = case(example, 0, 2, 2, (3, 2))
    b = remade(its.b.double(), way)
    parts = [perturb(ActNorm(4)).double(), b, perturb(InvertibleConv1x1(4)).double()]
    check_chains(parts, its.x.double(), torch.randn(2, 3, 3, 2).double())


def test_a_subclass_that_changes_nothing_is_fused_all_the_same() -> None:
    parts = [remade(b, constructor_only) for b in (ActNorm(4), Permutation(4), InvertibleConv1x1(4))]
    assert [len(run) for run in runs_of(parts)] == [3]
    assert [len(run) for run in runs_of([parts[0], remade(ActNorm(4), scaled), parts[2]])] == [1, 1, 1]


class Tripled(InvertibleConv1x1):
    """A subclass of another matrix; what follows from it follows."""

    def matrix(self) -> Tensor:
        return 3 * super().matrix()


class Mixin:
    """Not a bijector, and before one in the order of bases."""

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        y, logdet = super().forward(x, context)  # type: ignore[misc]
        return -y, logdet

    def inverse(self, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return super().inverse(-y, context)  # type: ignore[misc, no-any-return]


class Mirrored(Mixin, ActNorm):
    pass


class Bare(ChannelLinear):
    """Says nothing about itself but what it does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.in_channels = self.out_channels = channels

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return 2 * x + 1, x.new_full((len(x),), x[0].numel() * math.log(2))

    def inverse(self, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return (y - 1) / 2, y.new_full((len(y),), -y[0].numel() * math.log(2))


class Described(Bare):
    """Says all together, so it is fused."""

    forward, inverse = Bare.forward, Bare.inverse

    @staticmethod
    def after(parts: Any, matrix: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * matrix, 2 * bias + 1


class HalfDescribed(ActNorm):
    """Describes another map than it is."""

    after = staticmethod(Described.after)  # type: ignore[assignment]


class LogDet(ActNorm):
    """Overrides what its base's methods call."""

    def _logdet(self, x: Tensor) -> Tensor:
        return super()._logdet(x) + 1


class Called(ActNorm):
    def __call__(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        y, logdet = super().__call__(x, context)
        return y, logdet + 1


def patched(b: Any) -> Any:
    forward = b.forward
    b.forward = types.MethodType(lambda self, x, context=None: (forward(x)[0] + 1, forward(x)[1]), b)
    return b


def lora(b: Any) -> Any:
    matrix = b.matrix
    b.matrix = lambda: matrix() + 0.1
    return b


def parametrized(b: Any) -> Any:
    class Bounded(nn.Module):
        def forward(self, raw: Tensor) -> Tensor:
            return raw.tanh()

    nn.utils.parametrize.register_parametrization(b, "log_scale" if isinstance(b, ActNorm) else "weight", Bounded())
    return b


ODD: dict[str, Callable[[], Any]] = {
    "another matrix": lambda: Tripled(4),
    "another triangular matrix": lambda: Tripled(4, "plu"),
    "a mixin": lambda: Mirrored(4),
    "no description": lambda: Bare(4),
    "its own description": lambda: Described(4),
    "half a description": lambda: HalfDescribed(4),
    "a helper overridden": lambda: LogDet(4),
    "another call": lambda: Called(4),
    "a patched forward": lambda: patched(ActNorm(4)),
    "a patched matrix": lambda: lora(InvertibleConv1x1(4)),
    "a parametrized scale": lambda: parametrized(ActNorm(4)),
    "a parametrized weight": lambda: parametrized(InvertibleConv1x1(4)),
    "a chain": lambda: constructor_only(Chain)(ActNorm(4), InvertibleConv1x1(4)),
    "a subclass of Chain": lambda: scaled(Chain)(ActNorm(4), InvertibleConv1x1(4)),
    "a patched chain": lambda: patched(ActNorm(4) >> InvertibleConv1x1(4)),
    "a subclass of Reversible": lambda: scaled(Reversible)(ActNorm(4) >> InvertibleConv1x1(4)),
    "a subclass of Inverse": lambda: scaled(flowkit.Inverse)(InvertibleConv1x1(4)),
    "the inverse of that": lambda: scaled(flowkit.Inverse)(InvertibleConv1x1(4)).inv,
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD.keys())
def test_odd_parts_in_any_company(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    odd = perturb(make())
    parts = [perturb(part) for part in (ActNorm(4), Permutation(4), InvertibleConv1x1(4))]
    for place in range(4):
        its = [part.double() for part in (*parts[:place], odd, *parts[place:])]
        if isinstance(odd, Bijector) and "forward" in vars(odd):  # patched forward alone is no bijector
            torch.testing.assert_close(
                Chain(*its)(torch.ones(2, 4).double()), one_by_one(its, torch.ones(2, 4).double(), None)
            )
            continue
        check_chains(its, torch.randn(2, 4, 3).double())
    if make is not ODD["another call"] and "forward" not in vars(odd) and not isinstance(odd, LogDet | HalfDescribed):
        y, logdet = odd(torch.randn(2, 4).double())
        torch.testing.assert_close(odd.inverse(y)[1], -logdet)


def test_a_class_patched_later_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    chain, x = Chain(ActNorm(2), InvertibleConv1x1(2)), torch.ones(1, 2)
    monkeypatch.setattr(ActNorm, "forward", lambda self, x, context=None: (x + 5, x.new_zeros(len(x))))
    torch.testing.assert_close(chain(x), one_by_one(chain, x, None))


def test_a_described_map_of_ones_own_is_fused() -> None:
    assert [len(run) for run in runs_of([ActNorm(2), Described(2), Permutation(2), InvertibleConv1x1(2)])] == [4]
    with pytest.raises(NotImplementedError, match=r"Bare defines no after\(parts, matrix, bias\)"):
        Bare.after([Bare(2)], torch.eye(2)[None], torch.zeros(1, 2))


HOOKS = [
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
]


@pytest.mark.parametrize("register", HOOKS)
@pytest.mark.parametrize("wrap", [Chain, lambda b: Reversible(Chain(b)), lambda b: ActNorm(2) >> b])
def test_hooks_fire(register: str, wrap: Any) -> None:
    for b in (InvertibleConv1x1(2), Coupling(MLP(1, 2, 4), 1, Affine())):
        seen: list[int] = []
        chain = wrap(b)
        getattr(b, register)(lambda *_, seen=seen: seen.append(1))
        y, logdet = chain(torch.randn(3, 2, requires_grad=True))
        (y.sum() + logdet.sum()).backward()
        assert seen


def test_a_hook_that_changes_the_output_is_differentiated() -> None:
    b, x = perturb(Coupling(MLP(1, 2, 4), 1, Affine())), torch.randn(3, 2)
    b.register_forward_hook(lambda module, args, out: (2 * out[0], out[1]))
    got, want = (results(c, x, None, list(b.parameters())) for c in (Reversible(Chain(b)), b))
    for g, w in zip(got[:2], want[:2], strict=True):
        torch.testing.assert_close(g, w)


def test_global_hooks_see_every_part() -> None:
    seen: list[str] = []
    chain = ActNorm(2) >> InvertibleConv1x1(2) >> Permutation(2)
    hook = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    try:
        chain(torch.randn(3, 2))
        assert len(chain >> ActNorm(2)) == 4
    finally:
        hook.remove()
    assert seen == ["ActNorm", "InvertibleConv1x1", "Permutation", "Chain"]


def test_a_hooked_chain_stays_whole() -> None:
    inner, seen = ActNorm(2) >> InvertibleConv1x1(2), []
    inner.register_forward_hook(lambda *_: seen.append(1))
    (inner >> Permutation(2))(torch.randn(2, 2))
    assert seen


def test_compiled_parts_are_called() -> None:
    chain = ActNorm(2) >> InvertibleConv1x1(2)
    chain[0].compile(backend="eager")
    assert [len(run) for run in chain.runs()] == [1, 1]
    x = torch.randn(3, 2)
    torch.testing.assert_close(chain(x), one_by_one(chain, x, None))


def test_facts_of_another_map_are_not_inherited() -> None:
    def make(cls: Any) -> Any:
        return cls(4)

    for base in (ActNorm, InvertibleConv1x1, Permutation):
        assert make(base).constant_logdet
        assert make(constructor_only(base)).constant_logdet
        assert not make(bent(base)).constant_logdet
        assert not Chain(make(bent(base))).constant_logdet
    additive = flowkit.Additive()
    assert Coupling(nn.Identity(), 1, additive).constant_logdet
    assert not bent(Coupling)(nn.Identity(), 1, additive).constant_logdet
    assert not bent(Injector)(nn.Identity(), additive).constant_logdet
    assert not bent(Chain)(ActNorm(2)).constant_logdet
    assert Reversible(Chain(ActNorm(2))).constant_logdet
    assert not bent(Reversible)(Chain(ActNorm(2))).constant_logdet
    assert not Mirrored(2).constant_logdet  # it doesn't say so again
    stated = type("Stated", (scaled(ActNorm),), {"constant_logdet": True})
    assert stated(2).constant_logdet


def test_facts_of_another_kind_are_not_inherited() -> None:
    class Cubed(flowkit.Additive):
        def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
            y = (x + parameters[:, :, 0]) ** 3
            return y, x.new_zeros(len(x))

    assert not Cubed.keeps_volume
    assert not Cubed.affine
    assert not Coupling(nn.Identity(), 1, Cubed()).constant_logdet
    assert flowkit.Additive.keeps_volume
    assert type("Named", (flowkit.Additive,), {}).keeps_volume
