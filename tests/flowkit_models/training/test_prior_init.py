"""The least-squares start of the priors."""

import pytest
import torch

import flowkit_models
from flowkit.testing import perturb
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.training.prior_init import fit_priors

SMALL = {"steps": 2, "conditional_steps": 1, "blocks": ((0, 0), (0, 0)), "features": 16, "hidden": 8}


def smooth_images(n: int) -> torch.Tensor:
    return bicubic_resize(torch.rand(n, 3, 8, 8), 8).clamp(0, 1)


def fitted(model):
    torch.manual_seed(0)
    hr = smooth_images(8)
    lr = bicubic_resize(hr, 0.25)
    fit_priors(model, hr, lr)
    return hr, lr


def test_tau_zero_becomes_a_linear_super_resolution() -> None:
    model = flowkit_models.create("hcflow_sr_x4_small", **SMALL)
    fitted(model)
    other = smooth_images(4)
    low = bicubic_resize(other, 0.25)
    blocks = torch.nn.functional.interpolate(low, scale_factor=4)
    error = (model.upscale(low, temperature=0.0)[0] - other).square().mean()
    assert error < 0.1 * (blocks - other).square().mean()
    assert error < (bicubic_resize(low, 4) - other).square().mean()


@pytest.mark.parametrize("name", ["hcflow_sr_x4_small", "hcflow_sr_x4"])
def test_latents_given_the_lr_image_have_variance_one(name) -> None:
    torch.manual_seed(1)
    # so smooth an image has details below what a bounded prior reaches
    model = perturb(flowkit_models.create(name, **SMALL, prior="exp"), 0.1)  # steps that do something
    hr, lr = fitted(model)
    with torch.no_grad():
        h = hr
        for level in model.flow.levels:
            h, details = level.split(level.body(h)[0])[0]
        features = model.flow.given(1, lr, [], None)
        z = model.flow.levels[-1].latent(details, features)[0]
    torch.testing.assert_close(z.square().mean((0, 2, 3)), torch.ones(21), atol=1e-3, rtol=0)


def test_latents_of_a_fresh_model_are_uncorrelated_between_channels() -> None:
    model = flowkit_models.create("hcflow_sr_x4_small", **SMALL)
    hr, lr = fitted(model)
    with torch.no_grad():
        h = hr
        for level in model.flow.levels:
            h, details = level.split(level.body(h)[0])[0]
        z = model.flow.levels[-1].latent(details, model.flow.given(1, lr, [], None))[0]
    correlation = z.transpose(0, 1).flatten(1).corrcoef()
    torch.testing.assert_close(correlation, torch.eye(21), atol=0.02, rtol=0)


def test_the_likelihood_improves() -> None:
    model = flowkit_models.create("hcflow_sr_x4_small", **SMALL)
    torch.manual_seed(0)
    hr = smooth_images(2)
    lr = bicubic_resize(hr, 0.25)
    before = model.bits_per_dim(hr, lr).mean()
    fitted(model)
    assert model.bits_per_dim(hr, lr).mean() < before
