"""Values as trees: tensors in (named) tuples, with None for what is not there."""

import torch

from flowkit import Latents
from flowkit.tree import describe, leaves, map_leaves, sum_per_sample


def test_leaves_come_left_to_right() -> None:
    a, b, c = (torch.full((1,), float(i)) for i in range(3))
    assert [float(leaf) for leaf in leaves((a, (b, None), [c]))] == [0, 1, 2]
    assert list(leaves(None)) == []
    assert list(leaves(a)) == [a]


def test_mapping_keeps_the_tree() -> None:
    value = Latents(torch.zeros(2), (torch.ones(2), torch.ones(3)))
    out = map_leaves(lambda leaf: leaf + 1, value)
    assert isinstance(out, Latents)
    assert isinstance(out.z, tuple)
    assert [float(leaf.sum()) for leaf in leaves(out)] == [2, 4, 6]
    assert map_leaves(len, Latents(None, (torch.ones(3),))) == Latents(None, (3,))
    assert map_leaves(len, [torch.ones(2), None]) == (2, None)


def test_descriptions_show_shapes_and_dtypes() -> None:
    value = (torch.zeros(2, 3), (None, torch.zeros(1, dtype=torch.int64)), 3)
    assert describe(value) == "((2, 3) float32, (None, (1,) int64), int)"


def test_sum_per_sample_takes_any_shape() -> None:
    for shape in ((4, 3), (4, 3, 2), (4, 1, 2, 2), (4, 0)):
        x = torch.randn(shape)
        torch.testing.assert_close(sum_per_sample(x), x.reshape(4, -1).sum(1) if x.numel() else torch.zeros(4))
