"""The recipe of learned latents at toy size: only the prior learns, and it travels with the flow."""

import json

import torch

import flowkit_models
from flowkit.testing import perturb

TOY = ("--steps", "2", "--batch", "2", "--crop", "32", "--draws", "2", "--features", "2", "--growth", "2")


def test_only_the_prior_learns(train, tmp_path, monkeypatch) -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 4, 3).requires_grad_(False)
    monkeypatch.setattr("flowkit_models.metrics.features.VGGFeatures", lambda net, weights: network)
    flow = perturb(flowkit_models.create("hcflow_sr_x4_small", steps=1, blocks=((0, 0), (0, 0)), features=4), 0.02)
    flow.save(tmp_path / "flow.safetensors")

    out = tmp_path / "run"
    run = ("learned_latents", "--model", str(tmp_path / "flow.safetensors"), "--out", str(out), *TOY)
    assert train(*run, scored=True) == 0
    trained = flowkit_models.load(out / "last.safetensors")
    before = flowkit_models.load(tmp_path / "flow.safetensors").state_dict()
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in before.items())
    assert any(bool(net.last.weight.any()) for net in trained.prior.nets)
    assert bool(trained.prior.nets[0].start[1].running_mean.any())  # the statistics are saved
    metrics = json.loads((out / "metrics.json").read_text())
    assert {"psnr", "consistency"} <= metrics["learned"].keys()
    assert metrics["tau_0.8"]["diversity"] > 0
    assert (out / "samples.png").is_file()
    assert train(*run, "--resume", "--steps", "3") == 0
    again = flowkit_models.load(out / "last.safetensors")
    assert again.prior is not None
    assert "temperature" not in again.notes  # the prior has one sharp picture
