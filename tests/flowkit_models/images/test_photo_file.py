"""Pictures through libvips: kinds of pixels, headers, and what is refused; the command's tests have the odd files."""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from flowkit_models.images import png_file
from flowkit_models.images.photo_file import (
    Header,
    PictureError,
    check_size,
    format_of,
    read_photo,
    stored,
    write_photo,
)

KINDS = [
    Header(gray=gray, alpha=alpha, bits=bits) for gray in (False, True) for alpha in (False, True) for bits in (8, 16)
]


def pixels_of(header, seed=0, size=(6, 5)):
    top = np.iinfo(header.dtype).max
    shape = (*size, header.channels)
    return np.random.default_rng(seed).integers(0, top, shape, header.dtype, endpoint=True)


@pytest.mark.parametrize("header", KINDS, ids=repr)
@pytest.mark.parametrize("end", ["png", "tif"])
def test_lossless_formats_give_back_every_kind(header, end, tmp_path):
    array = pixels_of(header)
    path = tmp_path / f"x.{end}"
    write_photo(path, array, header)
    picture = read_photo(path)
    assert (picture.header.gray, picture.header.alpha, picture.header.bits) == (header.gray, header.alpha, header.bits)
    assert picture.header.format == format_of(path).name
    assert picture.warnings == ()
    assert picture.pixels.shape == (3, 6, 5)
    assert picture.pixels.dtype == torch.float32
    assert (picture.alpha is not None) == header.alpha
    colours = array[..., :-1] if header.alpha else array
    top = np.iinfo(header.dtype).max
    torch.testing.assert_close(
        picture.pixels, torch.from_numpy(colours / np.float32(top)).float().movedim(-1, 0).expand(3, -1, -1)
    )
    assert np.array_equal(stored(picture.pixels, picture.alpha, picture.header), array)


def test_webp_and_jpeg(tmp_path):
    rgba = pixels_of(Header(alpha=True))
    write_photo(tmp_path / "x.webp", rgba, Header(alpha=True), quality=100)
    picture = read_photo(tmp_path / "x.webp")
    assert np.array_equal(stored(picture.pixels, picture.alpha, picture.header), rgba)
    smooth = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    write_photo(tmp_path / "x.jpg", smooth, Header())
    assert (read_photo(tmp_path / "x.jpg").pixels.movedim(0, -1) * 255 - torch.from_numpy(smooth)).abs().max() < 3
    sizes = []
    for quality in (20, 95):
        write_photo(tmp_path / "x.jpg", pixels_of(Header(), size=(40, 40)), Header(), quality)
        sizes.append((tmp_path / "x.jpg").stat().st_size)
    assert sizes[0] < sizes[1] / 2


def test_quantisation_clamps_and_rounds():
    x = torch.tensor([-1.0, 0.2, 0.5, 1.0, 2.0]).expand(3, 1, 5)
    assert stored(x, None, Header())[0, :, 0].tolist() == [0, 51, 128, 255, 255]
    assert stored(x, None, Header(bits=16))[0, :, 0].tolist() == [0, 13107, 32768, 65535, 65535]
    assert stored(x, None, Header(gray=True)).shape == (1, 5, 1)
    assert stored(x, None, Header(alpha=True))[..., 3].tolist() == [[255] * 5]


def test_gray_is_luma():
    rgb = torch.tensor([1.0, 0.5, 0.0]).view(3, 1, 1)
    assert stored(rgb, None, Header(gray=True)).item() == round(255 * (0.299 + 0.5 * 0.587))


def test_without_alpha_colours_lie_over_white():
    alpha = torch.tensor([[[0.0, 0.5, 1.0]]])
    assert stored(torch.zeros(3, 1, 3), alpha, Header())[0, :, 0].tolist() == [255, 128, 0]


def test_what_formats_can_hold():
    header = Header(bits=16, alpha=True)
    fitted, lost = header.fitted("jpeg")
    assert (fitted.bits, fitted.alpha, fitted.format, len(lost)) == (8, False, "jpeg", 2)
    fitted, lost = header.fitted("webp")
    assert (fitted.bits, fitted.alpha, len(lost)) == (8, True, 1)
    for form in ("png", "tiff"):
        assert header.fitted(form) == (replace(header, format=form), [])


@pytest.mark.parametrize("name", ["x", "x.bmp", "x.gif", "png"])
def test_other_formats_are_not_written(name):
    with pytest.raises(PictureError, match=rf"^{name}: pictures are written as \.jpg"):
        format_of(name)


def test_sizes_that_formats_end_at():
    check_size("x.png", 10**6, 1)
    check_size("x.webp", 1, 16383)
    for name, side in (("x.webp", 16384), ("x.jpg", 65501)):
        with pytest.raises(PictureError, match=rf"^{re.escape(name)}: 1 × {side} pixels, and this format ends at"):
            check_size(name, 1, side)


def test_an_array_that_is_not_what_its_header_says(tmp_path):
    for array, header in (
        (np.zeros((2, 2, 3), np.uint16), Header()),
        (np.zeros((2, 2, 3), np.uint8), Header(alpha=True)),
        (np.zeros((2, 2, 3), np.float32), Header()),
    ):
        with pytest.raises(ValueError, match=r"x\.png: .* is not what its header says"):
            write_photo(tmp_path / "x.png", array, header)
    with pytest.raises(ValueError, match="is not what its header says"):
        write_photo(tmp_path / "x.jpg", np.zeros((2, 2, 3), np.uint16), Header(bits=16))
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_a_view_of_an_array_is_written_as_it_looks(tmp_path):
    array = pixels_of(Header())
    write_photo(tmp_path / "x.png", array[::-1, ::2], Header())
    with Image.open(tmp_path / "x.png") as image:
        assert np.array_equal(np.asarray(image), array[::-1, ::2])


def test_too_many_pixels(tmp_path, monkeypatch):
    write_photo(tmp_path / "x.png", pixels_of(Header()), Header())
    monkeypatch.setattr("flowkit_models.images.photo_file.MAX_PIXELS", 29)
    with pytest.raises(PictureError, match=r"x\.png: 5 × 6 is more than 29 pixels: cut it, or raise"):
        read_photo(tmp_path / "x.png")


def test_a_file_that_exists_keeps_its_place_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"precious")
    with pytest.raises(PictureError, match="ends at"):
        write_photo(tmp_path / "x.webp", np.zeros((1, 20000, 3), np.uint8), Header())
    write_photo(path, pixels_of(Header()), Header())
    assert os.listdir(tmp_path) == ["x.png"]  # noqa: PTH208
    with pytest.raises(PictureError, match="is a folder"):
        write_photo(_folder(tmp_path), pixels_of(Header()), Header())


def _folder(tmp_path):
    (tmp_path / "f.png").mkdir()
    return tmp_path / "f.png"


def test_avif(tmp_path):
    Image.new("RGB", (16, 16), (200, 100, 50)).save(tmp_path / "x.avif")
    picture = read_photo(tmp_path / "x.avif")
    assert picture.header.format == "avif"
    wanted = torch.tensor([200.0, 100, 50]).view(3, 1, 1).expand(3, 16, 16)
    torch.testing.assert_close(picture.pixels * 255, wanted, atol=4, rtol=0)


TEXTS = {"parameters": "cherry 桜, café", "Author": "plain", "Latin": "café", "Título": "café"}


@pytest.mark.parametrize("kind", ["text", "ztxt", "itxt", "itxt packed"])
def test_png_texts_in_any_language_come_back(kind, tmp_path):
    info = PngInfo()
    for key, text in TEXTS.items():
        if kind.startswith("itxt"):
            info.add_itxt(key, text, zip=kind == "itxt packed")
        elif text.isascii() or text == "café":
            info.add_text(key, text, zip=kind == "ztxt")
    wanted = TEXTS if kind.startswith("itxt") else {key: TEXTS[key] for key in ("Author", "Latin", "Título")}
    Image.new("RGB", (4, 3), "teal").save(tmp_path / "x.png", pnginfo=info)
    picture = read_photo(tmp_path / "x.png")
    write_photo(tmp_path / "y.png", stored(picture.pixels, None, picture.header), picture.header)
    with Image.open(tmp_path / "y.png") as image:
        assert image.text == wanted
        assert image.getpixel((0, 0)) == (0, 128, 128)
    write_photo(
        tmp_path / "y.jpg", stored(picture.pixels, None, picture.header), picture.header
    )  # which has no place for it


def test_several_texts_of_one_keyword_and_xmp(tmp_path):
    info = PngInfo()
    for text in ("one", "two", "ｔｈｒｅｅ"):
        info.add_itxt("Comment", text)
    info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
    Image.new("RGB", (4, 3)).save(tmp_path / "x.png", pnginfo=info)
    picture = read_photo(tmp_path / "x.png")
    assert picture.header.metadata["xmp-data"] == b"<x:xmpmeta/>"
    write_photo(tmp_path / "y.png", stored(picture.pixels, None, picture.header), picture.header)
    again = read_photo(tmp_path / "y.png").header.metadata
    assert again["xmp-data"] == b"<x:xmpmeta/>"
    assert [text for name, text in again.items() if name.endswith("-Comment")] == ["one", "two", "ｔｈｒｅｅ"]


def test_texts_that_are_damaged_or_too_long_are_left_out(tmp_path):
    info = PngInfo()
    info.add_text("good", "kept")
    info.add_text("bomb", "x" * (png_file.MOST_BYTES + 1), zip=True)
    info.add(b"zTXt", b"bad\0\0no zlib")
    info.add(b"iTXt", b"cut")
    Image.new("RGB", (4, 3)).save(tmp_path / "x.png", pnginfo=info)
    texts = {name: text for name, text in read_photo(tmp_path / "x.png").header.metadata.items() if text}
    assert texts == {"png-comment-0-good": "kept"}


@pytest.mark.parametrize("end", ["png", "jpg", "webp", "tif"])
def test_names_that_are_not_utf_8_and_as_long_as_can_be(end, tmp_path):
    for name in (b"caf\xe9." + end.encode(), b"n" * (254 - len(end)) + b"." + end.encode()):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        write_photo(path, pixels_of(Header()), Header())
        assert read_photo(path).pixels.shape == (3, 6, 5)
        path.write_bytes(path.read_bytes()[:40])
        with pytest.raises(PictureError, match="damaged or truncated"):
            read_photo(path)


KINDS_ELSEWHERE = {
    "photo.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(60), "HEIC"),
    "photo.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60), "JPEG 2000"),
    "photo.jxl": (b"\xff\x0a" + bytes(60), "JPEG XL"),
    "photo.bmp": (b"BM" + bytes(60), "BMP"),
}


@pytest.mark.parametrize("name", KINDS_ELSEWHERE)
def test_formats_that_not_every_libvips_reads_are_named(name, tmp_path):
    content, label = KINDS_ELSEWHERE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PictureError, match=rf"{name}: {label} file, which can't be read here.*: convert it to PNG"):
        read_photo(tmp_path / name)
