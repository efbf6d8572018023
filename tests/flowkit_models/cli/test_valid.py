"""Pictures that are odd and valid: done, with the right pixels, and what their files say is kept."""

import logging

import numpy as np
import pytest
import pyvips
import torch
from command_files import noise, opened, save, tree
from PIL import Image, ImageCms

import flowkit_models
from flowkit_models.images import photo_file as pictures
from flowkit_models.images.photo_file import stored
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.inference.latent_field import LatentField

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTATION, MAKE, SOFTWARE_DATE = 0x0112, 0x010F, 0x9003


def exif(orientation=1):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    tags[MAKE] = "Maker"
    tags[0x011A] = tags[0x011B] = 300.0  # resolution,
    tags[0x0128] = 2  # per inch
    tags.get_ifd(0x8769)[SOFTWARE_DATE] = "2020:01:02 03:04:05"
    return tags


@pytest.fixture
def expected(checkpoint):
    """What the library makes of pixels (H, W, C) in [0, 1], as numpy (H, W, 3)."""
    model = flowkit_models.load(checkpoint())

    def upscale(rgb, temperature=0.1, seed=0, draw=0):
        lr = torch.from_numpy(np.ascontiguousarray(rgb)).float().movedim(-1, 0)[None]
        z = LatentField(seed, draw).crop(model, 0, 0, *lr.shape[2:])
        return model.upscale(lr, temperature=temperature, latents=z)[0, 0].detach().movedim(0, -1).numpy()

    return upscale


def close(got, wanted, levels=255):
    """Equal to the rounding: within the error of a sum in another order."""
    assert got.shape == wanted.shape
    difference = np.abs(got.astype(np.float64) - wanted * levels)
    assert difference.max() <= 0.51


def test_rgb(tmp_path, upscale, expected):
    path = save(tmp_path / "x.png")
    ran = upscale(path)
    assert (ran.code, ran.err) == (0, [])
    assert ran.out[0].startswith("1 done, 0 skipped, 0 failed")
    close(opened(tmp_path / "x_x4.png"), expected(noise() / 255))
    assert tree(tmp_path) == ["x.png", "x_x4.png"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_comes_out_upright(orientation, tmp_path, upscale, expected):
    path = save(tmp_path / "x.jpg", exif=exif(orientation), quality=95)
    assert upscale(path, "-o", tmp_path / "y.png").code == 0
    turns = {2: 0, 3: 1, 4: 6, 5: 5, 6: 4, 7: 3, 8: 2}  # Pillow's Transpose, written out so that this is no echo
    names = [
        Image.Transpose.FLIP_LEFT_RIGHT,
        Image.Transpose.ROTATE_180,
        Image.Transpose.ROTATE_90,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSPOSE,
        Image.Transpose.FLIP_TOP_BOTTOM,
    ]
    with Image.open(path) as image:
        upright = image.transpose(names[turns[orientation]]) if orientation > 1 else image.copy()
    with Image.open(tmp_path / "y.png") as image:
        assert image.getexif()[ORIENTATION] == 1
        close(np.asarray(image), expected(np.asarray(upright) / 255))


@pytest.mark.parametrize("end", ["jpg", "png", "webp"])
def test_profile_exif_and_resolution_are_kept(end, tmp_path, upscale):
    path = save(tmp_path / f"x.{end}", exif=exif(6), icc_profile=SRGB, dpi=(300, 300))
    assert upscale(path).code == 0
    with Image.open(tmp_path / f"x_x4.{end}") as image:
        assert image.info["icc_profile"] == SRGB
        tags = image.getexif()
        assert (tags[MAKE], tags[ORIENTATION]) == ("Maker", 1)
        assert tags.get_ifd(0x8769)[SOFTWARE_DATE] == "2020:01:02 03:04:05"
        assert tags.get_ifd(0x8769).get(0xA002, image.width) == image.width
        if end != "webp":  # which has no place for it but EXIF
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)
        assert float(tags[0x011A]) == pytest.approx(300, abs=0.01)


def test_the_thumbnail_of_the_small_picture_is_not_kept(tmp_path, upscale):
    image = pyvips.Image.new_from_array(noise(64, 64)).copy(interpretation="srgb")
    image.set_type(pyvips.GValue.blob_type, "jpeg-thumbnail-data", image.jpegsave_buffer())
    image.jpegsave(str(tmp_path / "x.jpg"))
    assert pyvips.Image.new_from_file(str(tmp_path / "x.jpg")).get_typeof("jpeg-thumbnail-data")
    assert upscale(tmp_path / "x.jpg").code == 0
    assert not pyvips.Image.new_from_file(str(tmp_path / "x_x4.jpg")).get_typeof("jpeg-thumbnail-data")


def test_tiff_keeps_profile_resolution_and_xmp(tmp_path, upscale):
    image = pyvips.Image.new_from_array(noise()).copy(interpretation="srgb", xres=10, yres=10)
    image.set_type(pyvips.GValue.blob_type, "xmp-data", b"<x/>")
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", SRGB)
    image.tiffsave(str(tmp_path / "x.tif"))
    assert upscale(tmp_path / "x.tif").code == 0
    after = pictures.read_photo(tmp_path / "x_x4.tif").header
    assert after.resolution == pytest.approx((10, 10))
    assert after.metadata["xmp-data"] == b"<x/>"
    assert after.metadata["icc-profile-data"] == SRGB


@pytest.mark.parametrize("end", ["png", "tif"])
def test_16_bit_rgba(end, tmp_path, upscale, expected):
    pixels = noise(channels=4, dtype=np.uint16) // 4 + 20000
    path = tmp_path / f"x.{end}"
    pictures.write_photo(path, pixels, pictures.Header(bits=16, alpha=True))
    assert upscale(path).code == 0
    got = pictures.read_photo(tmp_path / f"x_x4.{end}")
    assert (got.header.bits, got.header.alpha) == (16, True)
    got = stored(got.pixels, got.alpha, got.header)
    assert got.dtype == np.uint16
    difference = np.abs(got[..., :3] - expected(pixels[..., :3] / 65535) * 65535)
    assert difference.max() < 3  # far less than the 257 of a grey level of 8 bits
    assert np.mean(got[(got > 0) & (got < 65535)] % 257 == 0) < 0.02
    alpha = bicubic_resize(torch.from_numpy(pixels[..., 3] / 65535), 4).clamp(0, 1).numpy()
    assert np.abs(got[..., 3] - alpha * 65535).max() < 2


def test_colours_under_transparency_stay_as_they_are(tmp_path, upscale):
    pixels = noise(channels=4)
    pixels[..., 3] = np.where(np.arange(10) < 5, 0, 255)
    assert upscale(save(tmp_path / "x.png", pixels)).code == 0
    got = opened(tmp_path / "x_x4.png")
    larger = bicubic_resize(torch.from_numpy(pixels[..., :3]).movedim(-1, 0).float() / 255, 4)
    close(got[:, :12, :3], larger.clamp(0, 1).movedim(0, -1).numpy()[:, :12])
    assert (got[:, :12, 3] == 0).all()
    assert (got[:, 28:, 3] == 255).all()


def test_a_tall_alpha_channel_is_enlarged_as_one(tmp_path, upscale):
    alpha = noise(300, 6, 1)
    pixels = np.dstack([noise(300, 6), alpha])
    assert upscale("--tile", 64, save(tmp_path / "x.png", pixels)).code == 0
    wanted = bicubic_resize(torch.from_numpy(alpha / 255), 4).clamp(0, 1).numpy()
    assert np.abs(opened(tmp_path / "x_x4.png")[..., 3] - wanted * 255).max() <= 0.51


def test_jpeg_is_laid_over_white_and_says_so(tmp_path, upscale):
    pixels = np.zeros((8, 8, 4), np.uint8)
    path = save(tmp_path / "x.png", pixels)
    ran = upscale(path, "--format", "jpg")
    assert ran.code == 0
    assert ran.err == [f"{path}: warning: JPEG has no transparency: laid over white"]
    assert opened(tmp_path / "x_x4.jpg").min() == 255


LUMA = np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("kind", ["L.png", "L.jpg", "LA.png", "1.png", "1.tif", "I;16.png", "I;16.tif"])
def test_gray_stays_gray(kind, tmp_path, upscale, expected):
    mode, _, end = kind.partition(".")
    values = noise(channels=1)
    if mode == "1":
        source, values = Image.fromarray(values).convert("1", dither=Image.Dither.NONE), (values > 127) * 255
    elif mode == "I;16":
        values = values.astype(np.uint16) * 251
        source = Image.fromarray(values)
    else:
        source = Image.fromarray(values).convert(mode)
    top = 65535 if mode == "I;16" else 255
    path = save(tmp_path / f"x.{end}", source, **({"quality": 100} if end == "jpg" else {}))
    if end == "jpg":
        values = opened(path)
    assert upscale(path, "-o", tmp_path / "y.png").code == 0
    with Image.open(tmp_path / "y.png") as image:
        assert image.mode == {"1": "L", "I;16": "I;16"}.get(mode, mode)
        got = np.asarray(image)
    wanted = expected(np.repeat(values[..., None] / top, 3, -1)) @ LUMA
    assert np.abs((got[..., 0] if got.ndim == 3 else got) - wanted * top).max() <= (2 if top > 255 else 0.51)


@pytest.mark.parametrize("name", ["x.png", "x.gif", "x.tif"])
def test_palette(name, tmp_path, upscale, expected):
    image = Image.fromarray(noise(channels=1) // 86, "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    path = save(tmp_path / name, image)
    assert upscale(path, "-o", tmp_path / "y.png").code == 0
    close(opened(tmp_path / "y.png"), expected(np.asarray(image.convert("RGB")) / 255))


def test_palette_with_a_transparent_colour(tmp_path, upscale):
    image = Image.fromarray(np.repeat(np.arange(2, dtype=np.uint8)[None], 8, 0).repeat(8, 1), "P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    assert upscale(save(tmp_path / "x.png", image, transparency=1)).code == 0
    got = opened(tmp_path / "x_x4.png")
    assert got.shape == (32, 64, 4)
    assert got[:, :28, 3].min() == 255
    assert got[:, 36:, 3].max() == 0


def test_cmyk_becomes_srgb(tmp_path, upscale):
    path = save(tmp_path / "x.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=95)
    ran = upscale(path, "-o", tmp_path / "y.png", "--temperature", 0)
    assert ran.code == 0
    assert ran.err == [f"{path}: warning: CMYK was converted to sRGB"]
    header = pictures.read_photo(tmp_path / "y.png").header
    assert header.channels == 3
    assert header.metadata["icc-profile-data"][16:20] == b"RGB "
    red = pictures.read_photo(path).pixels.mean((1, 2))
    assert red[0] > 0.8
    assert red[1:].max() < 0.25


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (3, 1), (1, 2000), (2000, 1)])
@pytest.mark.parametrize("end", ["png", "jpg"])
def test_thin_pictures(height, width, end, tmp_path, upscale):
    assert upscale(save(tmp_path / f"x.{end}", noise(height, width))).code == 0
    assert opened(tmp_path / f"x_x4.{end}").shape == (4 * height, 4 * width, 3)


@pytest.mark.parametrize("size", [(1, 16400), (16400, 1)])
def test_very_long_pictures(size, tmp_path, upscale, checkpoint, flowkit):
    path = save(tmp_path / "x.png", noise(*size))
    assert upscale(path).code == 0
    assert pictures.read_photo(tmp_path / "x_x4.png").pixels.shape == (3, 4 * size[0], 4 * size[1])
    ran = upscale(path, "--format", "jpg")
    assert ran.code == 1
    assert len(ran.err) == 1
    assert "ends at 65500: choose another (png, tif)" in ran.err[0]
    assert tree(tmp_path) == ["x.png", "x_x4.png"]
    assert flowkit("downscale", "-m", checkpoint("hcflow_rescale_x4"), path).code == 0
    assert pictures.read_photo(tmp_path / "x_lr.png").pixels.shape == (3, -(-size[0] // 4), -(-size[1] // 4))


@pytest.mark.parametrize(("really", "called"), [("PNG", "x.jpg"), ("JPEG", "x.png"), ("WEBP", "x.tif"), ("TIFF", "x")])
def test_the_content_counts_and_not_the_name(really, called, tmp_path, upscale):
    assert upscale(save(tmp_path / called, noise(), format=really)).code == 0
    name = {"x": "x_x4.png"}.get(called, called.replace("x.", "x_x4."))
    with Image.open(tmp_path / name) as image:
        assert image.format == {"jpg": "JPEG", "png": "PNG", "tif": "TIFF"}[name[-3:]]


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist(orientation, tmp_path, upscale):
    path = save(tmp_path / "x.jpg", exif=exif(orientation))
    assert upscale(path).code == 0
    assert opened(tmp_path / "x_x4.jpg").shape == (48, 40, 3)


def test_exif_that_is_rubbish(tmp_path, upscale):
    path = save(tmp_path / "x.jpg", exif=exif())
    content = path.read_bytes()
    at = content.index(b"Exif") + 6
    path.write_bytes(content[:at] + b"\xff" * 40 + content[at + 40 :])
    ran = upscale(path)
    assert (ran.code, ran.err) == (0, [])


@pytest.mark.parametrize(
    "profile",
    [b"x" * 200, SRGB[:100], SRGB[:-200], SRGB.replace(b"RGB ", b"CMYK", 1), b"?"],
    ids=["noise", "head", "cut", "cmyk", "one byte"],  # its bytes hold the time: two processes would differ
)
def test_a_broken_profile_is_left_out(profile, tmp_path, upscale):
    path = save(tmp_path / "x.jpg", icc_profile=profile)
    ran = upscale(path, "--format", "png")
    assert ran.code == 0
    assert ran.err == [f"{path}: warning: its colour profile is broken or for other channels, and was left out"]
    with Image.open(tmp_path / "x_x4.png") as image:
        assert "icc_profile" not in image.info


def test_bytes_between_the_parts_of_a_jpeg_are_worth_a_warning(tmp_path, upscale):
    path = save(tmp_path / "x.jpg", noise(40, 40), progressive=True)
    content = path.read_bytes()
    second = content.rindex(b"\xff\xc4")
    path.write_bytes(content[:second] + bytes(6) + content[second:] + b"behind the picture")
    ran = upscale(path)
    assert ran.code == 0
    assert len(ran.err) == 1
    assert "x.jpg: warning: has bytes between its parts that mean nothing" in ran.err[0]


def test_names_with_brackets_percents_and_blanks(tmp_path, upscale):
    names = ["a[1].png", "b.png[page=1]", "c %d [x=y].png", "d\ue000ü.png", "-e.png", "f'\".png"]
    for name in names:
        save(tmp_path / name, noise(), format="PNG")
        assert upscale("-o", tmp_path / "out" / "", "-i", tmp_path / name).code == 0, name
    assert len(tree(tmp_path / "out")) == len(names)


def test_libraries_say_nothing_behind_our_back(tmp_path, upscale):
    logger = logging.getLogger("pyvips")
    assert upscale(save(tmp_path / "x.png")).code == 0
    assert any(isinstance(handler, logging.NullHandler) for handler in logger.handlers)
