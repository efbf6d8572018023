"""`flowkit evaluate` on tiny sets: numbers against the metrics themselves, the table, going on, and bad input."""

import io
import json
import math
import os
import shlex
import subprocess
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import edsr

import flowkit_models
from flowkit_models.cli import main
from flowkit_models.data.image_pair import Pair
from flowkit_models.data.pairs import find_pairs, read_pair
from flowkit_models.evaluation.evaluator import Evaluator
from flowkit_models.images.convert import luma, to_float, to_uint8
from flowkit_models.images.image_file import read_image, write_image
from flowkit_models.images.jpeg import jpeg_file
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.metrics.full_reference import psnr, ssim
from flowkit_models.metrics.perceptual import DISTS, LPIPS
from flowkit_models.metrics.stochastic import diversity

RECIPE = Path(__file__).parents[3] / "recipes" / "evaluate.py"
TINY = {"steps": 1, "conditional_steps": 1, "hidden": 4, "blocks": ((0, 0), (0, 0)), "features": 4}


def make_set(folder, sizes=((40, 44), (36, 40)), scale=4):
    """Smooth images with their LR files."""
    for i, (height, width) in enumerate(sizes):
        rough = torch.rand(3, -(-height // 4), -(-width // 4), generator=torch.Generator().manual_seed(i))
        hr = to_uint8(bicubic_resize(rough, 4))[:, :height, :width]
        for place in (folder / "HR", folder / f"LR_bicubic/X{scale}"):
            place.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"HR/im{i}.png", hr)
        whole = hr[:, : height // scale * scale, : width // scale * scale]
        write_image(folder / f"LR_bicubic/X{scale}/im{i}x{scale}.png", bicubic_resize(whole, 1 / scale))
    return folder


def pairs_of(folder, scale=4):
    return {files.name: Pair.of(*read_pair(files, scale)) for files in find_pairs(folder, scale)}


def entries(folder, test_set="tiny"):
    return json.loads((folder / "out/results.json").read_text())["sets"][test_set]


def rows_of(folder, test_set="tiny"):
    return {
        (entry["system"]["name"], row["temperature"]): row
        for entry in entries(folder, test_set)
        for row in entry["rows"]
    }


def values(row):
    return {name: found["mean"] for name, found in row["metrics"].items()}


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """Runs the command in a folder with results in out/, on the set tiny/ unless the line says another."""
    monkeypatch.chdir(tmp_path)
    return lambda line: main(shlex.split(f"evaluate --set tiny --out out --pictures 0 --device cpu {line}"))


@pytest.fixture
def tiny(tmp_path):
    return make_set(tmp_path / "tiny")


@pytest.fixture
def flow(tmp_path):
    torch.manual_seed(0)
    model = flowkit_models.create("hcflow_sr_x4_small", **TINY).eval()
    model.save(tmp_path / "flow.safetensors")
    return model


def test_table_2(evaluate, tmp_path, tiny, flow, capsys):
    torch.save(edsr(4), tmp_path / "edsr.pt")
    pairs = pairs_of(tiny)
    (tmp_path / "theirs").mkdir()
    for name, pair in pairs.items():
        write_image(tmp_path / f"theirs/{name}_x4_SR.png", 255 - pair.hr[0])
    systems = "bicubic HCFlow=flow.safetensors edsr.pt --results 'Rank|SRGAN=theirs'"
    metrics = "psnr ssim lr_psnr consistency diversity consistency_hr nll bits_per_dim ntire_mse roundtrip_error"
    more = "--temperatures 0 0.5 --draws 3 --seed 2 --pictures 1"
    assert evaluate(f"--systems {systems} --metrics {metrics} {more}") == 0

    rows = rows_of(tmp_path)
    assert list(rows) == [("bicubic", None), ("HCFlow", 0.0), ("HCFlow", 0.5), ("edsr", None), ("Rank|SRGAN", None)]
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        draws = [flow.upscale(to_float(pair.lr), 3, 0.5, generator)[:, 0] for pair in pairs.values()]
    decibels = [
        [psnr(to_uint8(x)[None], p.hr, 4).item() for x in d] for d, p in zip(draws, pairs.values(), strict=True)
    ]
    warm = rows["HCFlow", 0.5]["metrics"]
    assert list(warm["psnr"]["images"].values()) == [pytest.approx(image) for image in decibels]
    assert warm["psnr"]["mean"] == pytest.approx(np.mean(decibels))
    assert warm["psnr"]["spread"] == pytest.approx(np.std(np.mean(decibels, 0), ddof=1))
    assert warm["diversity"]["mean"] == pytest.approx(np.mean([diversity(d[:, None]).item() for d in draws]))
    assert rows["HCFlow", 0.5]["draws"] == 3
    cold = values(rows["HCFlow", 0.0])
    assert rows["HCFlow", 0.0]["metrics"]["psnr"]["spread"] is None
    assert 0 < cold["roundtrip_error"] < 1e-5
    assert cold["bits_per_dim"] == pytest.approx((cold["nll"] + 2 * math.log2(flow.config.quant)) / 3, rel=1e-5)
    bicubic = [psnr(pair.bicubic, pair.hr, 4).item() for pair in pairs.values()]
    assert values(rows["bicubic", None])["psnr"] == pytest.approx(np.mean(bicubic))
    theirs = [psnr(255 - pair.hr, pair.hr, 4).item() for pair in pairs.values()]
    assert values(rows["Rank|SRGAN", None])["psnr"] == pytest.approx(np.mean(theirs))
    assert "lr_psnr" not in rows["edsr", None]["metrics"]

    table = (tmp_path / "out/table.md").read_text()
    lines = {line.split(" | ")[0]: line for line in table.splitlines()}
    assert lines["| system"].startswith("| system | draws | PSNR ↑ | SSIM ↑ | LR-PSNR ↑ | consistency ↑ | diversity ↑")
    assert f"| 3 | {warm['psnr']['mean']:.2f} ± {warm['psnr']['spread']:.2f} |" in lines["| HCFlow τ = 0.5"]
    assert lines["| edsr"].split(" | ")[4] == "–"
    assert "| Rank\\|SRGAN | 1 |" in table
    assert table in capsys.readouterr().out
    shown = tmp_path / "out/images/tiny/HCFlow_τ_=_0.5/im0.png"
    assert psnr(read_image(shown)[None], pairs["im0"].hr, 4).item() == pytest.approx(decibels[0][0])
    assert (tmp_path / "out/tiny.png").is_file()


def test_protocol_says_how(evaluate, tmp_path, tiny, flow):
    assert evaluate("--systems flow.safetensors --metrics psnr --draws 1") == 0
    (entry,) = entries(tmp_path)
    assert entry["system"]["temperatures"] == [0.0, 0.9]
    assert len(entry["system"]["sha256"]) == 64
    protocol = entry["protocol"]
    assert (protocol["crop"], protocol["draws"], protocol["seed"]) == (4, 1, 0)
    assert protocol["metrics"] == {"psnr": "dB; RGB, all channels jointly, without 4 pixels at every edge"}
    assert "rounded" in protocol["images"]
    assert (protocol["set"]["names"], protocol["set"]["lr"]) == (["im0", "im1"], "the set's files")
    assert protocol["weights"] == {}


def test_options_of_srflow(evaluate, tmp_path, tiny):
    pairs = pairs_of(tiny)
    (tmp_path / "theirs").mkdir()
    for name, pair in pairs.items():
        write_image(tmp_path / f"theirs/{name}.png", pair.bicubic[0])
    assert evaluate("--results theirs --systems --crop 0 --window uniform --metrics psnr ssim") == 0
    expected = {
        "psnr": np.mean([psnr(pair.bicubic, pair.hr).item() for pair in pairs.values()]),
        "ssim": np.mean([ssim(pair.bicubic, pair.hr, window="uniform").item() for pair in pairs.values()]),
    }
    assert values(rows_of(tmp_path)["theirs", None]) == pytest.approx(expected)


def test_truncation_darkens(evaluate, tmp_path, tiny, flow):
    levels = {}
    for rounding in ("round", "truncate"):
        more = f"--rounding {rounding} --out {rounding} --pictures 1"
        assert evaluate(f"--systems flow.safetensors --temperatures 0.05 --metrics psnr {more}") == 0
        levels[rounding] = read_image(tmp_path / rounding / "images/tiny/flow_τ_=_0.05/im0.png").int()
    lost = levels["round"] - levels["truncate"]
    assert set(lost.unique().tolist()) == {0, 1}
    assert lost.double().mean() == pytest.approx(0.5, abs=0.05)


def test_table_4(evaluate, tmp_path, tiny):
    torch.manual_seed(0)
    model = flowkit_models.create("irn_x4_small").eval()
    model.save(tmp_path / "irn.safetensors")
    make_set(tmp_path / "other", sizes=((40, 40),))
    systems = "'Bicubic & Bicubic=bicubic' IRN=irn.safetensors"
    assert evaluate(f"--set tiny other/HR --systems {systems} --table rescaling --draws 1 --pictures 1") == 0
    for name in ("tiny", "other"):
        rows = rows_of(tmp_path, name)
        generator, found = torch.Generator().manual_seed(0), []
        for pair in pairs_of(tmp_path / name).values():
            with torch.no_grad():
                again = to_uint8(model.upscale(model.downscale(to_float(pair.hr)), 1, 1.0, generator)[0])
            found.append([m(luma(x), luma(pair.hr), 4).item() for x in (again, pair.bicubic) for m in (psnr, ssim)])
        psnr_irn, ssim_irn, psnr_bicubic, ssim_bicubic = np.mean(found, 0)
        assert values(rows["IRN", 1.0]) == pytest.approx({"psnr_y": psnr_irn, "ssim_y": ssim_irn})
        expected = {"psnr_y": psnr_bicubic, "ssim_y": ssim_bicubic}
        assert values(rows["Bicubic & Bicubic", None]) == pytest.approx(expected)
        assert (tmp_path / f"out/{name}.png").is_file()
    table = (tmp_path / "out/table.md").read_text()
    assert "| tiny PSNR (Y) ↑ | tiny SSIM (Y) ↑ | other PSNR (Y) ↑ | other SSIM (Y) ↑ |" in table
    assert "LR made by bicubic" not in table


def test_a_temperature_that_the_checkpoint_recommends_is_named(evaluate, tmp_path, tiny, capsys):
    torch.manual_seed(0)
    flowkit_models.create("hcflow_sr_x4_small", **TINY).save(tmp_path / "flow.safetensors", temperature="0.65")
    line = "--systems Mine=flow.safetensors --metrics psnr --draws 1 --overwrite"
    assert evaluate(line) == 0
    said = "Mine: rows of τ 0 and 0.9, as the paper's table has; its checkpoint recommends 0.65: --temperatures 0.65\n"
    assert said in capsys.readouterr().out
    for chosen in (0.65, 0.3):
        assert evaluate(f"{line} --temperatures {chosen}") == 0
        assert "recommends" not in capsys.readouterr().out


def test_the_lr_image_as_jpeg(evaluate, tmp_path, tiny):
    torch.manual_seed(0)
    models = {"IRN": flowkit_models.create("irn_x4_small"), "SR": flowkit_models.create("linf_small")}
    for name, model in models.items():
        model.eval().save(tmp_path / f"{name}.safetensors")
    (tmp_path / "theirs").mkdir()
    for name, pair in pairs_of(tmp_path / "tiny").items():
        write_image(tmp_path / "theirs" / f"{name}.png", pair.bicubic[0])
    line = "--systems bicubic IRN.safetensors SR.safetensors --results theirs --table rescaling --metrics psnr_y"
    assert evaluate(f"{line} --jpeg 35 90 --temperatures 0 --draws 1") == 0
    rows, found = rows_of(tmp_path), {"bicubic": [], "IRN": [], "SR": []}
    for pair in pairs_of(tmp_path / "tiny").values():
        hr = to_float(pair.hr)
        with torch.no_grad():
            small = {"IRN": to_uint8(models["IRN"].downscale(hr)), "SR": pair.lr}
            made = {n: models[n].upscale(to_float(jpeg_file(x, 35)), temperature=0)[0] for n, x in small.items()}
        made["bicubic"] = bicubic_resize(to_float(jpeg_file(pair.lr, 35)), 4)
        for name, image in made.items():
            found[name].append(psnr(luma(to_uint8(image)), luma(pair.hr), 4).item())
    for name, values_ in found.items():
        row = rows[name, None if name == "bicubic" else 0.0]
        assert values(row)["psnr_y_jpeg35"] == pytest.approx(np.mean(values_))
        assert set(row["metrics"]) == {"psnr_y", "psnr_y_jpeg35", "psnr_y_jpeg90"}
    assert "can't be made again" in rows["theirs", None]["not_computed"]["psnr_y_jpeg35"]
    assert "| system | draws | PSNR (Y) ↑ | JPEG 35 ↑ | JPEG 90 ↑ |" in (tmp_path / "out/table.md").read_text()
    assert evaluate("--jpeg 0") == 2


def test_table_3_of_small_faces(evaluate, tmp_path):
    make_set(tmp_path / "tiny", ((40, 40),), scale=8)
    assert evaluate("--table face --metrics psnr niqe brisque") == 0
    row = rows_of(tmp_path)["bicubic", None]
    assert set(row["metrics"]) == {"psnr", "brisque"}
    assert row["not_computed"] == {"niqe": "im0: NIQE needs two blocks of 96 × 96 pixels, got images (1, 3, 40, 40)"}
    table = (tmp_path / "out/table.md").read_text()
    assert "| not computed [1] |" in table
    assert "[1] not computed: bicubic, NIQE: im0: NIQE needs two blocks" in table


def test_published_row_of_bicubic(evaluate, shared, tmp_path):
    assert evaluate(f"--set {shared}/data/benchmarks/Set5 --luma integer --table rescaling") == 0
    found = values(rows_of(tmp_path, "Set5")["bicubic", None])
    assert found["psnr_y"] == pytest.approx(28.42, abs=0.01)
    assert found["ssim_y"] == pytest.approx(0.8104, abs=0.0005)


def test_learned_metrics_are_those_of_the_weights(evaluate, shared, tmp_path, tiny):
    assert evaluate(f"--metrics lpips dists --weights {shared}/weights") == 0
    networks = {"lpips": LPIPS(weights=shared / "weights"), "dists": DISTS(shared / "weights")}
    for name, found in rows_of(tmp_path)["bicubic", None]["metrics"].items():
        expected = [networks[name](pair.bicubic, pair.hr).item() for pair in pairs_of(tiny).values()]
        assert found["mean"] == pytest.approx(sum(expected) / 2)
    weights = entries(tmp_path)[0]["protocol"]["weights"]
    assert weights == {name: network.checksum for name, network in networks.items()}


def test_lpips_without_weights_says_why(evaluate, shared, tmp_path, tiny, monkeypatch, capsys):
    def no_network(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    assert evaluate("--metrics psnr lpips") == 0
    row = rows_of(tmp_path)["bicubic", None]
    assert set(row["metrics"]) == {"psnr"}
    assert "the download failed" in row["not_computed"]["lpips"]
    assert "not computed [1]" in (tmp_path / "out/table.md").read_text()
    assert "lpips: not computed: alexnet weights" in capsys.readouterr().out
    # once they are there, the column is filled, and stays so without them
    for weights in (f"--weights {shared}/weights", ""):
        assert evaluate(f"--metrics psnr lpips {weights}") == 0
        assert set(rows_of(tmp_path)["bicubic", None]["metrics"]) == {"psnr", "lpips"}


def test_without_matplotlib_the_table_is_there(evaluate, tmp_path, tiny, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert evaluate("--metrics psnr --pictures 1") == 0
    said = capsys.readouterr().out
    assert (tmp_path / "out/table.md").read_text() in said
    assert 'images (no picture of each set: pictures need matplotlib: pip install "flowkit-torch[metrics]")' in said


def test_what_is_scored_is_not_scored_again(evaluate, tmp_path, tiny, flow, monkeypatch, capsys):
    command = "--systems bicubic flow.safetensors --metrics psnr --draws 2"
    assert evaluate(command) == 0
    before = (tmp_path / "out/table.md").read_text()
    (tmp_path / "out/systems/flow.tiny.json").unlink()
    scored, score = [], Evaluator.score
    watched = lambda self, system, *more: scored.append(system.name) or score(self, system, *more)  # noqa: E731
    monkeypatch.setattr(Evaluator, "score", watched)
    assert evaluate(command) == 0
    assert scored == ["flow"]
    assert (tmp_path / "out/table.md").read_text() == before
    assert evaluate(f"{command} --seed 1") == 1
    assert "scored in another way (protocol: seed): --overwrite, or another --out" in capsys.readouterr().err
    assert evaluate(f"{command} --seed 1 --overwrite") == 0
    assert scored == ["flow", "bicubic", "flow"]


def test_perfect_results_are_strict_json(evaluate, tmp_path, tiny):
    assert evaluate("--results tiny/HR --systems --metrics psnr ssim") == 0
    json.loads((tmp_path / "out/results.json").read_text(), parse_constant=pytest.fail)
    assert "| HR | 1 | inf | 1.0000 |" in (tmp_path / "out/table.md").read_text()


def test_an_image_below_the_window(evaluate, tmp_path):
    make_set(tmp_path / "tiny", ((40, 40), (16, 16)))
    assert evaluate("--metrics psnr ssim") == 0
    row = rows_of(tmp_path)["bicubic", None]
    assert set(row["metrics"]) == {"psnr"}
    assert row["not_computed"] == {"ssim": "im1: SSIM needs 11 × 11 pixels, got 8 × 8 after cropping 4"}


def test_one_pixel_off_is_cropped_and_said(evaluate, tmp_path):
    make_set(tmp_path / "tiny", ((41, 40),))
    with pytest.warns(UserWarning, match="cropped from 41 × 40 to 40 × 40"):
        assert evaluate("--metrics psnr") == 0
    (tmp_path / "theirs").mkdir()
    write_image(tmp_path / "theirs/im0.png", read_image(tmp_path / "tiny/HR/im0.png"))
    with pytest.warns(UserWarning, match="cropped from 41 × 40 to 40 × 40") as said:
        assert evaluate("--metrics psnr --systems --results theirs") == 0
    assert any("the size of HR" in str(w.message) for w in said)


def test_other_kinds_of_files(evaluate, tmp_path, tiny):
    grey = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    (tmp_path / "kinds").mkdir()
    kinds = {
        "grey": Image.fromarray(grey),
        "rgba": Image.fromarray(np.dstack([grey, grey, grey, grey])),
        "wide": Image.fromarray(grey.astype(np.uint16) * 257),
    }
    for name, image in kinds.items():
        image.save(tmp_path / f"kinds/{name}.png")
    assert evaluate("--set kinds --metrics psnr_y") == 0
    (entry,) = entries(tmp_path, "kinds")
    assert entry["protocol"]["set"]["converted"] == {
        "grey.png": "mode L, made RGB",
        "rgba.png": "transparent, laid over white",
        "wide.png": "16 bits, reduced to 8",
    }
    assert entry["protocol"]["set"]["lr"].startswith("made by bicubic as MATLAB's, edges mirror, ties even")
    images = entry["rows"][0]["metrics"]["psnr_y"]["images"]
    assert images["grey"] == images["wide"] != images["rgba"]
    hr = torch.from_numpy(grey).expand(1, 3, -1, -1).contiguous()
    lr = bicubic_resize(hr[0], 0.25)
    assert images["grey"] == [pytest.approx(psnr(luma(Pair.of(hr[0], lr).bicubic), luma(hr), 4).item())]


BAD = [
    ("--set nowhere", "nowhere: no such folder"),
    ("--systems nowhere.pth", "nowhere.pth: no such checkpoint"),
    ("--systems", "nothing to score"),
    ("--systems bicubic bicubic", "would be one name: say NAME=PATH"),
    ("--systems flow.safetensors --scale 2 --set lonely", "HCFlow ×4, and the table is of ×2: see --scale"),
    ("--results nowhere", "nowhere: no such folder"),
    ("--results lonely", "lonely: no image for im1"),
    ("--results tiny/LR_bicubic/X4", "im0x4.png: 10 × 11, but the HR image im0 is 40 × 44"),
    ("--draws 0", "--draws and --scale must be at least 1"),
    ("--scale inf", "--draws and --scale must be at least 1"),
    ("--temperatures -1", "temperatures must be at least 0"),
    ("--set tiny tiny", "would be one name"),
    ("--set wrong", "is not ×4 of"),
    ("--set unpaired", "do not match: no LR for im1"),
    ("--set tiny other --lr-set x", "--lr-set goes with a single --set"),
    ("--metrics psnr sharpness", "no metric is called 'sharpness'; there are psnr, ssim, psnr_y, "),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_what_is_refused_is_said_in_one_line(evaluate, tmp_path, tiny, flow, line, message, capsys):
    (tmp_path / "lonely").mkdir()
    write_image(tmp_path / "lonely/im0.png", torch.zeros(3, 40, 44))
    make_set(tmp_path / "wrong", ((40, 40),))
    write_image(tmp_path / "wrong/HR/im0.png", torch.zeros(3, 48, 40))
    make_set(tmp_path / "unpaired")
    (tmp_path / "unpaired/LR_bicubic/X4/im1x4.png").unlink()
    assert evaluate(f"--metrics psnr {line}") in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith("flowkit: ")
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists() or list((tmp_path / "out/systems").iterdir())  # a system before it is kept


def test_a_system_that_makes_nan(evaluate, tmp_path, tiny, capsys):
    state = edsr(4)
    state["tail.1.bias"][:] = math.nan
    torch.save(state, tmp_path / "edsr.pt")
    assert evaluate("--systems edsr.pt --metrics psnr") == 1
    assert capsys.readouterr().err == "flowkit: edsr: NaN or infinity in the result for im0\n"


def test_the_recipe_is_the_command():
    wide = {**os.environ, "COLUMNS": "200"}
    result = subprocess.run([sys.executable, RECIPE, "--help"], capture_output=True, text=True, check=True, env=wide)
    for option in ("set", "lr-set", "systems", "results", "table", "temperatures", "draws", "out", "weights"):
        assert f"--{option}" in result.stdout


def test_names_in_another_encoding_than_the_locales(evaluate, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(io, "text_encoding", lambda encoding, level=2: encoding or "latin-1")  # what a locale may say
    make_set(tmp_path / "Bäume")
    for place, ending in (("HR", ""), ("LR_bicubic/X4", "x4")):
        folder = tmp_path / "Bäume" / place
        (folder / f"im0{ending}.png").rename(folder / os.fsdecode(b"b\xe4" + ending.encode() + b".png"))
    line = "--set Bäume --systems bicubic --metrics psnr --pictures 2"
    assert evaluate(line) == 0
    before = (tmp_path / "out/results.json").read_bytes()
    assert evaluate(line) == 0  # reads what it wrote
    assert (tmp_path / "out/results.json").read_bytes() == before
    assert len(list((tmp_path / "out/images").rglob("*.png"))) == 2
