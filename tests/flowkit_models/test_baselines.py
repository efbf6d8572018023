"""Baselines from checkpoints: each published layout is recognised and makes the same image as its own network."""

import re

import layouts
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from flowkit_models.evaluation.baselines.checkpoints import known_baseline
from flowkit_models.images.convert import luma
from flowkit_models.images.resize import bicubic_resize


@pytest.fixture
def lr():
    return torch.rand(2, 3, 7, 6, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def check(state, name, lr, expected):
    found = known_baseline(state)
    assert found is not None
    assert found[0] == name
    assert found[1].scale == expected.shape[-1] // lr.shape[-1]
    assert not found[1].training
    assert_close(found[1](lr), expected, rtol=1e-4, atol=1e-5)


def renamed(state, rules):
    out = {}
    for name, tensor in state.items():
        for pattern, new in rules.items():
            if re.match(pattern, name):
                out[re.sub(pattern, new, name, count=1)] = tensor
                break
    return out


SCALES = pytest.mark.parametrize("scale", [2, 3, 4])


@SCALES
@torch.no_grad()
def test_edsr(lr, scale):
    torch.manual_seed(0)
    theirs = layouts.EDSR(scale)
    check(theirs.state_dict(), "EDSR", lr, theirs(255 * lr) / 255)
    without = {name: tensor for name, tensor in theirs.state_dict().items() if "_mean" not in name}
    published = layouts.EDSR(scale, mean=(0.4488, 0.4371, 0.4040))
    published.load_state_dict(without, strict=False)
    check(without, "EDSR", lr, published(255 * lr) / 255)
    rules = {
        r"head\.0": "conv_first",
        r"body\.(\d)\.body\.0": r"body.\1.conv1",
        r"body\.(\d)\.body\.2": r"body.\1.conv2",
        r"body\.2": "conv_after_body",
        r"tail\.0": "upsample",
        r"tail\.1": "conv_last",
    }
    check(renamed(without, rules), "EDSR", lr, published(255 * lr) / 255)


@torch.no_grad()
def test_wide_edsr_has_scaled_residuals(lr):
    torch.manual_seed(0)
    theirs = layouts.EDSR(2, 256, 1, residual_scale=0.1)
    check(theirs.state_dict(), "EDSR", lr, theirs(255 * lr) / 255)


@SCALES
@torch.no_grad()
def test_srresnet_of_basicsr(lr, scale):
    torch.manual_seed(0)
    theirs = layouts.MSRResNet(scale)
    check(theirs.state_dict(), "SRResNet", lr, theirs(lr))
    older = renamed(theirs.state_dict(), {"body": "recon_trunk", "conv_hr": "HRconv", "": ""})
    assert "recon_trunk.0.conv1.weight" in older
    check(older, "SRResNet", lr, theirs(lr))


@SCALES
@torch.no_grad()
def test_srresnet_of_ranksrgan(lr, scale):
    torch.manual_seed(0)
    theirs = layouts.RankSRGAN(scale)
    check(theirs.state_dict(), "SRResNet (RankSRGAN)", lr, theirs(lr))
    check(theirs.state_dict_of_later_code(), "SRResNet (RankSRGAN)", lr, theirs(lr))


@SCALES
@torch.no_grad()
def test_rdn(lr, scale):
    torch.manual_seed(0)
    theirs = layouts.RDN(scale)
    check(theirs.state_dict(), "RDN", lr, theirs(255 * lr) / 255)
    port = layouts.RDN(scale, 6, 6, width=6)
    rules = {
        r"SFENet(\d)": r"sfe\1",
        r"RDBs\.(\d)\.convs\.(\d)\.conv\.0": r"rdbs.\1.layers.\2.conv",
        r"RDBs\.(\d)\.LFF": r"rdbs.\1.lff",
        "GFF": "gff",
        rf"UPNet\.{4 if scale == 4 else 2}": "output",
        "UPNet": "upscale",
    }
    check(renamed(port.state_dict(), rules), "RDN", lr, port(lr))


def three_layers(state, x):
    for i in (1, 2, 3):
        weight = state[f"conv{i}.weight"]
        x = F.conv2d(x, weight, state[f"conv{i}.bias"], padding=weight.shape[-1] // 2)
        x = x.relu() if i < 3 else x
    return x


def test_srcnn_on_rgb(lr):
    torch.manual_seed(0)
    state = layouts.srcnn(3)
    check(state, "SRCNN", lr, three_layers(state, bicubic_resize(lr, 4)))


@torch.no_grad()
def test_srcnn_on_luma_leaves_the_chroma_alone(lr):
    torch.manual_seed(0)
    state = layouts.srcnn(1, kernels=(9, 5, 5))
    name, network = known_baseline(state, scale=3)
    image, bicubic = network(lr).double(), bicubic_resize(lr, 3).double()
    assert (name, image.shape) == ("SRCNN", (2, 3, 21, 18))
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
    assert known_baseline(change(layouts.EDSR(4).state_dict())) is None


def test_right_names_and_wrong_shapes():
    state = layouts.EDSR(4).state_dict()
    state["body.1.body.2.weight"] = torch.zeros(6, 5, 3, 3)
    with pytest.raises(ValueError, match=r"^named like EDSR, of other shapes: .*blocks.1.conv2.weight.*[^\n]$"):
        known_baseline(state)


def test_half_precision_is_widened():
    state = {name: tensor.half() for name, tensor in layouts.MSRResNet(2).state_dict().items()}
    assert known_baseline(state)[1].first.weight.dtype == torch.float32
