"""Broken pictures: one line each, nothing half-written, and the others in their folder are done."""

import os
import socket
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import pyvips
import torch
from command_files import noise, save, tree
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flowkit_models.images import photo_file as pictures


def encoded(form, **options) -> bytes:
    pixels = options.pop("pixels", None)
    file = BytesIO()
    Image.fromarray(noise(40, 40) if pixels is None else pixels).save(file, form, **options)
    return file.getvalue()


WHOLE = {
    "jpg": lambda: encoded("JPEG", quality=95),
    "progressive.jpg": lambda: encoded("JPEG", quality=95, progressive=True),
    "png": lambda: encoded("PNG"),
    "interlaced.png": lambda: pyvips.Image.new_from_array(noise(40, 40)).pngsave_buffer(interlace=True),
    "gray16.png": lambda: encoded("PNG", pixels=noise(40, 40, 1, dtype=np.uint16)),
    "webp": lambda: encoded("WEBP", quality=95),
    "lossless.webp": lambda: encoded("WEBP", lossless=True),
    "tif": lambda: encoded("TIFF"),
    "lzw.tif": lambda: encoded("TIFF", compression="tiff_lzw"),
    "jpeg.tif": lambda: encoded("TIFF", compression="jpeg"),
    "gif": lambda: encoded("GIF", pixels=noise(40, 40, 1)),
}


def animated(form) -> bytes:
    frames = [Image.fromarray(noise(seed=seed)) for seed in range(3)]
    file = BytesIO()
    frames[0].save(file, form, save_all=True, append_images=frames[1:])
    return file.getvalue()


def chunk(kind, data) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, bits=8, colour=2, data=b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def changed(content, at, new) -> bytes:
    at = content.index(at) if isinstance(at, bytes) else at
    return content[:at] + new + content[at + len(new) :]


def tiff(pixels, **options) -> bytes:
    return pyvips.Image.new_from_array(pixels).copy(**options).tiffsave_buffer()


CONTENT = {
    **{
        f"cut_at_{percent}.{name}": lambda make=make, percent=percent: make()[: len(make()) * percent // 100]
        for name, make in WHOLE.items()
        for percent in (5, 50, 90)
    },
    **{f"zero.{end}": lambda: b"" for end in ("png", "jpg", "webp", "tif")},
    "one_byte.png": lambda: b"\x89",
    "head_only.jpg": lambda: WHOLE["jpg"]()[:3],
    "head_only.png": lambda: WHOLE["png"]()[:8],
    "head_only.webp": lambda: WHOLE["webp"]()[:12],
    "head_only.tif": lambda: b"II*\0",
    "text.png": lambda: b"not a picture\n" * 20,
    "page.jpg": lambda: b"<!DOCTYPE html><html><body>404</body></html>",
    "drawing.png": lambda: (
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
    ),
    "program.jpg": lambda: b"\x7fELF" + bytes(60),
    "archive.png": lambda: b"PK\x03\x04" + bytes(60),
    "bitmap.bmp": lambda: encoded("BMP"),
    "bitmap.png": lambda: encoded("BMP"),
    "pixels.ppm": lambda: encoded("PPM"),
    "nulls.jpg": lambda: bytes(500),
    "photo.avif": lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
    "animated.gif": lambda: animated("GIF"),
    "animated.webp": lambda: animated("WEBP"),
    "animated.png": lambda: animated("PNG"),
    "pages.tif": lambda: animated("TIFF"),
    "float.tif": lambda: encoded("TIFF", pixels=noise(channels=1).astype(np.float32)),
    "whole32.tif": lambda: encoded("TIFF", pixels=noise(channels=1).astype(np.int32)),
    "double.tif": lambda: tiff(noise().astype(np.float64)),
    "signed.tif": lambda: tiff(noise().astype(np.int16)),
    "complex.tif": lambda: tiff(noise(channels=1).astype(np.complex64)),
    "channels5.tif": lambda: tiff(noise(channels=5)),
    "lab.tif": lambda: (
        pyvips.Image.new_from_array(noise()).copy(interpretation="srgb").colourspace("lab").tiffsave_buffer()
    ),
    "checksum.png": lambda: changed(WHOLE["png"](), 2000, b"\0\xff\0\xff"),
    "head_checksum.png": lambda: changed(WHOLE["png"](), 29, b"\0\0\0\0"),
    "no_width.png": lambda: png(0, 10),
    "no_pixels.png": lambda: png(10, 10),
    "few_pixels.png": lambda: png(10, 10, data=bytes(31 * 4)),
    "bomb.png": lambda: png(100_000, 100_000, bits=1, colour=0, data=bytes(1000)),
    "bits3.png": lambda: png(10, 10, bits=3, data=bytes(310)),
    "tables.jpg": lambda: changed(WHOLE["jpg"](), b"\xff\xc4", b"\xff\xc4\0\x05\xff\xff\xff"),
    "no_tables.jpg": lambda: changed(WHOLE["jpg"](), b"\xff\xdb", b"\xff\xfe"),
    "no_height.jpg": lambda: changed(WHOLE["jpg"](), WHOLE["jpg"]().index(b"\xff\xc0") + 5, b"\0\0\0\0"),
    "early_end.jpg": lambda: changed(WHOLE["jpg"](), len(WHOLE["jpg"]()) // 2, b"\xff\xd9"),
    "bad_codes.jpg": lambda: changed(WHOLE["jpg"](), len(WHOLE["jpg"]()) // 2, b"\xff\0" * 99),
    "scrambled.webp": lambda: changed(WHOLE["webp"](), 12, bytes(range(1, 60))),
    "scrambled.lzw.tif": lambda: changed(WHOLE["lzw.tif"](), 200, bytes(range(1, 200))),
    "loop.tif": lambda: b"II*\0\x08\0\0\0\x01\0\0\x01\x03\0\x01\0\0\0\x05\0\0\0\x08\0\0\0",
}


def socketed(path):
    folder = os.open(path.parent, os.O_RDONLY)  # a socket's address is short, and pytest's folders are not
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


ODD_FILES = {
    "dangling.png": lambda path: path.symlink_to("nowhere.png"),
    "circle.png": lambda path: path.symlink_to(path.name),
    "pipe.png": os.mkfifo,
    "socket.png": socketed,
    "null.png": lambda path: path.symlink_to("/dev/null"),
    "endless.png": lambda path: path.symlink_to("/dev/zero"),
}

KINDS = [*CONTENT, *ODD_FILES]


def make(kind, folder):
    path = folder / kind
    if kind in CONTENT:
        path.write_bytes(CONTENT[kind]())
    else:
        ODD_FILES[kind](path)
    return path


def test_there_are_sixty():
    assert len(KINDS) >= 60


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_picture_is_one_line_and_leaves_nothing(kind, tmp_path, upscale):
    path = make(kind, tmp_path)
    ran = upscale(path)
    assert ran.code == 1
    assert len(ran.err) == 1, ran.err
    assert ran.err[0].startswith(f"{path}: ")
    assert len(ran.err[0].removeprefix(f"{path}: ")) > 12
    assert tree(tmp_path) == [kind]
    assert ran.out == [ran.out[0]]
    assert ran.out[0].startswith("0 done, 0 skipped, 1 failed")


def test_the_rest_of_the_folder_is_done(tmp_path, upscale):
    broken = [make(kind, tmp_path) for kind in KINDS]
    (tmp_path / "folder.png").mkdir()
    save(tmp_path / "a_first.png")
    save(tmp_path / "zz_last.jpg")
    before = tree(tmp_path)
    ran = upscale(tmp_path)
    assert ran.code == 1
    assert sorted(line.partition(": ")[0] for line in ran.err) == sorted(map(str, broken))
    assert ran.out[0].startswith(f"2 done, 0 skipped, {len(broken)} failed")
    assert set(tree(tmp_path)) - set(before) == {"a_first_x4.png", "zz_last_x4.jpg"}


def test_a_folder_called_like_a_picture_is_a_folder(tmp_path, upscale):
    (tmp_path / "x.png").mkdir()
    ran = upscale(tmp_path / "x.png")
    assert ran.code == 1
    assert len(ran.err) == 1
    assert "x.png: no files in it" in ran.err[0]
    assert tree(tmp_path) == ["x.png"]


@pytest.mark.parametrize("name", ["missing.png", "n" * 300 + ".png", "two\nlines.png", "no_such_folder/x.png"])
def test_a_missing_file(name, tmp_path, upscale):
    ran = upscale(tmp_path / name)
    assert ran.code == 1
    assert len(ran.err) == 1
    assert ran.err[0].startswith(str(tmp_path))
    assert tree(tmp_path) == []


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_file_that_cannot_be_read(error, tmp_path, upscale, monkeypatch):
    path, whole = save(tmp_path / "secret.png"), save(tmp_path / "open.png")
    plain = type(path).open

    def refuse(self, *arguments, **options):
        if self == path:
            raise error
        return plain(self, *arguments, **options)

    monkeypatch.setattr(type(path), "open", refuse)  # root may read anything, so no mode would do
    ran = upscale(path)
    assert (ran.code, ran.err) == (1, [f"{path}: cannot be read ({error.strerror})"])
    assert upscale(tmp_path).out[0].startswith("1 done, 0 skipped, 1 failed")
    assert tree(tmp_path) == [whole.name, "open_x4.png", path.name]


def test_a_file_that_disappears_or_changes_while_it_is_read(tmp_path, upscale, monkeypatch):
    path = save(tmp_path / "x.png")
    form = pictures._format
    monkeypatch.setattr(pictures, "_format", lambda p: (form(p), p.unlink())[0])
    ran = upscale(path)
    assert ran.code == 1
    assert len(ran.err) == 1
    assert ran.err[0].startswith(f"{path}: ")
    assert tree(tmp_path) == []


def test_a_model_that_overflows(tmp_path, flowkit, checkpoint):
    with safe_open(checkpoint(), "pt") as file:
        about = file.metadata()
    state = {name: t * 1e30 if name.endswith("weight") else t for name, t in load_file(checkpoint()).items()}
    save_file(state, tmp_path / "m.safetensors", about)
    path = save(tmp_path / "x.png")
    ran = flowkit("upscale", "-m", tmp_path / "m.safetensors", path)
    assert ran.code == 1
    assert len(ran.err) == 1
    assert f"{path}: what the model makes of it is not finite" in ran.err[0]
    assert tree(tmp_path) == ["m.safetensors", "x.png"]


@pytest.mark.parametrize("error", [MemoryError("no tile fits"), torch.OutOfMemoryError("CUDA"), RuntimeError("a\nb")])
def test_what_the_model_raises_is_one_line(error, tmp_path, upscale, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("flowkit_models.inference.tiling.Tiled.strips", fail)
    path = save(tmp_path / "x.png")
    ran = upscale(path)
    assert ran.code == 1
    assert ran.err == [f"{path}: {type(error).__name__}: {' '.join(str(error).split())}"]
    assert tree(tmp_path) == ["x.png"]


def test_debug_says_where(tmp_path, upscale):
    ran = upscale("--debug", make("zero.png", tmp_path))
    assert ran.code == 1
    assert "zero.png: empty file" in ran.err[0]
    assert any("Traceback" in line for line in ran.err)
