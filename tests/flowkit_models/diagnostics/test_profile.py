"""What is said of a model's cost and reach is compared with counting by hand and with what one pixel changes."""

import pytest
import torch
from support import SIZES

import flowkit_models
from flowkit_models.diagnostics.profile import cost, parameters_by_part, profile_model, reach

MODELS = {
    "hcflow": lambda: flowkit_models.create("hcflow_sr_x4_small", **SIZES, conditional_hidden=4, init="orthogonal"),
    "bands": lambda: flowkit_models.create("hcflow_rescale_x4_small", **SIZES, conditional_hidden=4),
    "srflow": lambda: flowkit_models.create("srflow_x4_small", steps=1, blocks=1, taps=(0,), features=4, growth=4),
    "irn": lambda: flowkit_models.create("irn_x4_small", blocks=(1, 1), growth=4),
}


def moved(model):
    """Random weights in float64, so that nothing that is connected is zero."""
    torch.manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p) / max(1, p[0].numel()) ** 0.5)
    return model.double().eval()


@pytest.mark.parametrize("name", MODELS)
def test_hr_pixels_have_a_gradient_to_what_the_reach_says_and_no_further(name) -> None:
    torch.manual_seed(0)
    model = moved(MODELS[name]())
    far = reach(model)
    width = 2 * (far + 4)
    width += -width % model.lr_multiple
    lr = torch.rand(1, 3, model.lr_multiple, width, dtype=torch.float64, requires_grad=True)
    hr = model.decode(lr, model.draw(lr.detach()))
    measured = []
    for column in range(width // 2, width // 2 + model.lr_multiple):
        mine = hr[..., column * model.scale : (column + 1) * model.scale]
        (gradient,) = torch.autograd.grad((mine * torch.randn_like(mine)).sum(), lr, retain_graph=True)
        seen = gradient.abs().sum((0, 1, 2)).nonzero().flatten()
        measured += [column - int(seen.min()), int(seen.max()) - column]
    assert max(measured) == far


def test_reach_by_hand() -> None:
    # a block's two dense blocks see 5 pixels each: 2 blocks at LR size, 2 at twice the size
    assert reach(flowkit_models.create("irn_x4_small")) == 2 * 10 + 2 * 10 // 2
    # features: 1 + 3 RRDBs of 15 + 1 and the prior's 1, then 2 conditional steps and 2 steps of 1 + 1: that is 56;
    # the finer level: 1 + 1, 1 and 4 + 4 of its own pixels
    assert reach(flowkit_models.create("hcflow_sr_x4_small")) == 56 + 11 // 2


def test_multiplications_by_hand() -> None:
    model = flowkit_models.create("irn_x4_small", blocks=(1, 2), growth=8)

    def dense(i, o, g=8):
        return 9 * (sum((i + k * g) * g for k in range(4)) + (i + 4 * g) * o)

    def block(high):
        return dense(high, 3) + 2 * dense(3, high)

    per_lr_pixel = 4 * block(9) + 2 * block(45)
    for run in (
        model.upscale,
        lambda lr: model.encode(torch.zeros(1, 3, *(4 * n for n in lr.shape[2:]))),
    ):
        found = cost(model, run)
        assert found.per_hr_pixel == per_lr_pixel / 16
        assert found.fixed == 0


def test_further_draws_are_cheaper_where_they_share_features() -> None:
    torch.manual_seed(0)
    found = profile_model(flowkit_models.create("srflow_x4_small"), (8, 8))
    assert found.further_draw.per_hr_pixel < found.draw.per_hr_pixel / 5
    irn = profile_model(flowkit_models.create("irn_x4_small"), (8, 8))
    assert irn.further_draw == irn.draw


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_in_one_part(name) -> None:
    model = MODELS[name]()
    assert sum(parameters_by_part(model).values()) == sum(p.numel() for p in model.parameters())


def test_the_model_and_torch_s_generator_are_left_alone() -> None:
    model = MODELS["srflow"]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = profile_model(model, (6, 4))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert found.latents == model.latent_shapes(6, 4)
    assert (found.family, found.purpose, found.scale) == ("SRFlow", "super-resolution", 4)
    assert found.receptive_field == 2 * found.reach + 1


def test_what_for() -> None:
    told = {name: profile_model(make(), (4, 4)).purpose for name, make in MODELS.items()}
    assert told == {
        "hcflow": "super-resolution",
        "bands": "rescaling",
        "srflow": "super-resolution",
        "irn": "rescaling",
    }


def test_a_size_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match=r"multiples of 2, got 5 × 4"):
        profile_model(MODELS["srflow"](), (5, 4))
