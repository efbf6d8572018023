"""Every fault that is planted is named, and healthy models pass."""

import copy
import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from support import SIZES

import flowkit
import flowkit_models
from flowkit_models.data.sample_photos import test_photos
from flowkit_models.diagnostics.examine import examine_model
from flowkit_models.diagnostics.layer_stats import trace
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.training.prior_init import fit_priors, initialize_latents

STEP = "flow.levels.1.body.parts"


@pytest.fixture(scope="module")
def hr():
    """Three crops of 32 × 32 from the test photographs."""
    return torch.stack([x[:, 200:232, 200:232] for x in test_photos().values()]).float() / 255


def moved(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01 * torch.randn_like(p))
    return model.eval()


@pytest.fixture(scope="module")
def healthy(hr):
    """An HCFlow with statistics and priors fitted on the photographs."""
    torch.manual_seed(0)
    model = moved(flowkit_models.create("hcflow_sr_x4_small", prior="exp", **SIZES, conditional_hidden=4))
    initialize_latents(model, hr)
    fit_priors(model, hr, bicubic_resize(hr, Fraction(1, 4)))
    return model


@pytest.fixture
def model(healthy):
    return copy.deepcopy(healthy)


def by_subject(report):
    return {finding.subject: finding for finding in report.findings}


def test_a_healthy_model_passes(healthy, hr) -> None:
    before = {name: tensor.clone() for name, tensor in healthy.state_dict().items()}
    report = examine_model(healthy, hr)
    assert report.verdict == "ok", report.findings
    assert all(not finding.remedy for finding in report.findings)
    assert all(torch.equal(tensor, before[name]) for name, tensor in healthy.state_dict().items())
    assert not any("inverse" in m.__dict__ or m._forward_hooks for m in healthy.modules())
    again = examine_model(healthy, hr)
    assert again == report


@pytest.mark.parametrize("name", ["srflow_x4_small", "irn_x4_small", "hcflow_rescale_x4_small"])
def test_the_other_families(name, hr) -> None:
    torch.manual_seed(0)
    small = {"srflow_x4_small": {"steps": 1, "blocks": 1, "taps": (0,)}, "irn_x4_small": {"blocks": (1, 1)}}
    model = moved(flowkit_models.create(name, **small.get(name, {"steps": 2, "blocks": ((0, 0), (0, 0))})))
    lr = bicubic_resize(hr, Fraction(1, 4))
    flowkit.initialize(model, hr, lr)
    report = examine_model(model, hr)
    assert report.verdict != "bad", report.findings
    assert {"round trip", "scales", "latent 0"} <= {f.subject.removesuffix(" (coarsest)") for f in report.findings}


@pytest.mark.parametrize("memory", ["plain", "lean"])
def test_log_dets_of_the_layers_add_up(memory, hr, healthy) -> None:
    torch.manual_seed(0)
    model = flowkit_models.create("hcflow_sr_x4_small", memory, **SIZES, conditional_hidden=4).eval()
    model.load_state_dict(healthy.state_dict())
    with torch.no_grad():
        whole = model.encode(hr).logdet.mean() / (math.log(2) * hr[0].numel())
    seen = trace(model, hr, bicubic_resize(hr, Fraction(1, 4)))
    assert len(seen.layers) == 2 * 4 + 2 * 4
    assert sum(layer.bits for layer in seen.layers) == pytest.approx(float(whole), abs=1e-5)
    assert seen.layers[0].error == pytest.approx(seen.image_error)
    assert 0 < seen.image_error64 < 1e-12 < seen.image_error < 1e-4


def test_a_weight_that_is_not_a_number(model, hr) -> None:
    model.get_parameter(f"{STEP}.3.net.conv2.weight").data[0, 0] = math.nan
    report = examine_model(model, hr)
    assert report.verdict == "bad"
    assert f"{STEP}.3.net.conv2.weight" in by_subject(report)["weights"].text
    assert report.layers == ()


def test_a_scale_that_explodes(model, hr) -> None:
    model.get_parameter(f"{STEP}.1.log_scale").data[4] = 16.0
    report = examine_model(model, hr)
    found = by_subject(report)["scales"]
    assert found.severity == "bad"
    assert f"{STEP}.1 (factors" in found.text
    assert "8.9e+06" in found.text


def test_numbers_that_overflow_on_the_way_back_only(model, hr) -> None:
    model.flow.levels[0].latent.parts[-1].kind = flowkit.Affine("exp", "scale_first", inverted=True)  # no bound
    prior = model.flow.levels[0].latent.parts[-1].net
    prior.log_scale.data.zero_()
    prior.bias.data[1::2] = 100.0  # log σ
    report = examine_model(model, hr)
    found = by_subject(report)
    assert found["forward"].severity == "ok"
    assert found["inverse"].severity == "bad"
    assert "the output of flow.levels.0.latent.parts.3.inverse (Injector)" in found["inverse"].text


def test_numbers_that_overflow_on_the_way_forward(model, hr) -> None:
    model.get_parameter(f"{STEP}.1.log_scale").data[4] = 100.0
    found = by_subject(examine_model(model, hr))
    assert f"{STEP}.1 (ActNorm)" in found["forward"].text
    assert f"{STEP}.1 (factors" in found["scales"].text


def test_a_singular_convolution(model, hr) -> None:
    weight = model.get_parameter(f"{STEP}.2.weight").data
    weight[3] = weight[2]
    report = examine_model(model, hr)
    found = by_subject(report)
    assert found["1×1 convolutions"].severity == "bad"
    assert f"{STEP}.2 (condition" in found["1×1 convolutions"].text
    assert report.verdict == "bad"


def test_a_convolution_that_is_nearly_singular_loses_most(model, hr) -> None:
    weight = model.get_parameter(f"{STEP}.2.weight").data
    weight[3] = weight[2] + 1e-4 * weight[3]
    report = examine_model(model, hr)
    found = by_subject(report)
    assert found["1×1 convolutions"].severity == "warn"
    assert f"{STEP}.2 (InvertibleConv1x1) loses most" in found["round trip"].text
    assert max(report.layers, key=lambda layer: layer.own_error).name == f"{STEP}.2"
    assert report.levels[1][0] > 100 * report.levels[1][1]


class Wrong(flowkit.ActNorm):
    """Its inverse forgets something."""

    def inverse(self, y, context=None):
        x, logdet = super().inverse(y, context)
        return x + 0.003, logdet


def test_an_inverse_that_is_none(model, hr) -> None:
    wrong = Wrong(24)
    wrong.load_state_dict(model.get_submodule(f"{STEP}.1").state_dict())
    model.flow.levels[1].body.parts[1] = wrong
    found = by_subject(examine_model(model, hr))
    assert found["round trip, float64"].severity == "bad"
    assert f"{STEP}.1 (Wrong) loses most" in found["round trip"].text


def test_act_norms_that_never_saw_data(model, hr) -> None:
    torch.manual_seed(0)
    fresh = flowkit_models.create("hcflow_sr_x4_small", **SIZES, conditional_hidden=4)
    report = examine_model(fresh, hr)
    assert by_subject(report)["ActNorm"].severity == "warn"
    assert by_subject(report)["ActNorm"].text.startswith("12 of 12 ActNorms are not initialised")
    model.get_buffer("flow.levels.0.latent.parts.2.net.conv1.initialized").fill_(False)
    report = examine_model(model, hr)
    assert report.uninitialised == ("flow.levels.0.latent.parts.2.net.conv1",)
    assert "1 of 12" in by_subject(report)["ActNorm"].text


def test_channels_and_units_that_carry_nothing(model, hr) -> None:
    model.get_parameter(f"{STEP}.3.net.conv1.bias").data[:3] = -1e4
    report = examine_model(model, hr)
    assert report.dead[f"{STEP}.3.net.conv1"] == (0, 1, 2)
    assert f"{STEP}.3.net.conv1 (3 of 4)" in by_subject(report)["dead units"].text
    weight = model.get_parameter(f"{STEP}.2.weight").data
    weight[5] = 1e-12 * weight[5]
    model.get_parameter(f"{STEP}.1.bias").data[:] = 1.0
    found = by_subject(examine_model(model, hr))
    assert found["1×1 convolutions"].severity == "bad"


def test_a_flat_image(healthy) -> None:
    healthy = copy.deepcopy(healthy)
    healthy.config = replace(healthy.config, purpose="rescaling")  # so that no noise is added
    found = by_subject(examine_model(healthy, torch.full((1, 3, 32, 32), 0.5)))["constant channels"]
    assert found.severity == "warn"
    assert "first in flow.levels.0.body.parts.0" in found.text


def test_latents_that_are_not_standard_normal(model, hr) -> None:
    prior = model.flow.levels[0].latent.parts[-1].net
    prior.log_scale.data[1::2] = 0
    prior.bias.data[1::2] = -7.0  # log σ
    found = by_subject(examine_model(model, hr))
    assert found["latent 1"].severity == "bad"
    assert found["latent 0 (coarsest)"].severity == "ok"


def test_the_statistics_of_draws() -> None:
    from flowkit_models.diagnostics.findings import statistics  # noqa: PLC0415

    z = 3 + 2 * torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    found = statistics(z, ())
    assert (found.mean, found.std, found.kurtosis) == pytest.approx((3, 2, 0), abs=0.1)
    assert statistics(torch.rand(1, 1, 128, 128), ()).kurtosis == pytest.approx(-1.2, abs=0.1)


def test_images_that_do_not_fit(healthy) -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        examine_model(healthy, torch.rand(1, 3, 30, 32))
