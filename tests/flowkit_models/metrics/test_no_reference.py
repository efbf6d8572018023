"""NIQE and BRISQUE against known values and formulas, and by their laws."""

import math

import numpy as np
import pytest
import torch
from scipy.special import gamma
from scipy.stats import gennorm

from flowkit_models.images.image_file import read_image
from flowkit_models.metrics.no_reference import _WINDOW, _fit_asymmetric, _shape_of, _table, brisque, niqe

PAIRS = ("I03", "I04", "I06", "I08", "I19")
NIQE = (15.7536, 3.6549, 3.2355, 3.1840, 8.6352)
BRISQUE = (94.6421, -0.1076, 0.9929, 5.3583, 72.2617)


@pytest.fixture(scope="module")
def distorted(shared):
    return torch.stack([read_image(shared / "data/calibration/dist_dir" / f"{name}.bmp") for name in PAIRS])


def noise(*size, seed=0, batch=1):
    return torch.randint(0, 256, (batch, 3, *size), generator=torch.Generator().manual_seed(seed)).byte()


def test_known_values_of_niqe(distorted):
    found = niqe(distorted)
    assert found.dtype == torch.float64
    assert found.tolist() == [pytest.approx(value, rel=0.015) for value in NIQE]


def test_known_values_of_brisque(distorted):
    found = brisque(distorted)
    assert found.dtype == torch.float64
    assert found.tolist() == [pytest.approx(value, abs=max(0.5, 0.03 * value)) for value in BRISQUE]


def test_values_do_not_drift(distorted):
    """Closer than the releases can be met: what this implementation has always said."""
    assert niqe(distorted).tolist() == pytest.approx([15.763387, 3.654922, 3.234290, 3.214722, 8.663723], abs=2e-5)
    assert brisque(distorted).tolist() == pytest.approx([94.643261, -0.107176, 0.990374, 5.463427, 71.690634], abs=2e-5)


def test_references_look_more_natural(shared, distorted):
    references = torch.stack([read_image(shared / "data/calibration/ref_dir" / f"{name}.bmp") for name in PAIRS])
    assert niqe(references)[0] < niqe(distorted)[0] - 5
    assert (brisque(references)[[0, 4]] < brisque(distorted)[[0, 4]] - 30).all()


def test_the_packaged_table_is_the_shared_one(shared):
    table, there = _table("niqe_pristine", torch.device("cpu")), np.load(shared / "weights" / "niqe_pristine.npz")
    assert np.array_equal(table["mean"], there["mu_pris_param"][0])
    assert np.array_equal(table["covariance"], there["cov_pris_param"])
    window = np.outer(_WINDOW, _WINDOW)
    assert np.abs(window - there["gaussian_window"]).max() < 1e-16


def test_the_window_is_a_gaussian_that_adds_up_to_1():
    assert math.fsum(_WINDOW) == 1
    offset = np.arange(-3, 4)
    gauss = np.exp(-(offset**2) / (2 * (7 / 6) ** 2))
    assert np.abs(gauss / gauss.sum() - _WINDOW).max() < 1e-16


@pytest.mark.parametrize("shape", [0.4, 1.0, 2.0, 5.0])
def test_fit_of_a_symmetric_distribution(shape):
    x = torch.from_numpy(gennorm.ppf((np.arange(40_000) + 0.5) / 40_000, shape)).view(1, 1, 200, 200)
    alpha, left, right, mean = (fit[0, 0, 0].item() for fit in _fit_asymmetric(x))
    deviation = (gamma(3 / shape) / gamma(1 / shape)) ** 0.5
    assert alpha == pytest.approx(shape, abs=0.02)
    assert (left, right) == (pytest.approx(deviation, rel=0.02),) * 2
    assert mean == pytest.approx(0, abs=1e-9)


def test_fit_of_an_asymmetric_distribution():
    half = np.abs(gennorm.ppf((np.arange(20_000) + 0.5) / 40_000, 1.5))
    values = np.concatenate((-2 * np.repeat(half, 2), half))  # as likely as it is wide
    x = torch.from_numpy(values).view(1, 1, 200, 300)
    alpha, left, right, mean = (fit[0, 0, 0].item() for fit in _fit_asymmetric(x))
    assert alpha == pytest.approx(1.5, abs=0.01)
    assert left == pytest.approx(2 * right, rel=1e-6)
    assert mean == pytest.approx(values.mean(), rel=0.01)


def test_products_are_with_the_four_neighbours():
    x = torch.rand(1, 1, 4, 5, dtype=torch.float64) - 0.5
    _, left, _, _ = _fit_asymmetric(x)
    a = x[0, 0].numpy()
    shifted = [np.roll(a, shift, axis) for shift, axis in ((1, 1), (1, 0))]
    shifted += [np.roll(np.roll(a, 1, 0), way, 1) for way in (1, -1)]
    for i, b in enumerate(shifted):
        product = a * b
        assert left[0, 0, 1 + i].item() == pytest.approx((product[product < 0] ** 2).mean() ** 0.5)


def test_the_nearest_shape_is_found():
    grid = np.arange(200, 10001) / 1000
    known = gamma(2 / grid) ** 2 / (gamma(1 / grid) * gamma(3 / grid))
    wanted = torch.cat((torch.rand(50, dtype=torch.float64) * 0.7 + 0.05, torch.tensor([0.0, 1.0])))
    nearest = [grid[np.abs(known - value).argmin()] for value in wanted.numpy()]
    assert _shape_of(wanted).tolist() == pytest.approx(nearest, abs=1e-12)
    assert _shape_of(torch.tensor([math.nan, math.inf])).isnan().all()


@pytest.mark.parametrize("metric", [niqe, brisque])
def test_images_do_not_see_each_other(metric):
    x = noise(100, 200, batch=2)
    torch.testing.assert_close(metric(x)[1:], metric(x[1:]))
    torch.testing.assert_close(metric(x.float() / 255), metric(x))


def test_niqe_leaves_out_what_fills_no_block():
    x = noise(190, 290)
    assert torch.equal(niqe(x), niqe(x[..., :96, :288]))


def test_niqe_leaves_out_flat_blocks():
    x = noise(96, 96 * 4)
    x[..., 192:] = 128
    assert niqe(x).isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: niqe(noise(96, 191)), r"two blocks of 96 × 96 pixels.*\(1, 3, 96, 191\)"),
        (lambda: niqe(torch.full((1, 3, 192, 192), 0.5)), "flat"),
        (lambda: brisque(torch.full((1, 3, 32, 32), 0.5)), "flat"),
        (lambda: brisque(noise(13, 40)), r"14 × 14.*\(1, 3, 13, 40\)"),
        (lambda: niqe(noise(192, 192)[:, :1]), r"\(B, 3, H, W\)"),
        (lambda: brisque(noise(40, 40)[0]), r"got \(3, 40, 40\)"),
        (lambda: brisque(noise(40, 40).int()), "torch.int32"),
        (lambda: niqe(noise(192, 192) * math.nan), "NaN"),
        (lambda: brisque(noise(40, 40) * math.inf), "NaN or infinite"),
    ],
)
def test_rejects(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
