"""Learned priors: one picture, the same every time, of any size and in tiles; saved with the flow, and off with a τ."""

import pytest
import torch
import torch.nn.functional as F

import flowkit_models
from flowkit.testing import perturb
from flowkit_models.diagnostics.examine import examine_model
from flowkit_models.evaluation.systems import open_system
from flowkit_models.inference.latent_field import PredictedField, StoredField
from flowkit_models.models.learned_latents import LatentPrior, LatentPriorConfig, enlarged_latents, standardized

MODELS = {
    "hcflow_sr_x4_small": {"steps": 1, "conditional_steps": 1, "hidden": 4, "conditional_hidden": 4, "features": 4},
    "srflow_x4_small": {"steps": 1, "hidden": 4, "features": 4, "growth": 2},
    "irn_x4_small": {"blocks": (1, 1), "growth": 2},
}


def made(name="hcflow_sr_x4_small"):
    torch.manual_seed(0)
    model = flowkit_models.create(name, **MODELS[name], learned_prior={"features": 2, "growth": 2})
    with torch.no_grad():
        perturb(model, 0.02)
        perturb(model.prior, 0.3)
        for key, buffer in model.prior.named_buffers():
            if key.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return made()


@pytest.fixture(scope="module")
def lr():
    return F.interpolate(torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)), (72, 30), mode="bilinear")


def test_the_picture_is_decoded_from_what_the_prior_makes_of_the_bilinear_enlargement(model, lr) -> None:
    lr = lr[..., :24, :24]
    seen = model.encode(F.interpolate(lr, scale_factor=4, mode="bilinear", align_corners=False)).latents
    expected = model.decode(lr, model.prior(seen)).clamp(0, 1)
    assert torch.equal(model.upscale(lr)[0], expected)
    assert torch.equal(model.upscale(lr), model.upscale(lr))
    assert torch.equal(model.upscale(lr, prior=model.prior), model.upscale(lr))
    assert torch.equal(model.upscale(lr, prior=lambda latents: latents)[0], model.decode(lr, seen).clamp(0, 1))


def test_a_temperature_switches_it_off(model, lr) -> None:
    lr = lr[..., :8, :9]
    without = flowkit_models.create("hcflow_sr_x4_small", **MODELS["hcflow_sr_x4_small"]).eval()
    without.load_state_dict({key: value for key, value in model.state_dict().items() if not key.startswith("prior.")})
    assert torch.equal(model.upscale(lr, temperature=0.0), without.upscale(lr, temperature=0.0))
    assert not torch.equal(model.upscale(lr), model.upscale(lr, temperature=0.0))
    draws = [m.upscale(lr, 2, 0.5, torch.Generator().manual_seed(0)) for m in (model, without)]
    assert torch.equal(*draws)
    z = model.draw(lr)
    assert torch.equal(model.upscale(lr, latents=z), without.upscale(lr, latents=z))
    for wrong in ({"temperature": 0.5}, {"latents": z}):
        with pytest.raises(ValueError, match="makes one picture"):
            model.upscale(lr, prior=model.prior, **wrong)
    with pytest.raises(ValueError, match="a τ draws several"):
        model.upscale(lr, 2)


def test_train_mode_changes_neither_the_picture_nor_the_prior(lr) -> None:
    model, two = made(), torch.cat([lr[..., :9, :11], 1 - lr[..., :9, :11]])
    expected, before = model.upscale(two), {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    model.prior.nets[0].eval()
    for _ in range(2):
        assert torch.equal(model.upscale(two), expected)
    assert torch.allclose(model.upscale(two[1:]), expected[:, 1:], atol=1e-5)
    assert model.upscale(two[:1, :, :1, :1]).shape == (1, 1, 3, 4, 4)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert (model.prior.training, model.prior.nets[0].training, model.prior.nets[1].training) == (True, False, True)


def test_a_prior_that_returns_no_latents_is_refused(model, lr) -> None:
    for wrong in (None, (), torch.zeros(1)):
        with pytest.raises(ValueError, match="latents: expected"):
            model.upscale(lr[..., :8, :8], prior=lambda _, wrong=wrong: wrong)


def test_it_does_not_start_from_the_picture_at_temperature_0(lr) -> None:
    """From there a flow that makes texture of noise learns far more slowly."""
    torch.manual_seed(0)
    model = flowkit_models.create("hcflow_sr_x4_small", learned_prior={"features": 16, "growth": 8})
    with torch.no_grad():
        made = model.prior(enlarged_latents(model, lr))
    assert all(float(z.std()) > 0.2 for z in made)


@pytest.mark.parametrize("name", MODELS)
def test_it_is_saved_with_the_model(name, lr, tmp_path) -> None:
    model, lr = made(name), lr[..., :9, :11]
    model.save(tmp_path / "model.safetensors")
    again = flowkit_models.load(tmp_path / "model.safetensors")
    assert again.prior.config == LatentPriorConfig(2, 2)
    state = {key: value for key, value in model.state_dict().items() if not key.endswith(".initialized")}
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in state.items())
    assert torch.equal(model.upscale(lr), again.upscale(lr))
    assert model.upscale(lr).shape == (1, 1, 3, 36, 44)
    with pytest.raises(ValueError, match="no place for the learned prior"):
        model.official_state_dict()
    again.prior = None
    again.save(tmp_path / "without.safetensors")
    assert flowkit_models.load(tmp_path / "without.safetensors").prior is None


def test_a_damaged_prior_is_refused(model, tmp_path) -> None:
    for learned, message in (
        ({"features": 0}, "features must be a whole number from 1"),
        ({"features": 3, "growth": 2}, "the weights do not fit"),
        ("x", "damaged config"),
    ):
        changed = flowkit_models.load(saved(model, tmp_path))
        changed.prior.config = learned
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "flowkit_models.models.base.dataclasses.asdict", lambda x: x.__dict__ if hasattr(x, "__dict__") else x
            )
            changed.save(tmp_path / "changed.safetensors")
        with pytest.raises(ValueError, match=message):
            flowkit_models.load(tmp_path / "changed.safetensors")


def saved(model, folder):
    model.save(folder / "model.safetensors")
    return folder / "model.safetensors"


def test_networks_see_standardised_latents_of_any_size() -> None:
    z = 3 + 5 * torch.randn(2, 6, 3, 5)
    assert standardized(z).mean(1).abs().max() < 1e-5
    assert torch.allclose(standardized(z).std(1, correction=0), torch.ones(2, 3, 5), atol=1e-5)
    assert torch.equal(standardized(torch.ones(1, 6, 2, 2)), torch.zeros(1, 6, 2, 2))


def test_a_window_far_from_its_edges_is_that_of_the_whole(model, lr) -> None:
    whole = StoredField(model.prior(enlarged_latents(model, lr)))
    for top, height in ((0, 10), (37, 30), (62, 10)):
        near, far = (PredictedField(lr[0], margin=m).crop(model, top, 3, height, 20) for m in (72, 0))
        expected = whole.crop(model, top, 3, height, 20)
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(near, expected, strict=True))
        assert not all(torch.allclose(a, b, atol=1e-4) for a, b in zip(far, expected, strict=True))
    aligned = PredictedField((lr[0] * 255).byte(), margin=20).crop(model, 45, 3, 20, 20)[0]
    assert (aligned - whole.crop(model, 45, 3, 20, 20)[0]).abs().max() < 0.1  # one grid of the pools


def test_tiles_agree_with_the_whole(model, lr) -> None:
    tiled = flowkit_models.Tiled(model, tile=24, overlap=8)
    whole = model.upscale(lr)[0, 0]
    assert (tiled.upscale(lr[0], bits=32) - whole).abs().max() < 2 / 255
    assert (tiled.upscale(lr[0], bits=32) - model.upscale(lr, temperature=0.0)[0, 0]).abs().max() > 4 / 255
    with pytest.raises(ValueError, match="goes without a temperature"):
        tiled.upscale(lr[0], temperature=0.3)
    flow = flowkit_models.create("irn_x4_small", **MODELS["irn_x4_small"])
    with pytest.raises(ValueError, match="no learned prior"):
        flowkit_models.Tiled(flow).upscale(lr[0])


def test_it_is_examined_and_has_a_row_of_its_own(model, tmp_path) -> None:
    system = open_system(str(saved(model, tmp_path)), 4, (0.0, 0.8))
    assert system.temperatures == (None, 0.0, 0.8)
    findings = {
        finding.subject: finding.severity for finding in examine_model(model, torch.rand(1, 3, 32, 32)).findings
    }
    assert findings["learned prior"] == "ok"
    broken = made()
    with torch.no_grad():
        broken.prior.nets[0].start[1].running_var.fill_(-1.0)
    findings = {finding.subject: finding for finding in examine_model(broken, torch.rand(1, 3, 32, 32)).findings}
    assert findings["learned prior"].severity == "bad"
    assert "prior.nets.0.start.1" in findings["learned prior"].text


def test_it_is_made_for_a_model(model) -> None:
    small, linf = LatentPriorConfig(2, 1), flowkit_models.create("linf_small", patch=3, scale=3)
    assert [net.last.out_channels for net in LatentPrior(model, small).nets] == [21, 6]
    for refused in (
        lambda prior: linf.upscale(torch.rand(1, 3, 4, 4), prior=prior),
        lambda _: LatentPrior(linf, small),
    ):
        with pytest.raises(ValueError, match="LINF takes no learned prior"):
            refused(model.prior)
    for wrong in ({"featres": 4}, 3, {"features": 0}):
        with pytest.raises((TypeError, ValueError), match="learned prior: "):
            flowkit_models.create("hcflow_sr_x4_small", learned_prior=wrong)
    published = LatentPrior(flowkit_models.create("srflow_x4", steps=0, blocks=0, taps=()), LatentPriorConfig())
    assert [net.down[-1][0].out_channels for net in published.nets] == [256] * 2


def test_a_prior_of_another_model_is_refused(model, lr) -> None:
    other = flowkit_models.create("irn_x4_small")
    prior = LatentPrior(other, LatentPriorConfig(features=4, growth=2))
    with pytest.raises(ValueError, match=r"LatentPrior: made for a model whose latents have \(.*\) channels, got \("):
        model.upscale(lr, prior=prior)
