"""Checkpoints: ours and the official ones; damaged, foreign and hostile files are refused by name."""

import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

import flowkit_models
from flowkit.testing import perturb
from flowkit_models.models.factory import read_weights

SIZES = {"steps": 1, "conditional_steps": 1, "hidden": 4, "conditional_hidden": 4, "features": 3, "growth": 2}
BLOCKS = {"blocks": ((1, 0), (0, 1))}


def make(**overrides):
    torch.manual_seed(0)
    return perturb(flowkit_models.create("hcflow_sr_x4", **SIZES, **BLOCKS, **overrides))


# a small one of each family, and what its official weights can't tell
SMALL = {
    "hcflow_sr_x4": (SIZES | BLOCKS, {}),
    "hcflow_rescale_x4": (SIZES | BLOCKS, {}),
    "srflow_x4": (
        {"steps": 1, "transitions": 1, "hidden": 4, "blocks": 2, "taps": (1,), "features": 3, "growth": 2},
        {"taps": (1,)},
    ),
    "irn_x4": ({"blocks": (1, 1), "growth": 2}, {}),
    "irn_x3": ({"blocks": (2,), "growth": 2}, {}),
}


@pytest.fixture(params=SMALL)
def family(request):
    """A model of a family with random weights, and the options that loading its official weights needs."""
    sizes, options = SMALL[request.param]
    torch.manual_seed(0)
    return perturb(flowkit_models.create(request.param, **sizes)), options


def same(a, b) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_own_round_trip_keeps_everything(tmp_path) -> None:
    model = make(quant=17, centred=True, squeeze="haar", lr_std=0.01)
    model.save(tmp_path / "m.safetensors")
    loaded = flowkit_models.load(tmp_path / "m.safetensors")
    assert loaded.config == model.config
    assert same(loaded, model)
    assert not loaded.training


def test_every_family_keeps_everything(family, tmp_path) -> None:
    model, options = family
    model.save(tmp_path / "m.safetensors")
    torch.save({"params": {f"module.{k}": v for k, v in model.official_state_dict().items()}}, tmp_path / "m.pth")
    own, official = flowkit_models.load(tmp_path / "m.safetensors"), flowkit_models.load(tmp_path / "m.pth", **options)
    for loaded in (own, official):
        assert type(loaded) is type(model)
        assert loaded.config == model.config
        assert same(loaded, model)


def test_every_family_refuses_weights_that_do_not_fit(family, tmp_path) -> None:
    model, options = family
    state = model.official_state_dict()
    last = list(state)[-1]
    wrong = {**state, last: torch.full_like(state[last], float("nan"))}
    torch.save(wrong, tmp_path / "nan.pth")
    with pytest.raises(ValueError, match=rf"nan\.pth: .*1 not finite \({last}\)"):
        flowkit_models.load(tmp_path / "nan.pth", **options)
    torch.save({k: v for k, v in state.items() if k != last}, tmp_path / "short.pth")
    with pytest.raises(ValueError, match=rf"short\.pth: .*1 missing \({last}\)"):
        flowkit_models.load(tmp_path / "short.pth", **options)
    torch.save({**state, "module.surplus": state[last]}, tmp_path / "long.pth")
    with pytest.raises(ValueError, match=r"long\.pth: .*1 unexpected \(surplus\)"):
        flowkit_models.load(tmp_path / "long.pth", **options)
    content = (tmp_path / "long.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut\.pth: not a checkpoint, or a truncated one"):
        flowkit_models.load(tmp_path / "cut.pth", **options)


def test_loaded_options(tmp_path) -> None:
    make().save(tmp_path / "m.safetensors")
    loaded = flowkit_models.load(tmp_path / "m.safetensors", precision="bf16", quant=255)
    assert (loaded.precision, loaded.config.quant) == ("bf16", 255)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"params": s},
        lambda s: {"state_dict": s, "iter": 3},
        lambda s: {"step": torch.tensor(5), "optimizer": {"lr": 0.1}, "model": {"g": s}},
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_round_trip(wrap, prefix, tmp_path) -> None:
    model = make()
    torch.save(wrap({prefix + k: v for k, v in model.official_state_dict().items()}), tmp_path / "m.pth")
    loaded = flowkit_models.load(tmp_path / "m.pth")
    assert loaded.config == model.config
    assert same(loaded, model)


def test_official_weights_in_safetensors(tmp_path) -> None:
    save_file(make().official_state_dict(), tmp_path / "m.safetensors")
    assert flowkit_models.load(tmp_path / "m.safetensors").config == make().config


def test_float64_weights_stay_float64(tmp_path) -> None:
    make().double().save(tmp_path / "m.safetensors")
    assert next(flowkit_models.load(tmp_path / "m.safetensors").parameters()).dtype == torch.float64


def test_haar_model_has_no_official_form() -> None:
    with pytest.raises(ValueError, match=r"network has squeeze='squeeze', not squeeze='haar'; \.safetensors"):
        make(squeeze="haar").official_state_dict()


def test_save_is_atomic(tmp_path, monkeypatch) -> None:
    path = tmp_path / "m.safetensors"
    make().save(path)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("flowkit_models.models.checkpoint_file.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        make().save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_config_is_a_tensor_too(family, tmp_path) -> None:
    """So that whoever copies the tensors and drops the notes still has the model; it is no weight."""
    model, _ = family
    model.save(tmp_path / "m.safetensors", temperature="0.3")
    tensors = load_file(tmp_path / "m.safetensors")
    assert set(tensors) == {"flowkit.config", *model.state_dict()}
    assert tensors["flowkit.config"].dtype == torch.uint8
    assert set(read_weights(tmp_path / "m.safetensors")[0]) == set(model.state_dict())
    save_file(tensors, tmp_path / "bare.safetensors")
    torch.save({"params": tensors}, tmp_path / "bare.pth")
    for name in ("bare.safetensors", "bare.pth"):
        loaded = flowkit_models.load(tmp_path / name)
        assert loaded.config == model.config
        assert same(loaded, model)


def test_a_damaged_config_tensor_is_named(tmp_path) -> None:
    make().save(tmp_path / "m.safetensors")
    tensors = load_file(tmp_path / "m.safetensors")
    save_file({**tensors, "flowkit.config": tensors["flowkit.config"][1:]}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"m\.safetensors: flowkit\.config is damaged"):
        flowkit_models.load(tmp_path / "m.safetensors")


def test_save_into_a_missing_folder_names_it(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*missing"):
        make().save(tmp_path / "missing" / "m.safetensors")


def test_a_saved_file_is_as_readable_as_any_other(tmp_path) -> None:
    (tmp_path / "other").write_text("")
    make().save(tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_save_wants_safetensors(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.safetensors"):
        make().save(tmp_path / "m.pth")


class Hostile:
    def __reduce__(self):
        return (open, ("executed.txt", "w"))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"flow.layers.1.actnorm.bias": Hostile()}, "hostile.pth")
    with pytest.raises(ValueError, match=r"hostile.pth: refused"):
        flowkit_models.load("hostile.pth")
    (tmp_path / "raw.pkl").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match=r"raw.pkl"):
        flowkit_models.load("raw.pkl")
    assert not (tmp_path / "executed.txt").exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_truncated_files(suffix, part, tmp_path) -> None:
    path = tmp_path / f"m.{suffix}"
    if suffix == "pth":
        torch.save(make().official_state_dict(), path)
    else:
        make().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=path.name):
        flowkit_models.load(path)


def test_other_files(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        flowkit_models.load(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("these are not weights")
    with pytest.raises(ValueError, match=r"text\.pth: not a checkpoint"):
        flowkit_models.load(tmp_path / "text.pth")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(ValueError, match=r"looks like another network \(2 tensors: weight, bias"):
        flowkit_models.load(tmp_path / "linear.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="state dict was expected"):
        flowkit_models.load(tmp_path / "list.pth")


def test_weights_that_do_not_fit_are_told_in_one_sentence(tmp_path) -> None:
    state = make().official_state_dict()
    state.pop("flow.level0_condFlow.f.bias")
    state["surplus"] = torch.zeros(1)
    state["flow.layers.1.permute.weight"] = torch.eye(13)
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(ValueError, match=r"1 missing \(.*f\.bias\); 1 unexpected \(surplus\); 1 misshapen") as error:
        flowkit_models.load(tmp_path / "m.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("official", [True, False])
def test_nan_weights_are_refused_by_name(official, tmp_path) -> None:
    model = make()
    with torch.no_grad():
        model.flow.levels[0].body.parts[1].bias[0] = float("nan")
    path = tmp_path / ("m.pth" if official else "m.safetensors")
    torch.save(model.official_state_dict(), path) if official else model.save(path)
    name = "flow.layers.1.actnorm.bias" if official else "flow.levels.0.body.parts.1.bias"
    with pytest.raises(ValueError, match=f"1 not finite .{name}"):
        flowkit_models.load(path)


def test_a_checkpoint_of_another_version(tmp_path) -> None:
    make().save(tmp_path / "m.safetensors")
    state = load_file(tmp_path / "m.safetensors")
    save_file(state, tmp_path / "m.safetensors", {"flowkit": "99", "model": "Other", "config": "{}"})
    with pytest.raises(ValueError, match="written by another flowkit"):
        flowkit_models.load(tmp_path / "m.safetensors")
