"""SRFlow against the numbers of the official implementation, and its own laws."""

import math

import pytest
import torch
from support import close, key_list, opened, srflow_weights
from torch import Tensor

import flowkit_models
from flowkit import initialize
from flowkit.testing import check_bijector, perturb
from flowkit_models.models.official_weights import entries

SMALL = ["srflow_x4_small", "srflow_x8_small"]
SIZES = {"steps": 1, "transitions": 1, "hidden": 5, "blocks": 2, "taps": (0, 1), "features": 4, "growth": 3}


def log_normal(z: Tensor) -> Tensor:
    return -0.5 * (z**2 + math.log(2 * math.pi)).flatten(1).sum(1)


def scaled_latents(numbers, dtype: torch.dtype) -> tuple[Tensor, ...]:
    splits = sum(name.startswith("in.eps08_") for name in numbers.tensors)
    names = ["in.z08", *(f"in.eps08_{i}" for i in range(splits, 0, -1))]
    return tuple(numbers[name].to(dtype) for name in names)


@pytest.fixture(params=[(name, prefix) for name in SMALL for prefix in ("out.", "out64.")], ids=str)
def case(request, golden, tmp_path):
    """A golden file, its expected numbers, the model with its weights, and the tolerance of its precision."""
    name, prefix = request.param
    numbers = golden(name)
    model = opened(numbers.part("sd."), tmp_path, taps=tuple(numbers.about["config"]["blocks"]))
    dtype = torch.float64 if prefix == "out64." else torch.float32
    return numbers, numbers.part(prefix), model.to(dtype), 1e-9 if prefix == "out64." else 2e-4


def test_encode_and_likelihood(case) -> None:
    numbers, expected, model, tolerance = case
    dtype = next(model.parameters()).dtype
    hr, lr = numbers["in.hr"].to(dtype), numbers["in.lr"].to(dtype)
    encoded = model.encode(hr, lr)
    assert encoded.lr is None
    close(encoded.latents[0], expected["enc.z"], tolerance)
    for i, eps in enumerate(reversed(encoded.latents[1:]), start=1):
        close(eps, expected[f"enc.eps{i}"], tolerance)
    # the official log-det holds the log-probability of what was split off; ours holds the standardisation
    split_off = torch.stack([log_normal(eps) for eps in encoded.latents[1:]]).sum(0)
    close(encoded.logdet + split_off, expected["enc.logdet"], tolerance)
    close(model.nll(hr, lr), expected["enc.nll"], tolerance)
    uniform = numbers["in.noise"].to(dtype) * model.config.quant + 0.5
    close(model.nll(hr, lr, uniform), expected["noisy.nll"], tolerance)
    noisy = model.encode(hr + numbers["in.noise"].to(dtype), lr)
    close(noisy.latents[0], expected["noisy.z"], tolerance)


def test_decode(case) -> None:
    numbers, expected, model, tolerance = case
    dtype = next(model.parameters()).dtype
    hr, lr = numbers["in.hr"].to(dtype), numbers["in.lr"].to(dtype)
    warm = scaled_latents(numbers, dtype)
    for name, latents in (("sr_heat08", warm), ("sr_heat0", tuple(0 * z for z in warm))):
        close(model.decode(lr, latents), expected[name], tolerance)
        x, logdet = model.flow.inverse((None, latents), model.context(lr))
        split_off = torch.stack([log_normal(eps) for eps in latents[1:]]).sum(0)
        close(logdet - split_off, expected[f"{name}.logdet"], tolerance)
        unit = tuple(z / 0.8 for z in latents)
        close(model.upscale(lr, temperature=0.8, latents=unit)[0], x.clamp(0, 1), tolerance)
    encoded = model.encode(hr, lr)
    close(model.decode(lr, encoded.latents), hr, max(tolerance, 1e-9))


def test_the_encoder(case) -> None:
    numbers, expected, model, tolerance = case
    lr = numbers["in.lr"].to(next(model.parameters()).dtype)
    close(model.encoder.super_resolve(lr), expected["rrdb_sr"], tolerance)
    for i, features in enumerate(model.context(lr), start=1):
        close(features, numbers[f"out.cond.level{i}"].to(features), 2e-4)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("loss", ["nll", "l1"])
def test_gradients(name, loss, golden, tmp_path) -> None:
    numbers = golden(name)
    model = opened(numbers.part("sd."), tmp_path, taps=tuple(numbers.about["config"]["blocks"])).double()
    hr, lr = (numbers[key].double().requires_grad_() for key in ("in.hr", "in.lr"))
    if loss == "nll":
        value = model.nll(hr, lr).mean()
    else:
        zeros = tuple(torch.zeros_like(z) for z in scaled_latents(numbers, torch.float64))
        value = (model.decode(lr, zeros) - hr).abs().mean()
    value.backward()
    expected = numbers.part(f"out64.grad.{loss}.")
    close(value, expected["loss"], 1e-9)
    close(lr.grad, expected["lr"], 1e-6)
    if loss == "nll":
        close(hr.grad, expected["hr"], 1e-6)
    ours = {key: p.grad for key, p, _ in entries(model)}
    keys = numbers.about["state_dict_keys_in_order"]
    norms = torch.stack([torch.zeros(()) if ours[key] is None else ours[key].norm() for key in keys])
    close(norms.double(), expected["norms"], 1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_data_dependent_initialisation(name, golden, tmp_path) -> None:
    numbers = golden(name)
    after = numbers.part("sd.")
    before = {k: torch.zeros_like(v) if ".actnorm." in k else v for k, v in after.items()}
    model = opened(before, tmp_path, taps=tuple(numbers.about["config"]["blocks"]))
    initialize(model, numbers["init.hr"], numbers["init.lr"])
    for key, value in model.official_state_dict().items():
        close(value, after[key], 2e-4, least=1.0)


@pytest.mark.parametrize(("name", "keys"), [("srflow_x4", "srflow_keys_x4"), ("srflow_face_x8", "srflow_keys_x8_face")])
def test_full_size_by_formula(name, keys, golden, shared, tmp_path) -> None:
    numbers = golden(f"{name.replace('face_x8', 'x8_face')}_full_formula")
    state = srflow_weights(key_list(shared, keys), numbers.about["config"]["nb"])
    for key, first in numbers.part("check.").items():
        assert torch.equal(state[key].flatten()[:64], first.flatten())
    model = opened(state, tmp_path)
    assert model.config == flowkit_models.create(name).config
    hr, lr = numbers["in.hr"], numbers["in.lr"]
    warm = scaled_latents(numbers, torch.float32)
    accuracy = numbers.about["float32_accuracy"]
    with torch.no_grad():
        encoded = model.encode(hr, lr)
        split_off = torch.stack([log_normal(eps) for eps in encoded.latents[1:]]).sum(0)
        got = {
            "enc.z": encoded.latents[0],
            **{f"enc.eps{i}": z for i, z in enumerate(reversed(encoded.latents[1:]), start=1)},
            "enc.logdet": encoded.logdet + split_off,
            "enc.nll": model.nll(hr, lr),
            "sr_heat08": model.decode(lr, warm),
            "sr_heat0": model.decode(lr, tuple(0 * z for z in warm)),
            "rec": model.decode(lr, encoded.latents),
            "rrdb_sr": model.encoder.super_resolve(lr),
        }
    for key, value in got.items():
        error = float((value - numbers["out64." + key]).abs().max())
        assert error <= 3 * accuracy["out." + key]["max_abs_diff_f32_vs_f64"], key


@pytest.mark.parametrize("scale", [2, 4, pytest.param(8, marks=pytest.mark.slow)])
def test_laws(scale) -> None:
    torch.manual_seed(0)
    model = perturb(flowkit_models.create("srflow_x4", scale=scale, **SIZES))
    lr = torch.rand(2, 3, 2, 2)
    x = torch.rand(2, 3, 2 * scale, 2 * scale)
    context = tuple(features.detach() for features in model.context(lr))
    check_bijector(model.flow, x, context, sizes=[(4 * scale, 2 * scale)] if scale < 8 else None)


def test_any_size_up() -> None:
    torch.manual_seed(0)
    model = perturb(flowkit_models.create("srflow_x4", **SIZES), 0.05)
    for height, width in ((1, 1), (3, 5), (4, 6)):
        lr = torch.rand(2, 3, height, width)
        images = model.upscale(lr, n=3, generator=torch.Generator().manual_seed(1))
        assert images.shape == (3, 2, 3, 4 * height, 4 * width)
        close(images[0], model.upscale(lr, generator=torch.Generator().manual_seed(1))[0], 1e-5)


def test_what_it_models_is_said() -> None:
    model = flowkit_models.create("srflow_x4", **SIZES)
    hr = torch.rand(1, 3, 16, 16)
    assert not model.makes_lr
    with pytest.raises(ValueError, match="models HR given LR: pass lr"):
        model.encode(hr)
    with pytest.raises(ValueError, match="makes no LR image"):
        model.downscale(hr)
    with pytest.raises(ValueError, match="lr: height and width must be multiples of 2, got 3 × 4"):
        model.decode(torch.rand(1, 3, 3, 4), ())
    with pytest.raises(ValueError, match="lr: expected"):
        model.encode(hr, torch.rand(1, 3, 4, 6))


def test_noise_is_an_option() -> None:
    torch.manual_seed(0)
    model = perturb(flowkit_models.create("srflow_x4", **SIZES), 0.05)
    hr, lr = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 4, 4)
    assert torch.equal(model.nll(hr, lr), model.nll(hr, lr))
    noisy = flowkit_models.create("srflow_x4", **SIZES, noisy=True)
    noisy.load_state_dict(model.state_dict())
    assert not torch.equal(noisy.nll(hr, lr), noisy.nll(hr, lr))
    middle = torch.full_like(hr, 0.5)
    offset = math.log2(model.config.quant)
    close(model.nll(hr, lr, middle) - model.nll(hr, lr), torch.full((1,), offset), 1e-5)
    torch.manual_seed(0)
    true = model.bits_per_dim(hr, lr)
    close(true, torch.tensor([noisy.per_dim(noisy.nll(hr, lr, middle).item())]), 0.05)


def test_lean_memory_changes_nothing_but_memory() -> None:
    torch.manual_seed(0)
    plain = perturb(flowkit_models.create("srflow_x4", **SIZES)).double()
    lean = flowkit_models.create("srflow_x4", memory="lean", **SIZES).double()
    lean.load_state_dict(plain.state_dict())
    hr, lr = torch.rand(2, 3, 16, 8).double(), torch.rand(2, 3, 4, 2).double()
    gradients = []
    for model in (plain, lean):
        model.nll(hr, lr).mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        close(gradients[1][name], gradient, 1e-7)
