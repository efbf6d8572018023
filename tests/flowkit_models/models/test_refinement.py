"""Refined LR images: restored better, near the plain ones, of any size, and the networks left alone."""

import numpy as np
import pytest
import torch

import flowkit_models
from flowkit_models.data.sample_photos import test_photos as photographs
from flowkit_models.inference.tiling import Tiled
from flowkit_models.models.refinement import RADIUS, _descended, refined_lr


@pytest.fixture(scope="module")
def model():
    return flowkit_models.load("hcflow_x4")


@pytest.fixture(scope="module")
def hr():
    """Two windows of photographs."""
    photos = photographs()
    return torch.stack([photos[name][:, 100:148, 200:248] for name in ("astronaut", "chelsea")]) / 255


def errors(model, hr, lr):
    with torch.no_grad():
        restored = model.upscale(lr, temperature=0.0)[0][..., : hr.shape[2], : hr.shape[3]]
    return (restored - hr).square().mean((1, 2, 3))


@pytest.mark.parametrize("memory", ["plain", "lean"])
def test_refined_images_are_restored_better(memory, hr) -> None:
    model = flowkit_models.load("hcflow_x4", memory)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        plain, refined = model.downscale(hr), model.downscale(hr, refine=4)
    assert torch.equal(refined * 255, (refined * 255).round())
    assert bool((errors(model, hr, refined) < 0.97 * errors(model, hr, plain)).all())
    assert 0 < (refined - plain).square().mean().sqrt() * 255 < 3 * RADIUS
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_image_is_refined_as_if_it_were_alone(model, hr) -> None:
    together = model.downscale(hr, refine=2)
    alone = torch.cat([model.downscale(image[None], refine=2) for image in hr])
    assert (together - alone).abs().max() * 255 <= 1.001


def test_the_change_stays_in_its_ball_and_the_best_iterate_counts() -> None:
    start, hr = torch.full((2, 3, 8, 8), 0.5), torch.ones(2, 3, 8, 8)
    for radius in (0.0, 0.1, 1.1, 50.0):
        change = _descended(start, lambda x: x, hr, 15, radius) - start
        reach = min(radius, 15 * 0.29)
        assert change.square().mean((1, 2, 3)).sqrt().mul(255).tolist() == pytest.approx([reach] * 2, abs=1e-3)
    assert torch.equal(_descended(hr, lambda x: x, hr, 15, 1.1), hr)  # nothing to gain, and no NaN
    far = _descended(start, lambda x: (x - 0.5) * 1e4 + 1, hr, 15, 1.1)  # every step overshoots
    assert torch.equal(far, start)


def test_both_changes_help(model, hr) -> None:
    with torch.no_grad():
        first = _descended(hr, lambda x: model._up(model.downscale(x)), hr, 4, RADIUS)
        both = refined_lr(hr, model._reduced, model._restored, 4, RADIUS)
        assert bool((errors(model, hr, model.downscale(first)) < errors(model, hr, model.downscale(hr))).all())
    assert bool((errors(model, hr, (both * 255).round() / 255) < errors(model, hr, model.downscale(first))).all())


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 5), (18, 23)])
def test_any_size(size, model, hr) -> None:
    """What is filled up is not seen, and does not count: no image that is seen gets worse."""
    windows = hr.unfold(2, size[0], 24).unfold(3, size[1], 24).movedim(1, 3).flatten(0, 2)
    plain, refined = (model.downscale(windows, refine=steps).detach() for steps in (0, 2))
    assert refined.shape == plain.shape
    assert bool((errors(model, windows, refined) <= errors(model, windows, plain) + 1e-7).all())


def test_inference_mode(model, hr) -> None:
    with torch.inference_mode():
        assert torch.equal(model.downscale(hr + 0, refine=1), model.downscale(hr, refine=1))


def test_half_precision_is_refined_in_full(model, hr) -> None:
    half = hr[..., :16, :18].half()
    assert torch.equal(model.downscale(half, refine=2), model.downscale(half.float(), refine=2))


def test_tiles_are_refined_too(model, hr) -> None:
    tall = torch.cat(list(hr), 1)[None]  # (1, 3, 96, 48), in three tiles
    plain, refined = (Tiled(model, 12, 2).downscale(tall[0], refine=refine)[None] / 255 for refine in (0, 3))
    assert float(errors(model, tall, refined)) < 0.97 * float(errors(model, tall, plain))


def test_what_makes_no_sense(model, hr) -> None:
    assert torch.equal(model.downscale(hr, refine=np.int64(1)), model.downscale(hr, refine=1))
    for refine, radius in ((-1, 1.0), (1, -1.0), (1, float("nan")), (1.5, 1.0), (None, 1.0), (True, 1.0), (1, "2")):
        with pytest.raises(ValueError, match="refine and radius must be at least 0"):
            model.downscale(hr, refine=refine, radius=radius)
    with pytest.raises(ValueError, match="makes no LR image"):
        flowkit_models.create("srflow_x4_small").downscale(hr, refine=1)
