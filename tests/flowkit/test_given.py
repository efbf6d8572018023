"""How features arise: each design alone, without a hierarchy."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flowkit import CoarseToFine, External, Independent, SingleScale

Y = torch.randn(2, 3, 4, 4)
NEAR, FAR = torch.randn(2, 2, 2, 2), torch.randn(2, 1, 1, 1)


def test_independent_gives_nothing() -> None:
    assert Independent()(0, Y, [NEAR], Y) is None


def test_single_scale_looks_at_its_own_y_only() -> None:
    net = nn.Conv2d(3, 2, 1)
    given = SingleScale([net, None])
    assert torch.equal(given(0, Y, [NEAR, FAR], None), net(Y))
    assert given(1, Y, [], None) is None


def test_coarse_to_fine_joins_y_and_coarser_features_from_near_to_far() -> None:
    given = CoarseToFine([nn.Identity(), None, None])
    out = given(0, Y, [NEAR, FAR], None)
    assert torch.equal(out[:, :3], Y)
    assert torch.equal(out[:, 3:5], F.interpolate(NEAR, scale_factor=2))
    assert torch.equal(out[:, 5:], FAR.expand(2, 1, 4, 4))


def test_coarse_to_fine_passes_over_levels_without_features() -> None:
    given = CoarseToFine([nn.Identity(), None, None])
    assert torch.equal(given(0, Y, [None, None], None), Y)
    assert given(0, Y, [None, FAR], None).shape == (2, 4, 4, 4)
    assert given(1, Y, [FAR], None) is None


def test_vectors_have_features_too() -> None:
    given = CoarseToFine([nn.Linear(5, 2), None])
    assert given(0, torch.randn(2, 3), [torch.randn(2, 2)], None).shape == (2, 2)


def test_from_lr_replaces_the_coarsest_y_only() -> None:
    given = CoarseToFine([nn.Identity(), nn.Identity()], start="lr")
    assert torch.equal(given(1, Y, [], NEAR), NEAR)
    assert torch.equal(given(1, None, [], NEAR), NEAR)
    assert torch.equal(given(1, Y, [], (None, NEAR)), NEAR)  # with a context per level: the last entry
    assert torch.equal(given(0, Y, [], NEAR), Y)


def test_external_passes_the_entry() -> None:
    assert External()(1, Y, [NEAR], (None, FAR)) is FAR
    assert External()(0, Y, [NEAR], (None, FAR)) is None


def test_errors() -> None:
    with pytest.raises(ValueError, match='start must be "y" or "lr", got \'hr\''):
        CoarseToFine([], start="hr")
    with pytest.raises(ValueError, match=r'CoarseToFine\(start="lr"\): pass the LR image y\* as context'):
        CoarseToFine([nn.Identity()], start="lr")(0, Y, [], None)
    with pytest.raises(ValueError, match='level 0 keeps nothing; condition on the LR image: start="lr"'):
        CoarseToFine([nn.Identity()])(0, None, [], None)
    with pytest.raises(ValueError, match="SingleScale: level 0 keeps nothing"):
        SingleScale([nn.Identity()])(0, None, [], None)
    with pytest.raises(ValueError, match="External: expected a context tuple with one entry per level, got None"):
        External()(0, Y, [], None)
