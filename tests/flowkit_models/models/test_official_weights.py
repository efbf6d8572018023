"""The nine published models at full size: names, order, counts, and weights in and out."""

import json

import pytest
import torch
from support import key_list, opened

import flowkit_models
from flowkit import initialize
from flowkit.testing import perturb
from flowkit_models.models.detect import known_sizes
from flowkit_models.models.srflow.encoder import load_encoder

FULL = [
    ("hcflow_sr_x4", "hcflow_keys_sr_x4", 23_232_539),
    ("hcflow_face_x8", "hcflow_keys_sr_x8", 27_017_723),
    ("hcflow_rescale_x4", "hcflow_keys_rescale_x4", 4_396_350),
    ("srflow_x4", "srflow_keys_x4", 39_541_811),
    ("srflow_x8", "srflow_keys_x8", 50_821_891),
    ("srflow_face_x8", "srflow_keys_x8_face", 40_030_531),
    ("irn_x2", "irn_keys_x2", 1_668_000),
    ("irn_x3", "irn_keys_x3", 3_139_029),
    ("irn_x4", "irn_keys_x4", 4_355_376),
]


@pytest.mark.parametrize(("name", "keys", "total"), FULL)
def test_full_size(name, keys, total, shared, tmp_path) -> None:
    listed = key_list(shared, keys)
    generator = torch.Generator().manual_seed(0)
    exported = flowkit_models.create(name).official_state_dict()
    assert {key: list(value.shape) for key, value in exported.items()} == listed
    assert list(exported) == list(listed)
    state = {key: torch.rand(shape, generator=generator) for key, shape in listed.items()}
    state |= {key: value for key, value in exported.items() if key.endswith("haar_weights")}
    assert sum(value.numel() for value in state.values()) == total
    model = opened(state, tmp_path)
    assert model.config == flowkit_models.create(name).config
    back = model.official_state_dict()
    assert list(back) == list(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("name", [name for name, *_ in FULL])
def test_round_trip_at_full_size(name) -> None:
    torch.manual_seed(0)
    model = flowkit_models.create(name)
    scale = model.scale
    hr, lr = torch.rand(1, 3, 4 * scale, 6 * scale), torch.rand(1, 3, 4, 6)
    given = None if model.makes_lr else lr
    initialize(model, hr, given)
    with torch.no_grad():
        encoded = model.encode(hr, given)
        again = model.decode(lr if encoded.lr is None else encoded.lr, encoded.latents)
        assert float((again - hr).abs().max()) < 1e-3
        images = model.upscale(torch.rand(1, 3, 3, 5), n=2, temperature=0.5)
    assert images.shape == (2, 1, 3, 3 * scale, 5 * scale)


@pytest.mark.parametrize("name", [name for name, *_ in FULL])
def test_shrunk_networks_are_recognised(name, tmp_path) -> None:
    small = {
        "HCFlow": {
            "steps": 3,
            "conditional_steps": 1,
            "hidden": 5,
            "conditional_hidden": 4,
            "features": 3,
            "growth": 2,
        },
        "SRFlow": {"steps": 1, "transitions": 1, "hidden": 5, "blocks": 3, "taps": (0, 2), "features": 3, "growth": 2},
        "IRN": {"growth": 3},
    }
    family = type(flowkit_models.create(name)).__name__
    model = perturb(flowkit_models.create(name, **small[family]))
    taps = {"taps": (0, 2)} if family == "SRFlow" else {}
    loaded = opened(model.official_state_dict(), tmp_path, **taps)
    assert loaded.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_steps_that_differ_between_levels_are_recognised(tmp_path) -> None:
    sizes = {"steps": 1, "hidden": 4, "conditional_hidden": 5, "features": 3, "growth": 2}
    model = flowkit_models.create("hcflow_sr_x4", conditional_steps=(0, 2), blocks=((1, 0), (0, 2)), quant=64, **sizes)
    assert opened(model.official_state_dict(), tmp_path).config == model.config
    model.save(tmp_path / "own.safetensors")
    assert flowkit_models.load(tmp_path / "own.safetensors").config == model.config
    with pytest.raises(ValueError, match="conditional_steps must be a whole number from 0, or one for each of 2"):
        flowkit_models.create("hcflow_sr_x4", conditional_steps=(1, 2, 3))


def test_taps_that_weights_cannot_tell_are_asked_for(tmp_path) -> None:
    small = {"steps": 1, "hidden": 5, "blocks": 3, "taps": (0, 2), "features": 3, "growth": 2}
    state = flowkit_models.create("srflow_x4", **small).official_state_dict()
    with pytest.raises(ValueError, match=r"official\.pth: SRFlow: .* taps=\(1, 8, 15, 22\)"):
        opened(state, tmp_path)
    with pytest.raises(ValueError, match="taps must be indices of the 3 RRDB blocks"):
        opened(state, tmp_path, taps=(0, 3))
    with pytest.raises(ValueError, match=r"the weights do not fit: .* misshapen"):
        opened(state, tmp_path, taps=(0, 1, 2))


def test_published_blocks_with_another_number_of_taps_are_asked_for(tmp_path) -> None:
    small = {"steps": 1, "hidden": 4, "blocks": 8, "features": 3, "growth": 2}
    two = flowkit_models.create("srflow_face_x8", **small, taps=(1, 3)).official_state_dict()
    with pytest.raises(ValueError, match=r"SRFlow: weights of this size can't tell which RRDB blocks"):
        opened(two, tmp_path)
    four = flowkit_models.create("srflow_face_x8", **small).official_state_dict()
    assert opened(four, tmp_path).config.taps == (1, 3, 5, 7)


def test_altered_haar_constants_are_ignored_with_a_warning(tmp_path) -> None:
    model = perturb(flowkit_models.create("irn_x4", blocks=(1, 1), growth=2))
    state = model.official_state_dict()
    state["operations.2.haar_weights"] *= 2
    with pytest.warns(UserWarning, match=r"operations\.2\.haar_weights: other values than Haar's are ignored"):
        loaded = opened(state, tmp_path)
    hr = torch.rand(1, 3, 8, 8)
    assert torch.equal(loaded.encode(hr).lr, model.encode(hr).lr)


@pytest.mark.parametrize(
    ("state", "guess"),
    [
        ({"conv0_0.weight": torch.zeros(1), "conv0_0.bias": torch.zeros(1)}, "the discriminator of HCFlow"),
        ({"RRDB_trunk.0.RDB1.conv1.weight": torch.zeros(1)}, "an RRDB network"),
        ({"features.0.weight": torch.zeros(1)}, "a VGG or AlexNet"),
        ({"weight": torch.zeros(2, 2)}, "another network"),
    ],
)
def test_other_networks_are_named(state, guess, tmp_path) -> None:
    with pytest.raises(ValueError, match=f"looks like {guess}.*published checkpoints of HCFlow, SRFlow, IRN and"):
        opened(state, tmp_path)


def test_no_sizes_of_an_unknown_network() -> None:
    assert known_sizes({"layer.weight": (3, 3)}) is None


def test_key_lists_are_those_of_one_model_each(shared) -> None:
    for _, keys, _ in FULL:
        shapes = {key: tuple(shape) for key, shape in key_list(shared, keys).items()}
        found = known_sizes(shapes)
        assert found is not None
        assert json.dumps(found)  # sizes are plain numbers, as a checkpoint stores them


@pytest.mark.parametrize("kind", ["whole", "alone", "ours"])
def test_an_encoder_from_its_own_checkpoint(kind, tmp_path) -> None:
    sizes = {"steps": 1, "hidden": 5, "blocks": 2, "taps": (1,), "features": 3, "growth": 2}
    torch.manual_seed(0)
    source, target = (perturb(flowkit_models.create("srflow_x4", **sizes)) for _ in range(2))
    state = source.official_state_dict()
    path = tmp_path / ("rrdb.safetensors" if kind == "ours" else "rrdb.pth")
    if kind == "alone":
        state = {k.removeprefix("RRDB."): v for k, v in state.items() if k.startswith("RRDB.")}
    source.save(path) if kind == "ours" else torch.save(state, path)
    before = target.official_state_dict()
    load_encoder(target, path)
    for name, value in target.official_state_dict().items():
        expected = source.official_state_dict() if name.startswith("RRDB.") else before
        assert torch.equal(value, expected[name])
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: the weights do not fit: .* missing"):
        load_encoder(target, tmp_path / "other.pth")
