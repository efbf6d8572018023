"""`flowkit prepare` on made-up trees: its three commands, what they skip, what they refuse, and its help."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowkit_models.cli import main
from flowkit_models.cli.prepare import celeba_plan
from flowkit_models.cli.prepare_options import CelebA
from flowkit_models.data.crops import RandomCrops
from flowkit_models.data.pairs import find_pairs, read_pair
from flowkit_models.images.image_file import read_image
from flowkit_models.images.resize import bicubic_resize

RECIPE = Path(__file__).parents[3] / "recipes" / "prepare.py"


def prepare(*arguments):
    """Runs the command; returns the exit code."""
    return main(["prepare", *map(str, arguments)])


def save(path, height=24, width=20, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return path


def tree(folder):
    return sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != "prepared.json"
    )


def test_sub_images_of_two_sets(tmp_path, capsys):
    for n in (1, 2):
        save(tmp_path / f"DIV2K_train_HR/000{n}.png", seed=n)
        save(tmp_path / f"Flickr2K_HR/part/00000{n}.png", seed=10 + n)
    save(tmp_path / "Flickr2K_HR/small.png", 15, 40)
    (tmp_path / "Flickr2K_HR/text.png").write_text("no image")
    folders = [str(tmp_path / name) for name in ("DIV2K_train_HR", "Flickr2K_HR")]
    command = ["sub-images", *folders, "--out", str(tmp_path / "sub"), "--size", "16"]
    assert prepare(*command) == 0
    said = capsys.readouterr().out
    assert "188 files written, 0 were there, 2 images skipped" in said
    assert "small.png: 15 × 40 is below 16 pixels" in said
    assert "text.png: not an image" in said
    names = ("0001", "0002", "part/000001", "part/000002")
    assert tree(tmp_path / "sub") == sorted(f"{name}_{k:03d}.png" for name in names for k in range(1, 48))
    sub = read_image(tmp_path / "sub/0001_047.png")
    places = read_image(tmp_path / "DIV2K_train_HR/0001.png").unfold(1, 16, 1).unfold(2, 16, 1).movedim(0, 2)
    assert (places == sub).flatten(2).all(2).sum() == 1
    assert len(RandomCrops(tmp_path / "sub", 16).names) == 188
    assert prepare(*command) == 0
    assert "0 files written, 188 were there, 2 images skipped" in capsys.readouterr().out


def test_sub_images_on_a_grid(tmp_path):
    save(tmp_path / "hr/a.png")
    command = ["sub-images", str(tmp_path / "hr"), "--out", str(tmp_path / "sub"), "--mode", "grid"]
    assert prepare(*command, "--size", "16", "--step", "3") == 0
    assert len(tree(tmp_path / "sub")) == 4 * 3
    corner = read_image(tmp_path / "hr/a.png")[:, -16:, -16:]
    assert torch.equal(read_image(tmp_path / "sub/a_012.png"), corner)


def test_celeba(tmp_path, capsys):
    numbers = (1, 162770, 162771, 182637, 182638, 182640, 182639, 202599)
    for number in numbers:
        save(tmp_path / f"img_align_celeba/{number:06d}.jpg", 218, 178, number)
    save(tmp_path / "img_align_celeba/202600.jpg", 218, 178)
    save(tmp_path / "img_align_celeba/list.png", 218, 178)
    (tmp_path / "img_align_celeba/000001.jpg").write_bytes(b"damaged")
    command = ["celeba", str(tmp_path / "img_align_celeba"), "--out", str(tmp_path / "faces"), "--test-images", "3"]
    assert prepare(*command) == 0
    said = capsys.readouterr().out
    assert "12 files written, 0 were there, 1 images skipped" in said
    assert "000001.jpg: not an image" in said
    wanted = {"train": ["162770"], "val": ["162771", "182637"], "test": ["182638", "182639", "182640"]}
    for part, names in wanted.items():
        pairs = find_pairs(tmp_path / "faces" / part, 8)
        assert [pair.name for pair in pairs] == names
        for pair in pairs:
            hr, lr = read_pair(pair, 8)
            assert (hr.shape, lr.shape) == ((3, 160, 160), (3, 20, 20))
            assert torch.equal(lr, bicubic_resize(hr, 1 / 8))
    face = read_image(tmp_path / "img_align_celeba/182638.jpg")[:, 20:198]
    assert torch.equal(read_image(tmp_path / "faces/test/HR/182638.png"), bicubic_resize(face, 160 / 178))
    assert prepare(*command, "--parts", "test") == 0
    assert "0 files written, 6 were there, 0 images skipped" in capsys.readouterr().out


@pytest.mark.parametrize(("first", "train"), [(162_761, 10), pytest.param(1, 162_770, marks=pytest.mark.slow)])
def test_the_test_part_has_5000_images(first, train, tmp_path, monkeypatch):
    some = [tmp_path / f"{n:06d}.jpg" for n in range(first, 202_600)]
    monkeypatch.setattr("flowkit_models.cli.prepare.list_images", lambda _: some)
    plan = celeba_plan(CelebA(folder=tmp_path, out=tmp_path.parent / "out"))
    sources = {part: [f.stem for make, f in plan if make.out.name == part] for part in ("train", "val", "test")}
    assert {part: len(names) for part, names in sources.items()} == {"train": train, "val": 19867, "test": 5000}
    assert (sources["test"][0], sources["test"][-1]) == ("182638", "187637")


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("HR/{n}.png", "LR_bicubic/X4/{n}x4.png"),
        ("GTmod12/{n}.png", "LRbicx4/{n}.png"),
        ("DIV2K_valid_HR/{n}.png", "DIV2K_valid_LR_bicubic/X4/{n}x4.png"),
    ],
)
@pytest.mark.parametrize("given", ["set", "hr"])
def test_lr_lands_where_pairs_are_looked_for(tmp_path, hr, lr, given):
    for seed, name in enumerate("ab"):
        save(tmp_path / hr.format(n=name), 24, 20, seed)
    folder = tmp_path if given == "set" else (tmp_path / hr).parent
    assert prepare("lr", str(folder)) == 0
    assert tree(tmp_path) == sorted(p.format(n=n) for p in (hr, lr) for n in "ab")
    for pair in find_pairs(tmp_path, 4):
        x, y = read_pair(pair, 4)
        assert torch.equal(y, bicubic_resize(x, 1 / 4))


def test_lr_options(tmp_path):
    save(tmp_path / "photos/a.png", 26, 21)
    out = str(tmp_path / "low")
    options = ["--scale", "3", "--edges", "clamp", "--ties", "up"]
    assert prepare("lr", str(tmp_path / "photos"), "--out", out, *options) == 0
    with pytest.warns(UserWarning, match="cropped from 26 × 21 to 24 × 21"):
        hr, lr = read_pair(find_pairs(tmp_path / "photos", 3, out)[0], 3)
    assert torch.equal(lr, bicubic_resize(hr, 1 / 3, "clamp", "up"))


def test_lr_of_a_set_with_several_hr_folders(tmp_path):
    for part in ("train", "valid"):
        save(tmp_path / f"DIV2K_{part}_HR/1.png")
    assert prepare("lr", str(tmp_path), "--scale", "2") == 0
    assert [name for name in tree(tmp_path) if "LR" in name] == [
        "DIV2K_train_LR_bicubic/X2/1x2.png",
        "DIV2K_valid_LR_bicubic/X2/1x2.png",
    ]


def test_lr_files_of_set5_are_made_again(shared, tmp_path):
    set5 = shared / "data/benchmarks/Set5"
    assert prepare("lr", str(set5 / "HR"), "--out", str(tmp_path), "--edges", "clamp", "--ties", "up") == 0
    for pair in find_pairs(set5, 4):
        assert torch.equal(read_image(tmp_path / pair.lr.name), read_image(pair.lr))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["sub-images", "{tmp}/nowhere", "--out", "{tmp}/o"], "nowhere: no such folder"),
        (["sub-images", "--out", "{tmp}/o"], "no folders of photographs"),
        (["sub-images", "{tmp}/hr", "--out", "{tmp}/hr/sub"], "lies in"),
        (["sub-images", "{tmp}/hr", "{tmp}/hr2", "--out", "{tmp}/o"], "have one name"),
        (["sub-images", "{tmp}/hr", "--out", "{tmp}/o", "--count", "0"], "at least 1"),
        (["sub-images", "{tmp}/hr", "--out", "{tmp}/hr2/a.jpg/o"], "cannot write in this folder"),
        (["sub-images", "{tmp}/hr", "--out", "{tmp}/o", "--size", "100"], "none of the images could be used"),
        (["sub-images", "{tmp}/hr", "--out", "{tmp}/o", "--workers", "0", "--size", "8"], "workers"),
        (["celeba", "{tmp}/hr", "--out", "{tmp}/o"], "no images named by CelebA's numbers"),
        (["celeba", "{tmp}/faces", "--out", "{tmp}/o"], "have one number"),
        (["celeba", "{tmp}/hr", "--out", "{tmp}/o", "--test-images", "0"], "got 0"),
        (["celeba", "{tmp}/faces/1", "--out", "{tmp}/o", "--scale", "7"], "multiple of scale 7"),
        (["celeba", "{tmp}/faces/1", "--out", "{tmp}/o"], "none of the images could be used"),
        (["lr", "{tmp}/nowhere"], "nowhere: no such folder"),
        (["lr", "{tmp}/hr"], "say --out for any other folder"),
        (["lr", "{tmp}/hr", "--out", "{tmp}/o", "--scale", "0"], "got 0"),
        (["lr", "{tmp}/faces", "--out", "{tmp}/o"], "no images directly in it"),
    ],
)
def test_what_is_refused_is_said_in_one_line(tmp_path, capsys, command, message):
    for name in ("hr/a.png", "hr2/a.jpg", "faces/1/000001.png", "faces/2/000001.jpg"):
        save(tmp_path / name)
    assert prepare(*(part.format(tmp=tmp_path) for part in command)) == 1
    said = capsys.readouterr().err
    assert said.startswith("flowkit: ")
    assert message in said
    assert said.count("\n") == 1


def test_interruption(tmp_path, capsys, monkeypatch):
    save(tmp_path / "hr/a.png")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("flowkit_models.cli.prepare.prepare_all", stop)
    assert prepare("lr", str(tmp_path / "hr"), "--out", str(tmp_path / "o")) == 130
    assert capsys.readouterr().err == "flowkit: stopped; nothing is half-written\n"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ([], ["sub-images", "celeba", "lr"]),
        (["sub-images"], ["--out", "--mode", "--size", "--count", "--step", "--seed", "--workers", "default: 47"]),
        (["celeba"], ["--out", "--parts", "--test-images", "--face-factor", "default: 5000", "182638"]),
        (["lr"], ["--scale", "--out", "--edges", "--ties", "LR_bicubic/X4"]),
    ],
)
def test_help(command, options):
    wide = {**os.environ, "COLUMNS": "200"}
    result = subprocess.run(
        [sys.executable, RECIPE, *command, "--help"], capture_output=True, text=True, check=True, env=wide
    )
    assert all(option in result.stdout for option in options)
