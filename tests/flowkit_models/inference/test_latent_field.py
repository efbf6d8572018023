"""A field of latents: white noise that depends on seed, draw and position alone."""

import itertools

import pytest
import torch
from torch import Tensor

import flowkit_models
from flowkit_models.inference.latent_field import BLOCK, LatentField, StoredField

NAMES = ["hcflow_sr_x4_small", "hcflow_rescale_x4_small", "srflow_x4_small", "irn_x4_small", "irn_x2"]

COARSE = (0.4449865520000458, 0.8035469055175781, 0.20974719524383545)
FINE = (-0.18495582044124603, 0.9900023341178894, -0.8149716258049011)


@pytest.fixture(scope="module")
def hcflow():
    return flowkit_models.create("hcflow_sr_x4_small")


def correlation(a: Tensor, b: Tensor) -> float:
    """Mean product of two white fields in units of its standard error: N(0, 1) if they are independent."""
    return float((a * b).mean() * a.numel() ** 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_a_crop_is_what_the_model_takes_and_the_crop_of_the_whole(name) -> None:
    model = flowkit_models.create(name)
    field, multiple = LatentField(3, 1), model.lr_multiple
    height, width = 70 * multiple, 150 * multiple
    whole = field.crop(model, 0, 0, height, width)
    assert [tuple(z.shape[1:]) for z in whole] == model.latent_shapes(height, width)
    for window in ((0, 0, 1, 1), (5, 31, 64, 65), (63, 64, 2, 3), (69, 149, 1, 1)):
        top, left, rows, columns = (multiple * side for side in window)
        part = field.crop(model, top, left, rows, columns)
        assert [tuple(z.shape[1:]) for z in part] == model.latent_shapes(rows, columns)
        stored = StoredField(whole).crop(model, top, left, rows, columns)
        for z, of, again in zip(part, whole, stored, strict=True):
            r = of.shape[2] / height
            i, j = int(top * r), int(left * r)
            assert torch.equal(z, of[..., i : i + z.shape[2], j : j + z.shape[3]])
            assert torch.equal(z, again)


def test_order_and_what_was_asked_before_do_not_matter(hcflow) -> None:
    field = LatentField(5)
    far = field.crop(hcflow, 100_000, 900_000, 7, 9)
    field.crop(hcflow, 0, 0, 80, 80)
    for a, b in zip(far, LatentField(5).crop(hcflow, 100_000, 900_000, 7, 9), strict=True):
        assert torch.equal(a, b)


def test_numbers_are_standard_normal(hcflow) -> None:
    for z in LatentField(0).crop(hcflow, 0, 0, 256, 256):
        n = z.numel()
        assert z.dtype == torch.float32
        assert abs(float(z.mean())) < 4 / n**0.5
        assert abs(float(z.var()) - 1) < 4 * (2 / n) ** 0.5
        assert abs(float((z**4).mean()) - 3) < 4 * (96 / n) ** 0.5


def test_neighbours_are_independent_also_across_the_borders_of_squares(hcflow) -> None:
    z = LatentField(0).crop(hcflow, 0, 0, 256, 256)[0][0]
    for row, column in ((0, 1), (1, 0), (1, 1), (0, BLOCK), (BLOCK, 0), (BLOCK, BLOCK)):
        assert abs(correlation(z[:, row:, column:], z[:, : 256 - row, : 256 - column])) < 4
    edge = torch.arange(BLOCK, 256, BLOCK)
    assert abs(correlation(z[:, edge], z[:, edge - 1])) < 4
    assert abs(correlation(z[..., edge], z[..., edge - 1])) < 4
    assert abs(correlation(z[1:], z[:-1])) < 4


def test_seeds_draws_and_latents_are_independent(hcflow) -> None:
    fields = [LatentField(seed, draw) for seed in (0, 1, 2**64 - 1) for draw in (0, 1)]
    parts = [z[0, :6, :96, :96] for field in fields for z in field.crop(hcflow, 0, 0, 96, 96)]
    assert len(parts) == 12
    for a, b in itertools.combinations(parts, 2):
        assert abs(correlation(a, b)) < 4.5


def test_the_same_numbers_on_every_machine(hcflow) -> None:
    """Images drawn from a seed stay the same from release to release."""
    coarse, fine = LatentField(7, 2).crop(hcflow, 64, 32, 1, 1)
    torch.testing.assert_close(coarse[0, :3, 0, 0], torch.tensor(COARSE))
    torch.testing.assert_close(fine[0, :3, 0, 1], torch.tensor(FINE))


@pytest.mark.parametrize(("seed", "draw"), [(-1, 0), (2**64, 0), (0, -1), (1.5, 0)])
def test_a_seed_out_of_range(seed, draw) -> None:
    with pytest.raises(ValueError, match="whole number from 0 to"):
        LatentField(seed, draw)


@pytest.mark.parametrize("window", [(-2, 0, 4, 4), (0, 0, 0, 4), (1, 0, 4, 4), (0, 0, 4, 3)])
def test_a_window_that_is_none(window) -> None:
    model = flowkit_models.create("srflow_x4_small")
    with pytest.raises(ValueError, match="multiples of 2"):
        LatentField(0).crop(model, *window)


def test_stored_latents_that_do_not_fit(hcflow) -> None:
    z = LatentField(0).crop(hcflow, 0, 0, 8, 8)
    with pytest.raises(ValueError, match="HCFlow has 2 of them, got 1"):
        StoredField(z[:1]).crop(hcflow, 0, 0, 8, 8)
    with pytest.raises(ValueError, match=r"expected \(1, 21, ≥ 9, ≥ 8\) for this window, got \(1, 21, 8, 8\)"):
        StoredField(z).crop(hcflow, 1, 0, 8, 8)
