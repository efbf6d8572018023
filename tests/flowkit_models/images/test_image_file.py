"""Image files of every kind that people have, whole and broken, and writing them safely."""

import contextlib
import random
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from flowkit_models.images.convert import to_float
from flowkit_models.images.image_file import (
    ImageError,
    check_writable,
    image_size,
    list_images,
    read_image,
    write_image,
)

RAMP = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)


def save(path, image, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)
    return path


def gray(values):
    return torch.tensor(values, dtype=torch.uint8).expand(3, -1, -1)


def test_rgb(tmp_path):
    x = read_image(save(tmp_path / "x.png", RAMP))
    assert x.dtype == torch.uint8
    assert x.is_contiguous()
    assert torch.equal(x, torch.from_numpy(RAMP).movedim(-1, 0))
    assert torch.equal(x, read_image(str(tmp_path / "x.png")))


def test_one_pixel(tmp_path):
    assert read_image(save(tmp_path / "x.png", RAMP[:1, :1])).flatten().tolist() == [0, 1, 2]


def test_gray_and_bilevel(tmp_path):
    levels = np.array([[0, 100, 255]], dtype=np.uint8)
    assert torch.equal(read_image(save(tmp_path / "x.png", levels)), gray([[0, 100, 255]]))
    assert torch.equal(read_image(save(tmp_path / "y.png", levels > 99)), gray([[0, 255, 255]]))


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
def test_16_bit_gray_is_scaled(tmp_path, name):
    levels = np.array([[0, 257, 25700, 51400, 65535]], dtype=np.uint16)
    assert torch.equal(read_image(save(tmp_path / name, levels)), gray([[0, 1, 100, 200, 255]]))


@pytest.mark.parametrize("name", ["x.png", "x.webp", "x.tif"])
def test_alpha_is_laid_over_white(tmp_path, name):
    rgba = np.array([[[200, 100, 50, 255], [0, 0, 0, 51], [9, 9, 9, 0]]], dtype=np.uint8)
    options = {"lossless": True} if name == "x.webp" else {}
    x = read_image(save(tmp_path / name, rgba, **options))
    assert x[:, 0].T.tolist() == [[200, 100, 50], [204] * 3, [255] * 3]


def test_gray_with_alpha(tmp_path):
    alpha = Image.fromarray(np.array([[255, 0]], dtype=np.uint8))
    la = Image.merge("LA", [Image.new("L", (2, 1), 100), alpha])
    assert torch.equal(read_image(save(tmp_path / "x.png", la)), gray([[100, 255]]))


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    assert read_image(save(tmp_path / "x.png", image))[:, 0].T.tolist() == [[255, 0, 0], [0, 0, 255]]
    for name in ("t.png", "t.gif"):
        path = save(tmp_path / name, image, transparency=1)
        assert read_image(path)[:, 0].T.tolist() == [[255, 0, 0], [255] * 3]


def test_cmyk_jpeg(tmp_path):
    image = Image.new("CMYK", (16, 8), (0, 255, 255, 0))
    red = read_image(save(tmp_path / "x.jpg", image)).double().mean((1, 2))
    torch.testing.assert_close(red, torch.tensor([255.0, 0, 0], dtype=torch.float64), atol=3, rtol=0)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise to see it upright
    half = np.zeros((16, 32, 3), dtype=np.uint8)
    half[:, :16] = 255
    x = read_image(save(tmp_path / "x.jpg", half, exif=exif, quality=95))
    assert x.shape == (3, 32, 16)
    assert x[:, :15].min() > 240
    assert x[:, 17:].max() < 15


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.tif", "x.gif", "x.bmp"])
def test_size_without_decoding(tmp_path, monkeypatch, name):
    path = save(tmp_path / name, RAMP)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("the pixels were decoded"))
    assert image_size(path) == image_size(str(path)) == (6, 5)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_that_of_the_upright_image(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / name, RAMP, exif=exif)
    assert image_size(path) == read_image(path).shape[1:] == ((5, 6) if orientation > 4 else (6, 5))


def test_threads_leave_the_warning_filters_alone(tmp_path):
    paths = [save(tmp_path / f"{n}.png", RAMP + n) for n in range(8)]
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(read_image, paths * 20))
    assert warnings.filters == before
    assert all(torch.equal(x, torch.from_numpy(RAMP + i % 8).movedim(-1, 0)) for i, x in enumerate(images))


def broken(kind, folder):
    """A path at which there is no good image."""
    path = folder / "x.png"
    if kind == "directory":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is not an image\n" * 50)
    elif kind == "below a file":
        (folder / "file").touch()
        return folder / "file" / "x.png"
    elif kind == "float":
        return save(folder / "x.tif", np.ones((2, 2), dtype=np.float32))
    elif kind != "missing":
        path = save(folder / f"x.{kind}", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "No such file"),
        ("directory", "Is a directory"),
        ("empty", "zero bytes"),
        ("text", "not an image"),
        ("below a file", "Not a directory"),
        ("float", "floating-point pixels"),
        ("png", "truncated"),
        ("jpg", "truncated"),
        ("webp", "truncated|not an image"),
        ("bmp", "truncated"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, kind, message):
    path = broken(kind, tmp_path)
    with pytest.raises(ImageError, match=message) as error:
        read_image(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is error.value.__context__ is None


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.gif", "x.tif", "x.webp"])
def test_damage_anywhere_gives_an_image_or_an_image_error(tmp_path, name):
    whole = save(tmp_path / name, RAMP.repeat(4, 0).repeat(4, 1)).read_bytes()
    rng = random.Random(0)
    for _ in range(60):
        data = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.5 else whole)
        for _ in range(3):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / name).write_bytes(data)
        with contextlib.suppress(ImageError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata that is odd
            assert read_image(tmp_path / name).dtype == torch.uint8


@pytest.mark.parametrize("limit", [20, 10])  # Pillow warns above its limit, and refuses at twice that
def test_too_many_pixels(tmp_path, monkeypatch, limit):
    path = save(tmp_path / "x.png", RAMP)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match=f"more than {limit:,} pixels.*MAX_IMAGE_PIXELS"):
            read(path)


def test_permission(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)  # root may read everything
    with pytest.raises(ImageError, match=r"x\.png: Permission denied"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("kind", ["missing", "directory", "empty", "text", "below a file"])
def test_size_of_what_is_no_image(tmp_path, kind):
    path = broken(kind, tmp_path)
    with pytest.raises(ImageError, match=str(path)) as error:
        image_size(path)
    assert error.value.__cause__ is error.value.__context__ is None


def test_write_then_read(tmp_path):
    x = torch.randint(0, 256, (3, 7, 5), dtype=torch.uint8)
    write_image(tmp_path / "x.png", x)
    assert torch.equal(read_image(tmp_path / "x.png"), x)
    write_image(tmp_path / "y.PNG", to_float(x).requires_grad_())
    assert torch.equal(read_image(tmp_path / "y.PNG"), x)
    write_image(tmp_path / "x.png", torch.full((3, 2, 2), 1.7))
    assert read_image(tmp_path / "x.png").unique().tolist() == [255]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.png", "y.PNG"]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_image(tmp_path / "x.png", torch.zeros(3, 2, 2))

    def full(_, path, **__):
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(ImageError, match=r"x\.png: cannot be written \(No space left on device\)"):
        write_image(tmp_path / "x.png", torch.ones(3, 2, 2))
    assert read_image(tmp_path / "x.png").max() == 0
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.parametrize(
    ("name", "x", "message"),
    [
        ("x.jpg", torch.rand(3, 2, 2), "end the name with .png"),
        ("x.png", torch.rand(1, 3, 2, 2), r"got \(1, 3, 2, 2\)"),
        ("x.png", torch.rand(4, 2, 2), r"got \(4, 2, 2\)"),
        ("x.png", torch.rand(3, 0, 2), r"got \(3, 0, 2\)"),
        ("x.png", torch.full((3, 2, 2), torch.nan), "NaN"),
        ("x.png", torch.ones(3, 2, 2, dtype=torch.int64), "torch.int64"),
        ("nowhere/x.png", torch.rand(3, 2, 2), "No such file or directory"),
    ],
)
def test_write_rejects(tmp_path, name, x, message):
    with pytest.raises(ImageError, match=message) as error:
        write_image(tmp_path / name, x)
    assert str(error.value).startswith(str(tmp_path / name))
    assert not list(tmp_path.iterdir())


def test_list_is_sorted_recursive_and_by_extension(tmp_path):
    for name in ("b.png", "a.JPG", "sub/c.WebP", "notes.txt", ".d.png.1.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path)] == [
        "a.JPG",
        "b.png",
        "sub/c.WebP",
    ]


def test_list_rejects(tmp_path):
    with pytest.raises(ImageError, match="no images in it"):
        list_images(tmp_path)
    with pytest.raises(ImageError, match="no such folder"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="not a folder"):
        list_images(str(tmp_path / "file"))


def test_check_writable(tmp_path):
    assert check_writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not list((tmp_path / "a" / "b").iterdir())
    check_writable(str(tmp_path / "a"))
    check_writable(tmp_path / "a" / "b" / "c" / "d", keep=False)
    assert not list((tmp_path / "a" / "b").iterdir())


@pytest.mark.parametrize("below", ["", "sub", "sub/sub"])
def test_check_writable_rejects_a_regular_file_and_what_is_below(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match=r"file.*: cannot write in this folder \(.+\)") as error:
        check_writable(tmp_path / "file" / below)
    assert "\n" not in str(error.value)


def test_check_writable_really_writes(tmp_path, monkeypatch):
    def read_only(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(ImageError, match="Read-only file system"):
        check_writable(tmp_path)


def test_to_float():
    assert to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match=r"torch\.float32"):
        to_float(torch.rand(2))
