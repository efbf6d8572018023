"""Options of the recipes: which photographs are seen how often."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
import tyro
from PIL import Image

from flowkit_models.training.options import Options


@pytest.fixture
def data(tmp_path):
    """Photographs of one size, each of one grey, in two folders; one is too small to be used."""
    for name, grey, side in (("a_1", 50, 40), ("a_2", 100, 40), ("sub/b_1", 150, 40), ("tiny", 200, 8)):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, side, 3), grey, dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def shares(crops, count=300):
    """How often each grey is drawn."""
    greys = [round(float(crops[i][0].mean()) * 255) for i in range(count)]
    return {grey: greys.count(grey) / count for grey in sorted(set(greys))}


def crops(kind, **options):
    given = Options(crop=16, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the small one
        return given.crops(4) if kind == "random" else given.aligned_crops(4, rounded=True)


@pytest.mark.parametrize("kind", ["random", "aligned"])
def test_patterns_weigh_photographs(data, kind) -> None:
    found = shares(crops(kind, data=data, source_weights={"a_*": 0.5, "a_2.png": 0}))
    assert found == {50: pytest.approx(1 / 3, abs=0.09), 150: pytest.approx(2 / 3, abs=0.09)}
    assert set(shares(crops(kind, data=data, source_weights={"*": 0, "sub/*": 0.1}))) == {150}


def test_a_pattern_may_fit_what_is_skipped(data) -> None:
    every = shares(crops("random", data=data))
    assert shares(crops("random", data=data, source_weights={"tiny*": 0.5})) == every
    assert set(every) == {50, 100, 150}


@pytest.mark.parametrize("kind", ["random", "aligned"])
def test_pairs_are_weighed_by_their_names(tmp_path, kind) -> None:
    for folder, side in (("HR", 40), ("LR_bicubic/X4", 10)):
        (tmp_path / folder).mkdir(parents=True)
        for name, grey in (("a", 50), ("b", 150)):
            Image.fromarray(np.full((side, side, 3), grey, dtype=np.uint8)).save(tmp_path / folder / f"{name}.png")
    assert set(shares(crops(kind, data=tmp_path, paired=True, source_weights={"a*": 0}))) == {150}


def turned(found):
    """In which of the ways of flipping and transposing crops of one ramp, falling to the right and below, lie."""
    return {(bool(hr[0, 0, 0] > hr[0, 0, -1]), bool(hr[0, 0, 0] > hr[0, -1, 0])) for hr, *_ in found}


@pytest.mark.parametrize("kind", ["random", "pairs", "aligned", "any scale"])
@pytest.mark.parametrize("augment", [None, "flip", "flips", "colours"])
def test_crops_are_turned_as_told_or_else_as_published(tmp_path, kind, augment) -> None:
    ramp = np.add.outer(np.arange(64), 2 * np.arange(64)).astype(np.uint8)[::-1, ::-1]
    for folder, side in (("HR", 64), ("LR_bicubic/X4", 16)):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(np.stack([ramp[:side, :side]] * 3, 2)).save(tmp_path / folder / "a.png")
    folder = tmp_path if kind == "pairs" else tmp_path / "HR"
    options = Options(crop=16, data=folder, paired=kind == "pairs", augment=augment)
    if kind == "any scale":
        made = options.any_scale_crops(4)
    else:
        made = options.aligned_crops(4, rounded=True) if kind == "aligned" else options.crops(4)
    found = [made[i] for i in range(64)]
    ways = {(a, b) for a in (True, False) for b in (True, False)}
    published = "flip" if kind in ("random", "pairs") else "flips"
    assert turned(found) == ({(True, True), (False, True)} if (augment or published) == "flip" else ways)


def test_the_photographs_in_the_wheels_have_weights_that_patterns_replace(monkeypatch) -> None:
    photos = {n: torch.full((3, 40, 40), g, dtype=torch.uint8) for n, g in (("retina", 50), ("chelsea", 150))}
    monkeypatch.setattr("flowkit_models.training.options.bundled_photos", lambda: photos)
    assert shares(crops("random"))[50] == pytest.approx(0.1 / 1.1, abs=0.06)
    assert shares(crops("random", source_weights={"ret*": 1}))[50] == pytest.approx(0.5, abs=0.1)
    assert set(shares(crops("random", source_weights={"*": 1, "retina": 0}))) == {150}  # the last that fits counts


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"c*": 0.5}, r"--source-weights: nothing in .*photos is called c\*; there is a_1\.png"),
        ({"A_1*": 0.5}, r"is called A_1\*"),
        ({"a_*": -1.0}, r"not negative and not all zero, got {'a_1\.png': -1\.0, 'a_2\.png': -1\.0}"),
        ({"*": 0.0}, "not all zero"),
    ],
)
def test_weights_that_make_no_sense(data, weights, message) -> None:
    with pytest.raises(ValueError, match=message):
        crops("random", data=data, source_weights=weights)


def test_the_command_line_takes_pairs_of_pattern_and_weight() -> None:
    parsed = tyro.cli(Options, args=["--source-weights", "nature_*", "0.5", "old/*", "0", "--steps", "3"])
    assert parsed.source_weights == {"nature_*": 0.5, "old/*": 0.0}
    assert tyro.cli(Options, args=[]).source_weights == {}


def test_degraded_photographs_are_degraded_in_training_and_in_the_test_set(data) -> None:
    (data / "tiny.png").unlink()
    clean, damaged = (Options(crop=16, data=data, test=data, degrade=how) for how in ("bicubic", "photo"))
    (hr, lr), (same, noisy) = (options.crops(4)[0] for options in (clean, damaged))
    assert torch.equal(hr, same)
    assert 0 < (lr - noisy).abs().max() < 0.2
    pairs, again = damaged.test_pairs(4), damaged.test_pairs(4)
    for name, pair in clean.test_pairs(4).items():
        assert torch.equal(pair.hr, pairs[name].hr)
        assert torch.equal(pairs[name].lr, again[name].lr)
        assert not torch.equal(pair.lr, pairs[name].lr)


def test_lr_files_of_a_test_set_are_scored_on_as_they_are(tmp_path) -> None:
    for folder, side, grey in (("HR", 64, 90), ("LR_bicubic/X4", 16, 77)):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(np.full((side, side, 3), grey, dtype=np.uint8)).save(tmp_path / folder / "a.png")
    (pair,) = Options(test=tmp_path, degrade="photo").test_pairs(4).values()
    assert pair.lr.unique().tolist() == [77]
    (tmp_path / "LR_bicubic").rename(tmp_path / "away")
    (made,) = Options(test=tmp_path / "HR", degrade="photo").test_pairs(4).values()
    assert len(made.lr.unique()) > 1  # JPEG's blocks


def test_a_schedule_that_restarts_never_is_told(tmp_path) -> None:
    for every in (0, -5):
        with pytest.raises(ValueError, match=f"--restart-every {every}: at least 1"):
            Options(out=tmp_path / "out", restart_every=every).folder()


def test_degrading_what_is_given_or_what_a_model_makes_is_refused(data) -> None:
    with pytest.raises(ValueError, match="--degrade photo makes LR images of HR ones, and --paired reads them"):
        Options(crop=16, data=data, paired=True, degrade="photo").crops(4)
    with pytest.raises(ValueError, match="--degrade photo: a rescaling model makes its own LR images"):
        Options(crop=16, data=data, degrade="photo").aligned_crops(4, rounded=True)


def test_crops_are_of_smaller_photographs_as_told(tmp_path) -> None:
    ramp = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    Image.fromarray(np.stack([ramp] * 3, 2)).save(tmp_path / "a.png")
    slopes = {}
    for smallest in (1.0, 0.5):
        made = Options(crop=16, data=tmp_path, smallest=smallest).crops(4)
        slopes[smallest] = max(float(made[i][0][0].max() - made[i][0][0].min()) * 255 for i in range(50))
    assert slopes[1.0] == pytest.approx(30)
    assert slopes[0.5] > 50


def test_making_smaller_what_is_given_or_what_has_its_own_scales_is_refused(data) -> None:
    options = Options(crop=16, data=data, smallest=0.5)
    with pytest.raises(
        ValueError, match=r"--smallest 0\.5 makes new HR images, and --paired reads LR from files: add --smallest 1$"
    ):
        dataclasses.replace(options, paired=True).crops(4)
    with pytest.raises(ValueError, match=r"--smallest 0\.5: for super-resolution alone"):
        options.aligned_crops(4, rounded=True)
    with pytest.raises(ValueError, match="LR images of all factors are made here"):
        options.any_scale_crops(4)
    with pytest.raises(ValueError, match="smallest is a factor above 0 and at most 1, got 2"):
        dataclasses.replace(options, smallest=2).crops(4)
