"""The designs of the paper's Table 1, two fields of HCFlow's config: what depends on what, and what a model does."""

import math

import pytest
import torch

import flowkit_models
from flowkit import initialize
from flowkit.testing import check_bijector, perturb
from flowkit_models.training.prior_init import fit_priors

DESIGNS = {
    "case 1": {"given": "independent", "keep_lr": False},
    "case 2": {"given": "lr", "keep_lr": False},
    "case 3": {"given": "lr", "keep_lr": True},
    "case 4": {"given": "independent", "keep_lr": True},
    "case 5": {"given": "single", "keep_lr": True},
    "HCFlow": {"given": "coarse", "keep_lr": True},
}
SIZES = {"steps": 1, "conditional_steps": 1, "hidden": 4, "conditional_hidden": 4, "features": 3, "growth": 2}
NO_BLOCKS = {"blocks": ((0, 0), (0, 0))}


def made(design, preset="hcflow_sr_x4", **more):
    torch.manual_seed(0)
    return perturb(flowkit_models.create(preset, **SIZES, **NO_BLOCKS, **DESIGNS[design], **more), 0.1)


def images():
    torch.manual_seed(1)
    hr = torch.rand(2, 3, 8, 12)
    return hr, torch.rand(2, 3, 2, 3)


@pytest.mark.parametrize(
    ("design", "preset"),
    [
        *((design, "hcflow_sr_x4") for design in DESIGNS),
        pytest.param("case 1", "hcflow_rescale_x4", marks=pytest.mark.slow),
        ("case 3", "hcflow_rescale_x4"),
    ],
)
def test_laws(design, preset) -> None:
    model = made(design, preset)
    hr, lr = images()
    check_bijector(model.flow, hr[..., :4, :8], model.context(lr[..., :1, :2]))


@pytest.mark.parametrize("design", DESIGNS)
def test_a_model_does_what_models_do(design, tmp_path) -> None:
    model = made(design)
    hr, lr = images()
    with torch.no_grad():
        encoded = model.encode(hr, lr)
        assert (encoded.lr is None) == (design in ("case 1", "case 2"))
        assert [tuple(z.shape[1:]) for z in encoded.latents] == model.latent_shapes(2, 3)
        y = lr if encoded.lr is None else encoded.lr
        torch.testing.assert_close(model.decode(y, encoded.latents, lr), hr, atol=1e-4, rtol=0)
        assert model.upscale(torch.rand(1, 3, 3, 5), n=2).shape == (2, 1, 3, 12, 20)
        assert model.bits_per_dim(hr, lr).isfinite().all()
        model.save(tmp_path / "model.safetensors")
        again = flowkit_models.load(tmp_path / "model.safetensors")
        assert again.config == model.config
        noise = torch.rand_like(hr)
        assert torch.equal(again.nll(hr, lr, noise), model.nll(hr, lr, noise))


@pytest.mark.parametrize("design", DESIGNS)
def test_likelihood_by_hand(design) -> None:
    """Standard-normal latents, and beside them y near y* where there is a y."""
    model = made(design, lr_rounded=False).double()
    hr, lr = (x.double() for x in images())
    encoded = model.encode(hr, lr)
    log_density = encoded.logdet - sum(0.5 * (z**2 + math.log(2 * math.pi)).flatten(1).sum(1) for z in encoded.latents)
    if encoded.lr is not None:
        error = (encoded.lr - lr) * math.exp(6)
        log_density = log_density + (6 - 0.5 * (error**2 + math.log(2 * math.pi))).flatten(1).sum(1)
    pixels = hr[0, 0].numel()
    expected = (math.log(model.config.quant) - log_density / pixels) / math.log(2)
    torch.testing.assert_close(model.nll(hr, lr, torch.zeros_like(hr)), expected)


@pytest.mark.parametrize("design", DESIGNS)
def test_what_the_latents_are_conditioned_on(design) -> None:
    model = made(design, init="identity")
    hr, lr = images()
    other = lr + 0.2
    with torch.no_grad():
        latents = model.encode(hr, lr).latents
        moved = model.encode(hr, other).latents  # the same HR image beside another LR image
        given_lr = [not torch.equal(a, b) for a, b in zip(latents, moved, strict=True)]
        assert given_lr == [design in ("case 2", "case 3")] * 2

        noise = model.draw(lr, torch.Generator().manual_seed(0))
        changed = not torch.equal(model.decode(lr, noise), model.decode(other, noise))
        assert changed == (design != "case 1")

        own, coarser = torch.rand(1, 6, 4, 4), torch.rand(2, 1, 6, 2, 2)  # y_1, and two versions of c_2
        features = [model.flow.given(0, own, [c], lr[:1]) for c in coarser]
        if "independent" in DESIGNS[design].values():
            assert features == [None, None]
        else:
            assert torch.equal(*features) == (design == "case 5")


def test_conditioned_on_the_given_image_decode_needs_it_to_invert() -> None:
    model = made("case 3")
    hr, lr = images()
    with torch.no_grad():
        encoded = model.encode(hr, lr)
        assert float((model.decode(encoded.lr, encoded.latents) - hr).abs().max()) > 1e-2
    with pytest.raises(ValueError, match=r"given: expected the shape of lr, \(2, 3, 2, 3\), got \(2, 3, 2, 2\)"):
        model.decode(lr, encoded.latents, lr[..., :2])
    with pytest.raises(ValueError, match="given: contains NaN"):
        model.decode(lr, encoded.latents, lr * math.nan)


@pytest.mark.parametrize("design", ["case 3", "case 4", "case 5", "HCFlow"])
def test_the_lr_image_needs_no_condition(design) -> None:
    model = made(design)
    hr, lr = images()
    with torch.no_grad():
        expected = (model.encode(hr, lr).lr.clamp(0, 1) * 255).round() / 255
        assert torch.equal(model.downscale(hr), expected)


@pytest.mark.parametrize("design", DESIGNS)
def test_lean_memory_gives_the_same_gradients(design) -> None:
    plain = made(design).double()
    lean = flowkit_models.create("hcflow_sr_x4", "lean", **SIZES, **NO_BLOCKS, **DESIGNS[design]).double()
    lean.load_state_dict(plain.state_dict())
    hr, lr = (x.double() for x in images())
    for model in (plain, lean):
        (model.nll(hr, lr, torch.zeros_like(hr)).sum() + model.upscale(lr, temperature=0.0).sum()).backward()
    for a, b in zip(plain.parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("design", DESIGNS)
def test_every_actnorm_can_be_set_from_data(design) -> None:
    torch.manual_seed(0)
    model = flowkit_models.create("hcflow_sr_x4", **SIZES, **NO_BLOCKS, **DESIGNS[design])
    hr, lr = images()
    initialize(model.flow, hr, model.context(lr))
    flags = [bool(b) for name, b in model.named_buffers() if name.endswith("initialized")]
    assert flags
    assert all(flags)


@pytest.mark.parametrize("design", DESIGNS)
def test_the_least_squares_start_gives_each_design_what_it_may_see(design) -> None:
    torch.manual_seed(0)
    model = flowkit_models.create("hcflow_sr_x4_small", features=16, prior="exp", **NO_BLOCKS, **DESIGNS[design])
    low = torch.rand(8, 3, 8, 8)
    hr = torch.nn.functional.interpolate(low, scale_factor=4, mode="bilinear")
    hr = hr + 0.01 * torch.randn_like(hr)
    lr = torch.nn.functional.avg_pool2d(hr, 4)
    fit_priors(model, hr, lr)
    blocks = torch.nn.functional.interpolate(lr, scale_factor=4)
    with torch.no_grad():
        mode = model.upscale(lr, temperature=0.0)[0]
        z = model.encode(hr, lr).latents[0]
    if design == "case 1":  # nothing: the mean colour, and details at their mean
        torch.testing.assert_close(mode, hr.mean((0, 2, 3), keepdim=True).expand_as(hr), atol=0.02, rtol=0)
        torch.testing.assert_close(mode.mean((0, 2, 3)), hr.mean((0, 2, 3)), atol=1e-5, rtol=0)
    elif design == "case 4":  # the LR image, and details at their mean
        assert float((mode - blocks).abs().max()) < 0.03
    else:  # the LR image, and details linear in it
        assert float((mode - hr).square().mean()) < 0.1 * float((blocks - hr).square().mean())
    torch.testing.assert_close(z.square().mean((0, 2, 3)), torch.ones(z.shape[1]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"given": "coarse", "keep_lr": False}, 'given="coarse" conditions on the LR image in the latent.* use given='),
        ({"given": "single", "keep_lr": False}, "keep_lr=False leaves none there"),
        ({"given": "both"}, 'given must be "independent" or "single" or "coarse" or "lr", got \'both\''),
    ],
)
def test_impossible_designs(sizes, message) -> None:
    with pytest.raises(ValueError, match=message):
        flowkit_models.create("hcflow_sr_x4_small", **sizes)


@pytest.mark.parametrize("design", ["case 2", "case 3"])
def test_a_design_given_the_lr_image_says_that_it_needs_it(design) -> None:
    with pytest.raises(ValueError, match=r'given="lr" models HR given LR: pass lr as well, as in encode\(hr, lr\)'):
        made(design).encode(images()[0])


@pytest.mark.parametrize("design", DESIGNS)
def test_only_hcflow_has_official_names(design) -> None:
    model = made(design)
    if design == "HCFlow":
        assert model.official_state_dict()
    else:
        with pytest.raises(ValueError, match='the official networks have given="coarse" and keep_lr=True, not given='):
            model.official_state_dict()


@pytest.mark.parametrize("design", ["case 1", "case 2"])
def test_without_an_lr_image_there_is_no_downscaling(design) -> None:
    with pytest.raises(ValueError, match="makes no LR image"):
        made(design).downscale(images()[0])
