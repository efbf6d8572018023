"""IRN against the numbers of the official implementation, and its own laws."""

import pytest
import torch
from support import close, irn_weights, key_list, opened
from torch import Tensor

import flowkit_models
from flowkit.bases import round_straight_through
from flowkit.testing import check_bijector, perturb
from flowkit_models.models.official_weights import entries

SMALL = ["irn_x4_small", "irn_x2_small", "irn_x3_conv_small"]
FULL = [("irn_x4", "irn_keys_x4"), ("irn_x2", "irn_keys_x2")]


@pytest.fixture(params=[(name, prefix) for name in SMALL for prefix in ("out.", "out64.")], ids=str)
def case(request, golden, tmp_path):
    """A golden file, its expected numbers, the model with its weights, and the tolerance of its precision."""
    name, prefix = request.param
    numbers = golden(name)
    dtype = torch.float64 if prefix == "out64." else torch.float32
    model = opened(numbers.part("sd."), tmp_path).to(dtype)
    return numbers, numbers.part(prefix), model, 1e-9 if prefix == "out64." else 1e-4


def test_down(case) -> None:
    numbers, expected, model, tolerance = case
    hr = numbers["in.hr"].to(next(model.parameters()).dtype)
    encoded = model.encode(hr)
    close(encoded.lr, expected["fwd.lr"], tolerance)
    close(encoded.latents[0], expected["fwd.z"], tolerance)
    close(model.downscale(hr), expected["fwd.lr_quant"], tolerance)
    if "fwd.jacobian" in expected:  # the official learned downscaling counts none
        close(encoded.logdet.mean(), expected["fwd.jacobian"], tolerance)
    close(model.decode(encoded.lr, encoded.latents), hr, tolerance)


def test_up(case) -> None:
    numbers, expected, model, tolerance = case
    dtype = next(model.parameters()).dtype
    lr = numbers["in.lr_quant"].to(dtype)
    for name, z in (
        ("hr_heat0", 0 * numbers["in.z1"]),
        ("hr_heat08", numbers["in.z08"]),
        ("hr_heat1", numbers["in.z1"]),
    ):
        close(model.decode(lr, (z.to(dtype),)), expected[name], tolerance)
        image = model.upscale(lr, temperature=1.0, latents=(z.to(dtype),))
        close(image[0], expected[name].clamp(0, 1), tolerance)
        if name + ".jacobian" in expected:
            logdet = model.flow.inverse((lr, (z.to(dtype),)))[1]
            close(logdet.mean(), expected[name + ".jacobian"], tolerance)


def losses(model, numbers, hr: Tensor) -> list[Tensor]:
    """The official losses (reference/irn.md §4) with the recorded noise."""
    (lr,), z = [model.encode(hr).lr], model.encode(hr).latents[0]
    again = model.decode(round_straight_through(lr), (numbers["in.z_train"].to(hr),))
    fit = model.scale**2 * (lr - numbers["in.lr_ref"].to(hr)).square().sum((1, 2, 3)).mean()
    return [fit, z.square().sum() / len(hr), ((hr - again).square() + 1e-6).sqrt().sum((1, 2, 3)).mean()]


@pytest.mark.parametrize("name", SMALL)
def test_a_training_step(name, golden, tmp_path) -> None:
    numbers = golden(name)
    expected = numbers.part("out64.train.")
    model = opened(numbers.part("sd."), tmp_path).double()
    hr = numbers["in.hr"].double().requires_grad_()
    parts = losses(model, numbers, hr)
    for part, key in zip(parts, ("l_forw_fit", "l_forw_ce", "l_back_rec"), strict=True):
        close(part, expected[key], 1e-9)
    sum(parts).backward()
    close(hr.grad, expected["grad_hr"], 1e-6)
    keys = numbers.about["state_dict_keys_in_order"]

    def norms(gradients: bool) -> Tensor:
        ours = {key: (p.grad if gradients else p.detach()) for key, p, _ in entries(model)}
        return torch.stack([torch.zeros(()).double() if ours[k] is None else ours[k].norm() for k in keys])

    close(norms(gradients=True), expected["grad_norms"], 1e-6)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
    torch.optim.Adam(model.parameters(), 2e-4, (0.9, 0.999), weight_decay=1e-5).step()
    close(norms(gradients=False), expected["param_norms_after_step"], 1e-9)


@pytest.mark.parametrize(("name", "keys"), FULL)
def test_full_size_by_formula(name, keys, golden, shared, tmp_path) -> None:
    numbers = golden(f"{name}_full_formula")
    state = irn_weights(key_list(shared, keys))
    for key, first in numbers.part("check.").items():
        assert torch.equal(state[key].flatten()[:64], first.flatten())
    model = opened(state, tmp_path)
    assert model.config == flowkit_models.create(name).config
    with torch.no_grad():
        encoded = model.encode(numbers["in.hr"])
        lr = numbers["in.lr_quant"]
        got = {
            "fwd.lr": encoded.lr,
            "fwd.z": encoded.latents[0],
            "fwd.jacobian": encoded.logdet.mean(),
            "hr_heat0": model.decode(lr, (0 * numbers["in.z1"],)),
            "hr_heat08": model.decode(lr, (numbers["in.z08"],)),
            "hr_heat1": model.decode(lr, (numbers["in.z1"],)),
            "rec": model.decode(encoded.lr, encoded.latents),
        }
    for key, value in got.items():
        error = float((value - numbers["out64." + key]).abs().max())
        assert error <= 3 * numbers.about["float32_accuracy"]["out." + key]["max_abs_diff_f32_vs_f64"], key


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 2, "blocks": (2,)},
        {"scale": 4, "blocks": (1, 1)},
        {"scale": 4, "blocks": (0, 1)},
        {"scale": 3, "blocks": (1,), "downscaling": "learned"},
        {"scale": 4, "blocks": (1, 0), "downscaling": "learned"},
    ],
    ids=str,
)
def test_laws(options) -> None:
    torch.manual_seed(0)
    model = perturb(flowkit_models.create("irn_x4", growth=3, **options))
    side = options["scale"]
    check_bijector(model.flow, torch.rand(2, 3, side, 2 * side), sizes=[(2 * side, side)])


def test_a_fresh_network_is_the_haar_transform() -> None:
    model = flowkit_models.create("irn_x4")
    hr = torch.rand(1, 3, 8, 12)
    encoded = model.encode(hr)
    close(encoded.lr, torch.nn.functional.avg_pool2d(hr, 4), 1e-6)
    grey = flowkit_models.create("irn_x3").encode(hr[..., :6, :9]).lr
    close(grey, torch.nn.functional.avg_pool2d(hr[..., :6, :9], 3), 1e-6)


@pytest.mark.parametrize("scale", [2, 3])
def test_any_size_up_and_down(scale) -> None:
    options = {"blocks": (1,), "downscaling": "learned", "growth": 3}
    model = flowkit_models.create("irn_x4", scale=scale, **options)
    for height, width in ((1, 1), (3, 7), (8, 5)):
        assert model.upscale(torch.rand(2, 3, height, width), n=2).shape == (2, 2, 3, scale * height, scale * width)
        small = model.downscale(torch.rand(2, 3, height, width))
        assert small.shape == (2, 3, -(-height // scale), -(-width // scale))
        assert torch.equal((small * 255).round() / 255, small)


def test_no_likelihood() -> None:
    model = flowkit_models.create("irn_x4_small")
    hr, lr = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 2, 2)
    for call in (lambda: model.nll(hr, lr), lambda: model.bits_per_dim(hr, lr), lambda: model.density):
        with pytest.raises(ValueError, match="IRN has no likelihood"):
            call()


def test_lean_memory_changes_nothing_but_memory() -> None:
    torch.manual_seed(0)
    plain = perturb(flowkit_models.create("irn_x4", blocks=(1, 2), growth=3)).double()
    lean = flowkit_models.create("irn_x4", memory="lean", blocks=(1, 2), growth=3).double()
    lean.load_state_dict(plain.state_dict())
    hr = torch.rand(2, 3, 8, 12).double()
    gradients = []
    for model in (plain, lean):
        encoded = model.encode(hr)
        loss = encoded.latents[0].square().sum() + model.decode(encoded.lr, (0 * encoded.latents[0],)).square().sum()
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        close(a, b, 1e-7)
