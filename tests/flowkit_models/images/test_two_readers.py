"""Recipes (Pillow) and command (libvips) read one file as one picture: every kind of file that both read."""

import itertools

import numpy as np
import pytest
from odd_files import encoded, exif_bytes, noise, short, tiff
from PIL import Image

from flowkit_models.images import photo_file
from flowkit_models.images.image_file import image_size, read_image
from flowkit_models.images.transparency import over_white

RGB, GRAY, RGBA = noise(24, 20, 3), noise(24, 20), noise(24, 20, 4)
RGBA[..., 3][::2, ::2] = 0


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def palette(colours=7, transparent=None, form="PNG"):
    image = Image.fromarray(noise(24, 20) % colours, "P")
    image.putpalette(noise(3 * colours, seed=1).tolist())
    return encoded(form, image, **({} if transparent is None else {"transparency": transparent}))


def bilevel(form, **options):
    return encoded(form, Image.fromarray(GRAY).convert("1"), **options)


WIDE = noise(24, 20, dtype=np.uint16)
FILES = {
    **{f"{form} {kind}": (form, pixels, {}) for form, (kind, pixels) in itertools.product(
        ("PNG", "TIFF"), (("rgb", RGB), ("gray", GRAY), ("rgba", RGBA), ("wide gray", WIDE))
    )},
    "WEBP rgb": ("WEBP", RGB, {"lossless": True, "exact": True}),
    "WEBP rgba": ("WEBP", RGBA, {"lossless": True, "exact": True}),
    **{f"{form} turned {n}": (form, RGB, {"exif": exif(n), **({"lossless": True} if form == "WEBP" else {})})
       for form, n in itertools.product(("PNG", "TIFF", "WEBP", "JPEG"), range(1, 9))},
    **{f"JPEG {s}": ("JPEG", RGB, {"quality": 90, "subsampling": s}) for s in (0, 1, 2)},
    "JPEG gray": ("JPEG", GRAY, {"quality": 90}),
    "JPEG progressive": ("JPEG", RGB, {"progressive": True}),
    **{f"TIFF {c}": ("TIFF", RGB, {"compression": c}) for c in ("tiff_lzw", "tiff_deflate", "packbits")},
    **{f"LA {form}": (form, Image.fromarray(RGBA[..., 1:3]), {}) for form in ("PNG", "TIFF")},
}  # fmt: skip

CONTENT = {
    **{name: (lambda args=args: encoded(args[0], args[1], **args[2])) for name, args in FILES.items()},
    **{f"palette {n}": (lambda n=n: palette(n)) for n in (2, 3, 4, 16, 200)},
    **{f"palette with {n}": (lambda n=n: palette(9, n)) for n in (0, 5, bytes([0, 100, 255, 3]))},
    "GIF": lambda: palette(form="GIF"),
    "GIF with": lambda: palette(9, 3, form="GIF"),
    "TIFF palette": lambda: palette(form="TIFF"),
    "1 bit": lambda: bilevel("PNG"),
    "1 bit TIFF": lambda: bilevel("TIFF"),
    "1 bit fax": lambda: bilevel("TIFF", compression="group4"),
    "colour key": lambda: encoded("PNG", RGB, transparency=tuple(int(x) for x in RGB[3, 4])),
    "gray key": lambda: encoded("PNG", GRAY, transparency=int(GRAY[3, 4])),
    "AVIF": lambda: encoded("AVIF", np.linspace(0, 255, 24 * 20 * 3).astype(np.uint8).reshape(24, 20, 3), quality=95),
    "white is zero": lambda: tiff(GRAY, photometric=0),
    "wide white is zero": lambda: tiff(WIDE, photometric=0),
    "wide white is zero, big": lambda: tiff(WIDE, photometric=0, order=">"),
    "wide black is zero": lambda: tiff(WIDE),
    "wide black is zero, big": lambda: tiff(WIDE, order=">"),
    "big": lambda: tiff(RGB, order=">"),
    "YCbCr": lambda: tiff(RGB, photometric=6, add=[(530, 3, 2, short(1, 1))]),
    "YCbCr, big": lambda: tiff(RGB, photometric=6, order=">", add=[(530, 3, 2, short(1, 1, order=">"))]),
    "YCbCr, turned": lambda: tiff(RGB, photometric=6, add=[(530, 3, 2, short(1, 1)), (274, 3, 1, short(6))]),
    "YCbCr JPEG": lambda: encoded("TIFF", RGB, compression="jpeg"),
    "alpha 2": lambda: tiff(RGBA, add=[(338, 3, 1, short(2))]),
    "wide rgb": lambda: tiff(noise(24, 20, 3, dtype=np.uint16)),
    "odd exif": lambda: b"".join((encoded("JPEG")[:2], _app1(exif_bytes(6)), encoded("JPEG")[2:])),
}


def _app1(content):
    content = b"Exif\0\0" + content
    return b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content


def levels_away(name):
    """Decoders of lossy formats may differ in a level or two, and a wide level in its rounding."""
    if "JPEG" in name or name in ("AVIF", "odd exif"):
        return 4
    return 1 if "wide rgb" in name or "with" in name or "rgba" in name or "LA" in name or "alpha" in name else 0


@pytest.mark.parametrize("name", CONTENT)
def test_both_readers_give_one_picture(name, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(CONTENT[name]())
    picture = photo_file.read_photo(path)
    theirs = picture.pixels if picture.alpha is None else over_white(picture.pixels, picture.alpha)
    ours = read_image(path)
    assert image_size(path) == tuple(ours.shape[1:]) == tuple(theirs.shape[1:])
    difference = (theirs * 255 - ours.float()).abs()
    assert difference.max() <= levels_away(name) + 0.5001, difference.max()


def test_what_neither_reads_is_named_by_both(tmp_path):
    for name, content in {
        "sub": tiff(RGB, photometric=6),
        "wide YCbCr": tiff(noise(24, 20, 3, dtype=np.uint16), photometric=6, add=[(530, 3, 2, short(1, 1))]),
        "raw": tiff(RGB, add=[(50706, 1, 4, b"\1\4\0\0")]),
        "preview": tiff(RGB, add=[(254, 4, 1, b"\1\0\0\0"), (330, 4, 1, b"\x08\0\0\0")]),
        "video.mp4": b"\0\0\0\x20ftypisom" + bytes(100),
        "drawing": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "page": b"<!DOCTYPE html><html></html>",
        "notes": b"\0\5\x16\7" + bytes(80),
        "psd": b"8BPS\0\1" + bytes(80),
    }.items():
        (tmp_path / name).write_bytes(content)
        for read in (photo_file.read_photo, read_image):
            with pytest.raises(
                ValueError, match=r"YCbCr|raw photograph|a video|SVG|a web page|macOS's notes|a Photoshop document"
            ) as error:
                read(tmp_path / name)
            assert str(error.value).startswith(f"{tmp_path / name}: ")
            assert "\n" not in str(error.value)
