"""The hierarchy: order and shapes of the latents, who sees whom, and wrong numbers of anything."""

from typing import Any

import pytest
import torch
from examples import BY_NAME, extractor, per_level, srflow_like, step, two_levels
from torch import Tensor, nn

from flowkit import (
    ActNorm,
    Affine,
    Bijector,
    Chain,
    CoarseToFine,
    Coupling,
    External,
    Hierarchy,
    Independent,
    Injector,
    Latents,
    Level,
    SingleScale,
    Split,
    Squeeze,
)
from flowkit.nets import FCN
from flowkit.testing import check_bijector, perturb
from flowkit.tree import leaves, map_leaves


class Records(Bijector):
    """The identity, which keeps a copy of the contexts that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        self.seen.append(context)
        return x + 0, x.new_zeros(len(x))

    inverse = forward


def plain(*keeps: int | None) -> Hierarchy:
    return Hierarchy([Level(Squeeze(), keep) for keep in keeps])


def test_shapes_and_order() -> None:
    latents, logdet = plain(1, 3, 2)(torch.randn(2, 1, 16, 8))
    assert isinstance(latents, Latents)
    assert latents.y.shape == (2, 2, 2, 1)
    assert [tuple(z.shape) for z in latents.z] == [
        (2, 10, 2, 1),
        (2, 1, 4, 2),
        (2, 3, 8, 4),
    ]  # coarsest first
    assert logdet.shape == (2,)


def test_the_latents_are_the_splits_of_the_bodies() -> None:
    x = torch.randn(2, 1, 4, 4)
    (y, (coarse, fine)), _ = plain(1, 1)(x)
    first = Squeeze()(x)[0]
    second = Squeeze()(first[:, :1])[0]
    assert torch.equal(fine, first[:, 1:])
    assert torch.equal(y, second[:, :1])
    assert torch.equal(coarse, second[:, 1:])


@pytest.mark.parametrize("keep", [None, 0])
def test_a_last_level_that_keeps_nothing(keep: int | None) -> None:
    h = plain(1, keep)
    x = torch.randn(2, 1, 4, 4)
    (y, z), _ = h(x)
    assert y is None
    assert [tuple(part.shape) for part in z] == [(2, 4, 1, 1), (2, 3, 2, 2)]
    assert torch.equal(h.inverse(Latents(None, z))[0], x)


def test_a_level_without_a_split_in_the_middle_makes_no_latent() -> None:
    h = plain(None, 2)
    x = torch.randn(2, 1, 4, 4)
    (y, z), _ = h(x)
    assert y.shape == (2, 2, 1, 1)
    assert [tuple(part.shape) for part in z] == [(2, 14, 1, 1)]
    assert torch.equal(h.inverse((y, z))[0], x)


def test_decoding_takes_a_plain_tuple_and_lists_of_latents() -> None:
    h, x = two_levels("coarse"), torch.randn(2, 1, 4, 4)
    y, z = h(x)[0]
    expected = h.inverse(Latents(y, z))[0]
    assert torch.equal(h.inverse((y, z))[0], expected)
    assert torch.equal(h.inverse((y, list(z)))[0], expected)
    torch.testing.assert_close(expected, x)


def test_a_single_level_and_one_body_that_is_not_a_bijector() -> None:
    class Foreign(nn.Module):
        def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
            return -x, x.new_zeros(len(x))

        inverse = forward

    h = Hierarchy([Level(Foreign(), 1, Foreign())])
    x = torch.randn(2, 3)
    (y, (z,)), _ = h(x)
    assert torch.equal(y, -x[:, :1])
    assert torch.equal(z, x[:, 1:])
    assert torch.equal(h.inverse((y, (z,)))[0], x)


def test_finer_details_depend_on_coarser_ones_and_not_the_reverse() -> None:
    """Eq. (5): p(a_l | y_l, coarser features)."""
    torch.manual_seed(0)
    h = perturb(two_levels("coarse"))
    (y, (coarse, fine)), _ = h(torch.randn(1, 1, 8, 8))
    with torch.no_grad():
        base = h(x := h.inverse((y, (coarse, fine)))[0])[0]
        moved = h.inverse((y, (coarse + 1, fine)))[0]
        body = h.levels[0].body
        details, details_moved = (body(image)[0][:, 2:] for image in (x, moved))
        assert not torch.allclose(details, details_moved)  # coarser moved: the same z means other fine details
        finer = h(h.inverse((y, (coarse, fine + 1)))[0])[0]
    torch.testing.assert_close(finer.y, base.y, atol=1e-5, rtol=0)
    torch.testing.assert_close(finer.z[0], base.z[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("design", ["independent", "single", "coarse", "lr"])
def test_features_of_each_design(design: str) -> None:
    """What the conditions of the two levels are, for one image."""
    a, b = extractor(4 if design in ("coarse", "lr") else 2), extractor(3)
    given = {
        "independent": Independent,
        "single": lambda: SingleScale([a, b]),
        "coarse": lambda: CoarseToFine([a, b]),
        "lr": lambda: CoarseToFine([a, b], start="lr"),
    }[design]()
    fine, coarse = Records(), Records()
    h = Hierarchy([Level(Squeeze(), 2, fine), Level(Squeeze(), 3, coarse)], given)
    x, lr = torch.randn(2, 1, 8, 8), torch.randn(2, 3, 2, 2)
    latents = h(x, lr)[0]
    kept = Squeeze()(x)[0][:, :2]
    coarsest = b(lr if design == "lr" else latents.y)
    below = torch.cat([kept, nn.Upsample(scale_factor=2)(coarsest)], 1)
    expected = {
        "independent": (None, None),
        "single": (None, None) if design != "single" else (a(kept), b(latents.y)),
        "coarse": None if design in ("independent", "single") else (a(below), coarsest),
    }
    want = expected["coarse" if design == "lr" else design]
    h.inverse(latents, lr)
    for layer, feature in ((fine, want[0]), (coarse, want[1])):
        assert len(layer.seen) == 2
        for seen in layer.seen:
            if feature is None:
                assert seen is None
            else:
                torch.testing.assert_close(seen, feature)


def test_from_lr_really_uses_the_lr_that_is_given() -> None:
    torch.manual_seed(0)
    h, x, lr = perturb(two_levels("lr")), torch.randn(1, 1, 8, 8), torch.randn(1, 3, 2, 2)
    (y, z), _ = h(x, lr)
    (y_other, z_other), _ = h(x, lr + 1)
    torch.testing.assert_close(y, y_other)
    assert not torch.allclose(z[0], z_other[0])
    assert not torch.allclose(z[1], z_other[1])
    torch.testing.assert_close(h.inverse((y, z), lr)[0], x, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(h.inverse((y, z), lr + 1)[0], x, atol=1e-2)


def test_each_entry_goes_to_its_levels_body_and_with_external_to_its_latent() -> None:
    bodies, latents = [Records(), Records()], [Records(), Records()]
    levels = [Level(Squeeze() >> body, 1, latent) for body, latent in zip(bodies, latents, strict=True)]
    x = torch.randn(2, 1, 4, 4)
    context = (torch.zeros(2, 1), torch.ones(2, 1))
    for given, to_latents in ((External(), context), (Independent(), (None, None))):
        h = Hierarchy(levels, given)
        value, _ = h(x, context)
        h.inverse(value, context)
        for i in range(2):
            assert all(seen is context[i] for seen in bodies[i].seen)
            assert all(seen is to_latents[i] for seen in latents[i].seen)
            assert len(bodies[i].seen) == len(latents[i].seen) == 2
            bodies[i].seen.clear()
            latents[i].seen.clear()


def test_srflow_conditions_its_bodies() -> None:
    h = perturb(srflow_like())
    x = torch.randn(2, 1, 8, 8)
    context = per_level(x, 3)
    latents, _ = h(x, context)
    for i in range(3):
        other = tuple(c + (i == j) for j, c in enumerate(context))
        changed, _ = h(x, other)
        assert not torch.allclose(changed.z[0], latents.z[0])  # every body lies on the way to the coarsest


def test_an_entry_that_is_none_leaves_its_level_alone() -> None:
    record = Records()
    h = Hierarchy([Level(record, 1), Level(Chain())])
    h(torch.zeros(2, 2), (None, torch.zeros(2, 1)))
    assert record.seen == [None]


LEVELS = [Level(Squeeze(), 1), Level(Squeeze(), 1)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hierarchy([]), "Hierarchy: needs at least one level"),
        (lambda: Hierarchy(LEVELS, CoarseToFine([None])), "2 levels, but CoarseToFine has 1 nets"),
        (lambda: Hierarchy(LEVELS, SingleScale([None] * 3)), "2 levels, but SingleScale has 3 nets"),
        (lambda: Level(Squeeze(), -1), "keep must be at least 1, got -1"),
    ],
)
def test_wrong_numbers_at_construction(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_numbers_of_contexts() -> None:
    x, c = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1)
    for h in (Hierarchy(LEVELS), Hierarchy(LEVELS, External())):
        with pytest.raises(ValueError, match="Hierarchy: 2 levels, but 3 context entries"):
            h(x, (c, c, c))
    with pytest.raises(ValueError, match="External needs a tuple with one entry per level, got None"):
        Hierarchy(LEVELS, External())(x)
    with pytest.raises(ValueError, match=r"External needs a tuple .* got \(2, 1\) float32"):
        Hierarchy(LEVELS, External()).inverse(Hierarchy(LEVELS)(x)[0], c)


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(2, 1, 1, 1),
        (torch.zeros(2, 1, 1, 1),),
        (torch.zeros(2, 1, 1, 1), torch.zeros(2, 3, 1, 1)),
        (torch.zeros(2, 1, 1, 1), (torch.zeros(2, 3, 1, 1),)),
        (None, (torch.zeros(2, 3, 1, 1), torch.zeros(2, 3, 2, 2))),
    ],
)
def test_wrong_numbers_of_latents(value: Any) -> None:
    with pytest.raises(ValueError, match=r"Hierarchy: expected \(y, z\) with 2 latents in z, coarsest first, got"):
        Hierarchy(LEVELS).inverse(value)


def test_a_y_too_many() -> None:
    with pytest.raises(ValueError, match="Hierarchy: expected"):
        plain(1, None).inverse((torch.zeros(2, 1, 1, 1), (torch.zeros(2, 4, 1, 1), torch.zeros(2, 3, 2, 2))))


def test_latents_finest_first_are_refused() -> None:
    y, z = Hierarchy(LEVELS)(torch.zeros(2, 1, 4, 4))[0]
    with pytest.raises(ValueError, match=r"cannot join \(2, 1, 1, 1\) with \(2, 3, 2, 2\)"):
        Hierarchy(LEVELS).inverse((y, z[::-1]))


def test_sizes_that_do_not_divide_are_refused_at_the_door() -> None:
    with pytest.raises(ValueError, match=r"Hierarchy\(\): spatial sizes must be multiples of 4, got \(2, 1, 6, 4\)"):
        Hierarchy(LEVELS)(torch.zeros(2, 1, 6, 4))


def test_channels_are_known_from_the_first_body() -> None:
    assert two_levels("coarse").in_channels == 1
    assert two_levels("coarse").stride == 4
    with pytest.raises(ValueError, match=r"Hierarchy\(\): expected 1 channels, got \(2, 3, 4, 4\)"):
        two_levels("coarse")(torch.zeros(2, 3, 4, 4))


def test_channels_that_only_a_later_level_knows_are_not_carried_over_a_split() -> None:
    coupling = Coupling(FCN(2, 4, 4), 2, Affine())
    h = Hierarchy([Level(Squeeze() >> coupling, keep=2), Level(Squeeze() >> ActNorm(8))])
    assert h.in_channels in (None, 1)
    x = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(h.inverse(h(x)[0])[0], x)


def test_a_hierarchy_stands_in_a_chain_and_in_a_level() -> None:
    x = torch.randn(2, 1, 8, 8)
    chain = ActNorm(1) >> two_levels("coarse")
    torch.testing.assert_close(chain.inverse(chain(x)[0])[0], x, atol=1e-5, rtol=1e-5)
    assert len(list(leaves(chain(x)[0]))) == 3
    nested = Hierarchy([Level(Squeeze() >> step(4), 1, plain(2, 3)), Level(Squeeze())])
    value, _ = nested(x)
    assert isinstance(value.z[1], Latents)
    torch.testing.assert_close(nested.inverse(value)[0], x, atol=1e-5, rtol=1e-5)


def test_a_prior_sees_its_levels_feature() -> None:
    prior = Injector(FCN(1, 6, 4), Affine("exp", "scale_first", inverted=True))
    h = Hierarchy([Level(Squeeze(), 1, prior)], SingleScale([nn.Identity()]))
    perturb(h)
    x = torch.randn(2, 1, 4, 4)
    (y, (z,)), logdet = h(x)
    kept, dropped = Squeeze()(x)[0].split([1, 3], 1)
    assert torch.equal(y, kept)
    torch.testing.assert_close((z, logdet), prior(dropped, kept))


def test_default_latents_are_empty_chains() -> None:
    assert isinstance(Level(Squeeze(), 1).latent, Chain)
    assert len(Level(Squeeze(), 1).latent) == 0


def test_a_latent_may_be_a_tree() -> None:
    inner = Hierarchy([Level(ActNorm(3), keep=1)])
    for latent in (Split(1), inner):
        h = Hierarchy([Level(Squeeze(), keep=1, latent=latent)])
        x = torch.randn(2, 1, 4, 4)
        torch.testing.assert_close(h.inverse(h(x)[0])[0], x)


def test_a_level_that_splits_nothing_off_has_no_latent() -> None:
    with pytest.raises(ValueError, match="level 0 has a latent, but with keep=None"):
        Hierarchy([Level(Squeeze(), None, ActNorm(4)), Level(Squeeze())])
    with pytest.raises(ValueError, match="level 0 is not the last and must keep channels"):
        Hierarchy([Level(Squeeze(), 0), Level(Squeeze())])


@pytest.mark.parametrize(
    "name", ["coarse to fine", "single scale", "independent", "coarse to fine from lr", "external"]
)
def test_draws_share_y_and_context(name) -> None:
    """(y, z) with B rows of y and n·B of z: the same as with y and the context repeated."""
    example = BY_NAME[name]
    b = example.bijector(0).double()
    x = torch.randn(2, 1, 8, 4, dtype=torch.float64)
    context = map_leaves(torch.Tensor.double, example.context(x))
    (y, z), _ = b(x, context)
    draws = tuple(torch.cat([part, 0.5 * part, -part]) for part in z)
    shared, logdet = b.inverse((y, draws), context)
    expected = b.inverse((y.repeat(3, 1, 1, 1), draws), map_leaves(lambda c: c.repeat(3, 1, 1, 1), context))
    assert torch.allclose(shared, expected[0], atol=1e-12)
    assert torch.allclose(logdet, expected[1], atol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 1, 1)])
def test_a_label_or_vector_reaches_every_levels_body(shape: tuple[int, ...]) -> None:
    bodies = [Records(), Records()]
    h = Hierarchy([Level(Squeeze() >> body, 1) for body in bodies])
    context = torch.randint(5, shape) if len(shape) == 1 else torch.randn(shape)
    h.inverse(h(torch.randn(3, 1, 4, 4), context)[0], context)
    for body in bodies:
        assert len(body.seen) == 2
        assert all(torch.equal(seen, context) for seen in body.seen)


def test_an_image_stays_the_lr_image() -> None:
    body = Records()
    h = Hierarchy([Level(Squeeze() >> body, 1)])
    h(torch.randn(3, 1, 4, 4), torch.randn(3, 1, 2, 2))
    assert body.seen == [None]


def test_a_class_conditional_hierarchy_obeys_the_laws() -> None:
    h = perturb(Hierarchy([Level(Squeeze() >> step(4, 3), 2), Level(Squeeze() >> step(8, 3))]))
    check_bijector(h, torch.randn(3, 1, 4, 4), torch.eye(3))
    one, other = (h(torch.ones(1, 1, 4, 4), torch.eye(3)[i : i + 1])[0] for i in (0, 1))
    assert not torch.allclose(one.z[1], other.z[1])
