"""Prepared folders remember settings and sources: nothing of two kinds is ever mixed in one."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowkit_models.cli import main
from flowkit_models.data.prepare import SubImages, open_notes
from flowkit_models.images.image_file import ImageError, read_image


def save(path, height=80, width=72, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def prepare(capsys, monkeypatch, tmp_path):
    """Runs the command in a folder with three HR images; returns the code and what it says."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("abc"):
        save(Path(f"set/HR/{name}.png"), seed=seed)

    def run(line):
        capsys.readouterr()
        code = main(["prepare", *line.split()])
        return code, "".join(capsys.readouterr())

    return run


def sides():
    return {read_image(file).shape[-1] for file in Path("sub").glob("*.png")}


def contents(folder):
    return {p.name: p.read_bytes() for p in Path(folder).rglob("*.png")}


SUB, LR = "sub-images set/HR --out sub --size 32 --count 3", "lr set"
LOW = "set/LR_bicubic/X4"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--size 64 --count 3", "size 32, not size 64"),
        ("--size 32 --count 5", "count 3, not count 5"),
        ("--size 32 --count 2", "count 3, not count 2"),
        ("--size 32 --count 3 --seed 1", "seed 0, not seed 1"),
        ("--size 32 --mode grid", "count 3, seed 0, not count None, step 80"),
    ],
)
def test_other_settings_of_sub_images_are_named_or_redone(prepare, options, named):
    assert prepare(SUB)[0] == 0
    before = contents("sub")
    code, said = prepare(f"sub-images set/HR --out sub {options}")
    assert (code, said.count("\n")) == (1, 1)
    assert named in said
    assert "--overwrite" in said
    assert contents("sub") == before
    assert prepare(f"sub-images set/HR --out sub {options} --overwrite")[0] == 0
    redone = contents("sub")
    assert prepare(f"sub-images set/HR --out fresh {options}")[0] == 0
    assert redone == contents("fresh")
    assert "0 files written" in prepare(f"sub-images set/HR --out sub {options}")[1]


@pytest.mark.parametrize(("options", "named"), [("--edges clamp", "edges"), ("--ties up", "ties")])
def test_other_settings_of_lr_files(prepare, options, named):
    assert prepare(LR)[0] == 0
    code, said = prepare(f"{LR} {options}")
    assert code == 1
    assert f"{LOW}: was prepared with {named}" in said
    assert prepare(f"{LR} {options} --overwrite")[0] == 0
    assert prepare("lr set/HR --out fresh " + options)[0] == 0
    assert contents(LOW) == contents("fresh")


def test_lr_files_of_two_scales_in_one_folder(prepare):
    assert prepare("lr set/HR --out low --scale 2")[0] == 0
    assert "scale 2, not scale 4" in prepare("lr set/HR --out low --scale 4")[1]
    assert prepare("lr set/HR --out low --scale 4 --overwrite")[0] == 0
    assert sorted(contents("low")) == ["ax4.png", "bx4.png", "cx4.png"]


def test_faces_of_other_settings(prepare):
    for number in (1, 182638):
        save(Path(f"celeba/{number:06d}.png"), 218, 178, number)
    line = "celeba celeba --out faces"
    assert prepare(line)[0] == 0
    code, said = prepare(f"{line} --face-factor 0.65")
    assert code == 1
    assert "face_factor 0.6, not face_factor 0.65" in said
    assert prepare(f"{line} --scale 4 --size 160 --overwrite")[0] == 0
    assert {p.parent.name for p in Path("faces").rglob("*x?.png")} == {"X4"}
    assert prepare(f"{line} --scale 4 --parts train")[0] == 0


@pytest.mark.parametrize("line", [SUB, LR])
@pytest.mark.parametrize("same_size", [True, False])
def test_an_exchanged_image_is_named_or_redone(prepare, line, same_size):
    assert prepare(line)[0] == 0
    save(Path("set/HR/b.png"), 80 if same_size else 96, 72, seed=9)
    code, said = prepare(line)
    assert code == 1
    assert "made of another b.png than is there now" in said
    assert prepare(f"{line} --overwrite")[0] == 0
    assert prepare(f"{line} --out fresh" if line == LR.replace("set", "set/HR") else line)[0] == 0
    assert "0 files written" in prepare(line)[1]


@pytest.mark.parametrize("line", [SUB, LR])
def test_an_image_that_is_gone_is_named_or_its_files_removed(prepare, line):
    assert prepare(line)[0] == 0
    Path("set/HR/b.png").unlink()
    code, said = prepare(line)
    assert code == 1
    assert "holds what was made of b.png, no source any more" in said
    assert prepare(f"{line} --overwrite")[0] == 0
    assert not [p for p in (*Path("sub").glob("*.png"), *Path(LOW).glob("*.png")) if p.name.startswith("b")]


@pytest.mark.parametrize("line", [SUB, LR])
def test_a_new_image_is_done_beside_the_others(prepare, line):
    assert prepare(line)[0] == 0
    save(Path("set/HR/d.png"), seed=4)
    code, said = prepare(line)
    assert code == 0
    assert "d.png" in said
    assert ("3 files written" if line == SUB else "1 files written") in said


@pytest.mark.parametrize("line", [SUB, LR])
def test_a_copied_or_touched_image_is_the_same(prepare, line):
    assert prepare(line)[0] == 0
    os.utime("set/HR/a.png", (time.time() + 99,) * 2)
    assert "0 files written" in prepare(line)[1]


def test_a_damaged_image_may_be_mended(prepare):
    whole = Path("set/HR/b.png").read_bytes()
    Path("set/HR/b.png").write_bytes(whole[:300])
    assert "1 images skipped" in prepare(SUB)[1]
    Path("set/HR/b.png").write_bytes(whole)
    code, said = prepare(SUB)
    assert code == 0
    assert "3 files written, 6 were there" in said


@pytest.mark.parametrize("line", ["lr set/HR --out set/HR", "lr set/HR --out linked"])
def test_the_folder_of_the_sources_is_no_place_for_results(prepare, line):
    Path("linked").symlink_to("set/HR")
    before = contents("set")
    for overwrite in ("", " --overwrite"):
        code, said = prepare(line + overwrite)
        assert (code, said.count("\n")) == (1, 1)
        assert "holds the images to prepare: name another --out" in said
        assert contents("set") == before
    assert not Path("set/HR/prepared.json").exists()


def test_sources_are_never_removed(tmp_path):
    source = save(tmp_path / "a_001.png")
    make = SubImages(tmp_path, tmp_path, 16, 1)
    with pytest.raises(ImageError, match=r"holds a_001\.png, which is to be prepared: name another --out"):
        open_notes([(make, source), (make, save(tmp_path / "a.png"))], overwrite=True)
    assert source.is_file()


def test_a_file_of_the_users_among_lr_files_stays(prepare):
    own = save(Path("mine/a.png"), seed=7).read_bytes()
    assert prepare("lr set/HR --out mine --scale 4 --overwrite")[0] == 0
    assert Path("mine/a.png").read_bytes() == own
    assert Path("mine/ax4.png").is_file()


@pytest.mark.parametrize("line", [SUB, LR])
def test_a_folder_without_a_note(prepare, line):
    assert prepare(line)[0] == 0
    note = Path("sub/prepared.json" if line == SUB else f"{LOW}/prepared.json")
    before = contents("sub" if line == SUB else LOW)
    note.unlink()
    code, said = prepare(line)
    assert (code, said.count("\n")) == (1, 1)
    assert "no prepared.json that says how they were made" in said
    assert prepare(f"{line} --overwrite")[0] == 0
    assert contents("sub" if line == SUB else LOW) == before
    note.write_text("{")
    code, said = prepare(line)
    assert (code, said.count("\n")) == (1, 1)
    assert "prepared.json: cannot be read" in said


def test_the_note_names_settings_and_sources(prepare):
    assert prepare(SUB)[0] == 0
    note = json.loads(Path("sub/prepared.json").read_text())
    assert note["settings"] == {"kind": "SubImages", "size": 32, "count": 3, "seed": 0}
    assert {name: size for name, (size, _, _) in note["sources"].items()} == {
        f"{n}.png": Path(f"set/HR/{n}.png").stat().st_size for n in "abc"
    }
    assert all(len(digest) == 64 for _, _, digest in note["sources"].values())


def test_names_that_are_odd_or_too_long_cost_only_themselves(prepare):
    Path("set/HR/a.png").rename(os.fsdecode(b"set/HR/caf\xe9.png"))
    Path("set/HR/b.png").rename(Path("set/HR") / ("p" * 248 + ".png"))
    code, said = prepare(SUB)
    assert code == 0
    assert "6 files written, 0 were there, 1 images skipped" in said
    assert "its name is too long for those of its results" in said
    assert "6 were there" in prepare(SUB)[1]
