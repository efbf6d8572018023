"""`flowkit encode` and `decode`: every pixel comes back."""

import os
import shutil

import numpy as np
import pytest
import torch
from command_files import noise, opened, save, tree
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import flowkit_models
from flowkit_models.images import photo_file as pictures
from flowkit_models.models.checkpoint_file import read_about


def stored(path):
    picture = pictures.read_photo(path)
    return pictures.stored(picture.pixels, picture.alpha, picture.header)


@pytest.mark.parametrize("name", ["hcflow_sr_x4", "hcflow_rescale_x4", "srflow_x4", "irn_x4"])
def test_8_bits_come_back(name, tmp_path, flowkit, checkpoint):
    path = save(tmp_path / "x.jpg", noise(22, 19), quality=90)
    ran = flowkit("encode", "-m", checkpoint(name), path)
    assert (ran.code, ran.err) == (0, [])
    assert tree(tmp_path) == ["x.jpg", "x_lr.png", "x_lr.safetensors"]
    assert opened(tmp_path / "x_lr.png").shape == (6, 5, 3)
    wanted = stored(path)
    path.unlink()
    (tmp_path / "x_lr.png").unlink()  # nothing but the latents' file is needed
    assert flowkit("decode", "-m", checkpoint(name), tmp_path / "x_lr.safetensors").code == 0
    assert np.array_equal(stored(tmp_path / "x_lr_decoded.png"), wanted)


def test_a_model_of_64_bits(tmp_path, flowkit, checkpoint):
    flowkit_models.load(checkpoint()).double().save(tmp_path / "wide.safetensors")
    path = save(tmp_path / "x.png", noise(16, 12, 1, dtype=np.uint16))
    assert flowkit("encode", "-m", tmp_path / "wide.safetensors", path).code == 0
    assert flowkit("decode", "-m", tmp_path / "wide.safetensors", tmp_path / "x_lr.safetensors").code == 0
    assert np.array_equal(stored(tmp_path / "x_lr_decoded.png"), stored(path))


@pytest.mark.parametrize("kind", ["rgba16", "gray", "gray_alpha", "gray16"])
def test_other_kinds_come_back(kind, tmp_path, flowkit, checkpoint):
    gray, alpha, bits = "gray" in kind, "a" in kind.replace("gray", ""), 16 if "16" in kind else 8
    header = pictures.Header(gray=gray, alpha=alpha, bits=bits)
    array = noise(9, 11, 4, dtype=header.dtype)[..., : header.channels]
    pictures.write_photo(tmp_path / "x.png", array, header)
    assert flowkit("encode", "-m", checkpoint(), tmp_path / "x.png").code == 0
    assert flowkit("decode", "-m", checkpoint(), tmp_path / "x_lr.safetensors").code == 0
    got = stored(tmp_path / "x_lr_decoded.png")
    assert got.dtype == array.dtype
    assert np.array_equal(got, array)


def test_metadata_comes_back(tmp_path, flowkit, checkpoint):
    tags = Image.Exif()
    tags[0x010F] = "Maker"
    path = save(tmp_path / "x.png", exif=tags, dpi=(300, 300))
    assert flowkit("encode", "-m", checkpoint(), path).code == 0
    assert flowkit("decode", "-m", checkpoint(), tmp_path / "x_lr.safetensors").code == 0
    with Image.open(tmp_path / "x_lr_decoded.png") as image:
        assert image.getexif()[0x010F] == "Maker"
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)


def test_folders(tmp_path, flowkit, checkpoint):
    for name in ("in/a.png", "in/b/c.png"):
        save(tmp_path / name)
    assert flowkit("encode", "-m", checkpoint(), tmp_path / "in", "-o", tmp_path / "codes").code == 0
    wanted = ["a_lr.png", "a_lr.safetensors", "b", "b/c_lr.png", "b/c_lr.safetensors"]
    assert tree(tmp_path / "codes") == wanted
    assert flowkit("decode", "-m", checkpoint(), tmp_path / "codes", "-o", tmp_path / "out", "--suffix", "").code == 0
    assert tree(tmp_path / "out") == ["a_lr.png", "b", "b/c_lr.png"]


def test_an_edited_small_picture(tmp_path, flowkit, checkpoint):
    path = save(tmp_path / "x.png", noise(24, 20))
    assert flowkit("encode", "-m", checkpoint("irn_x4"), path).code == 0
    small = opened(tmp_path / "x_lr.png").copy()
    small[:3] = 0
    save(tmp_path / "edited.png", small)
    code = tmp_path / "x_lr.safetensors"
    assert flowkit("decode", "-m", checkpoint("irn_x4"), code, "--lr", tmp_path / "edited.png").code == 0
    got = opened(tmp_path / "x_lr_decoded.png").astype(int)
    assert np.abs(got - noise(24, 20))[:8].mean() > 20
    ran = flowkit("decode", "-m", checkpoint("irn_x4"), code, "--lr", path, "--overwrite")
    assert ran.code == 1
    assert "--lr is 24 × 20, and 6 × 5 is what was encoded" in ran.err[0]


@pytest.mark.parametrize(("height", "width", "fits"), [(2, 2, False), (6, 4, False), (6, 6, False), (6, 5, True)])
def test_a_small_picture_of_another_size(height, width, fits, tmp_path, flowkit, checkpoint):
    assert flowkit("encode", "-m", checkpoint("irn_x4"), save(tmp_path / "x.png", noise(24, 18))).code == 0
    small = save(tmp_path / "small.png", noise(height, width))
    ran = flowkit("decode", "-m", checkpoint("irn_x4"), tmp_path / "x_lr.safetensors", "--lr", small)
    assert ran.code == (0 if fits else 1)
    assert (tmp_path / "x_lr_decoded.png").exists() is fits
    assert fits or f"--lr is {height} × {width}, and 6 × 5 is what was encoded" in ran.err[0]


def test_names_that_are_no_utf_8(tmp_path, flowkit, checkpoint):
    model = shutil.copy(checkpoint("irn_x4"), tmp_path / os.fsdecode(b"m\xe4.safetensors"))
    assert read_about(model) == read_about(checkpoint("irn_x4"))
    path = save(tmp_path / os.fsdecode(b"b\xe4.png"), noise(24, 20))
    assert flowkit("encode", "-m", model, path, "--suffix", "_e").code == 0
    ran = flowkit("decode", "-m", model, tmp_path / os.fsdecode(b"b\xe4_e.safetensors"))
    assert (ran.code, ran.err) == (0, [])
    assert np.array_equal(opened(tmp_path / os.fsdecode(b"b\xe4_e_decoded.png")), noise(24, 20))


def test_what_decode_refuses(tmp_path, flowkit, checkpoint):
    assert flowkit("encode", "-m", checkpoint(), save(tmp_path / "x.png")).code == 0
    whole = tmp_path / "x_lr.safetensors"
    with safe_open(whole, "pt") as file:
        about = file.metadata()
    parts = load_file(whole)
    cases = {
        "cut": whole.read_bytes()[:-9],
        "empty": b"",
        "text": b"not latents",
        "model": checkpoint().read_bytes(),
    }
    for name, content in cases.items():
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    without = {name: part for name, part in parts.items() if name != "lr"}
    save_file(without, tmp_path / "without.safetensors", about)
    save_file({**parts, "latent.0": torch.zeros(1, 3, 1, 1)}, tmp_path / "other.safetensors", about)
    save_file(parts, tmp_path / "about.safetensors", {**about, "header": "{}"})
    save_file(parts, tmp_path / "json.safetensors", {**about, "header": "{"})
    broken = [*cases, "without", "other", "about", "json"]
    before = tree(tmp_path)
    for name in broken:
        path = tmp_path / f"{name}.safetensors"
        ran = flowkit("decode", "-m", checkpoint(), path)
        assert ran.code == 1, name
        assert len(ran.err) == 1, ran.err
        assert ran.err[0].startswith(f"{path}: "), ran.err
    assert tree(tmp_path) == before
    ran = flowkit("decode", "-m", checkpoint(), tmp_path)
    assert ran.out[0].startswith(f"1 done, 0 skipped, {len(broken)} failed")

    ran = flowkit("decode", "-m", checkpoint("irn_x4"), whole, "--overwrite")
    assert ran.code == 1
    assert "another model encoded it" in ran.err[0]


def test_decode_names_the_packaged_model_of_a_file_that_another_made(tmp_path, flowkit):
    for name, scale in (("x", 4), ("y", 2)):
        assert flowkit("encode", save(tmp_path / f"{name}.png"), "--scale", scale).code == 0
    ran = flowkit("decode", tmp_path / "x_lr.safetensors", tmp_path / "y_lr.safetensors")  # two makers: neither chosen
    assert ran.err == [
        f"{tmp_path / 'y_lr.safetensors'}: another model encoded it than rescale_x4.safetensors: "
        "decode it with -m rescale_x2"
    ]
    ran = flowkit("decode", tmp_path / "x_lr.png", "-o", tmp_path / "z.png")
    assert ran.err == [f"{tmp_path / 'x_lr.png'}: not made by flowkit encode: name the .safetensors that it wrote"]


def test_formats_that_change_pixels_say_so(tmp_path, flowkit, checkpoint):
    assert flowkit("encode", "-m", checkpoint(), save(tmp_path / "x.png")).code == 0
    ran = flowkit("decode", "-m", checkpoint(), tmp_path / "x_lr.safetensors", "--format", "jpg")
    assert ran.code == 0
    assert len(ran.err) == 1
    assert "PNG and TIFF don't" in ran.err[0]


def test_both_files_or_none(tmp_path, flowkit, checkpoint, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flowkit_models.cli.latents_file.save", fail)
    path = save(tmp_path / "x.png")
    ran = flowkit("encode", "-m", checkpoint(), path)
    assert (ran.code, ran.err) == (1, [f"{path}: {tmp_path / 'x_lr.safetensors'}: No space left on device"])
    assert tree(tmp_path) == ["x.png"]
