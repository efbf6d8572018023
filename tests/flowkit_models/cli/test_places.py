"""Files, folders and globs; where results go; what is never written over."""

import contextlib
import errno
import os
import resource
import stat
from pathlib import Path

import numpy as np
import pytest
from command_files import noise, opened, save, tree

import flowkit_models
from flowkit_models.cli.errors import UsageError
from flowkit_models.cli.paths import find_inputs


def test_a_folder_is_mirrored(tmp_path, upscale):
    for name in ("in/a.png", "in/b/c.jpg", "in/b/d/e.webp", "in/b/note.txt", "in/.hidden.png"):
        save(tmp_path / name, format=None if name[-3:] != "txt" else "PNG")
    ran = upscale(tmp_path / "in", "-o", tmp_path / "out")
    assert (ran.code, ran.err) == (0, [])
    assert ran.out[0].startswith("3 done, 0 skipped, 0 failed")
    assert tree(tmp_path / "out") == ["a_x4.png", "b", "b/c_x4.jpg", "b/d", "b/d/e_x4.webp"]


def test_pictures_of_other_formats_are_left_out_and_said(tmp_path, upscale):
    for name in ("a.png", "b.apng", "c.JIF"):
        save(tmp_path / "in" / name, format="JPEG" if name == "c.JIF" else "PNG")
    for name in ("deep/x.CR2", "y.psd"):
        save(tmp_path / "in" / name, format="PNG")
    ran = upscale(tmp_path / "in", "-o", tmp_path / "out")
    assert (ran.code, tree(tmp_path / "out")) == (0, ["a_x4.png", "b_x4.png", "c_x4.jpg"])
    assert ran.err == [f"left out: {tmp_path}/in/deep/x.CR2 and 1 more, of formats that are not read (.cr2, .psd)"]
    assert upscale(tmp_path / "in/y.psd", "-o", tmp_path / "out").code == 0  # named by hand, its content counts


def test_results_that_exist_are_skipped_in_a_folder(tmp_path, upscale):
    save(tmp_path / "a.png")
    assert upscale(tmp_path).code == 0
    before = (tmp_path / "a_x4.png").read_bytes()
    save(tmp_path / "b.png")
    ran = upscale(tmp_path, "--seed", 1)
    assert ran.code == 0
    assert ran.out[0].startswith("1 done, 1 skipped (results that exist; --overwrite replaces them), 0 failed")
    assert ran.err == [f"left out: {tmp_path}/a_x4.png, the result of an earlier run"]
    assert (tmp_path / "a_x4.png").read_bytes() == before
    again = upscale(tmp_path)  # its own results are no inputs
    assert again.out[0].startswith("0 done, 2 skipped")
    assert again.err == [f"left out: {tmp_path}/a_x4.png, 2 results of an earlier run"]
    assert tree(tmp_path) == ["a.png", "a_x4.png", "b.png", "b_x4.png"]
    assert upscale(tmp_path, "--overwrite", "--seed", 1).out[0].startswith("2 done, 0 skipped")
    assert (tmp_path / "a_x4.png").read_bytes() != before


def test_a_single_result_that_exists_is_an_error(tmp_path, upscale):
    path = save(tmp_path / "a.png")
    assert upscale(path).code == 0
    ran = upscale(path)
    assert ran.code == 1
    assert ran.err == [f"{path}: {tmp_path}/a_x4.png exists: --overwrite replaces it, -o or --suffix names another"]
    assert upscale(path, "--overwrite").code == 0


def test_some_of_the_draws_exist(tmp_path, upscale):
    path = save(tmp_path / "in" / "a.png")
    assert upscale(path, "-o", tmp_path / "in" / "a_x4_2.png").code == 0
    before = (tmp_path / "in" / "a_x4_2.png").read_bytes()
    ran = upscale(tmp_path / "in", "--draws", 3)
    assert ran.code == 1
    assert "a_x4_2.png exists" in ran.err[-1]
    assert (tmp_path / "in" / "a_x4_2.png").read_bytes() == before
    assert len(tree(tmp_path / "in")) == 2


def test_globs(tmp_path, upscale):
    for name in ("a.png", "b.png", "c.jpg", "d/e.png"):
        save(tmp_path / name)
    assert upscale(f"{tmp_path}/*.png", "-o", tmp_path / "out").code == 0
    assert tree(tmp_path / "out") == ["a_x4.png", "b_x4.png"]
    assert upscale(f"{tmp_path}/**/e.png").code == 0
    assert (tmp_path / "d" / "e_x4.png").exists()
    ran = upscale(f"{tmp_path}/*.tif")
    assert ran.code == 1
    assert ran.err == [f"flowkit: {tmp_path}/*.tif: fits no file"]


def test_results_below_the_inputs_are_no_inputs(tmp_path, upscale, monkeypatch):
    save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    for done in ("1 done, 0 skipped", "0 done, 1 skipped"):
        assert upscale(".", "-o", tmp_path / "out").out[0].startswith(done)
    assert tree(tmp_path) == ["a.png", "out", "out/a_x4.png"]


def test_several_inputs_both_ways(tmp_path, upscale):
    a, b, c = (save(tmp_path / f"{name}.png") for name in "abc")
    assert upscale(a, b, "-o", f"{tmp_path}/out/", "-i", c, a).out[0].startswith("3 done")
    assert tree(tmp_path / "out") == ["a_x4.png", "b_x4.png", "c_x4.png"]
    assert upscale(a, b, "-o", tmp_path / "one.png").code == 2


def test_two_inputs_with_one_result(tmp_path, upscale):
    save(tmp_path / "a.png", noise(seed=1))
    save(tmp_path / "a.jpg")
    ran = upscale(tmp_path, "--format", "png")
    assert ran.code == 1
    taken = f"{tmp_path}/a_x4.png is already the result of another input, {tmp_path}/a.jpg: choose another -o"
    assert ran.err == [f"{tmp_path}/a.png: {taken}"]


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_the_input_is_never_written_over(overwrite, tmp_path, upscale):
    path = save(tmp_path / "a.png")
    content = path.read_bytes()
    (tmp_path / "link.png").symlink_to(path)
    os.link(path, tmp_path / "hard.png")
    for target in ("a.png", "link.png", "hard.png"):
        ran = upscale(path, "-o", tmp_path / target, *overwrite)
        assert ran.code == 1
        assert ran.err == [f"{path}: {tmp_path}/{target} is the input itself: choose another -o or --suffix"]
    assert upscale(path, "--suffix", "", *overwrite).code == 1
    assert path.read_bytes() == content
    assert tree(tmp_path) == ["a.png", "hard.png", "link.png"]


TARGETS = {
    "missing/x.png": "there is no folder {0}/missing",
    "folder.png": "cannot be",
    "x.bmp": "{0}/x.bmp: pictures are written as .jpg,",
    "x.gif": "{0}/x.gif: pictures are written as .jpg,",
    "a.png/x.png": "{0}/a.png is not a folder",
    "n" * 300 + ".png": "File name too long",
}


@pytest.mark.parametrize("target", TARGETS)
def test_places_where_nothing_can_be(target, tmp_path, upscale):
    path = save(tmp_path / "a.png")
    if target == "folder.png":
        (tmp_path / "out" / "a_x4.png").mkdir(parents=True)
        ran = upscale(path, "-o", tmp_path / "out")
        assert f"{tmp_path}/out/a_x4.png is a folder: name a file" in ran.err[0]
    else:
        ran = upscale(path, "-o", tmp_path / target)
        assert TARGETS[target].format(tmp_path) in ran.err[0]
    assert ran.code == 1
    assert len(ran.err) == 1
    assert ran.err[0].startswith(f"{path}: ")
    assert set(tree(tmp_path)) <= {"a.png", "out", "out/a_x4.png"}


@pytest.mark.parametrize("place", ["file", "folder"])
def test_write_protected_places(place, tmp_path, upscale, monkeypatch):
    path = save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "a_x4.png"
    target.write_bytes(b"precious")
    closed = target if place == "file" else target.parent
    closed.chmod(closed.stat().st_mode & ~0o222)
    # root may write anyway: the modes are read as anyone else's would be
    monkeypatch.setattr(os, "access", lambda p, mode: mode != os.W_OK or bool(Path(p).stat().st_mode & stat.S_IWUSR))
    ran = upscale(path, "-o", tmp_path / "out", "--overwrite")
    assert (ran.code, ran.err) == (1, [f"{path}: {closed} is write-protected"])
    assert target.read_bytes() == b"precious"


@contextlib.contextmanager
def files_up_to(size):
    """No file may grow beyond some bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def full_disk():
    """No file may grow beyond 20 kB."""
    with files_up_to(20_000):
        yield


@pytest.mark.parametrize("end", ["png", "jpg", "webp", "tif"])
def test_no_space_left(end, tmp_path, upscale, full_disk):
    del full_disk
    folder = tmp_path / "in"
    path = save(folder / f"large.{end}", noise(60, 60), quality=60)
    save(folder / f"small.{end}", noise(6, 6), quality=60)
    ran = upscale("--quality", 100, path)
    assert ran.code == 1
    assert len(ran.err) == 1
    assert f"large_x4.{end}: cannot be written" in ran.err[0]
    assert os.strerror(errno.EFBIG) in ran.err[0]
    assert tree(folder) == [f"large.{end}", f"small.{end}"]
    ran = upscale("--quality", 100, folder)
    assert ran.out[0].startswith("1 done, 0 skipped, 1 failed")
    assert tree(folder) == [f"large.{end}", f"small.{end}", f"small_x4.{end}"]


@pytest.mark.parametrize("size", [8_000, 300])  # the latents have no space, or the small picture has none either
def test_both_files_of_encode_are_new_or_both_are_old(size, tmp_path, flowkit, checkpoint):
    model, path = checkpoint("irn_x4"), save(tmp_path / "x.png", noise(40, 40))
    with files_up_to(size):
        assert flowkit("encode", "-m", model, path).code == 1
    assert tree(tmp_path) == ["x.png"]
    save(path, noise(12, 12))
    assert flowkit("encode", "-m", model, path).code == 0
    before = {name: (tmp_path / name).read_bytes() for name in ("x_lr.png", "x_lr.safetensors")}
    save(path, noise(40, 40))
    with files_up_to(size):
        ran = flowkit("encode", "-m", model, path, "--overwrite")
    assert (ran.code, len(ran.err)) == (1, 1)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert tree(tmp_path) == ["x.png", *before]


def test_a_small_picture_that_fails_leaves_both_old_files(tmp_path, flowkit, checkpoint, monkeypatch):
    model, path = checkpoint("irn_x4"), save(tmp_path / "x.png", noise(12, 12))
    assert flowkit("encode", "-m", model, path).code == 0
    before = {name: (tmp_path / name).read_bytes() for name in ("x_lr.png", "x_lr.safetensors")}
    save(path, noise(40, 40))

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("flowkit_models.cli.batch.write_photo", fail)
    assert flowkit("encode", "-m", model, path, "--overwrite").code == 1
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert tree(tmp_path) == ["x.png", *before]


def test_a_pipe_is_no_picture(tmp_path, flowkit):
    os.mkfifo(tmp_path / "p.png")
    for line in (["upscale", tmp_path / "p.png"], ["restore", tmp_path / "p.png"], ["upscale", tmp_path]):
        ran = flowkit(*line, "-o", tmp_path / "out")
        assert ran.code == 1
        assert "not a regular file, but a device, pipe or socket" in ran.err[0]


def test_the_old_result_stays_when_the_new_one_fails(tmp_path, upscale, full_disk):
    del full_disk
    path = save(tmp_path / "large.png", noise(60, 60, 1))
    (tmp_path / "large_x4.png").write_bytes(b"precious")
    assert upscale(path, "--overwrite").code == 1
    assert (tmp_path / "large_x4.png").read_bytes() == b"precious"
    assert len(tree(tmp_path)) == 2


def test_stopped_while_writing(tmp_path, upscale, monkeypatch):
    path = save(tmp_path / "a.png")

    def stop(_):
        assert len(tree(tmp_path)) == 2  # the unfinished file
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    ran = upscale(path)
    assert (ran.code, ran.err) == (130, ["flowkit: stopped; nothing is half-written"])
    assert tree(tmp_path) == ["a.png"]


def test_an_empty_folder(tmp_path, upscale):
    ran = upscale(tmp_path)
    assert ran.code == 1
    assert len(ran.err) == 1
    assert f"{tmp_path}: no files in it that end in .apng" in ran.err[0]


def test_stems_with_dots_and_formats(tmp_path, upscale):
    path = save(tmp_path / "a.b.c.png")
    assert upscale(path, "--format", "webp", "--suffix", ".big").code == 0
    assert (tmp_path / "a.b.c.big.webp").exists()
    assert upscale(path, "-o", tmp_path / "z.JPG").code == 0
    assert upscale(path, "-o", tmp_path / "z.png", "--draws", 2).code == 0
    assert tree(tmp_path) == ["a.b.c.big.webp", "a.b.c.png", "z.JPG", "z_1.png", "z_2.png"]
    assert not np.array_equal(opened(tmp_path / "z_1.png"), opened(tmp_path / "z_2.png"))


def test_inputs_are_needed():
    with pytest.raises(UsageError, match="name pictures"):
        find_inputs((), "", ())


def test_names_say_the_scale(tmp_path, flowkit):
    sizes = {"scale": 2, "blocks": (1,), "growth": 2}
    flowkit_models.create("irn_x2", **sizes).save(tmp_path / "m.safetensors")
    assert flowkit("upscale", "-m", tmp_path / "m.safetensors", save(tmp_path / "x.png"), "--temperature", 0).code == 0
    assert opened(tmp_path / "x_x2.png").shape == (24, 20, 3)
