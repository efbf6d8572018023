"""Programs built on spandrel open our files and the published ones, and still open what they opened before."""

import runpy
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from spandrel import MAIN_REGISTRY, ModelLoader, ModelTiling, UnsupportedDtypeError
from spandrel.architectures.ESRGAN import ESRGAN
from support import SIZES

import flowkit_models
from flowkit_models.models.registry import FAMILIES
from flowkit_models.spandrel import Loader, register

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


@pytest.mark.parametrize("name", SMALL)
def test_files_from_before_the_config_tensor(name, loader, tmp_path) -> None:
    """spandrel's loader sees too little of them and says what to do; ours reads the notes."""
    model = a_model(name, **SMALL[name])
    model.save(tmp_path / "new.safetensors")
    with safe_open(tmp_path / "new.safetensors", "pt") as file:
        save_file(model.state_dict(), tmp_path / "old.safetensors", file.metadata())
    with pytest.raises(ValueError, match=r"flowkit convert.*Loader"):
        loader.load_from_file(tmp_path / "old.safetensors")
    lr = torch.rand(1, 3, 4, 4)
    found = Loader().load_from_file(tmp_path / "old.safetensors")
    assert torch.equal(found(lr), model.upscale(lr, temperature=0.0)[0])


def test_a_damaged_config_tensor(loader, tmp_path) -> None:
    a_model("irn_x4_small", **SMALL["irn_x4_small"]).save(tmp_path / "a.safetensors")
    state = load_file(tmp_path / "a.safetensors")
    for damaged in (state["flowkit.config"][:-1], torch.zeros(3), torch.tensor([91, 93], dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"flowkit\.config is damaged"):
            loader.load_from_state_dict({**state, "flowkit.config": damaged})


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


def test_nothing_that_spandrel_knows_changes(tmp_path) -> None:
    registry = MAIN_REGISTRY.copy()
    before = registry.architectures("detection")
    register(registry)
    assert register(registry) == []
    after = registry.architectures("detection")
    assert after[: len(before)] == before
    assert [support.architecture.id for support in after[len(before) :]] == list(FAMILIES)
    for name, options in (*SMALL.items(), *PUBLISHED.items()):
        model = a_model(name, **options)
        model.save(tmp_path / "a.safetensors")
        states = [load_file(tmp_path / "a.safetensors"), *([model.official_state_dict()] if name in PUBLISHED else [])]
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


def test_registering_is_for_all_loaders(monkeypatch, tmp_path) -> None:
    for name in ("_architectures", "_ordered", "_by_id"):  # put back afterwards
        monkeypatch.setattr(MAIN_REGISTRY, name, getattr(MAIN_REGISTRY, name))
    model = a_model("irn_x4_small", **SMALL["irn_x4_small"])
    model.save(tmp_path / "a.safetensors")
    register(temperature=1.0, seed=5)
    lr = torch.rand(1, 3, 4, 4)
    found = ModelLoader().load_from_file(tmp_path / "a.safetensors")
    assert torch.equal(found(lr), model.upscale(lr, temperature=1.0, generator=torch.Generator().manual_seed(5))[0])


def test_a_torchvision_of_another_torch_is_named(monkeypatch, tmp_path) -> None:
    """spandrel's networks import it: the error of its operators is not theirs to explain."""
    (tmp_path / "spandrel.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.delitem(sys.modules, "spandrel")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"a torchvision that fits torch .*nms.* from one index"):
        runpy.run_path(flowkit_models.spandrel.__file__)
