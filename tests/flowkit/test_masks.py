"""Couplings on listed channels and on checkerboards: what passes, what steers, what is counted."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowkit import Affine, Checkerboard, Columns, Coupling, MixtureLogistic, Permutation, RationalQuadratic, Reversible
from flowkit.kinds import Kind
from flowkit.nets import FCN, MLP
from flowkit.testing import check_bijector, perturb


class Nearby(nn.Module):
    """Parameters of every channel at every place, from the whole image and its shifts."""

    def __init__(self, channels: int, parameters: int) -> None:
        super().__init__()
        self.mix = nn.Linear(channels, channels * parameters)
        self.seen: list[Tensor] = []

    def forward(self, passive: Tensor, context: Any = None) -> Tensor:
        self.seen.append(passive.detach().clone())
        h = passive
        for axis in range(2, passive.ndim):
            h = h + 0.7 * passive.roll(1, axis) + 0.3 * passive.roll(2, axis)
        out: Tensor = self.mix(h.sin().movedim(1, -1)).movedim(-1, 1)
        return out


def board(shape: tuple[int, ...], parity: int) -> Tensor:
    """1 where a pixel passes, by the definition."""
    m = torch.zeros(shape)
    for place in itertools.product(*map(range, shape)):
        m[place] = (sum(place) + parity) % 2
    return m


SHAPES: list[tuple[int, ...]] = [(1,), (5,), (4,), (3, 3), (2, 5), (1, 1), (3, 1, 3), (2, 3, 4)]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("parity", [0, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_checkerboard_is_its_definition(shape: tuple[int, ...], parity: int, flip: bool) -> None:
    torch.manual_seed(0)
    net = Nearby(3, 2)
    b = Coupling(net, Checkerboard(parity), Affine("exp", "scale_first"), flip=flip)
    x = torch.randn(2, 3, *shape)
    m = board(shape, parity)
    m = 1 - m if flip else m
    y, logdet = b(x)
    assert torch.equal(net.seen[0], m * x)
    shift, raw = net(m * x).unflatten(1, (3, 2)).unbind(2)
    torch.testing.assert_close(y, m * x + (1 - m) * (x * raw.exp() + shift))
    torch.testing.assert_close(logdet, ((1 - m) * raw).flatten(1).sum(1))
    torch.testing.assert_close(b.inverse(y)[0], x)


@pytest.mark.parametrize("kind", [Affine("tanh"), RationalQuadratic(3, 3.0), MixtureLogistic(2)], ids=str)
@pytest.mark.parametrize("shape", [(3,), (3, 3), (2, 1, 2)], ids=str)
def test_the_laws_hold_in_one_two_and_three_dimensions(shape: tuple[int, ...], kind: Kind) -> None:
    torch.manual_seed(0)
    net = Nearby(2, kind.parameters)
    check_bijector(Coupling(net, Checkerboard(), kind), torch.randn(2, 2, *shape), sizes=[[s + 1 for s in shape]])


def test_what_is_moved_does_not_leak_even_where_it_is_infinite() -> None:
    b = Coupling(Nearby(1, 2), Checkerboard(), Affine("exp"))
    x = torch.randn(1, 1, 3, 3)
    expected = b(x)[0]
    x[0, 0, 0, 0] = torch.inf
    y, logdet = b(x)
    assert y[0, 0, 0, 0].isinf()
    assert torch.equal(y.flatten()[1:], expected.flatten()[1:])
    assert logdet.isfinite().all()


LISTS = [[0], [2, 0], [3, 1], [1, 3], [0, 1, 2], [4, 2, 0, 1]]


@pytest.mark.parametrize("keep", LISTS, ids=str)
@pytest.mark.parametrize("spatial", [(), (2, 3)], ids=str)
def test_listed_channels_reach_the_net_in_their_order(keep: list[int], spatial: tuple[int, ...]) -> None:
    """A coupling of the first channels between two permutations."""
    torch.manual_seed(0)
    rest = sorted(set(range(5)) - set(keep))
    net: Any = FCN(len(keep), 2 * len(rest), 6) if spatial else MLP(len(keep), 2 * len(rest), 6)
    listed = perturb(Coupling(net, keep, Affine("tanh")))
    order = Permutation([*keep, *rest])
    plain = order >> Coupling(net, len(keep), Affine("tanh")) >> order.inv
    x = torch.randn(2, 5, *spatial)
    for got, want in zip(listed(x) + listed.inverse(x), plain(x) + plain.inverse(x), strict=True):
        torch.testing.assert_close(got, want)
    assert torch.equal(listed(x)[0][:, keep], x[:, keep])


@pytest.mark.parametrize("keep", LISTS, ids=str)
def test_flipped_both_sides_come_ascending(keep: list[int]) -> None:
    rest = sorted(set(range(5)) - set(keep))
    net = MLP(len(rest), 2 * len(keep), 6)
    flipped = perturb(Coupling(net, keep, Affine("tanh"), flip=True))
    listed = Coupling(net, rest, Affine("tanh"))
    x = torch.randn(2, 5)
    torch.testing.assert_close(flipped(x), listed(x))
    torch.testing.assert_close(flipped.inverse(x), listed.inverse(x))


def test_a_list_of_leading_channels_is_their_number() -> None:
    net = MLP(2, 6, 6)
    number, listed = perturb(Coupling(net, 2, Affine())), Coupling(net, [0, 1], Affine())
    x = torch.randn(2, 5)
    torch.testing.assert_close(listed(x), number(x))


@pytest.mark.parametrize(
    ("keep", "flip", "angle"), [(2, False, 3), (2, True, 1), ([3, 0], False, 2), ([3, 0], True, 3)], ids=str
)
def test_a_bound_of_a_moved_channel_is_stated_where_it_is(keep: Any, flip: bool, angle: int) -> None:
    torch.manual_seed(0)
    kind = Columns({0: Affine("tanh"), 1: RationalQuadratic(3, ends="circular")})
    b = Coupling(MLP(2, kind.parameters_of(2), 6), keep, kind, flip)
    x = torch.randn(3, 4)
    x[:, angle] = x[:, angle].tanh() * 0.9
    check_bijector(b, x)
    inside = b.domain.check(torch.full((1, 4), 1.5))
    assert inside[0].tolist() == [i != angle for i in range(4)]


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("keep", [Checkerboard(), [3, 0], 1], ids=str)
def test_reversible_has_the_gradients_of_the_chain(keep: Any, flip: bool, inverse: bool) -> None:
    torch.manual_seed(0)

    def coupling(keep: Any, flip: bool) -> Coupling:
        passing = {int: lambda: 3 if flip else 1, list: lambda: 2}.get(type(keep), lambda: 4)()
        moved = 4 if isinstance(keep, Checkerboard) else 4 - passing
        return Coupling(FCN(passing, 2 * moved, 6, context_channels=2), keep, Affine("tanh"), flip)

    parts = [coupling(keep, flip), coupling([1, 3], False), coupling(keep, flip)]
    chain = perturb(parts[0] >> parts[1] >> parts[2], 0.3).double()
    x, context = torch.randn(4, 4, 3, 2).double(), torch.randn(2, 2, 3, 2).double()  # two draws share each context
    found = []
    for b in (chain, Reversible(chain)):
        inputs = [x.clone().requires_grad_(), context.clone().requires_grad_()]
        y, logdet = (b.inverse if inverse else b)(*inputs)
        found.append(torch.autograd.grad(y.sin().sum() + logdet.sum(), [*inputs, *chain.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("keep", "shape", "message"),
    [
        ([], None, r"keep must list different channels, 0 or more each, got \[\]"),
        ([0, 0], None, "keep must list different channels"),
        ([-1], None, "keep must list different channels"),
        ([0, 3], (2, 3), r"keep lists channel 3, which \(2, 3\) float32 does not have"),
        ([1, 0], (2, 2), r"keep lists all channels of \(2, 2\) float32 and leaves nothing"),
        (Checkerboard(), (2, 4), r"Checkerboard: expected \(B, C, \*spatial\), got \(2, 4\).*list the channels"),
        (Checkerboard(), (2, 3, 4), r"the net returned \(2, 4, 4\).* of 3 channels needs \(2, 6, 4\)"),
    ],
)
def test_what_is_refused(keep: Any, shape: Any, message: str) -> None:
    class Four(nn.Module):
        def forward(self, passive: Tensor, context: Any = None) -> Tensor:
            return passive.new_zeros(len(passive), 4, *passive.shape[2:])

    with pytest.raises(ValueError, match=message):
        Coupling(Four(), keep, Affine())(torch.zeros(shape or (1, 3)))


def test_a_parity_is_0_or_1() -> None:
    with pytest.raises(ValueError, match="parity must be 0 or 1, got 2"):
        Checkerboard(2)


@pytest.mark.parametrize("keep", [[0.5, 1.5], "02", 1.5])
def test_channels_are_whole_numbers(keep: Any) -> None:
    with pytest.raises(TypeError, match="Coupling: keep must be"):
        Coupling(MLP(2, 4), keep, Affine())
