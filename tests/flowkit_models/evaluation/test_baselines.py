"""Baselines from checkpoints: each published layout is recognised and makes the image that its own network made.

baselines.json has, for each layout, the names and shapes of a small checkpoint, and samples of the image that the
network it belongs to made of `LR` with `support.formula_weights`.
"""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support import formula_weights, hashed
from torch import nn
from torch.testing import assert_close

from flowkit_models.evaluation.baselines import known_baseline
from flowkit_models.images.convert import luma
from flowkit_models.images.resize import bicubic_resize

RECORDED = json.loads((Path(__file__).parent / "baselines.json").read_text())
LR = torch.from_numpy(0.5 + 0.5 * hashed("lr", 2 * 3 * 5 * 4).reshape(2, 3, 5, 4)).float()


def state_of(name):
    return formula_weights(RECORDED[name]["shapes"], RECORDED[name]["constants"])


@torch.no_grad()
@pytest.mark.parametrize("name", RECORDED)
def test_a_published_layout(name):
    recorded = RECORDED[name]
    found, network = known_baseline(state_of(name))
    assert (found, network.scale, network.training) == (recorded["found"], recorded["scale"], False)
    image = network(LR)
    assert image.shape == (2, 3, 5 * network.scale, 4 * network.scale)
    assert_close(image.flatten()[::41][:24], torch.tensor(recorded["image"]), rtol=1e-4, atol=1e-5)


def srcnn(channels, kernels=(9, 1, 5), widths=(5, 4)):
    torch.manual_seed(0)
    sizes = (channels, *widths, channels)
    layers = {f"conv{i + 1}": nn.Conv2d(sizes[i], sizes[i + 1], kernel) for i, kernel in enumerate(kernels)}
    return nn.ModuleDict(layers).state_dict()


def three_layers(state, x):
    for i in (1, 2, 3):
        weight = state[f"conv{i}.weight"]
        x = F.conv2d(x, weight, state[f"conv{i}.bias"], padding=weight.shape[-1] // 2)
        x = x.relu() if i < 3 else x
    return x


@torch.no_grad()
def test_srcnn_on_rgb():
    state = srcnn(3)
    name, network = known_baseline(state)
    assert (name, network.scale) == ("SRCNN", 4)
    assert_close(network(LR), three_layers(state, bicubic_resize(LR, 4)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_srcnn_on_luma_leaves_the_chroma_alone():
    state = srcnn(1, kernels=(9, 5, 5))
    name, network = known_baseline(state, scale=3)
    image, bicubic = network(LR).double(), bicubic_resize(LR, 3).double()
    assert (name, image.shape) == ("SRCNN", (2, 3, 15, 12))
    expected = three_layers({key: tensor.double() for key, tensor in state.items()}, luma(bicubic))
    assert_close(luma(image), expected, rtol=0, atol=1e-5)
    chroma = torch.tensor([[-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]], dtype=torch.float64)
    of = lambda x: torch.einsum("oc,bchw->bohw", chroma, x)  # noqa: E731
    assert_close(of(image), of(bicubic), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {f"{name}.more": tensor for name, tensor in s.items()},
        lambda s: s | {"body.0.body.1.running_mean": torch.zeros(6)},
        lambda s: s | {"fc.weight": torch.zeros(6, 6)},
        lambda s: {name: tensor for name, tensor in s.items() if not name.startswith("tail.1")},
        lambda s: {},
    ],
)
def test_other_networks_are_none_of_these(change):
    assert known_baseline(change(state_of("EDSR x4"))) is None


def test_right_names_and_wrong_shapes():
    state = state_of("EDSR x4")
    state["body.1.body.2.weight"] = torch.zeros(6, 5, 3, 3)
    with pytest.raises(ValueError, match=r"^named like EDSR, of other shapes: .*blocks.1.conv2.weight.*[^\n]$"):
        known_baseline(state)


def test_half_precision_is_widened():
    state = {name: tensor.half() for name, tensor in state_of("SRResNet x2").items()}
    assert known_baseline(state)[1].first.weight.dtype == torch.float32
