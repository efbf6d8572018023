"""Whole pixels beside odd metadata are read, with one warning that says what is odd; lost pixels are an error."""

import re
import warnings

import numpy as np
import pytest
import torch
from odd_files import (
    chunk,
    encoded,
    exif_bytes,
    long,
    noise,
    raw_profile,
    segment,
    short,
    tiff,
    with_chunk,
    with_exif,
    with_scan_header,
)

from flowkit_models.images import photo_file
from flowkit_models.images.image_file import ImageError, image_size, read_image
from flowkit_models.images.photo_file import PictureError

RGB = noise(12, 10, 3)
JPEG = encoded("JPEG", noise(40, 32, 3), quality=95)
GRAY_JPEG = encoded("JPEG", noise(40, 32), quality=95)
PNG = encoded("PNG", RGB)
TEXT = (305, 2, 6, b"abcde\0")

ODD = {  # file, the same without what is odd, and what the decoder says of it
    **{
        f"scan header {values.hex()} {len(jpeg)}.jpg": (with_scan_header(jpeg, values), jpeg, "Invalid SOS parameters")
        for jpeg in (JPEG, GRAY_JPEG)
        for values in (b"\0\0\0", b"\0\x3f\1", b"\0\x3f\x10")
    },
    "JFIF 2.jpg": (JPEG.replace(b"JFIF\0\1\1", b"JFIF\0\2\1"), JPEG, "unknown JFIF revision number 2.01"),
    "both.jpg": (
        with_scan_header(JPEG.replace(b"JFIF\0\1\1", b"JFIF\0\2\1"), b"\0\0\0"),
        JPEG,
        "unknown JFIF revision number 2.01",
    ),
    "NUL.tif": (tiff(RGB, add=[(305, 2, 6, b"ab\0cd\0")]), tiff(RGB), "Software.* contains null byte"),
    "padded.tif": (tiff(RGB, add=[(271, 2, 12, b"abc" + bytes(9))]), tiff(RGB), "Make.* contains null byte"),
    "no NUL.tif": (tiff(RGB, add=[(315, 2, 6, b"abcdef")]), tiff(RGB), "Artist.* does not end in null byte"),
    "twice.tif": (tiff(RGB, add=[TEXT, TEXT]), tiff(RGB), "not sorted in ascending order"),
    "order.tif": (tiff(RGB, add=[(200, 3, 1, short(1))], sort=False), tiff(RGB), "not sorted in ascending order"),
    "order, big.tif": (
        tiff(RGB, add=[(200, 3, 1, short(1, order=">"))], sort=False, order=">"),
        tiff(RGB),
        "not sorted in ascending order",
    ),
    "type.tif": (tiff(RGB, add=[(305, 3, 3, short(1, 2, 3))]), tiff(RGB), "Software"),
    "no counts.tif": (tiff(RGB, drop=(279,)), tiff(RGB), "missing required .StripByteCounts"),
    "counts 0.tif": (tiff(RGB, counts=0), tiff(RGB), "Bogus .StripByteCounts"),
    "counts.tif": (tiff(RGB, counts=99999), tiff(RGB), "Bogus .StripByteCounts"),
    **{
        f"orientation {n}.tif": (tiff(RGB, add=[(274, 3, 1, short(n))]), tiff(RGB), f"Bad value {n} for .Orientation")
        for n in (0, 9)
    },
    **{
        f"unit {n}.tif": (
            tiff(RGB, add=[(282, 5, 1, long(72, 1)), (283, 5, 1, long(72, 1)), (296, 3, 1, short(n))]),
            tiff(RGB),
            f"Bad value {n} for .ResolutionUnit",
        )
        for n in (0, 7)
    },
    "datetime.tif": (tiff(RGB, add=[(306, 2, 10, b"2020:01:0\0")]), tiff(RGB), None),
    "0 by 0.tif": (tiff(RGB, add=[(282, 5, 1, long(0, 0)), (283, 5, 1, long(1, 0))]), tiff(RGB), None),
    **{
        f"tag {tag} {value}.tif": (
            tiff(RGB, drop=(tag,), add=[(tag, 3, 1, short(value))]),
            tiff(RGB),
            f"Bad value {value}",
        )
        for tag, value in ((284, 0), (284, 9), (266, 0), (339, 0), (278, 0))
    },
    "width twice.tif": (tiff(RGB, drop=(256,), add=[(256, 3, 2, short(10, 10))]), tiff(RGB), "Incorrect count"),
    "no samples.tif": (tiff(RGB, drop=(277,)), tiff(RGB), None),
    "no extra.tif": (tiff(RGB, add=[(338, 3, 1, short(0))]), tiff(RGB), None),
    "undefined.tif": (tiff(RGB, add=[(339, 3, 3, short(4, 4, 4))]), tiff(RGB), None),
    "Adobe.jpg": (JPEG[:2] + segment(0xEE, b"Adobe\0") + JPEG[2:], JPEG, None),
    "JFIF cut.jpg": (JPEG[:2] + segment(0xE0, b"JFIF\0\1") + JPEG[20:], JPEG, None),
    **{
        f"{kind.decode()}.png": (with_chunk(PNG, chunk(kind, content)), PNG, None)
        for kind, content in (
            (b"gAMA", b"ab"),
            (b"sRGB", b""),
            (b"tRNS", b"\0"),
            (b"cHRM", bytes(3)),
            (b"iCCP", b"x\0\0?"),
        )
    },
    "text.png": (with_chunk(PNG, chunk(b"tEXt", b"Author\0me", right=False)), PNG, None),
    "late text.png": (with_chunk(PNG, chunk(b"tEXt", b"Author\0me", right=False), late=True), PNG, None),
    "short.png": (with_chunk(PNG, chunk(b"pHYs", b"\0\0\0\1")), PNG, None),
    "time.png": (with_chunk(PNG, chunk(b"tIME", b"\0")), PNG, None),
    "packed text.png": (with_chunk(PNG, chunk(b"zTXt", b"Author\0\0rubbish")), PNG, None),
}


@pytest.mark.parametrize("name", ODD)
def test_whole_pixels_are_read_by_both_readers(name, tmp_path):
    content, plain, sentence = ODD[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / f"plain {name}").write_bytes(plain)
    got, wanted = (photo_file.read_photo(tmp_path / n) for n in (name, f"plain {name}"))
    assert wanted.warnings == ()
    assert torch.equal(got.pixels, wanted.pixels)
    if sentence is None:
        assert len(got.warnings) <= 1
    else:
        (line,) = got.warnings
        assert re.search(sentence, line), line
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        x = read_image(tmp_path / name)
        assert image_size(tmp_path / name) == tuple(x.shape[1:])
        assert torch.equal(read_image(tmp_path / name), x)
    assert len(said) <= 1, "once a file"
    assert all(str(w.message).startswith(f"{tmp_path / name}: ") for w in said)
    assert torch.equal(x, read_image(tmp_path / f"plain {name}"))


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_channel_more_that_is_not_declared(channels, dtype, tmp_path):
    pixels = noise(12, 10, channels, dtype=dtype)
    (tmp_path / "x.tif").write_bytes(tiff(pixels))
    picture = photo_file.read_photo(tmp_path / "x.tif")
    assert len(picture.warnings) == 1
    assert "ExtraSamples" in picture.warnings[0]
    levels = picture.pixels.movedim(0, -1)[..., : channels - 1] * np.iinfo(dtype).max
    torch.testing.assert_close(levels, torch.from_numpy(pixels[..., :-1].astype(np.float32)), atol=0.1, rtol=0)
    assert picture.alpha is not None


JOINED = JPEG.index(b"\xff\xda") + (len(JPEG) - JPEG.index(b"\xff\xda")) // 2
LOST = {
    "cut.jpg": JPEG[:JOINED],
    "odd and cut.jpg": with_scan_header(JPEG, b"\0\0\0")[:JOINED],
    "odd and early end.jpg": with_scan_header(JPEG, b"\0\0\0")[:JOINED] + b"\xff\xd9" + JPEG[JOINED + 2 :],
    "odd and bad codes.jpg": with_scan_header(JPEG, b"\0\0\0")[:JOINED] + b"\xff\0" * 99 + JPEG[JOINED + 198 :],
    "cut.tif": tiff(RGB)[:-60],
    "odd and cut.tif": tiff(RGB, add=[TEXT, TEXT])[:-60],
    "no counts and cut.tif": tiff(RGB, drop=(279,))[:-60],
    "cut.png": PNG[: len(PNG) // 2],
    "odd and cut.png": with_chunk(PNG, chunk(b"tEXt", b"Author\0me", right=False))[: len(PNG) // 2],
    "checksum.png": PNG[:100] + b"\0\xff\0" + PNG[103:],
    "lzw.tif": encoded("TIFF", noise(40, 40, 3), compression="tiff_lzw")[:200] + bytes(range(256)) * 8,
}


@pytest.mark.parametrize("name", LOST)
def test_lost_pixels_are_an_error_with_the_reason(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(LOST[name])
    with pytest.raises(PictureError, match=r"damaged or truncated \(.{8,}\)$") as error:
        photo_file.read_photo(path)
    assert "\n" not in str(error.value)
    if "early" not in name and "codes" not in name:  # of which Pillow says nothing
        with pytest.raises(ImageError, match=r"damaged or truncated|not an image"):
            read_image(path)


RATIONAL = (0x9204).to_bytes(2, "little") + b"\x0a\0\1\0\0\0\x26\0\0\0"
ODD_EXIF = {
    "-1 by 0": exif_bytes(6, RATIONAL, 1) + long(0xFFFFFFFF, 0),
    "0 by 0": exif_bytes(6, (0x011A).to_bytes(2, "little") + b"\5\0\1\0\0\0\x26\0\0\0", 1) + long(0, 0),
    "two values": exif_bytes(6, (0x011A).to_bytes(2, "little") + b"\5\0\2\0\0\0\x26\0\0\0", 1) + long(72, 1, 72, 1),
    "text for a number": exif_bytes(6, (0x0111).to_bytes(2, "little") + b"\2\0\4\0\0\0abc\0", 1),
    "unknown type": exif_bytes(6, (0x0111).to_bytes(2, "little") + b"\x63\0\4\0\0\0abc\0", 1),
    "far away": exif_bytes(6, (0x010F).to_bytes(2, "little") + b"\2\0\xff\xff\0\0\xff\xff\xff\0", 1),
}


@pytest.mark.parametrize("kind", ODD_EXIF)
@pytest.mark.parametrize("end", ["jpg", "png"])
def test_a_turned_photograph_with_odd_exif_is_turned(kind, end, tmp_path):
    plain = encoded("JPEG" if end == "jpg" else "PNG", noise(16, 24, 3))
    exif = ODD_EXIF[kind]
    content = with_exif(plain, exif) if end == "jpg" else with_chunk(plain, chunk(b"eXIf", exif))
    (tmp_path / f"x.{end}").write_bytes(content)
    (tmp_path / f"plain.{end}").write_bytes(plain)
    upright = read_image(tmp_path / f"plain.{end}").rot90(-1, (1, 2))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert image_size(tmp_path / f"x.{end}") == (24, 16)
        assert torch.equal(read_image(tmp_path / f"x.{end}"), upright)
    assert all(str(w.message).startswith(str(tmp_path)) for w in said)
    assert photo_file.read_photo(tmp_path / f"x.{end}").pixels.shape == (3, 24, 16)


PLACES = {
    "before": lambda exif: with_chunk(PNG, chunk(b"eXIf", exif)),
    "behind": lambda exif: with_chunk(PNG, chunk(b"eXIf", exif), late=True),
    "zTXt": lambda exif: with_chunk(PNG, raw_profile(exif)),
    "tEXt": lambda exif: with_chunk(PNG, raw_profile(exif, packed=False)),
    "APP1": lambda exif: with_chunk(PNG, raw_profile(exif, name=b"APP1")),
    "late zTXt": lambda exif: with_chunk(PNG, raw_profile(exif), late=True),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_png_orientation_is_seen_wherever_it_stands(place, orientation, tmp_path):
    (tmp_path / "x.png").write_bytes(PLACES[place](exif_bytes(orientation)))
    upright = torch.from_numpy(RGB).movedim(-1, 0).rot90({1: 0, 3: 2, 6: -1, 8: 1}[orientation], (1, 2))
    assert torch.equal(read_image(tmp_path / "x.png"), upright)
    assert image_size(tmp_path / "x.png") == tuple(upright.shape[1:])
    picture = photo_file.read_photo(tmp_path / "x.png")
    assert torch.equal((picture.pixels * 255).round().byte(), upright)
    levels = photo_file.stored(picture.pixels, None, picture.header)
    photo_file.write_photo(tmp_path / "y.png", levels, picture.header)
    assert torch.equal(read_image(tmp_path / "y.png"), upright), "nothing says turn again"
    assert b"Raw profile" not in (tmp_path / "y.png").read_bytes()


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" %s</rdf:RDF></x:xmpmeta>'
)


@pytest.mark.parametrize(
    "said",
    [
        b'tiff:Orientation="6"/>',
        b"tiff:Orientation='6'/>",
        b'tiff:Orientation = "6"/>',
        b"><tiff:Orientation>6</tiff:Orientation></rdf:Description>",
        b"><tiff:Orientation> 6 </tiff:Orientation></rdf:Description>",
    ],
)
def test_after_turning_xmp_says_so(said, tmp_path):
    xmp = XMP.replace(b"%s", said)
    packet = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)
    jpeg = encoded("JPEG")
    (tmp_path / "x.jpg").write_bytes(with_exif(jpeg[:2] + packet + jpeg[2:], exif_bytes(6)))
    assert photo_file.read_photo(tmp_path / "x.jpg").header.metadata["xmp-data"] == XMP.replace(
        b"%s", said.replace(b"6", b"1")
    )
    (tmp_path / "upright.jpg").write_bytes(jpeg[:2] + packet + jpeg[2:])
    assert photo_file.read_photo(tmp_path / "upright.jpg").header.metadata["xmp-data"] == xmp


@pytest.mark.parametrize("late", [False, True])
def test_after_turning_a_png_its_xmp_says_so_and_stays(late, tmp_path):
    xmp = XMP.replace(b"%s", b'tiff:Orientation="6"/>')
    png = with_chunk(PNG, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    (tmp_path / "x.png").write_bytes(with_chunk(png, chunk(b"eXIf", exif_bytes(6)), late))
    picture = photo_file.read_photo(tmp_path / "x.png")
    assert picture.header.metadata["xmp-data"] == xmp.replace(b'"6"', b'"1"')
    photo_file.write_photo(tmp_path / "y.png", photo_file.stored(picture.pixels, None, picture.header), picture.header)
    assert b'Orientation="6"' not in (tmp_path / "y.png").read_bytes()
