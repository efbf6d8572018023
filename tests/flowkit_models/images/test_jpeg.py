"""JPEG in memory against libjpeg, and its gradient."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from flowkit_models.data.sample_photos import test_photos
from flowkit_models.images.convert import to_float
from flowkit_models.images.jpeg import jpeg_file, simulate_jpeg

PHOTO = test_photos()["astronaut"][:, 60:157, 190:333]
QUALITIES = (10, 25, 49, 50, 75, 90, 95)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("size", [(97, 143), (18, 33), (9, 6), (6, 4), (5, 3), (1, 1)], ids=str)
def test_it_is_libjpeg_s(size, subsampling):
    """But for ties between levels, which libjpeg's 13-bit constants decide otherwise in a block here and there."""
    noise = torch.randint(256, (3, *size), generator=torch.Generator().manual_seed(0)).byte()
    x = PHOTO if size[0] > 20 else noise  # of which every edge has a colour
    batch = to_float(x).expand(len(QUALITIES), -1, -1, -1)
    simulated = simulate_jpeg(batch, torch.tensor(QUALITIES), subsampling)
    files = torch.stack([jpeg_file(x, quality, subsampling) for quality in QUALITIES])
    error = (255 * simulated - files.float()).abs()
    assert error.mean() < 0.15
    assert error.flatten(1).mean(1).median() < 0.05


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_smooth_rounding_is_near_in_value_and_has_a_gradient(subsampling):
    x = to_float(PHOTO)[None]
    for quality in QUALITIES:
        smooth = simulate_jpeg(x, quality, subsampling, "smooth")
        file = to_float(jpeg_file(PHOTO, quality, subsampling))
        assert (255 * (smooth - file)).abs().mean() < 1.5
    torch.manual_seed(0)
    small = 0.3 + 0.4 * torch.rand(2, 3, 9, 7, dtype=torch.float64)  # no level leaves 0…255 where it has no gradient
    small.requires_grad_()
    assert gradcheck(
        lambda x: simulate_jpeg(x, torch.tensor([40, 92]), subsampling, "smooth"), small, eps=1e-7, fast_mode=True
    )
    assert not simulate_jpeg(small, 50, subsampling).requires_grad


def test_each_image_has_its_quality_and_nothing_of_its_neighbours():
    x = to_float(torch.stack([PHOTO, PHOTO.flip(2), 255 - PHOTO]))
    together = simulate_jpeg(x, torch.tensor([20, 60, 90]))
    for i, quality in enumerate((20, 60, 90)):
        assert torch.allclose(together[i : i + 1], simulate_jpeg(x[i : i + 1], quality), atol=1e-6)
    files = jpeg_file(torch.stack([PHOTO, 255 - PHOTO]), 60)
    assert torch.equal(files[1], jpeg_file(255 - PHOTO, 60))
    qualities = torch.tensor([20, 60, 90], dtype=torch.uint8)
    assert torch.equal(simulate_jpeg(x, qualities), together)
    half = simulate_jpeg(x.half(), 60)
    assert half.dtype == torch.float16
    assert (half.float() - simulate_jpeg(x.half().float(), 60)).abs().max() < 1e-3


def test_autocast_leaves_it_as_it_is():
    x = to_float(PHOTO)[None]
    with torch.autocast("cpu", torch.bfloat16):
        inside = [simulate_jpeg(x, 60, rounding=rounding) for rounding in ("real", "smooth")]
    assert torch.equal(inside[0], simulate_jpeg(x, 60))
    assert torch.equal(inside[1], simulate_jpeg(x, 60, rounding="smooth"))


def test_numbers_of_other_libraries_are_qualities():
    for quality in (np.int64(60), torch.tensor(60)):
        assert torch.equal(jpeg_file(PHOTO, quality), jpeg_file(PHOTO, 60))
        assert torch.equal(simulate_jpeg(to_float(PHOTO)[None], quality), simulate_jpeg(to_float(PHOTO)[None], 60))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simulate_jpeg(PHOTO[None], 50), r"floating-point images in \[0, 1\], got torch.uint8"),
        (lambda: simulate_jpeg(to_float(PHOTO), 50), r"expected images \(B, 3, H, W\), got \(3, 97, 143\)"),
        (lambda: simulate_jpeg(to_float(PHOTO)[None], 0), "quality is 1 to 100, got 0"),
        (lambda: simulate_jpeg(to_float(PHOTO)[None], torch.tensor([50, 60])), "one for each image"),
        (lambda: simulate_jpeg(to_float(PHOTO)[None], 50.0), "whole number"),
        (lambda: simulate_jpeg(to_float(PHOTO)[None], None), "whole number"),
        (lambda: simulate_jpeg([50], 50), r"expected images \(B, 3, H, W\), got list"),
        (lambda: jpeg_file(PHOTO, "high"), "whole number"),
        (lambda: jpeg_file(PHOTO, True), "whole number"),
        (lambda: simulate_jpeg(to_float(PHOTO)[None], 50, "4:1:1"), 'subsampling is "4:4:4" or "4:2:0"'),
        (lambda: simulate_jpeg(to_float(PHOTO)[None], 50, rounding="none"), 'rounding is "real" or "smooth"'),
        (lambda: jpeg_file(to_float(PHOTO), 50), "takes uint8 images"),
        (lambda: jpeg_file(PHOTO[:, :0], 50), "expected images"),
        (lambda: jpeg_file(PHOTO, 101), "quality is 1 to 100, got 101"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
