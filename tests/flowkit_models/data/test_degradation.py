"""Degradations do what they say, image by image, and the same thing for the same generator."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from flowkit_models.data.degradation import Bicubic, Compose, GaussianBlur, GaussianNoise, Jpeg
from flowkit_models.data.sample_photos import test_photos
from flowkit_models.images.convert import to_float, to_uint8
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.metrics.full_reference import psnr

PHOTO = test_photos()["chelsea"][:, 100:164, 150:230]
STAGES = {
    "bicubic": Bicubic(4),
    "unrounded": Bicubic(2, rounded=False),
    "blur": GaussianBlur((0.5, 2.0)),
    "anisotropic": GaussianBlur((0.5, 3.0), anisotropic=True),
    "noise": GaussianNoise((5, 20)),
    "jpeg": Jpeg((20, 90)),
    "all": Compose((GaussianBlur(), Bicubic(2), GaussianNoise(), Jpeg())),
}


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(params=STAGES.values(), ids=STAGES.keys())
def stage(request):
    return request.param


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_generator_decides_everything(stage, dtype):
    x = PHOTO if dtype == torch.uint8 else to_float(PHOTO)
    before = x.clone()
    y = stage(x, rng(1))
    assert y.shape == (3, 64 // stage.scale, 80 // stage.scale)
    assert torch.equal(y, stage(x, rng(1)))
    assert torch.equal(x, before)
    assert torch.equal(y, stage(x, rng(2))) == isinstance(stage, Bicubic)


def test_a_batch_is_its_images_in_turn(stage):
    x = torch.stack([PHOTO, PHOTO.flip(2)])
    g = rng(3)
    assert torch.equal(stage(x, rng(3)), torch.stack([stage(i, g) for i in x]))


@pytest.mark.parametrize("edges", ["mirror", "clamp"])
@pytest.mark.parametrize("ties", ["even", "up"])
def test_bicubic_is_the_bicubic(edges, ties):
    file = bicubic_resize(PHOTO, 1 / 4, edges, ties)
    exact = bicubic_resize(to_float(PHOTO), 1 / 4, edges)
    assert torch.equal(Bicubic(4, edges, ties)(PHOTO, rng()), file)
    assert torch.equal(Bicubic(4, edges, ties, rounded=False)(PHOTO, rng()), exact)
    assert torch.equal(Bicubic(4, edges, ties)(to_float(PHOTO), rng()), to_uint8(exact))
    assert torch.equal(Bicubic(4, edges, rounded=False)(to_float(PHOTO), rng()), exact)


def test_unrounded_bicubic_is_not_clipped():
    edge = torch.zeros(3, 16, 16, dtype=torch.uint8)
    edge[:, :, 6:] = 255  # a step that no LR pixel boundary meets
    y = Bicubic(4, rounded=False)(edge, rng())
    assert y.min() < 0
    assert y.max() > 1


def moments(blur, seed, size=41):
    """Covariance (rows and columns) of the blurred picture of one white pixel."""
    x = torch.zeros(3, size, size, dtype=torch.float64)
    x[:, size // 2, size // 2] = 1
    y = blur(x, rng(seed))[0]
    assert torch.allclose(y.sum(), torch.tensor(1.0).double())
    at = torch.arange(size) - size // 2
    return torch.tensor(
        [
            [(y * at[:, None] ** 2).sum(), (y * at[:, None] * at).sum()],
            [(y * at[:, None] * at).sum(), (y * at**2).sum()],
        ]
    )


def test_isotropic_blur_has_the_width_drawn():
    assert torch.allclose(moments(GaussianBlur((2, 2)), 0), 4 * torch.eye(2).double(), atol=0.15)  # cut off at 3 σ
    widths = [moments(GaussianBlur((1, 3)), seed)[0, 0].sqrt() for seed in range(30)]
    assert 0.95 < min(widths) < 1.3
    assert 2.6 < max(widths) < 3


def test_anisotropic_blur_is_an_ellipse_at_any_angle():
    angles = []
    for seed in range(40):
        covariance = moments(GaussianBlur((1, 4), anisotropic=True), seed)
        values, vectors = torch.linalg.eigh(covariance)
        assert 0.9 < values[0].sqrt() <= values[1].sqrt() < 4
        angles.append(math.atan2(vectors[0, 1], vectors[1, 1]) % math.pi)
    assert min(angles) < 0.4
    assert max(angles) > math.pi - 0.4
    assert any(1 < a < 2 for a in angles)
    isotropic = moments(GaussianBlur((3, 3), anisotropic=True), 0)
    assert torch.allclose(isotropic, isotropic[0, 0] * torch.eye(2).double(), atol=1e-3)


def test_blur_at_the_edges_and_at_no_width():
    flat = torch.full((3, 4, 5), 51, dtype=torch.uint8)  # smaller than the kernel
    assert torch.allclose(GaussianBlur((3, 3))(flat, rng()), torch.tensor(0.2))
    assert torch.equal(GaussianBlur((0, 0))(PHOTO, rng()), to_float(PHOTO))
    mirrored = torch.cat((PHOTO.flip(2), PHOTO, PHOTO.flip(2)), 2)
    mirrored = torch.cat((mirrored.flip(1), mirrored, mirrored.flip(1)), 1)
    whole = GaussianBlur((2, 2))(mirrored, rng())[:, 64:128, 80:160]
    assert torch.allclose(GaussianBlur((2, 2))(PHOTO, rng()), whole, atol=1e-6)


def test_noise_has_the_deviation_drawn():
    grey = torch.full((3, 100, 100), 128, dtype=torch.uint8)
    y = GaussianNoise((10, 10))(grey, rng())
    assert y.dtype == torch.uint8
    residue = y.double() - 128
    assert abs(residue.mean()) < 0.2
    assert abs(residue.std() - 10) < 0.2
    assert abs((residue[0] * residue[1]).mean()) < 2  # channels are independent
    assert abs((residue[:, 1:] * residue[:, :-1]).mean()) < 2
    spread = [float(GaussianNoise((5, 25))(to_float(grey), rng(s)).std() * 255) for s in range(20)]
    assert 5 < min(spread) < 9
    assert 21 < max(spread) < 25.5
    assert torch.equal(GaussianNoise((0, 0))(PHOTO, rng()), PHOTO)
    assert GaussianNoise((50, 50))(torch.ones(3, 9, 9), rng()).max() > 1


def test_jpeg_is_a_file_of_the_quality_drawn():
    file = io.BytesIO()
    Image.fromarray(PHOTO.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=37)
    stored = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    assert torch.equal(Jpeg((37, 37))(PHOTO, rng()), stored)
    assert torch.equal(Jpeg((37, 37))(to_float(PHOTO), rng()), stored)
    loss = [psnr(Jpeg((q, q))(PHOTO, rng())[None], PHOTO[None]).item() for q in (5, 30, 60, 95)]
    assert loss == sorted(loss)
    both = {tuple(Jpeg((10, 11))(PHOTO, rng(s)).flatten().tolist()) for s in range(12)}
    assert both == {tuple(Jpeg((q, q))(PHOTO, rng()).flatten().tolist()) for q in (10, 11)}


def test_stages_run_in_their_order_on_one_generator():
    stages = (GaussianBlur((1, 2)), Bicubic(2), GaussianNoise((5, 9)), Bicubic(2), Jpeg((40, 60)))
    composed = Compose(stages)
    assert composed.scale == 4
    assert Compose((composed, Bicubic(2))).scale == 8
    g, x = rng(4), PHOTO
    for stage in stages:
        x = stage(x, g)
    assert torch.equal(composed(PHOTO, rng(4)), x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bicubic(0), "got 0"),
        (lambda: GaussianBlur((2, 1)), r"sigma is a range .* got \(2, 1\)"),
        (lambda: GaussianBlur((-1, 1)), "sigma"),
        (lambda: GaussianNoise((0, math.inf)), "sigma"),
        (lambda: GaussianNoise((math.nan, 1)), "sigma"),
        (lambda: Jpeg((0, 50)), r"quality .* got \(0, 50\)"),
        (lambda: Jpeg((50, 101)), "quality"),
        (lambda: Compose(()), "at least one stage"),
        (lambda: Bicubic(4)(PHOTO[:, :63], rng()), "63 × 80 pixels are no multiples of scale 4"),
        (lambda: Jpeg()(PHOTO[:2], rng()), r"Jpeg takes images .* got \(2, 64, 80\)"),
        (lambda: GaussianNoise()(PHOTO[None, None], rng()), r"got \(1, 1, 3, 64, 80\)"),
        (lambda: GaussianBlur()(PHOTO[:, :0], rng()), r"got \(3, 0, 80\)"),
        (lambda: Bicubic()(PHOTO.int(), rng()), r"torch\.int32"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
