"""Scores of a model: the rows are what their names say."""

import json
import math

import pytest
import torch

import flowkit_models
from flowkit.testing import perturb
from flowkit_models.bicubic import bicubic_resize
from flowkit_models.images import to_float
from flowkit_models.metrics import diversity, psnr, ssim, to_uint8
from flowkit_models.scoring import make_pairs, psnr_at_zero, score

SIZES = {"steps": 1, "conditional_steps": 1, "blocks": ((0, 0), (0, 0)), "features": 4, "hidden": 4}


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    model = perturb(flowkit_models.create("hcflow_sr_x4_small", **SIZES), 0.02).eval()
    photos = {name: to_uint8(bicubic_resize(torch.rand(3, 9, 8), 4)) for name in ("a", "b")}
    photos["b"] = photos["b"][:, :33]  # cropped to a multiple of 4
    pairs = make_pairs(photos, 4)
    return model, pairs, score(model, pairs, temperature=0.5, draws=3, seed=1)


def test_pairs_fit(case) -> None:
    _, pairs, _ = case
    assert [tuple(p.hr.shape[2:]) for p in pairs.values()] == [(36, 32), (32, 32)]
    assert [tuple(p.lr.shape[2:]) for p in pairs.values()] == [(9, 8), (8, 8)]


def test_rows_are_what_they_say(case) -> None:
    model, pairs, metrics = case
    assert metrics["bicubic"]["psnr"] == pytest.approx(sum(float(psnr(p.bicubic, p.hr, 4)) for p in pairs.values()) / 2)
    assert metrics["bicubic"]["ssim"] == pytest.approx(sum(float(ssim(p.bicubic, p.hr, 4)) for p in pairs.values()) / 2)
    assert metrics["tau_0"]["psnr"] == pytest.approx(psnr_at_zero(model, pairs))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        draws = [model.upscale(to_float(p.lr), 3, 0.5, generator) for p in pairs.values()]
    expected = sum(float(diversity(d)) for d in draws) / 2
    assert metrics["tau_0.5"]["diversity"] == pytest.approx(expected)
    assert metrics["consistency"] == metrics["tau_0.5"]["consistency"]
    assert metrics["roundtrip_max_error"] < 1e-5
    assert all(math.isfinite(metrics[key]) for key in ("lr_psnr", "bits_per_dim"))


def test_one_draw_has_no_diversity_and_the_result_is_json(case) -> None:
    model, pairs, _ = case
    metrics = score(model, pairs, temperature=0.5, draws=1)
    assert "diversity" not in metrics["tau_0.5"]
    json.dumps(metrics, allow_nan=False)
