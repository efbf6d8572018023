"""Kinds that differ by column: what each channel gets, what is stated, what is refused."""

import math
from typing import Any

import pytest
import torch
from torch.distributions import biject_to, constraints

from flowkit import Additive, Affine, Checkerboard, Columns, Coupling, Elementwise, Injector, RationalQuadratic
from flowkit.coupling import per_channel
from flowkit.distributions import from_transform
from flowkit.nets import CNN, MLP
from flowkit.testing import check_bijector, perturb

ANGLE = RationalQuadratic(3, math.pi, ends="circular")
KIND = Columns({3: Affine("exp"), (2, 0): ANGLE})


def test_counts_are_those_of_each_channel() -> None:
    assert KIND.counts(5) == (10, 0, 10, 2, 0)
    assert KIND.parameters_of(4) == 22
    assert KIND.parameters == 10


@pytest.mark.parametrize("way", ["forward", "inverse"])
@pytest.mark.parametrize("sizes", [(), (2, 3)])
def test_each_channel_is_moved_by_its_kind_and_the_others_pass(way: str, sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, flat = torch.randn(2, 5, *sizes), torch.randn(2, 22, *sizes)
    y, logdet = getattr(KIND, way)(x, per_channel("a test", KIND, flat, x))
    total = torch.zeros(2)
    at = 0
    for channel, count in enumerate(KIND.counts(5)):
        column = x[:, channel : channel + 1]
        if count:
            kind = Affine("exp") if channel == 3 else ANGLE
            column, its = getattr(kind, way)(column, flat[:, at : at + count].unsqueeze(1))
            total = total + its
        torch.testing.assert_close(y[:, channel : channel + 1], column)
        at += count
    torch.testing.assert_close(logdet, total)


def test_an_order_says_whose_parameters_come_first() -> None:
    x, flat = torch.randn(2, 4), torch.randn(2, 22)
    table = per_channel("a test", KIND, flat, x, order=[3, 1, 0, 2])
    assert torch.equal(table[:, 0, :2], flat[:, :2])
    assert not table[:, 0, 2:].any()
    assert not table[:, 1].any()
    assert torch.equal(table[:, 2], flat[:, 2:12])
    assert torch.equal(table[:, 3], flat[:, 12:])


def test_where_it_lives_is_said_channel_by_channel() -> None:
    coupling = Coupling(MLP(1, 22), 1, KIND)
    for value, inside in ((3.0, True), (4.0, False)):
        x = torch.full((2, 5), value)
        assert coupling.domain is not None
        assert coupling.domain.check(x).all(0).tolist() == [True, inside, True, inside, True]
        flipped = Coupling(MLP(1, 22), 4, KIND, flip=True)
        assert flipped.codomain is not None
        assert flipped.codomain.check(x).all(0).tolist() == [inside, True, inside, True, True]
    assert Columns({0: Affine()}).support is constraints.real
    side = KIND.support
    transform = biject_to(side)
    x = 2 * torch.randn(3, 5)
    y = transform(x)
    assert side is not None
    assert side.check(y).all()
    torch.testing.assert_close(transform.inv(y), x)
    torch.testing.assert_close(y[:, 3], x[:, 3])
    slopes = torch.autograd.functional.jacobian(lambda x: transform(x).sum(0), x).diagonal(0, 0, 2).log()
    torch.testing.assert_close(transform.log_abs_det_jacobian(x, y), slopes[0].T if slopes.ndim == 3 else slopes)


def test_facts_are_those_of_all_columns() -> None:
    assert Columns({0: Additive()}).keeps_volume
    assert not Columns({0: Additive(), 1: Affine()}).keeps_volume
    assert Columns({0: Additive(), 1: Affine()}).affine
    assert not KIND.affine
    assert Injector(MLP(1, 3), Columns({0: Additive(), 1: Affine()})).constant_logdet
    assert str(Columns({0: Additive(), 1: Affine("exp")})) == "Columns({0: Additive(), 1: Affine(scale='exp')})"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Columns({}), ValueError, "every channel must be listed once"),
        (lambda: Columns({0: Affine(), (1, 0): Affine()}), ValueError, "listed once, by a number from 0 on"),
        (lambda: Columns({-1: Affine()}), ValueError, "from 0 on, got"),
        (lambda: Columns({0: "affine"}), TypeError, "expected elementwise maps such as Affine"),  # type: ignore[dict-item]
        (lambda: Coupling(MLP(1, 22), 1, KIND)(torch.zeros(2, 4)), ValueError, "no channel 3, it is applied to 3"),
        (lambda: Coupling(MLP(1, 20), 1, KIND)(torch.zeros(2, 5)), ValueError, r"needs \(2, 22\) \(\(10, 0, 10, 2\)"),
    ],
)
def test_what_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


SETS = {
    "box": RationalQuadratic(3, 2.0, ends="box"),
    "circular": RationalQuadratic(3, 2.0, ends="circular"),
}


@pytest.mark.parametrize("ends", SETS)
@pytest.mark.parametrize(
    ("keep", "flip", "moved"),
    [(1, False, {1, 2, 3}), (1, True, {0}), ([2, 0], False, {1, 3}), ([2, 0], True, {0, 2}), (None, False, {1, 3})],
    ids=str,
)
def test_channels_that_pass_live_anywhere(ends: str, keep: Any, flip: bool, moved: set[int]) -> None:
    torch.manual_seed(0)
    kind = SETS[ends]
    net = MLP(4 - len(moved), kind.parameters_of(len(moved)), hidden=8)
    b = Elementwise(kind, sorted(moved)) if keep is None else Coupling(net, keep, kind, flip)
    perturb(b)
    x = torch.full((1, 4), 1.5)
    x[:, [i for i in range(4) if i not in moved]] = 50.0
    y, logdet = b(x)
    assert logdet.isfinite().all()
    assert b.domain.check(x).all()
    assert b.codomain.check(y).all()
    assert b.domain.check(torch.full((1, 4), 2.5))[0].tolist() == [i not in moved for i in range(4)]
    check_bijector(b, x.expand(3, -1) + 0.1 * torch.rand(3, 4))


@pytest.mark.parametrize("ends", SETS)
def test_a_chain_lives_where_its_couplings_together_do(ends: str) -> None:
    kind = SETS[ends]
    parts = [Coupling(MLP(2, kind.parameters_of(2), hidden=8), 2, kind, flip) for flip in (False, True)]
    torus = parts[0] >> parts[1]
    assert repr(torus.domain) == repr(torus.codomain) == repr(kind.support)
    assert repr((parts[0] >> parts[0]).domain) == repr(parts[0].domain)
    assert repr((torus >> parts[0] >> torus.inv).codomain) == repr(kind.support)
    three = parts[0] >> Coupling(MLP(3, kind.parameters, hidden=8), [1, 2, 3], kind)
    assert three.domain.check(torch.full((1, 4), 2.5))[0].tolist() == [False, True, False, False]
    check_bijector(three, torch.rand(3, 4))
    wide = Coupling(MLP(2, 20, hidden=8), 2, RationalQuadratic(3, 3.0, ends="box"), True)
    assert (parts[0] >> wide).domain.check(torch.tensor([[2.5, 2.5, 1.0, 1.0]])).all()
    reals = Coupling(MLP(2, 4, hidden=8), 2, Affine("tanh"))
    assert (parts[0] >> reals).domain is None  # what one reaches, the other takes more of, and leaves
    simplex = from_transform(torch.distributions.StickBreakingTransform())
    assert (parts[0] >> simplex).domain is None


def test_within_a_checkerboard_nothing_is_stated() -> None:
    kind = SETS["box"]
    b = Coupling(CNN(2, kind.parameters_of(2), hidden=4), Checkerboard(), kind)
    assert b.domain is b.codomain is None
    assert Coupling(CNN(2, 4, hidden=4), Checkerboard(), Affine()).domain is constraints.real
