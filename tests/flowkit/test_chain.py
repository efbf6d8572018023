"""Chains: order, flattening, the identity, foreign parts, and what a chain knows about its channels."""

from typing import Any

import pytest
import torch
from nflows import transforms
from torch import Tensor, nn

import flowkit
from flowkit import ActNorm, Bijector, Chain, Coupling, Haar, Inverse, Permutation, Split, Squeeze
from flowkit.kinds import Affine
from flowkit.nets import FCN
from flowkit.testing import perturb


def shift(by: float) -> ActNorm:
    b = ActNorm(1)
    nn.init.constant_(b.bias, by)
    return b


def scale(log: float) -> ActNorm:
    b = ActNorm(1)
    nn.init.constant_(b.log_scale, log)
    return b


def test_applies_from_left_to_right_and_adds_logdets() -> None:
    x = torch.tensor([[1.0]])
    y, logdet = Chain(shift(2), scale(1), scale(0.5))(x)
    torch.testing.assert_close(y, 3 * torch.tensor([[1.5]]).exp())
    torch.testing.assert_close(logdet, torch.tensor([1.5]))
    back, inverse = Chain(shift(2), scale(1), scale(0.5)).inverse(y)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(inverse, -logdet)


def test_composition_is_flat_whatever_the_brackets() -> None:
    a, b, c, d = (Permutation(2) for _ in range(4))
    for chain in (a >> b >> c >> d, a >> (b >> (c >> d)), Chain(a, Chain(b, Chain()), c >> d)):
        assert list(chain) == [a, b, c, d]


def test_an_inverted_chain_stays_whole() -> None:
    chain = ActNorm(2) >> ActNorm(2)
    both = chain >> chain.inv
    assert [type(part) for part in both] == [ActNorm, ActNorm, Inverse]


def test_length_and_index() -> None:
    chain = Squeeze() >> ActNorm(4)
    assert len(chain) == 2
    assert isinstance(chain[1], ActNorm)
    assert chain[-1] is chain[1]


def test_the_empty_chain_is_the_identity_on_any_value() -> None:
    x = torch.randn(2, 3)
    y, logdet = Chain()(x)
    assert torch.equal(y, x)
    assert torch.equal(logdet, torch.zeros(2))
    pair = (x, None, (x,))
    assert Chain()(pair)[0] == pair
    assert Chain().inverse(pair)[0] == pair
    assert Chain().constant_logdet


def test_every_part_gets_the_context() -> None:
    class Adds(Bijector):
        def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
            return x + context, x.new_zeros(len(x))

    c = torch.ones(2, 1)
    assert torch.equal(Chain(Adds(), Adds())(torch.zeros(2, 1), c)[0], 2 * c)


def test_foreign_modules_are_composed_from_both_sides() -> None:
    foreign = transforms.PointwiseAffineTransform(shift=1.0, scale=2.0)
    same = scale(0).requires_grad_(False)
    x = torch.ones(1, 1)
    assert float((same >> foreign)(x)[0]) == 3
    assert float((foreign >> same)(x)[0]) == 3
    assert float((foreign >> same).inverse(3 * x)[0]) == 1


def test_foreign_parts_run_in_full_precision() -> None:
    class Records(nn.Module):
        def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
            assert not torch.is_autocast_enabled("cpu")
            return x, x.new_zeros(len(x))

        inverse = forward

    with torch.autocast("cpu", torch.bfloat16):
        Chain(Records()).inverse(Chain(Records())(torch.zeros(2, 1))[0])


@pytest.mark.parametrize("part", [nn.Linear(2, 2), lambda x: x, None])
def test_a_part_without_an_inverse_is_refused(part: Any) -> None:
    with pytest.raises(TypeError, match=f"Chain: {type(part).__name__} is not a module with an inverse"):
        Chain(ActNorm(2), part)


@pytest.mark.parametrize(
    ("chain", "into", "out", "stride"),
    [
        (Chain(), None, None, 1),
        (Squeeze() >> ActNorm(12), 3, 12, 2),
        (ActNorm(3) >> Squeeze(), 3, 12, 2),
        (Squeeze() >> Haar() >> ActNorm(48), 3, 48, 4),
        (ActNorm(2) >> Squeeze() >> Squeeze(3), 2, 72, 6),
        (Squeeze() >> ActNorm(12) >> Squeeze().inv, 3, 3, 2),
        (ActNorm(12) >> Squeeze().inv, 12, 3, 1),
        (Squeeze().inv >> ActNorm(3), 12, 3, 1),
    ],
    ids=lambda value: " ".join(type(part).__name__ for part in value) if isinstance(value, Chain) else "",
)
def test_channels_and_stride(chain: Chain, into: int | None, out: int | None, stride: int) -> None:
    """What a chain can't know may be None, but never a wrong number."""
    assert chain.in_channels in (None, into)
    assert chain.out_channels in (None, out)
    assert chain.stride % stride == 0


@pytest.mark.parametrize(
    "parts", [(Squeeze(), ActNorm(6)), (Squeeze(3), Haar(), ActNorm(9)), (ActNorm(6), Squeeze().inv)]
)
def test_channels_that_squeezing_cannot_make_are_refused(parts: Any) -> None:
    with pytest.raises(
        ValueError, match=r"Chain: .* channels, which the maps beside it, that trade sizes .* can't make"
    ):
        Chain(*parts)


def test_attributes_of_foreign_parts_are_not_taken_for_facts() -> None:
    class Conv(nn.Conv2d):
        def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return -x, x.new_zeros(len(x))

        inverse = forward

    chain = Chain(Conv(3, 5, 3, stride=2), ActNorm(3))
    assert (chain.in_channels, chain.stride, chain.shrink) == (None, 1, None)
    assert chain(torch.rand(1, 3, 5, 5))[0].shape == (1, 3, 5, 5)
    assert torch.equal(flowkit.Inverse(chain[0])(torch.ones(1, 2, 1, 1))[0], -torch.ones(1, 2, 1, 1))


def test_unsqueezing_at_the_end_takes_its_own_output_back() -> None:
    chain = Squeeze() >> ActNorm(4) >> Squeeze().inv
    x = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(chain.inverse(chain(x)[0])[0], x)


def test_a_foreign_part_that_changes_the_channels() -> None:
    chain = Chain(transforms.SqueezeTransform(), ActNorm(12))
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(chain.inverse(chain(x)[0])[0], x)


def test_a_part_that_joins_a_tuple_comes_first() -> None:
    b = Split(1).inv >> Coupling(FCN(1, 4, 4), 1, Affine())
    x = (torch.randn(2, 1, 2, 2), torch.randn(2, 2, 2, 2))
    y, _ = b(x)
    assert y.shape == (2, 3, 2, 2)
    torch.testing.assert_close(b.inverse(y)[0], x)


def test_constant_logdet_if_all_parts_have_it() -> None:
    assert (Squeeze() >> ActNorm(4)).constant_logdet
    assert not (Squeeze() >> Coupling(FCN(2, 4), 2, Affine())).constant_logdet
    assert not Chain(transforms.ReversePermutation(2)).constant_logdet  # it does not say


def linear_run(channels: int = 4) -> Chain:
    torch.manual_seed(0)
    parts = (
        flowkit.ActNorm(channels),
        flowkit.InvertibleConv1x1(channels),
        flowkit.Permutation([2, 0, 3, 1]),
        flowkit.InvertibleConv1x1(channels, "plu"),
        flowkit.ActNorm(channels),
    )
    return perturb(Chain(*parts)).double()


@pytest.mark.parametrize("size", [(), (5,), (3, 2), (2, 1, 3)])
def test_channel_linear_neighbours_act_as_one(size) -> None:
    chain = linear_run()
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    assert [len(run) for run in chain.runs()] == [5]
    one_by_one, logdet = x, torch.zeros(2, dtype=torch.float64)
    for part in chain:
        one_by_one, term = part(one_by_one)
        logdet = logdet + term
    y, fused = chain(x)
    assert torch.allclose(y, one_by_one, atol=1e-12)
    assert torch.allclose(fused, logdet, atol=1e-12)
    back, minus = chain.inverse(y)
    assert torch.allclose(back, x, atol=1e-12)
    assert torch.allclose(minus, -logdet, atol=1e-12)


def test_what_is_not_channel_linear_parts_a_run() -> None:
    step = (
        flowkit.ActNorm(4)
        >> flowkit.InvertibleConv1x1(4)
        >> flowkit.Coupling(flowkit.nets.MLP(2, 4), 2, flowkit.Affine())
    )
    assert [len(run) for run in (flowkit.Squeeze() >> step >> step).runs()] == [1, 2, 1, 2, 1]


def test_a_hooked_part_is_called_for_itself() -> None:
    chain, seen = linear_run(), []
    x = torch.randn(2, 4, dtype=torch.float64)
    expected = chain(x)
    hook = chain[1].register_forward_hook(lambda module, args, out: seen.append(out[0]))
    got = chain(x)
    hook.remove()
    assert len(seen) == 1
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(got, expected, strict=True))


def test_a_run_says_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="expected 4 channels"):
        linear_run()(torch.randn(2, 3, dtype=torch.float64))
