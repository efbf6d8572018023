"""Super-resolution or rescaling: one answer for every preset and override, whoever is asked."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

import flowkit_models
from flowkit_models.cli.model import open_model
from flowkit_models.cli.options import Upscale
from flowkit_models.diagnostics.examine import examine_model
from flowkit_models.diagnostics.profile import profile_model
from flowkit_models.spandrel import Loader

HCFLOW = {"steps": 1, "conditional_steps": 1, "hidden": 2, "conditional_hidden": 2, "features": 2, "growth": 2}
SRFLOW = {"steps": 1, "transitions": 0, "hidden": 2, "blocks": 1, "taps": (0,), "features": 2, "growth": 2}
LINF = {"steps": 1, "blocks": 1, "features": 2, "width": 2, "hidden": 2, "depth": 1}
SAIN = {"enhanced": 1, "blocks": 1, "growth": 2}
RESCALING = ("hcflow_rescale", "irn", "tirn", "sain")
"""How the names of presets for rescaling start."""
OVERRIDES = {
    "hcflow": [
        {},
        {"prior": "exp"},
        {"prior": "atan", "tap": False},
        {"prior": "soft", "tap": True},
        {"squeeze": "haar"},
        {"given": "independent"},
    ],
    "srflow": [{}, {"noisy": True, "quant": 7}, {"floor": 0.01}],
    "irn": [{}, {"clamp": 0.5}],
}


def small(name, **overrides):
    """A preset's model made as small as it can be; what it is for is the preset's."""
    torch.manual_seed(0)
    scale = flowkit_models.models.presets.PRESETS[name][1].get("scale", 4)
    if name.startswith("hcflow"):
        sizes = {**HCFLOW, "blocks": ((0, 0),) * (scale.bit_length() - 1)}
    else:
        own = {"srflow": SRFLOW, "ncsr": {**SRFLOW, "steps": (0, 1, 1)}, "linf": LINF, "sain": SAIN}
        sizes = own.get(name.partition("_")[0], {"growth": 2})
    return flowkit_models.create(name, **{**sizes, **overrides}).eval()


CASES = [
    pytest.param(name, more, id=f"{name}-{'-'.join(map(str, more.values())) or 'as it is'}")
    for name in flowkit_models.list_models()
    for more in OVERRIDES.get(name.partition("_")[0], [{}])
]


@pytest.mark.parametrize(("name", "overrides"), CASES)
def test_everyone_agrees(name, overrides, tmp_path) -> None:
    purpose = "rescaling" if name.startswith(RESCALING) else "sr"
    word, temperature = {"sr": ("super-resolution", 0.8), "rescaling": ("rescaling", 1.0)}[purpose]
    temperature = 0.0 if name.startswith(("tirn", "sain")) else temperature  # trained so, the small one of SAIN
    model, path = small(name, **overrides), tmp_path / "m.safetensors"
    model.save(path)

    assert model.config.purpose == purpose
    assert flowkit_models.load(path).config == model.config
    opened = open_model(Upscale(files=[], model=path, device="cpu"))
    assert (opened.rescales, opened.temperature) == (purpose == "rescaling", temperature)
    assert Loader().load_from_file(path).tags[0] == word


@pytest.mark.parametrize("name", ["hcflow_sr_x4_small", "hcflow_rescale_x4_small", "srflow_x4_small", "irn_x4_small"])
@pytest.mark.parametrize("more", [{}, {"prior": "exp", "tap": True}, {"prior": "atan", "tap": False}])
def test_info_and_doctor_agree(name, more) -> None:
    """The doctor wants the latents of a model for super-resolution standard normal, and no other's."""
    model = small(name, **(more if name.startswith("hcflow") else {}))
    rescaling = name.startswith(RESCALING)
    assert profile_model(model, (2, 2)).purpose == ("rescaling" if rescaling else "super-resolution")
    for part in model.modules():
        if isinstance(part, flowkit_models.models.hcflow.model.ActNorm):
            part.log_scale.data.fill_(5.0)  # so that no latent is of unit variance
    found = [f for f in examine_model(model, torch.rand(1, 3, 16, 16)).findings if f.subject.startswith("latent")]
    assert all(f.severity == "ok" for f in found) == rescaling


@pytest.mark.parametrize(("name", "overrides"), CASES)
def test_files_without_the_field(name, overrides, tmp_path) -> None:
    """HCFlow with the steps of rescaling, and IRN, are for rescaling; SRFlow never is."""
    model, path = small(name, **overrides), tmp_path / "m.safetensors"
    config = dataclasses.asdict(model.config)
    del config["purpose"]
    save_file(model.state_dict(), path, {"flowkit": "1", "model": type(model).__name__, "config": json.dumps(config)})
    assert flowkit_models.load(path).config.purpose == ("rescaling" if name.startswith(RESCALING) else "sr")


def test_a_file_recommends_its_temperature(tmp_path) -> None:
    small("irn_x4_small").save(tmp_path / "m.safetensors", temperature="0.3")
    assert open_model(Upscale(files=[], model=tmp_path / "m.safetensors", device="cpu")).temperature == 0.3


@pytest.mark.parametrize(
    ("name", "purpose"), [("srflow_x4_small", "rescaling"), ("irn_x4_small", "sr"), ("hcflow_sr_x4_small", "art")]
)
def test_refused(name, purpose) -> None:
    with pytest.raises(ValueError, match=f"purpose must be .*, got '{purpose}'"):
        small(name, purpose=purpose)
