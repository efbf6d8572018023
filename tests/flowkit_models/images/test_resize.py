"""Bicubic resizing against the official codes' numbers, MATLAB's own files, torch, and by its laws."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from flowkit_models.images.image_file import list_images, read_image
from flowkit_models.images.resize import bicubic_resize


@pytest.mark.parametrize(("i", "scale"), [*enumerate((4, 4, 8, 2))])
def test_hcflow_golden(golden, i, scale):
    g = golden("hcflow_components").part(f"bicubic{i}.")
    x, u8, f64 = (g[name].movedim(-1, 0) for name in ("in_u8", "out_u8", "out_f64"))
    assert torch.equal(bicubic_resize(x, Fraction(1, scale)), u8)
    torch.testing.assert_close(bicubic_resize(x.double() / 255, Fraction(1, scale)), f64, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("i", "scale"), [*enumerate((4, 2, 3, 8, 4))])
def test_irn_golden(golden, i, scale):
    g = golden("metrics_irn")
    x, out = (g[f"{side}.resize{i}"].movedim(-1, 0) for side in ("in", "out"))
    torch.testing.assert_close(bicubic_resize(x.float() / 255, 1 / scale), out, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("i", "scale"), [*enumerate((0.25, 0.25, 0.125, 0.5, 2.0, 4.0))])
def test_srflow_golden(golden, i, scale):
    g = golden("metrics_srflow")
    x, u8, f64 = (g[name.format(i)].movedim(-1, 0) for name in ("in.resize{}", "out.resize{}.u8", "out.resize{}.f64"))
    assert torch.equal(bicubic_resize(x, scale), u8)
    torch.testing.assert_close(bicubic_resize(x.double() / 255, scale), f64, atol=1e-12, rtol=0)


def test_golden_images_tell_the_rules_for_halves_apart(golden):
    x = golden("metrics_srflow")["in.resize4"].movedim(-1, 0)
    even, up = (bicubic_resize(x, 2, ties=ties).int() for ties in ("even", "up"))
    assert 0 < (even != up).sum() < even.numel() / 50
    assert (even - up).abs().max() == 1


@pytest.mark.parametrize(
    ("name", "images"),
    [("Set5", 5), ("Set14", 3), ("BSD100", 3), pytest.param("all", 119, marks=pytest.mark.slow)],
)
def test_benchmark_lr_files_bit_for_bit(shared, name, images):
    root = shared / "data" / "benchmarks"
    sets = [root / name] if name != "all" else sorted(root.iterdir())
    files = [path for folder in sets for path in list_images(folder / "HR")][:images]
    assert len(files) == images
    for path in files:
        hr = read_image(path)
        hr = hr[:, : hr.shape[1] // 4 * 4, : hr.shape[2] // 4 * 4]
        lr = read_image(path.parents[1] / "LR_bicubic" / "X4" / f"{path.stem}x4.png")
        assert torch.equal(bicubic_resize(hr, Fraction(1, 4), "clamp", "up"), lr), path.name


@pytest.mark.parametrize("scale", [Fraction(1, 4), Fraction(1, 3)])
def test_interior_is_torchs_antialiased_bicubic(scale):
    x = torch.rand(2, 3, 48, 72, dtype=torch.float64)
    mine = bicubic_resize(x, scale)
    other = F.interpolate(x, size=mine.shape[-2:], mode="bicubic", antialias=True)
    inside = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(mine[inside], other[inside], atol=1e-12, rtol=0)


@pytest.mark.parametrize("edges", ["mirror", "clamp"])
@pytest.mark.parametrize("scale", [Fraction(1, 8), Fraction(1, 3), 0.7, 1, 2.5])
def test_constants_stay_and_sizes_round_up(edges, scale):
    x = torch.full((2, 1, 7, 30), 0.3, dtype=torch.float64)
    out = bicubic_resize(x, scale, edges)
    ratio = Fraction(scale).limit_denominator(100)
    assert out.shape == (2, 1, math.ceil(7 * ratio), math.ceil(30 * ratio))
    torch.testing.assert_close(out, torch.full_like(out, 0.3))


def test_scale_one_is_the_identity_and_size_is_exact():
    x = torch.rand(3, 5, 6)
    assert torch.equal(bicubic_resize(x, 1), x)
    assert math.ceil(100 * 0.07) == 8  # what floating point would make of it
    assert bicubic_resize(torch.rand(100, 30), 0.07).shape == (7, 3)


@pytest.mark.parametrize(("edges", "padding"), [("mirror", "symmetric"), ("clamp", "edge")])
@pytest.mark.parametrize("size", [(3, 2), (1, 7), (13, 40)])
def test_edges_are_padding_even_of_images_smaller_than_the_kernel(edges, padding, size):
    x = torch.rand(size, dtype=torch.float64)
    out = bicubic_resize(x, Fraction(1, 4), edges)
    padded = torch.from_numpy(np.pad(x.numpy(), 16, padding))
    inside = bicubic_resize(padded, Fraction(1, 4))[4 : 4 + out.shape[0], 4 : 4 + out.shape[1]]
    torch.testing.assert_close(out, inside)


def test_one_pixel_stays_that_pixel():
    pixel = torch.full((3, 1, 1), 200, dtype=torch.uint8)
    assert torch.equal(bicubic_resize(pixel, Fraction(1, 8)), pixel)
    assert torch.equal(bicubic_resize(pixel, 4), pixel.expand(3, 4, 4))


def test_stored_images_are_clipped_and_float_images_are_not():
    x = torch.tensor([0, 0, 255, 255], dtype=torch.uint8).expand(4, 4)
    assert bicubic_resize(x, 4).unique()[[0, -1]].tolist() == [0, 255]
    out = bicubic_resize(x.double() / 255, 4)
    assert out.min() < -0.01
    assert out.max() > 1.01


def test_gradient():
    x = torch.rand(2, 9, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: bicubic_resize(t, Fraction(1, 4)), x)
    assert torch.autograd.gradcheck(lambda t: bicubic_resize(t, 1.5, "clamp"), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_is_kept_and_sums_are_exact(dtype):
    x = torch.rand(2, 16, 16).to(dtype)
    out = bicubic_resize(x, Fraction(1, 4))
    assert out.dtype == dtype
    torch.testing.assert_close(out, bicubic_resize(x.double(), Fraction(1, 4)).to(dtype))


def test_results_after_inference_mode_can_be_trained_through():
    with torch.inference_mode():
        bicubic_resize(torch.rand(23, 29), Fraction(1, 2))
    x = torch.rand(23, 29, requires_grad=True)
    bicubic_resize(x, Fraction(1, 2)).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_device_is_kept(dtype):
    out = bicubic_resize(torch.empty(3, 16, 12, dtype=dtype, device="meta"), Fraction(1, 4))
    assert (out.device.type, out.dtype, out.shape) == ("meta", dtype, (3, 4, 3))


def test_input_is_not_written_into():
    x = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    before = x.clone()
    bicubic_resize(x, Fraction(1, 2))
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.rand(5), {"scale": 2}, r"\(\.\.\., H, W\), got shape \(5,\)"),
        (torch.rand(3, 0, 5), {"scale": 2}, "non-empty"),
        (torch.ones(4, 4, dtype=torch.int32), {"scale": 2}, "got torch.int32"),
        (torch.ones(4, 4, dtype=torch.complex64), {"scale": 2}, "got torch.complex64"),
        (torch.rand(4, 4), {"scale": 0}, "positive.*got 0"),
        (torch.rand(4, 4), {"scale": -0.5}, "got -0.5"),
        (torch.rand(4, 4), {"scale": float("nan")}, "got nan"),
        (torch.rand(4, 4), {"scale": float("inf")}, "got inf"),
        (torch.rand(4, 4), {"scale": 1e-9}, "got 1e-09"),
        (torch.rand(4, 4), {"scale": 2, "edges": "zeros"}, "got 'zeros'"),
        (torch.rand(4, 4), {"scale": 2, "ties": "down"}, "'down'"),
    ],
)
def test_rejects(x, options, message):
    with pytest.raises(ValueError, match=message) as error:
        bicubic_resize(x, **options)
    assert "\n" not in str(error.value)
