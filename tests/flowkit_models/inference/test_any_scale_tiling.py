"""Tiles of a model of any scale: the whole image's result, at any size."""

import warnings

import pytest
import torch

import flowkit_models
from flowkit.testing import perturb
from flowkit_models.images.resize import bicubic_rows, bicubic_to
from flowkit_models.inference.latent_field import LatentField
from flowkit_models.inference.tiling import Tiled

SIZES = {"steps": 2, "blocks": 1, "features": 4, "width": 4, "hidden": 6, "depth": 1}


@pytest.mark.parametrize(("patch", "size"), [(1, (91, 140)), (3, (91, 140)), (1, (60, 37)), (3, (226, 111))])
@torch.no_grad()
def test_tiles_make_the_image_that_the_whole_makes(patch, size) -> None:
    """Of a net that reaches six LR pixels; tiles drop seven at their rims."""
    torch.manual_seed(0)
    model = perturb(flowkit_models.create("linf_small", patch=patch, **SIZES), 0.1).eval()
    lr, field = torch.rand(3, 97, 53), LatentField(3)
    latents = field.part([(model.config.channels, 0, 0, *model.queries(size))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of factors below 1
        whole = model.upscale(lr[None], temperature=0.05, latents=latents, size=size)[0, 0]
    assert whole.std() > 0.05
    tiled = Tiled(model, tile=58, overlap=28)
    for given in (field, latents):
        tops = [top for top, _ in tiled.strips(lr, given, 0.05, 32, size=size)]
        assert len(tops) > 1
        got = tiled.upscale(lr, given, 0.05, 32, size=size)
        assert got.shape == (3, *size)
        assert float((got - whole).abs().max()) < 2e-5
    with pytest.raises(ValueError, match="latents: expected one of"):
        tiled.upscale(lr, (latents[0][..., :-1],), 0.05, 32, size=size)


class Moved:
    """A field of LR windows that is no LatentField."""

    def crop(self, model, top, left, height, width):
        return LatentField(3).crop(model, top + 5, left + 7, height, width)


def test_a_field_of_windows_fits_the_models_own_factor() -> None:
    model = perturb(flowkit_models.create("linf_small", **SIZES), 0.1).eval()
    lr = torch.rand(3, 20, 17)
    with torch.no_grad():
        whole = model.upscale(lr[None], temperature=0.05, latents=Moved().crop(model, 0, 0, 20, 17))[0, 0]
    assert float((Tiled(model, tile=20, overlap=0).upscale(lr, Moved(), 0.05, 32) - whole).abs().max()) < 2e-5
    for latents in (Moved(), None):
        with pytest.raises(ValueError, match="takes a LatentField or tensors"):
            Tiled(model, tile=20, overlap=0).upscale(lr, latents, 0.05, 32, size=(30, 30))


def test_tiles_without_a_pixel() -> None:
    """A factor so small that some tiles have none."""
    model = flowkit_models.create("linf_small", **SIZES).eval()
    assert Tiled(model, tile=10, overlap=4).upscale(torch.rand(3, 60, 60), LatentField(0), 0.0, size=(2, 3)).shape == (
        3,
        2,
        3,
    )


def test_rows_of_the_bicubic_are_the_bicubics() -> None:
    x = torch.rand(4, 9, 7, dtype=torch.float64)
    whole = bicubic_to(x, (31, 12))
    assert torch.equal(
        torch.cat([bicubic_rows(x, (31, 12), top, min(31, top + 8)) for top in range(0, 31, 8)], 1), whole
    )


def test_a_model_of_one_scale_is_asked_for_its_size_alone() -> None:
    model = flowkit_models.create("irn_x4_small", growth=2).eval()
    with pytest.raises(ValueError, match="IRN ×4 makes 32 × 32 of 8 × 8 alone"):
        Tiled(model, tile=80).upscale(torch.rand(3, 8, 8), LatentField(0), size=(24, 24))
