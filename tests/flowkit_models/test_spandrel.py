"""Programs built on spandrel open our files and the published ones, and still open what they opened before."""

import dataclasses
from fractions import Fraction

import pytest
import torch
from spandrel import MAIN_REGISTRY, ModelLoader, ModelTiling, UnsupportedDtypeError
from spandrel.architectures.ESRGAN import ESRGAN
from support import SIZES

import flowkit
import flowkit_models
from flowkit_models.data.sample_photos import test_photos
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.own_names import own_sizes
from flowkit_models.spandrel import Loader, register
from flowkit_models.training.prior_init import fit_priors

SMALL = {
    "hcflow_sr_x4_small": {**SIZES, "conditional_hidden": 4},
    "hcflow_rescale_x4_small": {**SIZES, "conditional_hidden": 4},
    "srflow_x4_small": {"steps": 1},
    "irn_x4_small": {"blocks": (1, 2), "growth": 4},
}
PUBLISHED = {
    "hcflow_face_x8": {"steps": 1, "conditional_steps": 1, "blocks": ((0, 1),) * 3, "hidden": 8, "features": 8},
    "hcflow_rescale_x4": {"steps": 2, "conditional_steps": (1, 0), "blocks": ((1, 0), (0, 0)), "features": 8},
    "srflow_x8": {"steps": 1, "blocks": 8, "hidden": 8, "features": 8, "growth": 4},
    "irn_x3": {"blocks": (1,), "growth": 4},
}


def a_model(name, **options):
    """Every weight moved, so that none is zero by accident."""
    torch.manual_seed(0)
    model = flowkit_models.create(name, **options)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.005 * torch.randn_like(p))
    return model.eval()


@pytest.fixture
def loader():
    registry = MAIN_REGISTRY.copy()
    register(registry)
    return ModelLoader(registry=registry)


@pytest.mark.parametrize("name", SMALL)
def test_our_files(name, loader, tmp_path) -> None:
    model = a_model(name, **SMALL[name])
    model.save(tmp_path / "a.safetensors")
    found = loader.load_from_file(tmp_path / "a.safetensors")
    lr = torch.rand(1, 3, 5, 7)
    assert torch.equal(found(lr), model.upscale(lr, temperature=0.0)[0])
    assert found.architecture.name == type(model).__name__
    assert (found.scale, found.input_channels, found.output_channels, found.purpose) == (4, 3, 3, "SR")
    assert found.size_requirements.multiple_of == model.lr_multiple
    assert ("rescaling" in found.tags) == (name in ("hcflow_rescale_x4_small", "irn_x4_small"))
    assert found.tiling == ModelTiling.SUPPORTED
    with pytest.raises(UnsupportedDtypeError):
        found.half()
    with pytest.raises(UnsupportedDtypeError):
        found.bfloat16()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files(name, loader, tmp_path) -> None:
    model = a_model(name, **PUBLISHED[name])
    torch.save({"state_dict": {f"module.{k}": t for k, t in model.official_state_dict().items()}}, tmp_path / "a.pth")
    found = loader.load_from_file(tmp_path / "a.pth")
    lr = torch.rand(1, 3, 6, 4)
    expected = model.upscale(lr, temperature=0.0)[0]
    assert torch.equal(found(lr), expected)
    assert tuple(expected.shape[2:]) == (6 * found.scale, 4 * found.scale)


@pytest.mark.parametrize("name", flowkit_models.list_models())
def test_sizes_are_told_by_our_names(name) -> None:
    with torch.device("meta"):
        model = flowkit_models.create(name)
    family, choices = own_sizes({key: tuple(tensor.shape) for key, tensor in model.state_dict().items()})
    wanted = dataclasses.asdict(model.config)
    if family == "HCFlow":
        wanted["conditional_steps"] = model.config.conditional
    uncounted = {"quant", "centred", "noisy", "lr_std", "lr_rounded", "init", "gain", "floor", "clamp"}
    if not any("dense" in key for key in model.state_dict()):
        uncounted.add("growth")
    wanted = {key: value for key, value in wanted.items() if key not in uncounted}
    made = [dataclasses.asdict(type(model.config)(**choice)) for choice in choices]
    assert wanted in [{key: value for key, value in one.items() if key in wanted} for one in made]
    assert len(choices) == (2 if name.startswith(("hcflow_s", "hcflow_face")) else 1)


@pytest.mark.parametrize("squeeze", ["squeeze", "haar"])
def test_what_weights_do_not_tell_is_tried(squeeze, loader) -> None:
    hr = torch.stack([x[:, 128:192, 128:192] for x in test_photos().values()]).float() / 255
    options = {**SMALL["hcflow_sr_x4_small"], "given": "lr", "keep_lr": False, "squeeze": squeeze}
    torch.manual_seed(0)
    model = flowkit_models.create("hcflow_sr_x4_small", **options)
    lr = bicubic_resize(hr, Fraction(1, 4))
    flowkit.initialize(model, hr, lr)
    fit_priors(model, hr, lr)
    found = loader.load_from_state_dict(model.state_dict()).model
    assert found.config.squeeze == squeeze


def test_what_cannot_be_told_is_refused(loader, tmp_path) -> None:
    model = a_model("hcflow_sr_x4", **SMALL["hcflow_sr_x4_small"])  # random 1×1 convolutions: it enlarges nothing
    model.save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"can't tell .*Loader"):
        loader.load_from_file(tmp_path / "a.safetensors")
    lr = torch.rand(1, 3, 4, 4)
    found = Loader().load_from_file(tmp_path / "a.safetensors")
    assert torch.equal(found(lr), model.upscale(lr, temperature=0.0)[0])
    with pytest.raises(ValueError, match="taps"):
        loader.load_from_state_dict(a_model("srflow_x4_small", blocks=2, taps=(0,), steps=1).state_dict())


def test_the_recommended_temperature(tmp_path) -> None:
    model = a_model("hcflow_sr_x4_small", **SMALL["hcflow_sr_x4_small"])
    model.save(tmp_path / "a.safetensors", temperature="0.7")
    lr = torch.rand(1, 3, 4, 4)
    found = Loader().load_from_file(tmp_path / "a.safetensors")
    expected = model.upscale(lr, temperature=0.7, generator=torch.Generator().manual_seed(0))[0]
    assert torch.equal(found(lr), expected)
    assert torch.equal(found(lr), expected)
    assert found.tiling == ModelTiling.DISCOURAGED
    other = Loader(temperature=0.2, seed=3).load_from_file(tmp_path / "a.safetensors")
    assert torch.equal(other(lr), model.upscale(lr, temperature=0.2, generator=torch.Generator().manual_seed(3))[0])


def test_nothing_that_spandrel_knows_changes() -> None:
    registry = MAIN_REGISTRY.copy()
    before = registry.architectures("detection")
    register(registry)
    assert register(registry) == []
    after = registry.architectures("detection")
    assert after[: len(before)] == before
    assert [support.architecture.id for support in after[len(before) :]] == ["HCFlow", "SRFlow", "IRN"]
    for name, options in (*SMALL.items(), *PUBLISHED.items()):
        model = a_model(name, **options)
        states = [model.state_dict(), *([model.official_state_dict()] if name in PUBLISHED else [])]
        for state in states:
            assert [s.architecture.id for s in after if s.detect(state)] == [type(model).__name__]


def test_an_rrdb_network_is_still_esrgan(loader) -> None:
    torch.manual_seed(0)
    state = ESRGAN(num_filters=8, num_blocks=2).state_dict()
    assert loader.load_from_state_dict(state).architecture.id == "ESRGAN"
    # SRFlow's encoder alone is such a network
    flow = a_model("srflow_x8", **{**PUBLISHED["srflow_x8"], "growth": 32}).official_state_dict()
    alone = {name.removeprefix("RRDB."): tensor for name, tensor in flow.items() if name.startswith("RRDB.")}
    assert loader.load_from_state_dict(alone).architecture.id == "ESRGAN"
    assert Loader().load_from_state_dict(state).architecture.id == "ESRGAN"


def test_registering_is_for_all_loaders(monkeypatch) -> None:
    for name in ("_architectures", "_ordered", "_by_id"):  # put back afterwards
        monkeypatch.setattr(MAIN_REGISTRY, name, getattr(MAIN_REGISTRY, name))
    model = a_model("irn_x4_small", **SMALL["irn_x4_small"])
    register(temperature=1.0, seed=5)
    lr = torch.rand(1, 3, 4, 4)
    found = ModelLoader().load_from_state_dict(model.state_dict())
    assert torch.equal(found(lr), model.upscale(lr, temperature=1.0, generator=torch.Generator().manual_seed(5))[0])
