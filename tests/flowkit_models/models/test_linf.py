"""LINF: laws of its flow, its Gaussian against its chain of layers, and images of any size."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import flowkit_models
from flowkit.testing import check_bijector, perturb
from flowkit_models.inference.export import program_of
from flowkit_models.models.linf import model as linf
from flowkit_models.models.linf.parts import bilinear

SIZES = {"steps": 3, "blocks": 1, "features": 4, "width": 4, "hidden": 6, "depth": 1}


def tiny(patch: int = 1, **sizes):
    torch.manual_seed(0)
    return perturb(flowkit_models.create("linf_small", patch=patch, **{**SIZES, **sizes}).double())


def images(hr: tuple[int, int], lr: tuple[int, int]) -> tuple[Tensor, Tensor]:
    return torch.rand(2, 3, *hr, dtype=torch.float64), torch.rand(2, 3, *lr, dtype=torch.float64)


def test_the_flow_keeps_the_laws() -> None:
    model = tiny(3, steps=1)
    hr, lr = images((6, 3), (4, 2))
    with torch.no_grad():
        check_bijector(model.flow, hr, model.context(lr, (6, 3)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_are_widened(dtype) -> None:
    model = tiny().float()
    hr, lr = (x.to(dtype) for x in images((6, 70), (3, 35)))
    wide = hr.float(), lr.float()
    assert torch.equal(
        model.upscale(lr, temperature=0.0, size=(7, 71)), model.upscale(wide[1], temperature=0.0, size=(7, 71))
    )
    assert torch.equal(model.encode(hr, lr).latents[0], model.encode(*wide).latents[0])
    with pytest.raises(ValueError, match=r"parameters are float32, got .* float64"):
        model.upscale(lr.double(), temperature=0.0)


def chain_of_layers(model, seen, rows, columns, cell) -> tuple[Tensor, Tensor]:
    """Matrix and offset of z = matrix·r + offset for one patch, layer by layer, from the parameters as they stand."""
    d = model.config.channels
    parameters = model.local.at(seen.maps, torch.tensor([[[rows]], [[columns]]], dtype=torch.float64)[None], cell)
    shift, raw = parameters[0, :, 0, 0].unflatten(0, (model.config.steps, d, 2)).unbind(2)
    layers = [part.weight for part in model.flow.modules() if type(part).__name__ == "InvertibleConv1x1"]
    biases = [part.bias for part in model.flow.modules() if type(part).__name__ == "Bias"]
    matrix, offset = torch.eye(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    for k in range(model.config.steps):
        scale = (raw[k] + 2).sigmoid() + model.config.floor
        matrix = scale[:, None] * (layers[k] @ matrix)
        offset = scale * (layers[k] @ offset + biases[k]) + shift[k]
    return layers[-1] @ matrix, layers[-1] @ offset


@pytest.mark.parametrize("patch", [1, 3])
def test_the_gaussian_is_the_chain(patch: int) -> None:
    """Mean, covariance and likelihood of x, whose residual r = 2x − 2·bilinear the chain maps to z."""
    model = tiny(patch)
    size = (3 * patch, 2 * patch)
    hr, lr = images(size, (5, 7))
    with torch.no_grad():
        gaussian = model.gaussian(lr, size)
        x = F.pixel_unshuffle(hr, patch)
        rows, columns = model.centres(lr, size)
        base = F.pixel_unshuffle(F.interpolate(lr, size, mode="bilinear", align_corners=False), patch)
        density = gaussian.log_prob(x)
        for i in range(3):
            for j in range(2):
                cell = model.cell(lr, size)
                matrix, offset = chain_of_layers(model, model.see(lr), float(rows[i]), float(columns[j]), cell)
                whole = 2 * matrix  # of x
                mean = base[0, :, i, j] - torch.linalg.solve(whole, offset)
                covariance = torch.linalg.inv(whole.mT @ whole)
                normal = torch.distributions.MultivariateNormal(mean, covariance)
                torch.testing.assert_close(gaussian.mean[0, :, i, j], mean, atol=1e-8, rtol=1e-8)
                found = gaussian.covariance()[0, :, :, i, j]
                torch.testing.assert_close(found, covariance, atol=1e-8 * float(covariance.abs().max()), rtol=1e-6)
                torch.testing.assert_close(density[0, i, j], normal.log_prob(x[0, :, i, j]), atol=1e-5, rtol=1e-6)
        encoded = model.encode(hr, lr)
        z = encoded.latents[0]
        standard = -(z.square() + math.log(2 * math.pi)).flatten(1).sum(1) / 2
        torch.testing.assert_close(density.flatten(1).sum(1), encoded.logdet + standard, atol=1e-5, rtol=1e-7)
        torch.testing.assert_close(gaussian.at(z), x, atol=1e-8, rtol=0)
        nll = model.nll(hr, lr, torch.full_like(hr, 0.5))  # noise that is none
        offset = math.log(model.config.quant) * hr[0, 0].numel()
        assert torch.allclose(nll * math.log(2) * hr[0, 0].numel(), offset - density.flatten(1).sum(1))


@pytest.mark.parametrize("patch", [1, 3])
@pytest.mark.parametrize("size", [(13, 8), (5, 16), (6, 6)])
def test_any_size(patch: int, size: tuple[int, int], monkeypatch) -> None:
    model = tiny(patch)
    _, lr = images((1, 1), (5, 4))
    rows, columns = model.queries(size)
    with torch.no_grad():
        latents = (torch.randn(2, model.config.channels, rows, columns, dtype=torch.float64),)
        whole = model.upscale(lr, temperature=1.0, latents=latents, size=size)
        assert whole.shape == (1, 2, 3, *size)
        padded = model.decode(lr, latents)  # of whole patches
        again = model.encode(padded, lr)
        torch.testing.assert_close(again.latents[0], latents[0], atol=1e-8, rtol=0)
        if (size[0] % patch, size[1] % patch) == (0, 0):
            torch.testing.assert_close(padded.clamp(0, 1), whole[0], atol=1e-12, rtol=0)
            mean = F.pixel_shuffle(model.gaussian(lr, size).mean, patch)
            torch.testing.assert_close(model.upscale(lr, 1, 0.0, size=size)[0], mean.clamp(0, 1), atol=1e-9, rtol=0)
        monkeypatch.setattr(linf, "BAND", 2 * columns)  # a row at a time
        bands = model.upscale(lr, temperature=1.0, latents=latents, size=size)
        torch.testing.assert_close(bands, whole, atol=1e-10, rtol=0)


@torch.no_grad()
def test_draws_share_what_they_can_and_have_their_own_temperature() -> None:
    model = tiny()
    _, lr = images((1, 1), (4, 5))
    seeded = torch.Generator().manual_seed(1)
    three = model.upscale(lr, 3, [0.0, 0.5, 1.0], seeded, size=(6, 7))
    assert three.shape == (3, 2, 3, 6, 7)
    torch.testing.assert_close(three[0], model.upscale(lr, 1, 0.0, size=(6, 7))[0])
    assert float((three[1] - three[2]).abs().max()) > 1e-3
    torch.testing.assert_close(three, model.upscale(lr, 3, [0.0, 0.5, 1.0], seeded.manual_seed(1), size=(6, 7)))
    assert model.upscale(lr, 1, 0.0).shape == (1, 2, 3, 16, 20)  # its largest factor


@torch.no_grad()
def test_the_likelihood_of_all_patches_is_the_images() -> None:
    for patch in (1, 3):
        model = tiny(patch)
        hr, lr = images((9, 6), (4, 5))
        rows, columns = torch.meshgrid(torch.arange(0, 9, patch), torch.arange(0, 6, patch), indexing="ij")
        at = [side.flatten().expand(2, -1) for side in (rows, columns)]
        bits, off = model.nll_at(hr, lr, *at, None)
        model.config = replace(model.config, noisy=False)
        torch.testing.assert_close(bits, model.nll(hr, lr))
        mean = model.upscale(lr, 1, 0.0, size=(9, 6))[0]
        assert float(off) >= float(F.l1_loss(mean, hr)) - 1e-9  # which is clamped
        assert model.bits_per_dim(hr, lr).isfinite().all()


def test_bilinear_is_torchs() -> None:
    _, lr = images((1, 1), (4, 5))
    model = tiny()
    rows, columns = model.centres(lr, (10, 7))
    found = bilinear(lr, torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None])
    torch.testing.assert_close(found, F.interpolate(lr, (10, 7), mode="bilinear", align_corners=False))


def test_own_files_and_encoders(tmp_path) -> None:
    model = tiny(3, encoder="rrdb", growth=2, blocks=1)
    model.save(tmp_path / "m.safetensors")
    again = flowkit_models.load(tmp_path / "m.safetensors")
    _, lr = images((1, 1), (4, 5))
    assert again.config == model.config
    torch.testing.assert_close(again.upscale(lr, 1, 0.0, size=(7, 9)), model.eval().upscale(lr, 1, 0.0, size=(7, 9)))
    with pytest.raises(ValueError, match="no official names"):
        model.official_state_dict()
    lean = flowkit_models.load(tmp_path / "m.safetensors", memory="lean")
    lean.nll_at(*images((9, 9), (4, 5)), *(torch.zeros(2, 1, dtype=torch.long),) * 2, None)[0].sum().backward()


def test_what_makes_no_sense_is_refused_and_what_was_not_trained_is_told() -> None:
    model = tiny()
    hr, lr = images((8, 8), (4, 4))
    for size in ((0, 8), (8,), (8.0, 8), (-1, 3), 8, (True, True)):
        with pytest.raises(ValueError, match=r"size: expected \(height, width\)"):
            model.upscale(lr, size=size)
    with pytest.raises(ValueError, match="latents: expected one of"):
        model.upscale(lr, latents=(torch.zeros(2, 3, 8, 9),), size=(8, 8))
    for latents in ((3,), torch.zeros(2, 3, 8, 8), (torch.zeros(2, 3, 0, 8),), (torch.zeros(1, 3, 8, 8),), 3):
        with pytest.raises(ValueError, match="latents: expected"):
            model.decode(lr, latents)
    with pytest.raises(ValueError, match="pass lr as well"):
        model.encode(hr)
    with pytest.warns(UserWarning, match=r"a factor of 0\.5 and 2: below 1"):
        model.upscale(lr, size=(2, 8))
    with pytest.warns(UserWarning, match=r"a factor of 5: this model was trained for 1 to 4"):
        model.upscale(lr, size=(20, 20))
    with pytest.raises(ValueError, match="makes no LR image"):
        model.downscale(hr)
    with pytest.raises(ValueError, match=r"multiples of 3, got 8 × 8"):
        tiny(3).encode(hr, lr)


def test_it_is_not_exported() -> None:
    with pytest.raises(ValueError, match="LINF makes pictures of any size, for which programs have no input"):
        program_of(tiny())


def test_other_models_have_their_own_size_alone() -> None:
    model = flowkit_models.create("irn_x4_small", growth=2)
    lr = torch.rand(1, 3, 4, 5)
    assert model.upscale(lr, size=(16, 20)).shape == (1, 1, 3, 16, 20)
    with pytest.raises(ValueError, match=r"IRN ×4 makes 16 × 20 of 4 × 5 alone, got \(12, 15\); LINF models"):
        model.upscale(lr, size=(12, 15))
