"""LINF's recipe end to end at toy size: both stages, its crops, its table of factors."""

import json

import pytest
import torch

import flowkit_models
from flowkit_models.data.crops import AnyScaleCrops
from flowkit_models.training.objectives import AnyScale, AnyScaleWeights
from flowkit_models.training.options import Options
from flowkit_models.training.prior_init import whiten_latents

NETWORK = ("--network", "blocks", "1", "features", "4", "width", "8", "hidden", "8", "depth", "1")
TOY = ("--steps", "2", "--batch", "2", "--crop", "32", "--draws", "2", *NETWORK)


def test_both_stages(train, tmp_path) -> None:
    assert train("linf_sr", *TOY, "--scales", "2.7", "4", "--out", str(tmp_path / "nll"), scored=True) == 0
    metrics = json.loads((tmp_path / "nll" / "metrics.json").read_text())
    assert metrics["scales"].keys() == {"2.7", "4"}
    assert metrics["scales"]["2.7"]["bicubic"]["psnr"] > metrics["scales"]["4"]["bicubic"]["psnr"] > 15
    assert metrics["scales"]["4"]["model"]["psnr"] == pytest.approx(metrics["tau_0"]["psnr"])
    assert metrics["roundtrip_max_error"] < 1e-4
    assert (tmp_path / "nll" / "scales.png").is_file()
    plus = ("--stage", "plus", *TOY, "--out", str(tmp_path / "plus"))
    assert "no checkpoint to start from" in train("linf_sr", *plus, "--init", str(tmp_path / "none"))
    assert train("linf_sr", *plus, "--init", str(tmp_path / "nll" / "last.safetensors")) == 0
    steps = [json.loads(line) for line in (tmp_path / "plus" / "log.jsonl").read_text().splitlines()]
    assert {"nll_loss", "image_loss", "pixel"} <= steps[0].keys()
    model = flowkit_models.load(tmp_path / "plus" / "last.safetensors")
    assert model.upscale(torch.rand(1, 3, 8, 9), 1, 0.0, size=(19, 24)).shape == (1, 1, 3, 19, 24)


@pytest.fixture
def crops() -> AnyScaleCrops:
    photo = torch.rand(3, 4, 4).mul(255).byte().repeat_interleave(12, 1).repeat_interleave(12, 2)
    return AnyScaleCrops({"squares": photo}, 12, 4, batch=2, seed=3)


def test_the_crops_of_a_batch_share_a_factor(crops) -> None:
    sizes = [crops[i][0].shape for i in range(8)]
    assert sizes[::2] == sizes[1::2]
    assert len(set(sizes)) > 2
    assert all(12 <= height <= 48 for _, height, _ in sizes)
    assert {crops[i][1].shape for i in range(8)} == {(3, 12, 12)}
    assert all(torch.equal(a, b) for a, b in zip(crops[5], crops[5], strict=True))
    assert Options(crop=48).any_scale_crops(4).largest == 4
    with pytest.raises(ValueError, match="a multiple of 4"):
        Options(crop=50).any_scale_crops(4)
    with pytest.raises(ValueError, match="leave them out"):
        Options(paired=True).any_scale_crops(4)


@pytest.mark.parametrize("patch", [1, 3])
def test_latents_of_a_fresh_model_are_white(patch: int, crops) -> None:
    torch.manual_seed(0)
    sizes = {"patch": patch, "steps": 2, "blocks": 1, "features": 4, "width": 4, "hidden": 4, "depth": 1}
    model = flowkit_models.create("linf_small", **sizes)
    hr, lr = (torch.stack(images) for images in zip(crops[0], crops[1], strict=True))
    hr = (hr[..., : hr.shape[2] // 3 * 3, : hr.shape[3] // 3 * 3] + 0.05 * torch.randn(1)).clamp(0, 1)
    hr = (hr + 0.02 * torch.randn_like(hr)).clamp(0, 1)
    whiten_latents(model, hr, lr)
    z = model.encode(hr, lr).latents[0].detach().movedim(1, -1).flatten(0, -2).double()
    covariance = z.mT @ z / len(z)
    assert torch.allclose(covariance, torch.eye(len(covariance)).double(), atol=1e-2)


def test_a_perceptual_loss_needs_its_network() -> None:
    with pytest.raises(ValueError, match="needs a network of features"):
        AnyScale(flowkit_models.create("linf_small"), AnyScaleWeights(perceptual=1.0))
    with pytest.raises(ValueError, match="nor all zero"):
        AnyScaleWeights(nll=0.0)
