"""Final scores of a recipe, and validation while training: the rows are what their names say."""

import json
import math

import pytest
import torch
from rich.console import Console

import flowkit_models
from flowkit.testing import perturb
from flowkit_models.data.image_pair import make_pairs
from flowkit_models.images.convert import luma, to_float, to_uint8
from flowkit_models.images.jpeg import jpeg_file
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.metrics.full_reference import psnr, ssim
from flowkit_models.metrics.stochastic import diversity
from flowkit_models.training.report import rescaling_table, score_rescaling, score_sr, sr_table
from flowkit_models.training.validation import HeldOut, HeldOutRescaling

SIZES = {"steps": 1, "conditional_steps": 1, "blocks": ((0, 0), (0, 0)), "features": 4, "hidden": 4}


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    model = perturb(flowkit_models.create("hcflow_sr_x4_small", **SIZES), 0.02).eval()
    photos = {name: to_uint8(bicubic_resize(torch.rand(3, 9, 8), 4)) for name in ("a", "b")}
    photos["b"] = photos["b"][:, :33]  # cropped to a multiple of 4
    pairs = make_pairs(photos, 4)
    return model, pairs, score_sr(model, pairs, temperature=0.5, draws=3, seed=1)


def test_rows_are_what_they_say(case) -> None:
    model, pairs, metrics = case
    assert metrics["bicubic"]["psnr"] == pytest.approx(sum(float(psnr(p.bicubic, p.hr, 4)) for p in pairs.values()) / 2)
    assert metrics["bicubic"]["ssim"] == pytest.approx(sum(float(ssim(p.bicubic, p.hr, 4)) for p in pairs.values()) / 2)
    held_out = HeldOut(pairs, 0.5, {})(model, 1)
    assert metrics["tau_0"]["psnr"] == pytest.approx(held_out["psnr"]) == pytest.approx(held_out["score"])
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
    metrics = score_sr(model, pairs, temperature=0.5, draws=1)
    assert "diversity" not in metrics["tau_0.5"]
    json.dumps(metrics, allow_nan=False)


def test_learned_distances_get_a_row_each_and_can_pick_the_best(case) -> None:
    model, pairs, _ = case

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).abs().mean((1, 2, 3))

    metrics = score_sr(model, pairs, 0.5, 2, 0, {"lpips": distance})
    expected = sum(float(distance(to_float(p.bicubic), to_float(p.hr))) for p in pairs.values()) / 2
    assert metrics["bicubic"]["lpips"] == pytest.approx(expected)
    found = HeldOut(pairs, 0.0, {"lpips": distance}, by="lpips")(model, 1)
    assert found["lpips"] == pytest.approx(metrics["tau_0"]["lpips"])
    assert found["score"] == -found["lpips"]


def test_a_model_that_makes_no_lr() -> None:
    torch.manual_seed(0)
    sizes = {"steps": 1, "hidden": 4, "blocks": 1, "taps": (0,), "features": 3, "growth": 2}
    model = perturb(flowkit_models.create("srflow_x4_small", **sizes), 0.02).eval()
    pairs = make_pairs({"a": to_uint8(torch.rand(3, 44, 52))}, 4)  # no multiples of 8, which SRFlow encodes
    metrics = score_sr(model, pairs, 0.5, 2)
    assert "lr_psnr" not in metrics
    assert metrics["roundtrip_max_error"] < 1e-4


@pytest.mark.parametrize("name", ["irn_x4_small", "hcflow_rescale_x4_small"])
def test_rescaling(name, tmp_path) -> None:
    torch.manual_seed(0)
    model = flowkit_models.create(name).eval()
    pairs = make_pairs({"a": to_uint8(bicubic_resize(torch.rand(3, 12, 10), 4))}, 4)
    pair = pairs["a"]
    metrics = score_rescaling(model, pairs, temperature=0.0)
    with torch.no_grad():
        lr = model.downscale(to_float(pair.hr))
        again = to_uint8(model.upscale(lr, temperature=0.0)[0])
    assert metrics["model"]["psnr_y"] == pytest.approx(psnr(luma(again), luma(pair.hr), 4).item())
    assert metrics["model"]["ssim_y"] == pytest.approx(ssim(luma(again), luma(pair.hr), 4).item())
    assert metrics["model"]["lr_psnr"] == pytest.approx(psnr(to_uint8(lr), pair.lr).item())
    assert metrics["bicubic"]["psnr_y"] == pytest.approx(psnr(luma(pair.bicubic), luma(pair.hr), 4).item())
    with torch.no_grad():
        again = to_uint8(model.upscale(to_float(jpeg_file(to_uint8(lr), 70)), temperature=0.0)[0])
    after_jpeg = psnr(luma(again), luma(pair.hr), 4).item()
    assert metrics["model"]["psnr_y_jpeg70"] == pytest.approx(after_jpeg)
    big = to_uint8(bicubic_resize(to_float(jpeg_file(pair.lr, 70)), 4))
    assert metrics["bicubic"]["psnr_y_jpeg70"] == pytest.approx(psnr(luma(big), luma(pair.hr), 4).item())
    assert HeldOutRescaling(pairs, 0.0, jpeg=70)(model, 1)["score"] == pytest.approx(after_jpeg)
    held_out = HeldOutRescaling(pairs, 0.0, tmp_path / "sheet.png")(model, 1)
    assert held_out["score"] == pytest.approx(metrics["model"]["psnr_y"])
    assert (tmp_path / "sheet.png").is_file()


def test_scoring_leaves_the_global_random_state_alone(case) -> None:
    model, pairs, metrics = case
    before = torch.manual_seed(99).get_state()
    assert score_sr(model, pairs, temperature=0.5, draws=3, seed=1) == metrics
    assert torch.equal(torch.get_rng_state(), before)


def printed(table, capsys) -> list[str]:
    Console(width=100).print(table)
    return capsys.readouterr().out.splitlines()


def test_tables_for_the_terminal(capsys) -> None:
    rows = {"psnr": 28.1234, "ssim": 0.812345, "consistency": 40.0}
    metrics = {"bicubic": rows, "tau_0": rows, "tau_0.5": {**rows, "diversity": 3.456}, "bits_per_dim": 4.5678}
    metrics |= {"roundtrip_max_error": 1.234e-6, "protocol": {"images": ["a", "b"]}}
    said = printed(sr_table(metrics, "HCFlow", 0.5), capsys)
    assert said[0].strip() == "means over a, b (dB, RGB)"
    assert [said[2].split("┃")[i].strip() for i in (2, 3, 4, 5)] == ["PSNR", "SSIM", "consistency", "diversity"]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said[4:7]]
    assert cells[1:] == [
        ["HCFlow τ = 0", "28.12", "0.8123", "40.00", "–"],
        ["HCFlow τ = 0.5", "28.12", "0.8123", "40.00", "3.46"],
    ]
    assert said[-1].strip() == "4.57 bits/dim; largest round-trip error 1.2e-06"
    said = printed(sr_table({**metrics, "lr_psnr": 41.0}, "HCFlow", 0.5), capsys)
    assert "LR-PSNR of the generated LR 41.00 dB; 4.57 bits" in " ".join(" ".join(said).split())

    row = {"psnr_y": 30.0, "ssim_y": 0.9}
    found = {"bicubic": row, "model": {**row, "lr_psnr": 45.0}, "protocol": {"images": ["a"]}}
    said = printed(rescaling_table(found, "IRN"), capsys)
    assert [cell.strip() for cell in said[4].split("│")[1:-1]] == ["bicubic down and up", "30.00", "0.9000", "–"]
    assert [cell.strip() for cell in said[5].split("│")[1:-1]] == ["IRN down and up", "30.00", "0.9000", "45.00"]
