"""Nothing is lost: no input and no stranger's file is written over, by whatever route a result gets its name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_files import noise, opened, save, tree
from PIL import Image

from flowkit_models.cli import paths
from flowkit_models.images import photo_file


def contents(folder) -> dict[str, bytes]:
    return {path: (folder / path).read_bytes() for path in tree(folder) if (folder / path).is_file()}


ROUTES = {
    "another format": (["a.jpg", "a.png"], ["{0}", "--suffix", "", "--format", "png"]),
    "the same format": (["a.jpg", "a.png"], ["{0}", "--suffix", ""]),
    "by hand": (["a.png", "a_x4.png"], ["{0}/a.png", "{0}/a_x4.png"]),
    "by hand and in a folder": (["a.png", "a_x4.png"], ["{0}", "-i", "{0}/a_x4.png"]),
    "in a folder": (["a.png", "a_x4.png"], ["{0}"]),
    "by a glob": (["a.png", "a_x4.png"], ["{0}/*.png"]),
    "draws": (["a.png", "a_x4_2.png"], ["{0}", "--draws", "2"]),
    "-o": (["a.png", "out/b_x4.png", "b.png"], ["{0}", "-o", "{0}/out"]),
    "-o, the folder itself": (["a.png", "b/a.png"], ["{0}/a.png", "{0}/b/a.png", "-o", "{0}/b", "--suffix", ""]),
    "a suffix as the stem": (["a.png", "ab.png"], ["{0}", "--suffix", "b"]),
}


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["", "overwrite"])
@pytest.mark.parametrize("route", ROUTES)
def test_an_input_is_never_a_result(route, overwrite, tmp_path, upscale, monkeypatch):
    names, arguments = ROUTES[route]
    for seed, name in enumerate(names):
        save(tmp_path / name, noise(seed=seed))
    before = contents(tmp_path)
    ran = upscale(*(argument.format(tmp_path) for argument in arguments), *overwrite)
    assert ran.code == 1
    assert any("itself: choose another" in line for line in ran.err), ran.err
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    for name in names:  # each input was done, or named
        stem = Path(name).stem
        made = [new for new in after if new not in before and Path(new).name.startswith(stem)]
        assert made or any(line.startswith(f"{tmp_path}/{name}: ") for line in ran.err), name


@pytest.mark.parametrize("command", ["downscale", "encode"])
def test_lr_names(command, tmp_path, flowkit, checkpoint):
    for name in ("a.png", "a_lr.png"):
        save(tmp_path / name)
    before = contents(tmp_path)
    for arguments in ([tmp_path], [tmp_path / "a.png", tmp_path / "a_lr.png"]):
        ran = flowkit(command, "-m", checkpoint("hcflow_rescale_x4"), *arguments, "--overwrite")
        assert ran.code == 1
        assert ran.err[-1] == f"{tmp_path}/a.png: {tmp_path}/a_lr.png is an input itself: choose another --suffix or -o"
        assert {name: contents(tmp_path)[name] for name in before} == before


def test_links_to_an_input(tmp_path, upscale):
    path, other = save(tmp_path / "in" / "a.png"), save(tmp_path / "in" / "b.png")
    os.link(other, tmp_path / "hard.png")
    (tmp_path / "soft.png").symlink_to(other)
    (tmp_path / "folder").symlink_to(tmp_path / "in")
    before = contents(tmp_path)
    for name in ("hard", "soft"):
        shutil.copy(path, tmp_path / f"{name}.jpg")
        ran = upscale(other, tmp_path / f"{name}.jpg", "--suffix", "", "--format", "png", "--overwrite")
        assert f"{tmp_path}/{name}.png is an input itself: choose another --suffix or -o" in ran.err[1]
        (tmp_path / f"{name}.jpg").unlink()
    shutil.copy(path, tmp_path / "b.jpg")
    through = [tmp_path / "b.jpg", other, "-o", f"{tmp_path}/folder/", "--suffix", "", "--format", "png", "--overwrite"]
    assert all("itself" in line for line in upscale(*through).err)
    (tmp_path / "b.jpg").unlink()
    assert contents(tmp_path) == before


def test_a_file_system_that_ignores_case(tmp_path, upscale, monkeypatch):
    save(tmp_path / "a.png")
    save(tmp_path / "A.png")
    assert not paths._ignores_case(str(tmp_path))
    monkeypatch.setattr(paths, "_ignores_case", lambda folder: True)
    ran = upscale(tmp_path)
    assert ran.err == [
        f"{tmp_path}/a.png: {tmp_path}/a_x4.png is already the result of another input, {tmp_path}/A.png: "
        "choose another -o"
    ]


def test_everything_is_planned_before_anything_is_done(tmp_path, upscale, monkeypatch):
    for name in ("a.png", "z.jpg", "z.png"):
        save(tmp_path / name)
    seen = []
    monkeypatch.setattr("flowkit_models.cli.batch.Batch.fail", lambda *_: seen.append("failed"))
    read = photo_file.read_photo
    monkeypatch.setattr("flowkit_models.cli.batch.read_photo", lambda path: seen.append("read") or read(path))
    upscale(tmp_path, "--suffix", "", "--format", "png", "-o", tmp_path)
    assert seen == ["failed", "failed", "failed"]
    seen.clear()
    upscale(tmp_path, "--format", "png")
    assert seen == ["failed", "read", "read"]


def test_a_file_that_flowkit_did_not_make_is_never_replaced(tmp_path, upscale):
    path = save(tmp_path / "a.png")
    for target in (save(tmp_path / "a_x4.png"), save(tmp_path / "other.webp"), save(tmp_path / "junk.png")):
        if target.name == "junk.png":
            target.write_bytes(b"precious")
        before = target.read_bytes()
        ran = upscale(path, "-o", target, "--overwrite")
        assert ran.code == 1
        assert ran.err == [f"{path}: {target} was not made by flowkit: remove it, or choose another --suffix or -o"]
        assert target.read_bytes() == before
    (tmp_path / "empty.png").touch()  # as mktemp makes it
    assert upscale(path, "-o", tmp_path / "empty.png", "--overwrite").code == 0


@pytest.mark.parametrize("end", ["png", "jpg", "jfif", "webp", "tif"])
def test_what_flowkit_made_is_replaced(end, tmp_path, upscale):
    path = save(tmp_path / "a.png", noise(), exif=b"")
    assert upscale(path, "--format", "png", "-o", tmp_path / f"y.{end}").code == 0
    assert upscale(path, "-o", tmp_path / f"y.{end}", "--overwrite").code == 0
    result = tmp_path / f"y.{end}"
    if end == "png":
        with Image.open(result) as image:
            assert image.text == {}  # nobody's texts are added to
    assert upscale(result, "-o", tmp_path / "z.png").code == 0  # and is a picture like any other
    assert opened(tmp_path / "z.png").shape == (192, 160, 3)


def test_the_summary_says_where_the_results_are(tmp_path, upscale, monkeypatch):
    save(tmp_path / "a.png")
    save(tmp_path / "b" / "c.png")
    monkeypatch.chdir(tmp_path)
    assert upscale(tmp_path, "-o", "out", "--draws", 2).out[-1].endswith("s: 4 files in out")
    assert upscale("a.png").out[0].endswith(" s: a_x4.png")
    assert upscale("b/c.png", "a.png", "--suffix", "_y").out[-1].endswith("s: 2 files in .")


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path, checkpoint, upscale):
    path = save(tmp_path / "a.png")
    code = (
        "import os, signal, sys; from flowkit_models.cli import main;"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL); main(sys.argv[1:])"
    )
    killed = subprocess.run([sys.executable, "-c", code, "upscale", "-m", checkpoint(), path], check=False)
    assert killed.returncode == -9
    assert [name[:9] for name in tree(tmp_path)] == [".flowkit-", "a.png"]
    assert upscale(path).code == 0
    assert tree(tmp_path) == ["a.png", "a_x4.png"]
