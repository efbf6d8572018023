"""`flowkit upscale --scale | --size`: any factor with a model of any scale, one line where it makes no sense."""

import numpy as np
import pytest
import torch
from command_files import noise, opened, save

import flowkit_models
from flowkit_models.images.resize import bicubic_to


def test_scale_and_size(tmp_path, flowkit, checkpoint):
    model, path = checkpoint("linf_small"), save(tmp_path / "x.png", noise(17, 12, 3))
    for asked, size, name in (
        (("--scale", 2.7), (46, 32), "x_x2.7.png"),
        (("--size", "30x51"), (51, 30), "x_30x51.png"),
        ((), (68, 48), "x_x4.png"),
    ):
        ran = flowkit("upscale", path, "-m", model, "--temperature", 0, *asked)
        assert (ran.code, ran.err) == (0, [])
        lr = torch.from_numpy(noise(17, 12, 3)).movedim(-1, 0)[None].float() / 255
        expected = flowkit_models.load(model).upscale(lr, 1, 0.0, size=size)[0, 0].detach()
        assert np.abs(opened(tmp_path / name) - 255 * expected.movedim(0, -1).numpy()).max() < 0.51


def test_transparency_goes_along(tmp_path, flowkit, checkpoint):
    pixels = noise(9, 8, 4)
    path = save(tmp_path / "x.png", pixels)
    assert flowkit("upscale", path, "-m", checkpoint("linf_small"), "--size", "21x19").code == 0
    alpha = bicubic_to(torch.from_numpy(pixels[..., 3]).double() / 255, (19, 21)).clamp(0, 1)
    assert np.abs(opened(tmp_path / "x_21x19.png")[..., 3] - 255 * alpha.numpy()).max() < 0.51


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("--scale", 0.5), "a factor of 0.5: below 1"),
        (("--scale", 5), "a factor of 5: this model was trained for 1 to 4"),
        (("--size", "10x80"), "a factor of 10 and 1: this model was trained for 1 to 4"),
    ],
)
def test_a_factor_that_was_not_trained_is_told(asked, says, tmp_path, flowkit, checkpoint):
    path = save(tmp_path / "x.png", noise(8, 10, 3))
    ran = flowkit("upscale", path, "-m", checkpoint("linf_small"), *asked)
    assert ran.code == 0
    assert len(ran.err) == 1
    assert says in ran.err[0]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (
            ("--scale", 2.7),
            "--scale 2.7: hcflow_sr_x4.safetensors is a model of ×4 alone; leave it out, or take -m linf_any",
        ),
        (("--size", "64x64"), "--size 64x64: hcflow_sr_x4.safetensors is a model of ×4 alone"),
        (("--scale", 2, "--size", "64x64"), "--scale and --size exclude each other"),
        (("--scale", 0), "--scale 0: a factor above 0"),
        (("--scale", "nan"), "--scale nan: a factor above 0"),
        (("--size", "1920"), "--size 1920: width and height in pixels, as 1920x1080"),
        (("--size", "0x5"), "--size 0x5: width and height"),
        (("--size", "-3x5"), "--size -3x5: width and height"),
    ],
)
def test_what_makes_no_sense_is_one_line(asked, says, tmp_path, flowkit, checkpoint):
    path = save(tmp_path / "x.png", noise(8, 10, 3))
    ran = flowkit("upscale", path, "-m", checkpoint(), *asked)
    assert ran.code == 2
    assert len(ran.err) == 1
    assert says in ran.err[0]


def test_the_models_own_factor_may_be_said(tmp_path, upscale):
    path = save(tmp_path / "x.png", noise(8, 10, 3))
    assert upscale(path, "--scale", 4).code == 0
    assert opened(tmp_path / "x_x4.png").shape == (32, 40, 3)
