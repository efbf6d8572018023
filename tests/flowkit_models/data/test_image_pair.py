"""Test pairs: sizes that fit each other, and the bicubic upscale."""

import torch

from flowkit_models.data.image_pair import make_pairs


def test_pairs_are_cropped_to_multiples_of_the_scale() -> None:
    photos = {"a": torch.zeros(3, 36, 32, dtype=torch.uint8), "b": torch.zeros(3, 35, 33, dtype=torch.uint8)}
    pairs = make_pairs(photos, 4)
    assert [tuple(p.hr.shape[2:]) for p in pairs.values()] == [(36, 32), (32, 32)]
    assert [tuple(p.lr.shape[2:]) for p in pairs.values()] == [(9, 8), (8, 8)]
    assert all(p.bicubic.shape == p.hr.shape for p in pairs.values())
