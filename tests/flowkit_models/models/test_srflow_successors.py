"""SRFlow-DA and NCSR: sizes, laws, round trips, the noise that NCSR's steps are told of, and what is refused."""

import pytest
import torch

import flowkit_models
from flowkit.testing import check_bijector, perturb
from flowkit_models.data.loader import Batch, Draws
from flowkit_models.models.srflow.nets import DeepNet
from flowkit_models.training.objectives import SRFlowLikelihood

TINY = {"transitions": 1, "hidden": 3, "blocks": 1, "taps": (0,), "features": 2, "growth": 2}
MODELS = {
    "srflow_da_x4": {"steps": 1, "convs": 2},
    "srflow_da_s_x4": {"steps": 1, "convs": 1},
    "ncsr_x4": {"steps": (0, 1, 1)},
}


def tiny(name, **more):
    torch.manual_seed(0)
    return perturb(flowkit_models.create(name, **{**TINY, **MODELS[name], **more}), 0.1).double().eval()


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(1)
    return torch.rand(2, 3, 8, 16, dtype=torch.float64), torch.rand(2, 3, 2, 4, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "parameters", "latents"),
    [
        ("srflow_da_x4", 25_416_755, [(48, 4, 4)]),
        ("srflow_da_s_x4", 25_866_563, [(48, 4, 4)]),
        ("srflow_da_r_x4", 25_416_755, [(48, 4, 4)]),
        ("srflow_da_d_x4", 22_882_179, [(48, 4, 4)]),
        ("ncsr_x4", 34_694_099, [(96, 2, 2), (6, 8, 8)]),
    ],
)
def test_sizes(name, parameters, latents) -> None:
    with torch.device("meta"):
        model = flowkit_models.create(name)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.latent_shapes(4, 4) == latents


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_laws_and_files(name, pair, tmp_path) -> None:
    hr, lr = pair
    model = tiny(name)
    check_bijector(model.flow, hr[:, :, :8, :8], model.context(lr[..., :2]))
    _, latents, _ = model.encode(hr, lr)
    assert (model.decode(lr, latents) - hr).abs().max() < 1e-9
    model.save(tmp_path / "m.safetensors")
    again = flowkit_models.load(tmp_path / "m.safetensors")
    assert again.config == model.config
    odd = torch.rand(1, 3, 3, 5, dtype=torch.float64)
    assert model.upscale(odd[..., :1, :1]).shape == (1, 1, 3, 4, 4)
    draws = [m.upscale(odd, 2, 0.7, torch.Generator().manual_seed(0)) for m in (model, again)]
    assert torch.equal(*draws)
    assert draws[0].shape == (2, 1, 3, 12, 20)
    with pytest.raises(ValueError, match="not known here"):
        model.official_state_dict()


@torch.no_grad()
def test_ncsr_is_told_of_the_noise(pair) -> None:
    hr, lr = pair
    model = tiny("ncsr_x4")
    noise = 0.05 * torch.randn(hr.shape, generator=torch.Generator().manual_seed(0), dtype=hr.dtype)
    assert torch.allclose(model.soft_nll(hr, lr, 0 * noise), model.nll(hr, lr), atol=1e-12)
    quiet, told = model.context(lr), model.context(lr, noise)
    assert [torch.equal(a[:, :-3], b[:, :-3]) for a, b in zip(quiet, told, strict=True)] == [True] * 3
    assert all(not bool(part[:, -3:].any()) for part in quiet)
    assert torch.allclose(told[2][:, -3:], torch.nn.functional.avg_pool2d(noise, 8))
    encoded = [model.flow(hr, context)[0].z[0] for context in (quiet, told)]
    assert not torch.allclose(*encoded)
    with pytest.raises(ValueError, match="is not told of noise"):
        tiny("srflow_da_x4").soft_nll(hr, lr, noise)


def test_its_loss_draws_a_deviation_for_each_image(pair) -> None:
    hr, lr = pair
    model = tiny("ncsr_x4")
    seen = []
    model.soft_nll = lambda hr, lr, soft: seen.append(soft) or hr.flatten(1).sum(1)
    for seed in (0, 0, 1):
        SRFlowLikelihood(model)("all", Batch(hr, lr, torch.tensor([3, 4])), Draws(seed, torch.tensor([3, 4])), 1)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    spread = torch.stack(seen).std((2, 3, 4)).flatten()
    assert spread.max() < 0.06
    assert len(set(spread[[0, 1, 4, 5]].tolist())) == 4


@torch.no_grad()
def test_residual_networks_add_what_they_see() -> None:
    torch.manual_seed(0)
    plain, residual = (perturb(DeepNet(2, 4, 3, 1, 2, flag), 0.5) for flag in (False, True))
    residual.load_state_dict(plain.state_dict())
    for conv in plain.convs:  # of zeros, there is nothing to hand on
        conv.weight.zero_()
        conv.bias.zero_()
    residual.load_state_dict(plain.state_dict())
    x, c = torch.randn(2, 2, 4, 4), torch.randn(2, 1, 4, 4)
    h = torch.relu(residual.first(torch.cat([x, c], 1)))
    assert torch.equal(residual(x, c), residual.last(h))
    assert torch.equal(plain(x, c), plain.last(0 * h))


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"depth": 4}, {"steps": (1, 1)}, {"soft": -1.0}, {"convs": -1}])
def test_refused(wrong) -> None:
    with pytest.raises(ValueError, match=f"SRFlow: {next(iter(wrong))} must be"):
        flowkit_models.create("ncsr_x4", **wrong)
