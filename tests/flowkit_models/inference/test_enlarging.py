"""A photograph at high resolution, as its file will hold it: the same whatever rows of it are made at a time."""

import numpy as np
import pytest
import torch

import flowkit_models
from flowkit_models.images.photo_file import Header
from flowkit_models.inference import enlarging
from flowkit_models.inference.enlarging import enlarged_rows, upscaled
from flowkit_models.inference.latent_field import LatentField


@pytest.mark.parametrize("size", [None, (101, 70)])
@pytest.mark.parametrize("alpha", [False, True])
def test_rows_made_at_a_time_change_nothing(monkeypatch, alpha, size) -> None:
    model = flowkit_models.create("hcflow_sr_x4_small", features=4, growth=2, hidden=4, blocks=((0, 0), (0, 0)))
    torch.manual_seed(0)
    channels = torch.rand(4, 26, 18)
    channels[0, 5:15, 3:12] = 0  # transparent
    height, width = size or (104, 72)

    def under(top: int, bottom: int) -> torch.Tensor:
        return enlarged_rows(channels, (104, 72))(top, bottom)[..., :width]

    def made(rows: int) -> np.ndarray:
        monkeypatch.setattr(enlarging, "ROWS", rows)
        header = Header(alpha=alpha)
        return upscaled(
            model, channels[1:], 20, 0.8, under if alpha else None, header, LatentField(0), lambda *_: None, size
        )

    expected = made(10**6)
    assert expected.shape == (height, width, 3 + alpha)
    assert expected.std() > 10
    for rows in (1, 7, 64):
        assert np.array_equal(made(rows), expected)
