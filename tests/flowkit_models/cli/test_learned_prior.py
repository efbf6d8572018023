"""A checkpoint with a learned prior in the command: its picture without --temperature; info, convert and downscale."""

import json

import numpy as np
import pytest
from command_files import noise, opened, save

import flowkit_models
from flowkit.testing import perturb
from flowkit_models.models.learned_latents import LatentPrior, LatentPriorConfig


@pytest.fixture
def learned(checkpoint, tmp_path):
    model = flowkit_models.load(checkpoint(temperature="0.1"))
    model.prior = perturb(LatentPrior(model, LatentPriorConfig(2, 2)), 0.3).eval()
    model.save(tmp_path / "learned.safetensors", temperature="0.1")
    return tmp_path / "learned.safetensors"


def test_upscale_and_restore_take_the_prior(tmp_path, flowkit, learned, checkpoint):
    path = save(tmp_path / "x.png", noise(9, 11))

    def result(*options):
        assert flowkit("upscale", path, "-o", tmp_path / "y.png", "--overwrite", *options).code == 0
        return opened(tmp_path / "y.png")

    plain = result("-m", learned)
    assert np.array_equal(plain, result("-m", learned, "--seed", 5))
    assert not np.array_equal(plain, result("-m", learned, "--temperature", 0))
    without = checkpoint(temperature="0.1")
    for tau in (0, 0.3):
        assert np.array_equal(result("-m", learned, "--temperature", tau), result("-m", without, "--temperature", tau))
    ran = flowkit("upscale", path, "-m", learned, "--draws", 2)
    assert (ran.code, "learned prior has one result" in ran.err[0]) == (2, True)
    assert flowkit("restore", path, "-m", learned, "-o", tmp_path / "r.png").code == 0
    assert opened(tmp_path / "r.png").shape == (9, 11, 3)


def test_it_is_told_and_converted_and_the_flow_stays_the_same_one(tmp_path, flowkit, learned, checkpoint):
    told = json.loads("\n".join(flowkit("info", learned, "--json").out))
    assert told["parameters"]["prior"] == sum(p.numel() for p in flowkit_models.load(learned).prior.parameters())
    assert flowkit("convert", learned, tmp_path / "again.safetensors").code == 0
    assert flowkit_models.load(tmp_path / "again.safetensors").prior is not None
    ran = flowkit("convert", learned, tmp_path / "published.pth")
    assert ran.code == 1
    assert "learned prior" in ran.err[0]
    hr = save(tmp_path / "hr.png", noise(24, 20))
    assert flowkit("encode", "-m", checkpoint(temperature="0.1"), hr).code == 0  # before it had a prior
    assert flowkit("decode", "-m", learned, tmp_path / "hr_lr.safetensors").code == 0
    assert np.array_equal(opened(tmp_path / "hr_lr_decoded.png"), opened(hr))
