"""Own LR images pass, foreign ones are named, and nothing is said where nothing can be known."""

import pytest
import torch

import flowkit_models
from flowkit_models.data.sample_photos import bundled_photos, test_photos
from flowkit_models.diagnostics.lr_provenance import WINDOW, calibrate, provenance_score, provenance_warning
from flowkit_models.images.convert import to_float, to_uint8
from flowkit_models.images.resize import bicubic_resize


class Chequered:
    """A rescaling model by construction: it hides a chequerboard in its LR images, and enlarges smoothly."""

    makes_lr, scale, lr_multiple = True, 4, 2

    def __init__(self, hidden: float = 0.02) -> None:
        self.hidden = hidden
        self.decoded = []

    def downscale(self, hr):
        lr = bicubic_resize(hr, 1 / 4)
        rows, columns = (torch.arange(side) for side in lr.shape[2:])
        sign = 1 - 2 * ((rows[:, None] + columns) % 2)
        return to_float(to_uint8(lr + self.hidden * sign))

    def latent_shapes(self, height, width):
        return [(45, height, width)]

    def decode(self, lr, latents):
        assert [tuple(z.shape[1:]) for z in latents] == self.latent_shapes(*lr.shape[2:])
        assert not any(z.any() for z in latents)
        self.decoded.append(lr)
        return bicubic_resize(lr, 4)


def parts(photos, side=144):
    return [to_float(x[:, i : i + side, i : i + side]) for x in photos.values() for i in (50, 100, 150)]


def bicubic(hr):
    return to_float(bicubic_resize(to_uint8(hr), 1 / 4))[None]


@pytest.fixture(scope="module")
def training():
    wanted = ("china", "motorcycle_left", "rocket")
    return parts({name: x for name, x in bundled_photos().items() if name in wanted})


def test_own_images_pass_and_foreign_ones_are_named(training) -> None:
    model = Chequered()
    threshold = calibrate(model, training)
    assert 0.2 < threshold < 1
    for hr in parts(test_photos()):
        assert provenance_warning(model, model.downscale(hr[None]), threshold) is None
        message = provenance_warning(model, bicubic(hr), threshold)
        assert message is not None
        assert "looks as if Chequered had not made it" in message
        assert "\n" not in message


def test_a_model_that_hides_nothing_calls_no_image_of_its_own_foreign(training) -> None:
    model = Chequered(hidden=0)
    threshold = calibrate(model, training)
    assert all(provenance_warning(model, model.downscale(hr[None]), threshold) is None for hr in training)


def test_flat_and_tiny_images_pass() -> None:
    model = Chequered()
    grey = torch.full((1, 3, 40, 40), 0.5)
    rounded = to_float(to_uint8(grey + torch.rand(grey.shape, generator=torch.Generator().manual_seed(0)) / 255))
    for lr in (grey, rounded, torch.rand(1, 3, 15, 40), torch.rand(1, 3, 40, 1)):
        assert provenance_score(model, lr) is None
        assert provenance_warning(model, lr, 9.0) is None
    assert provenance_warning(model, torch.rand(1, 3, 17, 19), 9.0) is not None  # sides that are no multiples


def test_nothing_to_calibrate_on_names_nothing() -> None:
    model = Chequered()
    assert calibrate(model, []) == 0.0
    assert calibrate(model, [torch.rand(3, 32, 32)]) == 0.0
    assert provenance_warning(model, torch.rand(1, 3, 32, 32), 0.0) is None


def test_models_for_super_resolution_make_no_lr_images() -> None:
    model = flowkit_models.create("srflow_x4_small", steps=1).eval()
    assert calibrate(model, [torch.rand(3, 96, 96)]) == 0.0
    assert provenance_warning(model, torch.rand(1, 3, 24, 24), 9.0) is None


def test_the_most_detailed_part_is_looked_at() -> None:
    model = Chequered()
    lr = torch.full((1, 3, 3 * WINDOW, 2 * WINDOW + 10), 0.5)
    detail = torch.rand(3, WINDOW, WINDOW)
    lr[0, :, -WINDOW:, -WINDOW:] = detail
    assert provenance_warning(model, lr, 9.0) is not None
    assert torch.equal(model.decoded[0][0], detail)


def test_a_real_model_is_asked_as_it_is() -> None:
    torch.manual_seed(0)
    model = flowkit_models.create("irn_x4_small").eval()
    found = provenance_score(model, model.downscale(torch.rand(1, 3, 100, 90)))
    assert found is not None
    assert found > 0
    assert not model.training
