"""HCFlow against the numbers of the official implementation, and its own laws."""

import math

import numpy as np
import pytest
import torch
from support import close, opened
from torch import Tensor

import flowkit_models
from flowkit import initialize
from flowkit.bases import round_straight_through
from flowkit.testing import check_bijector, perturb
from flowkit_models.models.official_weights import entries

FIXTURES = ["hcflow_sr_x4", "hcflow_sr_x8"]


@pytest.fixture(params=[(name, suffix) for name in FIXTURES for suffix in ("", "_f64")], ids=lambda p: p[0] + p[1])
def case(request, golden, tmp_path):
    """A golden file, the model with its weights, and the tolerance that its precision allows."""
    name, suffix = request.param
    weights, numbers = golden(name), golden(name + suffix)
    model = opened(weights.part("sd."), tmp_path)
    dtype = torch.float64 if suffix else torch.float32
    return numbers, weights, model.to(dtype), 1e-9 if suffix else 1e-4


def inputs(weights, dtype: torch.dtype) -> dict[str, Tensor]:
    names = ["hr", "lr", "noise", *(n for n in weights.tensors if n.startswith("eps_level"))]
    return {name: weights[name].to(dtype) for name in names}


def test_encode_and_likelihood(case) -> None:
    numbers, weights, model, tolerance = case
    given = inputs(weights, next(model.parameters()).dtype)
    levels = model.config.levels
    encoded = model.encode(given["hr"])
    close(encoded.lr, numbers["fwd_clean.y_pre"], tolerance)
    for i, z in enumerate(encoded.latents):
        close(z, numbers[f"fwd_clean.level{levels - 1 - i}.z_std"], tolerance)
    for which, noise in (("fwd_noise", given["noise"]), ("fwd_clean", torch.zeros_like(given["noise"]))):
        close(model.nll(given["hr"], given["lr"], noise).mean().view(1), numbers[f"{which}.nll"], tolerance)
    # flow_total = init + every log-det + log N(z; m, e^s), and ours counts the standardisation in the log-det
    noisy = model.encode(given["hr"] + given["noise"] / model.config.quant)
    standard = sum(-0.5 * (z**2 + math.log(2 * math.pi)).flatten(1).sum(1) for z in noisy.latents)
    total = noisy.logdet + standard - math.log(model.config.quant) * given["hr"][0, 0].numel()
    close(total, numbers["fwd_noise.objective.flow_total"], tolerance)


def test_upscale_with_latents(case) -> None:
    numbers, weights, model, tolerance = case
    given = inputs(weights, next(model.parameters()).dtype)
    epsilon = tuple(given[f"eps_level{i}"] for i in reversed(range(model.config.levels)))
    for tau, name in ((0.0, "inv_t00"), (0.8, "inv_t08")):
        close(model.decode(given["lr"], tuple(tau * z for z in epsilon)), numbers[f"{name}.x_pre"], tolerance)
        image = model.upscale(given["lr"], temperature=tau, latents=epsilon)
        close(image[0], numbers[f"{name}.x"], tolerance)


def test_round_trip(case) -> None:
    _, weights, model, tolerance = case
    hr = weights["hr"].to(next(model.parameters()).dtype)
    encoded = model.encode(hr)
    close(model.decode(encoded.lr, encoded.latents), hr, tolerance)


@pytest.mark.parametrize("name", FIXTURES)
def test_gradients_of_both_losses(name, golden, tmp_path) -> None:
    weights, numbers = golden(name), golden(name + "_f64")
    model = opened(weights.part("sd."), tmp_path).double()
    given = inputs(weights, torch.float64)
    pixel = (model.upscale(given["lr"], temperature=0.0)[0] - given["hr"]).abs().mean()
    nll = model.nll(given["hr"], given["lr"], given["noise"]).mean()
    for loss, prefix in ((nll, "grad_nll."), (pixel, "grad_pix_tau0.")):
        model.zero_grad()
        loss.backward()
        stored = numbers.part(prefix)
        compared = 0
        for key, p, shape in entries(model):
            if key in stored and p.grad is not None:
                close(p.grad.reshape(shape), stored[key].double(), 1e-6)
                compared += 1
        assert compared > 50
        assert compared == len([key for key in stored if "." in key])


@pytest.mark.parametrize("task", ["sr", "rescale"])
def test_data_dependent_initialisation(task, golden, tmp_path) -> None:
    file = golden(f"hcflow_actnorm_init_{task}_x4")
    before = file.part("sd_before.")
    model = opened(before, tmp_path)
    x = file["hr"] + file["noise"] / model.config.quant if task == "sr" else file["hr"]
    initialize(model.flow, x)
    state = model.official_state_dict()
    for key, value in file.part("after.").items():
        close(state[key], value, 1e-4, least=1.0)
    if task == "sr":
        close(model.nll(file["hr"], file["lr"], file["noise"]).mean().view(1), file["nll"].view(1), 1e-4)
    else:
        close(model.encode(file["hr"]).lr.clamp(0, 1), file["y"], 1e-4)
    with pytest.warns(UserWarning, match="nothing was done"):
        initialize(model.flow, 2 * x)
    assert all(torch.equal(state[k], v) for k, v in model.official_state_dict().items())


@pytest.fixture(params=["", "_f64"])
def rescaling(request, golden, tmp_path):
    """The same for the rescaling model."""
    weights, numbers = golden("hcflow_rescale_x4"), golden("hcflow_rescale_x4" + request.param)
    dtype = torch.float64 if request.param else torch.float32
    model = opened(weights.part("sd."), tmp_path).to(dtype)
    return numbers, weights, model, 1e-9 if request.param else 1e-4


def test_rescaling_down_and_up(rescaling) -> None:
    numbers, weights, model, tolerance = rescaling
    hr = weights["hr"].to(next(model.parameters()).dtype)
    encoded = model.encode(hr)
    close(encoded.lr, numbers["fwd.y_pre"], tolerance)
    close(model.downscale(hr), numbers["fwd.y_quant"], tolerance)
    for i, z in enumerate(encoded.latents):
        close(z, numbers[f"fwd.level{1 - i}.z_std"], tolerance)
    lr = numbers["fwd.y_quant"].to(hr)
    epsilon = tuple(weights[f"eps_level{i}"].to(hr) for i in (1, 0))
    for tau, name in ((0.0, "inv_t00"), (0.8, "inv_t08"), (1.0, "inv_t10")):
        close(model.decode(lr, tuple(tau * z for z in epsilon)), numbers[f"{name}.x_pre"], tolerance)
        close(model.upscale(lr, temperature=tau, latents=epsilon)[0], numbers[f"{name}.x"], tolerance)
    close(model.decode(lr, encoded.latents), numbers["recon_yquant_truez.x_pre"], tolerance)
    close(model.decode(encoded.lr, encoded.latents), hr, tolerance)


def test_rescaling_gradients(golden, tmp_path) -> None:
    weights, numbers = golden("hcflow_rescale_x4"), golden("hcflow_rescale_x4_f64")
    model = opened(weights.part("sd."), tmp_path).double()
    hr, lr = weights["hr"].double(), weights["lr"].double()
    y, z, _ = model.encode(hr)
    y = y.clamp(0, 1)  # before the rounding, so that what lies outside gets no gradient
    epsilon = tuple(weights[f"eps_level{i}"].double() for i in (1, 0))
    again = model.decode(round_straight_through(y), epsilon).clamp(0, 1)
    power = sum(part.square().sum() for part in z) / sum(part.numel() for part in z)
    loss = (again - hr).abs().mean() + 0.05 * (y - lr).square().mean() + 1e-5 * power
    assert float(loss.detach()) == pytest.approx(numbers.about["scalars"]["loss_total"], rel=1e-9)
    loss.backward()
    stored = numbers.part("grad_total.")
    compared = [key for key, p, _ in entries(model) if key in stored and p.grad is not None]
    for key, p, shape in entries(model):
        if key in compared:
            close(p.grad.reshape(shape), stored[key].double(), 1e-6)
    assert len(compared) > 50


def test_rescaling_has_a_likelihood(golden, tmp_path) -> None:
    """Section 2.2: the same count as for SR, with quant 256."""
    weights = golden("hcflow_rescale_x4")
    model = opened(weights.part("sd."), tmp_path).double()
    hr, lr = weights["hr"].double(), weights["lr"].double()
    noise = torch.rand_like(hr)
    assert model.config.quant == 256
    encoded = model.encode(hr + noise / 256)
    pixels = hr[0, 0].numel()
    standard = sum(-0.5 * (z**2 + math.log(2 * math.pi)).flatten(1).sum(1) for z in encoded.latents)
    rounded = round_straight_through(encoded.lr)
    near = (-0.5 * ((rounded - lr) * math.exp(6)) ** 2 + 6 - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)
    expected = (math.log(256) * pixels - encoded.logdet - standard - near) / (math.log(2) * pixels)
    close(model.nll(hr, lr, noise), expected, 1e-9)


@pytest.mark.parametrize("name", ["hcflow_sr_x4", "hcflow_sr_x8", "hcflow_rescale_x4"])
def test_export_equals_import(name, golden, tmp_path) -> None:
    state = golden(name).part("sd.")
    exported = opened({f"module.{k}": v for k, v in state.items()}, tmp_path).official_state_dict()
    assert exported.keys() == state.keys()
    assert all(torch.equal(exported[k], state[k]) for k in state)


NO_BLOCKS = ((0, 0), (0, 0))
SIZES = {"steps": 2, "conditional_steps": 1, "hidden": 5, "conditional_hidden": 4, "features": 3, "growth": 2}


HCFLOW = [(n, q, s) for n in ("hcflow_sr_x4", "hcflow_rescale_x4") for q in ("squeeze", "haar") for s in (2, 4, 8)]
PAIRWISE = {HCFLOW[0], HCFLOW[4], HCFLOW[7], HCFLOW[9]}
"""Each preset at each scale up to 4 and with each squeeze; the other half, and scale 8, in the slow run."""


@pytest.mark.parametrize(
    ("name", "squeeze", "scale"), [pytest.param(*m, marks=[] if m in PAIRWISE else pytest.mark.slow) for m in HCFLOW]
)
def test_laws(name, squeeze, scale) -> None:
    model = flowkit_models.create(
        name, scale=scale, squeeze=squeeze, blocks=((1, 1),) * (scale.bit_length() - 1), **SIZES
    )
    x = torch.rand(2, 3, scale, 2 * scale)
    check_bijector(model.flow, x, sizes=[(2 * scale, scale)] if scale < 8 else None)


def test_small_preset_starts_from_a_sane_image() -> None:
    model = flowkit_models.create("hcflow_sr_x4_small")
    lr = torch.rand(1, 3, 5, 7)
    close(model.upscale(lr, temperature=0.0)[0], torch.nn.functional.interpolate(lr, scale_factor=4), 1e-6)


def test_any_size_up_and_down() -> None:
    model = flowkit_models.create("hcflow_sr_x4_small", steps=1, conditional_steps=1, blocks=NO_BLOCKS)
    for height, width in ((1, 1), (3, 7), (8, 5)):
        assert model.upscale(torch.rand(2, 3, height, width), n=3).shape == (3, 2, 3, 4 * height, 4 * width)
        assert model.downscale(torch.rand(2, 3, height, width)).shape == (
            2,
            3,
            -(-height // 4),
            -(-width // 4),
        )


def test_one_seed_gives_one_image_whatever_n() -> None:
    model = perturb(flowkit_models.create("hcflow_sr_x4_small", steps=1, conditional_steps=1, blocks=NO_BLOCKS), 0.05)
    lr = torch.rand(1, 3, 4, 4)
    one, three = (model.upscale(lr, n, 0.8, torch.Generator().manual_seed(3)) for n in (1, 3))
    close(one[0], three[0], 1e-5)  # draws are made together: the same but for rounding
    assert not torch.equal(three[0], three[1])


def test_a_temperature_for_each_draw() -> None:
    model = perturb(flowkit_models.create("srflow_x4_small", steps=1), 0.02)
    lr, taus = torch.rand(2, 3, 4, 4), (0.0, 0.5, 0.5, 1.0)
    calls = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    together = model.upscale(lr, 4, taus, torch.Generator().manual_seed(3))
    assert len(calls) == 1  # what depends on the LR image alone is computed once
    generator = torch.Generator().manual_seed(3)
    for image, tau in zip(together, taus, strict=True):
        close(image, model.upscale(lr, 1, tau, generator)[0], 1e-5)
    with pytest.raises(ValueError, match="one for all draws or 3"):
        model.upscale(lr, 3, taus)


def test_bits_per_dim_counts_every_element() -> None:
    model = flowkit_models.create("hcflow_sr_x4_small", steps=0, conditional_steps=0, blocks=NO_BLOCKS)
    hr = torch.rand(2, 3, 8, 8)
    lr = torch.nn.functional.avg_pool2d(hr, 4)
    with torch.no_grad():
        latents, logdet = model.flow(hr)
        log_density = model.base.log_prob(latents, lr) + logdet
        exact = math.log2(model.config.quant) - log_density / (math.log(2) * hr[0].numel())
        no_noise = model.nll(hr, lr, noise=torch.full_like(hr, 0.5))  # the noise is centred
        close(torch.tensor([model.per_dim(float(v)) for v in no_noise]), exact, 1e-5)
        torch.manual_seed(0)
        drawn = model.bits_per_dim(hr, lr)
    close(drawn, exact, 0.05)


def test_lean_memory_changes_nothing_but_memory() -> None:
    torch.manual_seed(0)
    plain = perturb(flowkit_models.create("hcflow_sr_x4", **SIZES, blocks=((1, 1), (1, 1)))).double()
    lean = flowkit_models.create("hcflow_sr_x4", memory="lean", **SIZES, blocks=((1, 1), (1, 1))).double()
    lean.load_state_dict(plain.state_dict())
    hr, lr, noise = (torch.rand(2, 3, *size).double() for size in ((16, 8), (4, 2), (16, 8)))
    results = []
    for model in (plain, lean):
        loss = model.nll(hr, lr, noise).mean() + model.upscale(lr, temperature=0.0).square().sum()
        loss.backward()
        results.append([loss, *(p.grad for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        close(a, b, 1e-9)


def test_bf16_runs_only_the_networks_in_bf16() -> None:
    torch.manual_seed(0)
    model = perturb(flowkit_models.create("hcflow_sr_x4_small", precision="bf16", **SIZES), 0.05)
    hr = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        encoded = model.encode(hr)
        assert encoded.logdet.dtype == encoded.latents[0].dtype == torch.float32
        assert float((model.decode(encoded.lr, encoded.latents) - hr).abs().max()) < 1e-3


def test_extractors_meet_the_image_in_full_precision() -> None:
    """Under bf16 the LR image, the residuals' sum and the parameters are not rounded."""
    torch.manual_seed(0)
    model = perturb(flowkit_models.create("hcflow_sr_x4_small", **SIZES, blocks=((1, 1), (1, 1))), 0.05)
    lr = torch.rand(1, 3, 8, 8)
    images, seen = [], []
    extractor = model.flow.given.nets[0]
    hook = extractor.register_forward_hook(lambda module, args, out: seen.append((args[0].dtype, out.dtype)))
    for model.precision in ("float32", "bf16"):
        images.append(model.upscale(lr, generator=torch.Generator().manual_seed(1)))
    hook.remove()
    assert seen == [(torch.float32, torch.float32)] * 2
    assert 0 < float((images[0] - images[1]).detach().abs().max()) < 4e-4


@pytest.mark.parametrize("name", ["hcflow_sr_x4_small", "linf_small"])
@pytest.mark.parametrize("n", [np.int64(2), torch.tensor(2)])
@pytest.mark.parametrize("array", [np.array, torch.tensor])
def test_numbers_of_numpy_and_torch_are_numbers(name, n, array) -> None:
    model, lr = flowkit_models.create(name).eval(), torch.rand(1, 3, 4, 4)

    def drawn(n, temperature):
        return model.upscale(lr, n=n, temperature=temperature, generator=torch.Generator().manual_seed(0))

    assert torch.equal(drawn(n, array([0.1, 0.2])), drawn(2, [0.1, 0.2]))
    assert torch.equal(drawn(n, array(0.5)), drawn(2, 0.5))
    with pytest.raises(ValueError, match=r"one for all draws or 2, got \[0.1"):
        drawn(n, array([0.1]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode(torch.rand(1, 3, 18, 16)), "multiples of 4, got 18 × 16"),
        (lambda m: m.encode(torch.rand(1, 1, 16, 16)), r"expected images \(B, 3, H, W\)"),
        (lambda m: m.encode(torch.full((1, 3, 16, 16), math.nan)), "hr: contains NaN"),
        (lambda m: m.upscale(torch.zeros(1, 3, 4, 4, dtype=torch.uint8)), "divide 8-bit images by 255"),
        (lambda m: m.upscale(torch.rand(1, 3, 4, 4), n=0), "n must be at least 1"),
        (lambda m: m.upscale(torch.rand(1, 3, 4, 4), n=1.5), "n must be a whole number"),
        (lambda m: m.upscale(torch.rand(1, 3, 4, 4), temperature=-1), "temperature"),
        (lambda m: m.decode(torch.rand(1, 3, 4, 4), (torch.rand(1, 21, 4, 4),)), "latents: expected shapes"),
        (lambda m: m.nll(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 5, 4)), "lr: expected"),
        (lambda m: m.encode(torch.rand(1, 3, 16, 16).double()), "float32"),
    ],
)
def test_bad_input(call, message) -> None:
    model = flowkit_models.create("hcflow_sr_x4_small", steps=1, conditional_steps=1, blocks=NO_BLOCKS)
    with pytest.raises(ValueError, match=message):
        call(model)


def test_a_model_is_initialised_and_called_as_a_module() -> None:
    model = flowkit_models.create("hcflow_sr_x4", **SIZES, blocks=NO_BLOCKS)
    hr = torch.rand(2, 3, 16, 16)
    initialize(model, hr)
    assert all(bool(flag) for name, flag in model.named_buffers() if name.endswith("initialized"))
    assert torch.equal(model(hr).lr, model.encode(hr).lr)


def test_empty_latents_are_not_no_latents() -> None:
    model = flowkit_models.create("hcflow_sr_x4_small", steps=1, conditional_steps=1, blocks=NO_BLOCKS)
    for latents in ((), (None, None)):
        with pytest.raises(ValueError, match="latents: expected"):
            model.upscale(torch.rand(1, 3, 4, 4), latents=latents)
