"""`flowkit upscale`, `restore` and `downscale`: draws, temperature, tiles, models, and the note of who made it."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from command_files import noise, opened, save, tree

import flowkit_models
from flowkit_models.data.sample_photos import test_photos
from flowkit_models.images import photo_file as pictures
from flowkit_models.images.provenance import made_by, signed
from flowkit_models.images.resize import bicubic_resize


def test_draws_seeds_and_temperatures(tmp_path, upscale):
    path = save(tmp_path / "x.png")

    def result(*options):
        assert upscale(path, "--overwrite", *options).code == 0
        return opened(tmp_path / "x_x4.png")

    plain = result()
    assert np.array_equal(plain, result())
    assert np.array_equal(plain, result("--seed", 0, "--temperature", 0.1))
    assert not np.array_equal(plain, result("--seed", 1))
    assert not np.array_equal(plain, result("--temperature", 0.2))
    assert np.array_equal(result("--temperature", 0), result("--temperature", 0, "--seed", 5))
    assert upscale(path, "--draws", 2).code == 0
    assert np.array_equal(opened(tmp_path / "x_x4_1.png"), plain)
    assert not np.array_equal(opened(tmp_path / "x_x4_2.png"), plain)


@pytest.mark.parametrize(("about", "tau"), [({}, 0.8), ({"temperature": "0.3"}, 0.3), ({"temperature": "warm"}, 0.8)])
def test_the_checkpoint_says_the_temperature(about, tau, tmp_path, flowkit, checkpoint):
    path = save(tmp_path / "x.png")
    assert flowkit("upscale", path, "-m", checkpoint(**about)).code == 0
    assert flowkit("upscale", path, "-m", checkpoint(), "--temperature", tau, "-o", tmp_path / "y.png").code == 0
    assert np.array_equal(opened(tmp_path / "x_x4.png"), opened(tmp_path / "y.png"))


def test_tiles_make_the_same_picture(tmp_path, upscale):
    pixels = np.asarray(bicubic_resize(torch.from_numpy(noise(16, 14)).movedim(-1, 0), 8).movedim(0, -1))
    path = save(tmp_path / "x.png", pixels)
    results = []
    for tile in (0, 96, 64):
        assert upscale(path, "--tile", tile, "-o", tmp_path / f"{tile}.png").code == 0
        results.append(opened(tmp_path / f"{tile}.png").astype(int))
    assert np.abs(results[0] - results[1]).max() <= 1
    assert np.abs(results[0] - results[2]).max() <= 1


@pytest.mark.parametrize("said", ["", "warning: slow"])
def test_bf16_is_close_and_told_to_be_slow_where_it_is(tmp_path, upscale, monkeypatch, said):
    monkeypatch.setattr("flowkit_models.cli.model.bf16_warning", lambda device: said)
    path = save(tmp_path / "x.png", noise() // 4 + 90)
    assert upscale(path, "--temperature", 0).err == []
    ran = upscale(path, "--temperature", 0, "--precision", "bf16", "-o", tmp_path / "y.png")
    assert (ran.code, ran.err) == (0, [said] if said else [])
    full, low = (opened(tmp_path / name).astype(int) for name in ("x_x4.png", "y.png"))
    assert np.abs(full - low).mean() < 4


def test_downscale_is_the_models(tmp_path, flowkit, checkpoint):
    pixels = noise(21, 18, 4)
    pixels[..., 3] |= 1  # not quite transparent, nowhere
    path = save(tmp_path / "x.jpg", pixels, format="PNG")
    ran = flowkit("downscale", "-m", checkpoint("irn_x4"), path)
    assert (ran.code, ran.err) == (0, [])
    got = opened(tmp_path / "x_lr.png")
    hr = torch.from_numpy(pixels).movedim(-1, 0).float() / 255
    model = flowkit_models.load(checkpoint("irn_x4"))
    assert np.array_equal(got[..., :3], (model.downscale(hr[None, :3])[0] * 255).round().movedim(0, -1).int().detach())
    assert np.abs(got[..., 3] - bicubic_resize(hr[3], 0.25).clamp(0, 1).numpy() * 255).max() <= 0.51


@pytest.mark.parametrize("end", ["png", "jpg", "webp", "tif"])
def test_a_rescaling_model_knows_what_it_made(end, tmp_path, flowkit, checkpoint):
    model = checkpoint("hcflow_rescale_x4")
    path = save(tmp_path / f"x.{end}", noise(24, 20))
    ran = flowkit("downscale", "-m", model, path, "--format", end)
    assert ran.code == 0
    assert [line for line in ran.err if "PNG doesn't" not in line] == []
    assert len(ran.err) == (end == "jpg")
    small = tmp_path / f"x_lr.{end}"
    jpeg = end == "jpg"  # which the model says first
    own = flowkit("upscale", "-m", model, small)
    assert [line.partition("warning: ")[2][:24] for line in own.err] == ["a JPEG file as LR image,"] * jpeg
    assert made_by(pictures.read_photo(tmp_path / f"x_lr_x4.{end}").header) is None  # what was upscaled is no LR image

    other = flowkit("upscale", "-m", checkpoint("irn_x4"), small, "--overwrite")
    assert other.code == 0
    assert len(other.err) == 1
    said = "a JPEG file as LR image, and IRN" if jpeg else "another model's downscaling made it"
    assert other.err[0].startswith(f"{small}: warning: {said}")
    unknown = flowkit("upscale", "-m", model, path)
    assert len(unknown.err) == 1
    said = "a JPEG file as LR image" if jpeg else "nothing in it says that this model downscaled it"
    assert unknown.err[0].startswith(f"{path}: warning: {said}")
    assert flowkit("upscale", "-m", checkpoint(), path, "--overwrite").err == []  # for SR, any picture will do


def test_sain_s_small_picture_may_be_a_jpeg(tmp_path, flowkit, checkpoint):
    path, sain, irn = save(tmp_path / "x.png", noise(24, 20)), checkpoint("sain_x4"), checkpoint("irn_x4")
    small = tmp_path / "x_lr.jpg"
    assert flowkit("downscale", "-m", sain, path, "--format", "jpg", "--quality", "80").err == []
    ran = flowkit("upscale", "-m", sain, small)
    assert (ran.code, ran.err) == (0, [])
    assert opened(tmp_path / "x_lr_x4.jpg").shape == (24, 20, 3)
    assert flowkit("restore", "-m", sain, small).err == []
    assert flowkit("restore", "-m", irn, save(tmp_path / "photo.jpg", noise(24, 20))).err == []  # no small picture
    for verb, more in (("restore", ("--overwrite",)), ("upscale", ("--overwrite",))):
        said = flowkit(verb, "-m", irn, small, *more).err
        assert len(said) == 1
        assert "never saw one: JPEG takes away what it hides there; store it as PNG, or take a SAIN model" in said[0]
    large = save(tmp_path / "large.png", noise(96, 96))
    assert flowkit("downscale", "-m", sain, large, "--format", "jpg").err == []
    told = {m: flowkit("doctor", m, tmp_path / "large_lr.jpg", "--no-layers") for m in (sain, irn)}
    assert [any("JPEG: a JPEG file" in line for line in ran.out) for ran in told.values()] == [False, True]


def test_the_note_leaves_other_xmp_alone():
    packet = b'<x:xmpmeta><rdf:RDF><rdf:Description rdf:about="" dc:title="sea"/></rdf:RDF></x:xmpmeta>'
    header = pictures.Header(metadata={"xmp-data": packet, "exif-ifd0-Make": "Maker"})
    once = signed(header, "ab" * 32)
    assert made_by(once) == "ab" * 32
    assert b'dc:title="sea"' in once.metadata["xmp-data"]
    assert made_by(signed(once, "cd" * 32)) == "cd" * 32
    assert signed(signed(once, "cd" * 32), None) == header
    assert made_by(pictures.Header()) is None
    assert signed(pictures.Header(), None) == pictures.Header()


def test_restore_keeps_size_and_alpha(tmp_path, flowkit, checkpoint):
    pixels = noise(21, 18, 4)
    pixels[..., 3] |= 1
    path = save(tmp_path / "x.png", pixels)
    ran = flowkit("restore", "-m", checkpoint("irn_x4"), path, "--temperature", 0)
    assert (ran.code, ran.err) == (0, [])
    got = opened(tmp_path / "x_restored.png")
    assert np.array_equal(got[..., 3], pixels[..., 3])
    model = flowkit_models.load(checkpoint("irn_x4"))
    hr = torch.from_numpy(pixels[..., :3]).movedim(-1, 0).float()[None] / 255
    wanted = model.upscale(model.downscale(hr), temperature=0)[0, 0, :, :21, :18].detach() * 255
    assert np.abs(got[..., :3] - wanted.movedim(0, -1).numpy()).max() <= 0.51
    a, b = (x[..., :3] * (x[..., 3:] / 255) + 255 - x[..., 3:] for x in (got, pixels))
    psnr = 10 * np.log10(255**2 / np.square(a - b).mean())
    assert ran.out[0] == f"{tmp_path}/x_restored.png: PSNR {psnr:.2f} dB"


@pytest.mark.parametrize("command", ["downscale", "restore"])
def test_a_model_that_makes_no_small_picture(command, tmp_path, flowkit, checkpoint, monkeypatch):
    monkeypatch.setattr("flowkit_models.cli.batch.read_photo", lambda _: pytest.fail("a picture was read first"))
    ran = flowkit(command, "-m", checkpoint("srflow_x4"), save(tmp_path / "x.png"))
    assert ran.code == 1
    assert len(ran.err) == 1
    assert ran.err[0].startswith("flowkit: downscale: SRFlow models HR given LR and makes no LR image")
    assert tree(tmp_path) == ["x.png"]


def test_srflow_upscales(tmp_path, flowkit, checkpoint):
    assert flowkit("upscale", "-m", checkpoint("srflow_x4"), save(tmp_path / "x.png")).code == 0
    assert opened(tmp_path / "x_x4.png").shape == (48, 40, 3)


@pytest.mark.parametrize(
    ("top", "height", "width", "levels"),
    [
        (20, 40, 72, {32: 4, 16: 20}),
        pytest.param(0, 70, 100, {64: 1, 32: 4, 16: 20}, marks=pytest.mark.slow),  # so that there are tiles of 64
    ],
)
def test_tiles_differ_by_as_many_levels_as_the_help_says(top, height, width, levels, tmp_path, flowkit):
    photo = bicubic_resize(test_photos()["chelsea"], Fraction(1, 4))[:, top : top + height, :width]
    path = save(tmp_path / "x.png", photo.movedim(0, -1).numpy())
    results = {}
    for tile in (0, *levels):
        assert flowkit("upscale", path, "--tile", tile, "-o", tmp_path / f"{tile}.png").code == 0
        results[tile] = opened(tmp_path / f"{tile}.png").astype(int)
    for tile, most in levels.items():
        assert np.abs(results[tile] - results[0]).max() <= most
