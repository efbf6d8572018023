"""The evaluation recipe on tiny sets: numbers against the metrics themselves, the table, going on, and bad input."""

import importlib.util
import json
import math
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch
from PIL import Image

import flowkit_models
from flowkit_models.data.image_pair import Pair
from flowkit_models.data.pairs import find_pairs, read_pair
from flowkit_models.evaluation.evaluator import Scorer
from flowkit_models.evaluation.scores import score, score_rescaling
from flowkit_models.images.convert import luma, to_uint8
from flowkit_models.images.image_file import read_image, write_image
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.metrics.full_reference import psnr, ssim

RECIPE = Path(__file__).parents[2] / "recipes" / "evaluate.py"
TINY = {
    "steps": 1,
    "conditional_steps": 1,
    "hidden": 4,
    "conditional_hidden": 4,
    "blocks": ((0, 0), (0, 0)),
    "features": 4,
}


@pytest.fixture
def recipe(monkeypatch):
    spec = importlib.util.spec_from_file_location("evaluate_recipe", RECIPE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "evaluate_recipe", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


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


def rows_of(out, test_set="tiny"):
    found = json.loads((out / "results.json").read_text())["sets"][test_set]
    return {(entry["system"]["name"], row["temperature"]): row for entry in found for row in entry["rows"]}


def values(row):
    return {name: found["mean"] for name, found in row["metrics"].items()}


@pytest.fixture
def tiny(tmp_path):
    return make_set(tmp_path / "tiny")


@pytest.fixture
def flow(tmp_path):
    torch.manual_seed(0)
    model = flowkit_models.create("hcflow_sr_x4_small", **TINY).eval()
    model.save(tmp_path / "flow.safetensors")
    return model


def options(tmp_path, *more, pictures=0):
    return [
        "--set",
        str(tmp_path / "tiny"),
        "--out",
        str(tmp_path / "out"),
        "--pictures",
        str(pictures),
        "--device",
        "cpu",
        *more,
    ]


NO_LPIPS = ["--metrics", "psnr", "ssim", "lr_psnr", "consistency", "diversity"]


def test_table_2(recipe, tmp_path, tiny, flow, capsys):
    torch.manual_seed(1)
    torch.save(layouts.EDSR(4).state_dict(), tmp_path / "edsr.pt")
    pairs = pairs_of(tiny)
    for name, pair in pairs.items():
        (tmp_path / "theirs").mkdir(exist_ok=True)
        write_image(tmp_path / f"theirs/{name}_x4_SR.png", 255 - pair.hr[0])
    systems = ["--systems", "bicubic", f"HCFlow={tmp_path}/flow.safetensors", f"{tmp_path}/edsr.pt"]
    command = [
        *systems,
        "--results",
        f"Rank|SRGAN={tmp_path}/theirs",
        *NO_LPIPS,
        "consistency_hr",
        "nll",
        "bits_per_dim",
        "ntire_mse",
    ]
    more = ["--temperatures", "0", "0.5", "--draws", "3", "--seed", "2"]
    assert recipe.run(options(tmp_path, *command, *more, pictures=1)) == 0

    rows = rows_of(tmp_path / "out")
    assert list(rows) == [("bicubic", None), ("HCFlow", 0.0), ("HCFlow", 0.5), ("edsr", None), ("Rank|SRGAN", None)]
    expected = score(flow, pairs, 0.5, 3, 2)
    for key, part in ((("bicubic", None), "bicubic"), (("HCFlow", 0.0), "tau_0"), (("HCFlow", 0.5), "tau_0.5")):
        found = values(rows[key])
        assert {name: found[name] for name in expected[part]} == pytest.approx(expected[part])
    assert values(rows["HCFlow", 0.5])["lr_psnr"] == pytest.approx(expected["lr_psnr"])
    assert values(rows["HCFlow", 0.0])["bits_per_dim"] == pytest.approx(expected["bits_per_dim"], rel=0.02)
    theirs = [psnr(255 - pair.hr, pair.hr, 4).item() for pair in pairs.values()]
    assert values(rows["Rank|SRGAN", None])["psnr"] == pytest.approx(sum(theirs) / 2)
    assert "lr_psnr" not in rows["edsr", None]["metrics"]

    warm = rows["HCFlow", 0.5]["metrics"]["psnr"]
    of_draws = np.mean(list(warm["images"].values()), 0)
    assert (rows["HCFlow", 0.5]["draws"], len(of_draws)) == (3, 3)
    assert warm["spread"] == pytest.approx(np.std(of_draws, ddof=1))
    assert rows["HCFlow", 0.0]["metrics"]["psnr"]["spread"] is None

    table = (tmp_path / "out/table.md").read_text()
    lines = {line.split(" | ")[0]: line for line in table.splitlines()}
    assert lines["| system"].startswith("| system | draws | PSNR ↑ | SSIM ↑ | LR-PSNR ↑ | consistency ↑ | diversity ↑")
    assert f"| 3 | {warm['mean']:.2f} ± {warm['spread']:.2f} |" in lines["| HCFlow τ = 0.5"]
    assert lines["| edsr"].split(" | ")[4] == "–"
    assert "| Rank\\|SRGAN | 1 |" in table
    assert table in capsys.readouterr().out
    shown = tmp_path / "out/images/tiny/HCFlow_τ_=_0.5/im0.png"
    assert psnr(read_image(shown)[None], pairs["im0"].hr, 4).item() == pytest.approx(warm["images"]["im0"][0])
    assert (tmp_path / "out/tiny.png").is_file()


def test_protocol_says_how(recipe, tmp_path, tiny, flow):
    assert (
        recipe.run(options(tmp_path, "--systems", f"{tmp_path}/flow.safetensors", "--metrics", "psnr", "--draws", "1"))
        == 0
    )
    entry = json.loads((tmp_path / "out/results.json").read_text())["sets"]["tiny"][0]
    assert entry["system"]["temperatures"] == [0.0, 0.9]
    assert len(entry["system"]["sha256"]) == 64
    protocol = entry["protocol"]
    assert (protocol["crop"], protocol["draws"], protocol["seed"]) == (4, 1, 0)
    assert protocol["metrics"] == {"psnr": "dB; RGB, all channels jointly, without 4 pixels at every edge"}
    assert "rounded" in protocol["images"]
    assert (protocol["set"]["names"], protocol["set"]["lr"]) == (["im0", "im1"], "the set's files")
    assert protocol["weights"] == {}


def test_options_of_srflow(recipe, tmp_path, tiny):
    pairs = pairs_of(tiny)
    for name, pair in pairs.items():
        (tmp_path / "theirs").mkdir(exist_ok=True)
        write_image(tmp_path / f"theirs/{name}.png", pair.bicubic[0])
    more = [
        "--results",
        f"{tmp_path}/theirs",
        "--systems",
        "--crop",
        "0",
        "--window",
        "uniform",
        "--metrics",
        "psnr",
        "ssim",
    ]
    assert recipe.run(options(tmp_path, *more)) == 0
    expected = {
        "psnr": sum(psnr(pair.bicubic, pair.hr).item() for pair in pairs.values()) / 2,
        "ssim": sum(ssim(pair.bicubic, pair.hr, window="uniform").item() for pair in pairs.values()) / 2,
    }
    assert values(rows_of(tmp_path / "out")["theirs", None]) == pytest.approx(expected)


def test_truncation_darkens(recipe, tmp_path, tiny, flow):
    command = ["--systems", f"{tmp_path}/flow.safetensors", "--temperatures", "0.05", "--metrics", "psnr"]
    levels = {}
    for rounding in ("round", "truncate"):
        out = tmp_path / rounding
        assert recipe.run(options(tmp_path, *command, "--rounding", rounding, "--out", str(out), pictures=1)) == 0
        levels[rounding] = read_image(out / "images/tiny/flow_τ_=_0.05/im0.png").int()
    lost = levels["round"] - levels["truncate"]
    assert set(lost.unique().tolist()) == {0, 1}
    assert lost.double().mean() == pytest.approx(0.5, abs=0.05)


def test_table_4(recipe, tmp_path, tiny):
    torch.manual_seed(0)
    model = flowkit_models.create("irn_x4_small").eval()
    model.save(tmp_path / "irn.safetensors")
    make_set(tmp_path / "other", sizes=((40, 40),))
    command = [
        "--set",
        str(tmp_path / "tiny"),
        str(tmp_path / "other/HR"),
        "--out",
        str(tmp_path / "out"),
        "--pictures",
        "1",
    ]
    systems = ["--systems", "Bicubic & Bicubic=bicubic", f"IRN={tmp_path}/irn.safetensors"]
    assert recipe.run([*command, *systems, "--table", "rescaling", "--draws", "1", "--device", "cpu"]) == 0
    for name in ("tiny", "other"):
        expected = score_rescaling(model, pairs_of(tmp_path / name))
        rows = rows_of(tmp_path / "out", name)
        assert values(rows["IRN", 1.0]) == pytest.approx({k: v for k, v in expected["model"].items() if k != "lr_psnr"})
        assert values(rows["Bicubic & Bicubic", None]) == pytest.approx(expected["bicubic"])
        assert (tmp_path / f"out/{name}.png").is_file()
    table = (tmp_path / "out/table.md").read_text()
    assert "| tiny PSNR (Y) ↑ | tiny SSIM (Y) ↑ | other PSNR (Y) ↑ | other SSIM (Y) ↑ |" in table
    assert "LR made by bicubic" not in table


def test_table_3_of_small_faces(recipe, tmp_path):
    make_set(tmp_path / "tiny", ((40, 40),), scale=8)
    command = ["--table", "face", "--metrics", "psnr", "niqe", "brisque"]
    assert recipe.run(options(tmp_path, *command)) == 0
    row = rows_of(tmp_path / "out")["bicubic", None]
    assert set(row["metrics"]) == {"psnr", "brisque"}
    assert row["not_computed"] == {"niqe": "im0: NIQE needs two blocks of 96 × 96 pixels, got images (1, 3, 40, 40)"}
    table = (tmp_path / "out/table.md").read_text()
    assert "| not computed [1] |" in table
    assert "[1] not computed: bicubic, NIQE: im0: NIQE needs two blocks" in table


def test_published_row_of_bicubic(recipe, shared, tmp_path):
    set5 = shared / "data/benchmarks/Set5"
    command = [
        "--set",
        str(set5),
        "--out",
        str(tmp_path),
        "--pictures",
        "0",
        "--luma",
        "integer",
        "--table",
        "rescaling",
    ]
    assert recipe.run([*command, "--device", "cpu"]) == 0
    found = values(rows_of(tmp_path, "Set5")["bicubic", None])
    assert found["psnr_y"] == pytest.approx(28.42, abs=0.01)
    assert found["ssim_y"] == pytest.approx(0.8104, abs=0.0005)


def test_learned_metrics_are_those_of_the_weights(recipe, shared, tmp_path, tiny):
    command = ["--metrics", "lpips", "dists", "--weights", str(shared / "weights")]
    assert recipe.run(options(tmp_path, *command)) == 0
    distances = Scorer(recipe.Rules(4, ("lpips", "dists")), shared / "weights")
    for name, found in rows_of(tmp_path / "out")["bicubic", None]["metrics"].items():
        pairs = pairs_of(tiny).values()
        expected = [distances._learned[name](pair.bicubic, pair.hr).item() for pair in pairs]
        assert found["mean"] == pytest.approx(sum(expected) / 2)
    assert set(distances.checksums) == {"lpips", "dists"}


def test_lpips_without_weights_says_why(recipe, shared, tmp_path, tiny, monkeypatch, capsys):
    def no_network(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    assert recipe.run(options(tmp_path, "--metrics", "psnr", "lpips")) == 0
    row = rows_of(tmp_path / "out")["bicubic", None]
    assert set(row["metrics"]) == {"psnr"}
    assert "the download failed" in row["not_computed"]["lpips"]
    assert "not computed [1]" in (tmp_path / "out/table.md").read_text()
    assert "lpips: not computed: alexnet weights" in capsys.readouterr().out
    # once they are there, the column is filled
    assert recipe.run(options(tmp_path, "--metrics", "psnr", "lpips", "--weights", str(shared / "weights"))) == 0
    assert set(rows_of(tmp_path / "out")["bicubic", None]["metrics"]) == {"psnr", "lpips"}
    # and stays so without them
    assert recipe.run(options(tmp_path, "--metrics", "psnr", "lpips")) == 0
    assert set(rows_of(tmp_path / "out")["bicubic", None]["metrics"]) == {"psnr", "lpips"}


def test_what_is_scored_is_not_scored_again(recipe, tmp_path, tiny, flow, monkeypatch):
    command = ["--systems", "bicubic", f"{tmp_path}/flow.safetensors", "--metrics", "psnr", "--draws", "2"]
    assert recipe.run(options(tmp_path, *command)) == 0
    before = (tmp_path / "out/table.md").read_text()
    (tmp_path / "out/systems/flow.tiny.json").unlink()
    scored, steps = [], Scorer.steps

    def watched(self, system, pairs):
        scored.append(system.name)
        return steps(self, system, pairs)

    monkeypatch.setattr(Scorer, "steps", watched)
    assert recipe.run(options(tmp_path, *command)) == 0
    assert scored == ["flow"]
    assert (tmp_path / "out/table.md").read_text() == before
    said = recipe.run(options(tmp_path, *command, "--seed", "1"))
    assert said.startswith("error: ")
    assert "scored in another way (protocol: seed): --overwrite, or another --out" in said
    assert recipe.run(options(tmp_path, *command, "--seed", "1", "--overwrite")) == 0
    assert scored == ["flow", "bicubic", "flow"]


def test_perfect_results_are_strict_json(recipe, tmp_path, tiny):
    command = ["--results", str(tiny / "HR"), "--systems", "--metrics", "psnr", "ssim"]
    assert recipe.run(options(tmp_path, *command)) == 0
    text = (tmp_path / "out/results.json").read_text()
    json.loads(text, parse_constant=pytest.fail)
    assert "| HR | 1 | inf | 1.0000 |" in (tmp_path / "out/table.md").read_text()


def test_an_image_below_the_window(recipe, tmp_path):
    make_set(tmp_path / "tiny", ((40, 40), (16, 16)))
    assert recipe.run(options(tmp_path, "--metrics", "psnr", "ssim")) == 0
    row = rows_of(tmp_path / "out")["bicubic", None]
    assert set(row["metrics"]) == {"psnr"}
    assert row["not_computed"] == {"ssim": "im1: SSIM needs 11 × 11 pixels, got 8 × 8 after cropping 4"}


def test_one_pixel_off_is_cropped_and_said(recipe, tmp_path):
    make_set(tmp_path / "tiny", ((41, 40),))
    with pytest.warns(UserWarning, match="cropped from 41 × 40 to 40 × 40"):
        assert recipe.run(options(tmp_path, "--metrics", "psnr")) == 0
    folder = tmp_path / "theirs"
    folder.mkdir()
    write_image(folder / "im0.png", read_image(tmp_path / "tiny/HR/im0.png"))
    command = ["--metrics", "psnr", "--systems", "--results", str(folder)]
    with pytest.warns(UserWarning, match="cropped from 41 × 40 to 40 × 40") as said:
        assert recipe.run(options(tmp_path, *command)) == 0
    assert any("the size of HR" in str(w.message) for w in said)


def test_other_kinds_of_files(recipe, tmp_path, tiny):
    grey = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    (tmp_path / "kinds").mkdir()
    kinds = {
        "grey": Image.fromarray(grey),
        "rgba": Image.fromarray(np.dstack([grey, grey, grey, grey])),
        "wide": Image.fromarray(grey.astype(np.uint16) * 257),
    }
    for name, image in kinds.items():
        image.save(tmp_path / f"kinds/{name}.png")
    command = [
        "--set",
        str(tmp_path / "kinds"),
        "--out",
        str(tmp_path / "out"),
        "--metrics",
        "psnr_y",
        "--device",
        "cpu",
    ]
    assert recipe.run([*command, "--pictures", "0"]) == 0
    entry = json.loads((tmp_path / "out/results.json").read_text())["sets"]["kinds"][0]
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
    (["--set", "{tmp}/nowhere"], "nowhere: no such folder"),
    (["--systems", "{tmp}/nowhere.pth"], "nowhere.pth: no such checkpoint"),
    (["--systems"], "nothing to score"),
    (["--systems", "bicubic", "bicubic"], "would be one name: say NAME=PATH"),
    (
        ["--systems", "{tmp}/flow.safetensors", "--scale", "2", "--set", "{tmp}/tiny/HR"],
        "HCFlow ×4, and the table is of ×2: see --scale",
    ),
    (["--results", "{tmp}/nowhere"], "nowhere: no such folder"),
    (["--results", "{tmp}/lonely"], "lonely: no image for im1"),
    (["--results", "{tmp}/tiny/LR_bicubic/X4"], "im0x4.png: 10 × 11, but the HR image im0 is 40 × 44"),
    (["--draws", "0"], "draws and scale must be at least 1"),
    (["--temperatures", "-1"], "temperatures must be at least 0"),
    (["--set", "{tmp}/tiny", "{tmp}/tiny"], "would be one name"),
    (["--set", "{tmp}/wrong"], "is not ×4 of"),
    (["--set", "{tmp}/unpaired"], "do not match: no LR for im1"),
    (["--set", "{tmp}/tiny", "{tmp}/other", "--lr-set", "{tmp}/x"], "--lr-set goes with a single --set"),
]


@pytest.mark.parametrize(("command", "message"), BAD)
def test_what_is_refused_is_said_in_one_line(recipe, tmp_path, tiny, flow, command, message):
    (tmp_path / "lonely").mkdir()
    write_image(tmp_path / "lonely/im0.png", torch.zeros(3, 40, 44))
    make_set(tmp_path / "wrong", ((40, 40),))
    write_image(tmp_path / "wrong/HR/im0.png", torch.zeros(3, 48, 40))
    make_set(tmp_path / "unpaired")
    (tmp_path / "unpaired/LR_bicubic/X4/im1x4.png").unlink()
    said = recipe.run(options(tmp_path, "--metrics", "psnr", *(part.format(tmp=tmp_path) for part in command)))
    assert isinstance(said, str)
    assert said.startswith("error: ")
    assert message in said
    assert "\n" not in said


def test_a_system_that_makes_nan(recipe, tmp_path, tiny, flow):
    with torch.no_grad():
        next(flow.parameters()).fill_(math.inf)
    state = layouts.EDSR(4).state_dict()
    state["tail.1.bias"][:] = math.nan
    torch.save(state, tmp_path / "edsr.pt")
    said = recipe.run(options(tmp_path, "--systems", f"{tmp_path}/edsr.pt", "--metrics", "psnr"))
    assert said == "error: edsr: NaN or infinity in the result for im0"


def test_help():
    wide = {**os.environ, "COLUMNS": "200"}
    result = subprocess.run([sys.executable, RECIPE, "--help"], capture_output=True, text=True, check=True, env=wide)
    for option in (
        "--set",
        "--lr-set",
        "--systems",
        "--results",
        "--table",
        "--temperatures",
        "--draws",
        "--out",
        "--weights",
    ):
        assert option in result.stdout
