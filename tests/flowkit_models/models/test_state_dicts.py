"""State dicts under wrappers, prefixes and averages: found, and what was taken is said."""

import collections
import warnings

import pytest
import spandrel
import torch
from hostile import official
from safetensors.torch import save_file

import flowkit_models
from flowkit_models.models.state_dicts import find_state
from flowkit_models.spandrel import Loader, register


def first(model) -> float:
    return next(p for p in model.parameters() if p.ndim == 4).flatten()[0].item()


def averaged(state):
    return {name: tensor.clone() if "haar" in name else tensor + 1 for name, tensor in state.items()}


def under(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def routes(path):
    """The model by every way to open it."""
    registry = spandrel.MAIN_REGISTRY.copy()
    register(registry)
    yield flowkit_models.load(path)
    yield Loader().load_from_file(path).model
    yield spandrel.ModelLoader(registry=registry).load_from_file(path).model


DISCRIMINATOR = {f"{i}.weight": torch.zeros(2) for i in range(99)}

WRAPPED = {
    **{
        prefix: lambda s, prefix=prefix: under(prefix, s)
        for prefix in (
            *("module.", "_orig_mod.", "module.module.", "model.", "generator.", "netG.", "net_g.", "params."),
            *("_orig_mod.module.", "module._orig_mod.", "model._orig_mod.", "model.module.", "model.netG.", "a.b.c.d."),
        )
    },
    "lightning": lambda s: {"epoch": 3, "state_dict": under("model.", s), "hyper_parameters": {"lr": 0.1}},
    "lightning gan": lambda s: {
        "state_dict": under("generator.", s) | under("discriminator.", DISCRIMINATOR) | under("vgg.f.", DISCRIMINATOR)
    },
    "beside a discriminator": lambda s: {"netD": DISCRIMINATOR, "netG": s},
    "in a list": lambda s: [3, {"model": s}],
    "in a tuple": lambda s: ("a", {"model": [s]}),
    "ordered": lambda s: collections.OrderedDict(under("module.", s)),
    "default": lambda s: {"model": collections.defaultdict(dict, s)},
    "counted": lambda s: {"model": s, "losses": collections.Counter({"l1": 3})},
    "parameters": lambda s: {name: torch.nn.Parameter(tensor) for name, tensor in s.items()},
    "with moments": lambda s: {"optimizer": {"exp_avg": averaged(s)}, "model": s},
    "compiled inside": lambda s: {n.replace("operations.", "operations._orig_mod."): t for n, t in s.items()},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped(name, tmp_path) -> None:
    state = official()
    torch.save(WRAPPED[name](state), tmp_path / "m.pth")
    expected = flowkit_models.create("irn_x2", blocks=(1,), growth=2)
    assert flowkit_models.load(tmp_path / "m.pth").config == expected.config
    found = Loader().load_from_file(tmp_path / "m.pth").model
    for model in (flowkit_models.load(tmp_path / "m.pth"), found):
        assert all(torch.equal(tensor, state[key]) for key, tensor in model.official_state_dict().items())


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "model."])
def test_spandrels_own_loader_agrees(prefix, tmp_path) -> None:
    torch.save(under(prefix, official()), tmp_path / "m.pth")
    assert len({first(model) for model in routes(tmp_path / "m.pth")}) == 1


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_protocol(protocol, zipped, tmp_path) -> None:
    state = official()
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    torch.save({"params": state, "epoch": 2**40, "lr": 0.1, "on": True, "none": None}, tmp_path / "m.pth", **options)
    loaded = flowkit_models.load(tmp_path / "m.pth").official_state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_views_of_one_storage_and_other_kinds(tmp_path) -> None:
    state = official()
    flat = torch.cat([tensor.flatten() for tensor in state.values()])
    views, place = {}, 0
    for name, tensor in state.items():
        views[name] = flat[place : place + tensor.numel()].view(tensor.shape)
        place += tensor.numel()
    name = next(name for name, tensor in state.items() if tensor.ndim == 4 and min(tensor.shape[:2]) > 1)
    views[name] = state[name].transpose(0, 1).contiguous().transpose(0, 1)  # strides of its own
    views[next(iter(state))].marked = True  # an attribute, as some training code has it
    torch.save(views, tmp_path / "m.pth")
    loaded = flowkit_models.load(tmp_path / "m.pth").official_state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype, tmp_path) -> None:
    torch.save({name: tensor.to(dtype) for name, tensor in official().items()}, tmp_path / "m.pth")
    loaded = flowkit_models.load(tmp_path / "m.pth").official_state_dict()
    assert all(torch.equal(loaded[name], tensor.to(dtype).to(loaded[name])) for name, tensor in official().items())
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    assert {tensor.dtype for tensor in loaded.values()} == {wanted}


AVERAGES = ("params_ema", "ema", "shadow", "model_ema", "ema_model", "netE", "averaged", "swa_model", "ema_state_dict")


@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize("first_of_two", [True, False])
def test_averages_come_first_and_are_named(name, first_of_two, tmp_path) -> None:
    state = official()
    pairs = [(name, averaged(state)), ("params", state)]
    torch.save(dict(pairs if first_of_two else pairs[::-1]), tmp_path / "m.pth")
    with pytest.warns(UserWarning, match=rf"m\.pth: took {name}, the averaged weights, and left params$"):
        model = flowkit_models.load(tmp_path / "m.pth")
    assert first(model) == pytest.approx(first_of(state) + 1)


def test_averages_without_names_are_taken_if_they_fit(tmp_path) -> None:
    state = official()
    shadow = list(averaged(state).values())
    ema = {"decay": 0.999, "num_updates": 7, "shadow_params": shadow, "collected_params": None}
    torch.save({"model": state, "ema": ema}, tmp_path / "m.pth")
    with pytest.warns(UserWarning, match=r"took ema\.shadow_params, the averaged weights, and left model$"):
        model = flowkit_models.load(tmp_path / "m.pth")
    assert first(model) == pytest.approx(first_of(state) + 1)
    torch.save({"model": state, "ema": {**ema, "shadow_params": shadow[1:]}}, tmp_path / "m.pth")
    assert first(flowkit_models.load(tmp_path / "m.pth")) == pytest.approx(first_of(state))


def first_of(state) -> float:
    return next(t for n, t in state.items() if t.ndim == 4 and "haar" not in n).flatten()[0].item()


@pytest.mark.filterwarnings("ignore:.*took params_ema")
def test_one_file_is_one_model(tmp_path) -> None:
    state = official()
    torch.save({"params": state, "params_ema": averaged(state)}, tmp_path / "m.pth")
    assert len({first(model) for model in routes(tmp_path / "m.pth")}) == 1


def test_dotted_names(tmp_path) -> None:
    state = official()
    save_file(under("params.", state) | under("params_ema.", averaged(state)), tmp_path / "m.safetensors")
    with pytest.warns(UserWarning, match=r"took params_ema, the averaged weights, and left params$"):
        model = flowkit_models.load(tmp_path / "m.safetensors")
    assert first(model) == pytest.approx(first_of(state) + 1)
    save_file(under("params.", state), tmp_path / "one.safetensors")
    assert first(flowkit_models.load(tmp_path / "one.safetensors")) == pytest.approx(first_of(state))


@pytest.mark.parametrize("prefix", ["", "module.", "module.model.", "module._orig_mod."])
def test_counters_are_dropped_and_named(prefix, tmp_path) -> None:
    torch.save({"n_averaged": torch.tensor(3), **under(prefix, official())}, tmp_path / "m.pth")
    with pytest.warns(UserWarning, match=r"m\.pth: left out n_averaged: counters, no weights"):
        flowkit_models.load(tmp_path / "m.pth")


def test_two_of_a_kind_are_named(tmp_path) -> None:
    state = official()
    torch.save({"a": state, "b": averaged(state)}, tmp_path / "m.pth")
    with pytest.warns(UserWarning, match=r"took a, the first of several, and left b"):
        assert first(flowkit_models.load(tmp_path / "m.pth")) == pytest.approx(first_of(state))


def test_what_is_known_is_said_once() -> None:
    """A mapping that stands in two places is one; and without anything known, the largest is it."""
    small, large = {"a": torch.zeros(2)}, {"b": torch.zeros(2), "module.c": torch.zeros(2)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_state({"x": small, "y": {"z": small}}, lambda state: "a" in state, "m") == small
        assert set(find_state({"x": small, "y": [large]}, lambda _: False, "m")) == {"b", "c"}
        assert find_state({"x": 3}, lambda _: True, "m") == {}
        assert find_state(None, lambda _: True, "m") == {}


def test_names_that_would_be_one_stay_apart() -> None:
    state = {"module.a": torch.zeros(1, 2), "a": torch.zeros(1, 2)}
    assert find_state(state, lambda _: False, "m") == state
