"""Rescaling with HCFlow and IRN, and SRFlow: end to end at toy size."""

import json

import pytest
import torch

import flowkit_models
from flowkit_models.models.checkpoint_file import read_about

TOY = ("--steps", "2", "--batch", "2", "--crop", "32", "--draws", "2")


@pytest.mark.parametrize("name", ["hcflow_rescale", "irn_rescale"])
def test_rescaling(name, train, tmp_path) -> None:
    assert train(name, *TOY, "--out", str(tmp_path), scored=True) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["model"].keys() >= {"psnr_y", "ssim_y", "lr_psnr", "psnr_y_jpeg30", "psnr_y_jpeg70"}
    assert metrics["bicubic"]["psnr_y"] > 20
    assert (tmp_path / "samples.png").is_file()
    assert (tmp_path / "curve.png").is_file()
    for kept in ("best", "last"):
        about = read_about(tmp_path / f"{kept}.safetensors")
        assert 0 < float(about["own_lr"]) < 10
        assert about["step"] == "2"
        assert about["temperature"] == "0"  # what the small presets enlarge with in training
    model = flowkit_models.load(tmp_path / "best.safetensors")
    assert model.downscale(torch.rand(1, 3, 16, 24)).shape == (1, 3, 4, 6)


def test_sain(train, tmp_path) -> None:
    options = ("--loss.temperature", "1", "--loss.quality", "50", "60", "--out", str(tmp_path))
    assert train("sain_rescale", *TOY, *options) == 0
    logged = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert {"back", "clean", "bicubic", "recovered", "compressed"} <= logged.keys()
    assert flowkit_models.load(tmp_path / "last.safetensors").survives_jpeg


def test_rescaling_by_likelihood_too(train, tmp_path) -> None:
    assert train("hcflow_rescale", *TOY, "--loss.nll", "0.001", "--out", str(tmp_path)) == 0
    assert "bits_per_dim" in (tmp_path / "log.jsonl").read_text()


def test_small_rescaling_starts_from_the_haar_transform(train, tmp_path) -> None:
    assert train("hcflow_rescale", *TOY, "--lr", "1e-12", "--out", str(tmp_path)) == 0
    model = flowkit_models.load(tmp_path / "last.safetensors").eval()
    hr = torch.rand(1, 3, 16, 24)
    assert torch.allclose(model.encode(hr).lr, torch.nn.functional.avg_pool2d(hr, 4), atol=1e-5)


@pytest.mark.slow
def test_irn_plus_starts_from_an_irn(recipe, train, tmp_path, monkeypatch) -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 4, 3).requires_grad_(False)
    monkeypatch.setattr("flowkit_models.metrics.features.VGGFeatures", lambda net, weights: network)
    module = recipe("irn_rescale")
    monkeypatch.setitem(module.MODEL, "paper-x4", "irn_x4_small")

    def run(*options: str):
        arguments = ["--preset", "paper-x4", *TOY, *options, "--device", "cpu", "--no-tensorboard"]
        return module.run(lambda: module.main(module.parse(arguments)))

    plus = ("--stage", "plus", "--critic-first", "1", "--critic-features", "4", "--out", str(tmp_path / "plus"))
    assert "no checkpoint to start from" in run(*plus)
    assert run("--out", str(tmp_path / "irn")) == 0
    assert run(*plus, "--init", str(tmp_path / "irn" / "last.safetensors")) == 0
    last = json.loads((tmp_path / "plus" / "log.jsonl").read_text().splitlines()[-2])
    assert {"perceptual", "gan", "discriminator"} <= last.keys()


def test_srflow_from_its_own_encoder(train, tmp_path) -> None:
    nll = ("--stage", "nll", *TOY, "--out", str(tmp_path / "nll"))
    assert "run --stage encoder first" in train("srflow_sr", *nll)
    assert train("srflow_sr", "--stage", "encoder", *TOY, "--out", str(tmp_path / "encoder")) == 0
    assert train("srflow_sr", *nll, "--frozen", "1", "--average", "0", scored=True) == 0
    encoder, flow = (flowkit_models.load(tmp_path / s / "last.safetensors") for s in ("encoder", "nll"))
    for name, weight in encoder.encoder.state_dict().items():
        assert torch.equal(weight, flow.encoder.state_dict()[name])  # frozen for the whole run: not moved by one bit
    assert not torch.equal(encoder.flow.levels[0].body.parts[1].bias, flow.flow.levels[0].body.parts[1].bias)
    metrics = json.loads((tmp_path / "nll" / "metrics.json").read_text())
    assert "lr_psnr" not in metrics
    assert metrics["tau_0.6"]["diversity"] > 0


def test_tirn_is_trained_with_zero_for_the_latent(train, tmp_path) -> None:
    tiny = ("--network", "growth", "2", "blocks", "[1, 1]")
    assert train("irn_rescale", "--preset", "tirn-small-x4", *tiny, *TOY, "--out", str(tmp_path)) == 0
    model = flowkit_models.load(tmp_path / "last.safetensors")
    assert type(model).__name__ == "TIRN"
    lr = torch.rand(1, 3, 4, 5)
    assert torch.equal(model.upscale(lr), model.upscale(lr, temperature=0.0))
