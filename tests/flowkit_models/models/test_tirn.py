"""T-IRN: sizes as published, the block against its formula, the colour map, laws, round trips, zero for the latent."""

import pytest
import torch

import flowkit_models
from flowkit.testing import check_bijector, perturb
from flowkit_models.evaluation.systems import open_system
from flowkit_models.models.tirn.branches import YCBCR, block, to_branches

SMALL = {"blocks": (1, 1), "growth": 2}


@pytest.mark.parametrize(
    ("name", "parameters"), [("tirn_x2", 1_571_061), ("tirn_x4", 4_673_377), ("tirn_x4_small", 375_993)]
)
def test_sizes(name, parameters) -> None:
    assert sum(p.numel() for p in flowkit_models.create(name).parameters()) == parameters


@torch.no_grad()
def test_the_block_is_its_formula() -> None:
    torch.manual_seed(0)
    part = perturb(block(12, 4), 0.3).double()
    colours, luma, details = (coupling.net for coupling in part.parts)
    x = torch.randn(2, 12, 6, 5, dtype=torch.float64)
    c, h, y = x[:, :2], x[:, 2:11], x[:, 11:]
    c = c + colours.second(y) + colours.first(h)  # E and F
    y = y + luma.first(c) + luma.second(h)  # K and L
    s, t = (2 * torch.sigmoid(net(part)) - 1 for net, part in ((details.scale_c, c), (details.scale_y, y)))
    h = h * (s + t).exp() + details.shift_c(c) + details.shift_y(y)
    got, logdet = part(x)
    assert (got - torch.cat([c, h, y], 1)).abs().max() < 1e-14
    assert (logdet - (s + t).sum((1, 2, 3))).abs().max() < 1e-12
    assert bool((logdet.abs() > 1).all())


def test_colours_are_full_range_ycbcr() -> None:
    colours = to_branches(5).double()
    x = torch.rand(1, 5, 1, 1, dtype=torch.float64)
    red, green, blue, *others = x.flatten().tolist()
    y, logdet = colours(x)
    cb = -0.168736 * red - 0.331264 * green + 0.5 * blue + 0.5
    cr = 0.5 * red - 0.418688 * green - 0.081312 * blue + 0.5
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    assert y.flatten().tolist() == pytest.approx([cb, cr, *others, luma], abs=1e-7)
    assert logdet.item() == pytest.approx(-1.44274, abs=1e-5)
    assert (colours.inverse(y)[0] - x).abs().max() < 1e-14
    assert all(sum(row) == pytest.approx(float(i == 0), abs=1e-9) for i, row in enumerate(YCBCR))  # gray has no colour


def test_laws() -> None:
    torch.manual_seed(0)
    model = perturb(flowkit_models.create("tirn_x4", **SMALL), 0.1).double()
    check_bijector(model.flow, torch.rand(2, 3, 4, 4, dtype=torch.float64))


@torch.no_grad()
@pytest.mark.parametrize("name", ["tirn_x2", "tirn_x4"])
def test_round_trips_at_full_size(name) -> None:
    torch.manual_seed(0)
    model = perturb(flowkit_models.create(name), 0.01).eval()
    hr = torch.rand(1, 3, 32, 24)
    lr, latents, _ = model.encode(hr)
    assert (model.decode(lr, latents) - hr).abs().max() < 1e-4
    assert (lr - torch.nn.functional.avg_pool2d(hr, model.scale)).abs().max() > 1e-3  # it does something


@torch.no_grad()
def test_a_fresh_one_makes_block_means(tmp_path) -> None:
    model = flowkit_models.create("tirn_x4", **SMALL).eval()
    hr = torch.rand(1, 3, 16, 24)
    means = torch.nn.functional.avg_pool2d(hr, 4)
    assert (model.encode(hr).lr - means).abs().max() < 1e-6


@torch.no_grad()
def test_its_latent_is_zero_where_nothing_is_said(tmp_path) -> None:
    torch.manual_seed(0)
    model = perturb(flowkit_models.create("tirn_x4", **SMALL), 0.1).eval()
    lr = torch.rand(1, 3, 5, 6)
    assert torch.equal(model.upscale(lr), model.upscale(lr, temperature=0.0))
    assert not torch.equal(model.upscale(lr), model.upscale(lr, temperature=0.5))
    model.save(tmp_path / "m.safetensors")
    again = flowkit_models.load(tmp_path / "m.safetensors", memory="lean")
    assert next(again.parameters()).dtype == torch.float32
    assert torch.allclose(again.upscale(lr), model.upscale(lr), atol=1e-6)
    for usual, rows in ((True, (0.0,)), (False, (0.5, 1.0))):
        assert open_system(str(tmp_path / "m.safetensors"), 4, (0.5, 1.0), True, usual=usual).temperatures == rows
    with pytest.raises(ValueError, match="no official names"):
        model.official_state_dict()


@pytest.mark.parametrize(
    "wrong", [{"scale": 3}, {"blocks": (1,)}, {"blocks": 2}, {"growth": 0}, {"purpose": "sr"}, {"blocks": (1, -1)}]
)
def test_refused(wrong) -> None:
    with pytest.raises(ValueError, match="T-IRN: "):
        flowkit_models.create("tirn_x4", **wrong)
