"""`--refine`: a small picture from which the model restores more."""

import re

import pytest
from command_files import opened, save, tree

from flowkit_models.data.sample_photos import test_photos as photographs


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return save(tmp_path / "p.png", photographs()["chelsea"][:, 100:132, 200:232].movedim(0, -1).numpy())


def test_a_refined_picture_is_restored_better(photo, flowkit):
    model = ("-m", "hcflow_x4")
    found = []
    for options in ((), ("--refine", "--radius", "0"), ("--refine",)):
        ran = flowkit("restore", photo, *model, "--temperature", "0", "--overwrite", *options)
        assert ran.code == 0, ran.err
        found += [float(text) for text in re.findall(r"PSNR ([\d.]+) dB", "".join(ran.out))]
    plain, unmoved, refined = found
    assert unmoved == plain
    assert refined > plain + 0.2
    for name, options in (("plain", ()), ("refined", ("--refine",))):
        assert flowkit("downscale", photo, *model, "-o", f"{name}.png", *options).code == 0
    change = abs(opened("refined.png").astype(float) - opened("plain.png"))
    assert 0 < change.mean() < 4


@pytest.mark.parametrize(
    "options", [("--radius", "2"), ("--refine", "--radius", "-1"), ("--refine", "--radius", "nan")]
)
def test_a_radius_that_makes_no_sense(options, photo, flowkit, tmp_path):
    ran = flowkit("downscale", photo, *options)
    assert ran.code == 2
    assert ran.err[0].startswith("flowkit: --radius ")
    assert tree(tmp_path) == ["p.png"]
