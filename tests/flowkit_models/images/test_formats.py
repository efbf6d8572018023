"""The table of image formats: all that readers, writers, searches, help and docs know of a format is in its row."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from flowkit_models.images import formats
from flowkit_models.images.formats import FORMATS, recognised_format
from flowkit_models.images.image_file import ImageError, read_image
from flowkit_models.images.photo_file import Header, read_photo, write_photo

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DOCS = Path(__file__).parents[3] / "docs"
WRITTEN = [row for row in FORMATS if row.vips_saver]

A_ROW_MORE = """
from flowkit_models.images import formats

others = tuple(row for row in formats.FORMATS if row.name != "gif")
row = formats.ImageFormat(
    name="anim", label="Anim", endings=(".ani", ".pix"), magic=rb"GIF8", pillow="GIF",
    vips_loader="gif", vips_saver="gif", max_side=100,
)
formats.FORMATS = (*others, row)

from pathlib import Path
from flowkit_models.cli import main
from flowkit_models.data.pairs import images_in
from flowkit_models.images.image_file import list_images, read_image

folder = Path("in")
assert [path.name for path in list_images(folder)] == ["x.pix"]
assert list(images_in(folder)) == ["x"]
assert read_image(folder / "x.pix").shape == (3, 8, 6)
assert main(["upscale", "--help"]) == 0
assert main(["upscale", "in", "-o", "out"]) == 0
assert main(["upscale", "in", "-o", "out", "--format", "ani"]) == 0
assert main(["upscale", "long.pix"]) == 1
"""


def test_a_format_more_is_a_row_more(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (6, 8), "teal").save(tmp_path / "in/x.pix", format="GIF")
    Image.new("RGB", (26, 1), "teal").save(tmp_path / "long.pix", format="GIF")
    command = [sys.executable, "-c", A_ROW_MORE]
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": root, "COLUMNS": "200"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "TIFF, AVIF or Anim" in done.stdout
    assert "jpg|png|webp|tif|ani" in done.stdout
    assert "long_x4.pix: 4 × 104 pixels, and this format ends at 100" in done.stderr
    for name in ("x_x4.pix", "x_x4.ani"):
        with Image.open(tmp_path / "out" / name) as image:
            assert (image.format, image.size) == ("GIF", (24, 32))


def test_endings_and_names_belong_to_one_row():
    assert len(formats.endings()) == len(set(formats.endings()))
    assert len({row.name for row in FORMATS}) == len(FORMATS)
    assert all(ending.startswith(".") and ending.islower() for ending in formats.endings())


@pytest.mark.parametrize("row", WRITTEN, ids=lambda row: row.name)
def test_what_a_format_holds_is_written_and_read_by_both_readers(row, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    for ending in row.endings:
        path = tmp_path / f"x{ending}"
        metadata = {"exif-data": exif.tobytes(), "icc-profile-data": SRGB}
        header = Header(alpha=row.alpha, bits=16 if row.wide else 8, metadata=metadata)
        array = np.full((4, 5, header.channels), np.iinfo(header.dtype).max, header.dtype)
        array[0, 0, 3:] = 0  # all opaque, WebP would store no alpha
        write_photo(path, array, header, quality=100)
        assert recognised_format(path.read_bytes()[:16]) is row
        got = read_photo(path).header
        assert (got.format, got.alpha, got.bits) == (row.name, row.alpha, header.bits)
        assert ("icc-profile-data" in got.metadata, "exif-data" in got.metadata) == (row.profile, row.exif)
        assert read_image(path).float().mean() > 254
    assert row.keeps_pixels(100) == (row.name != "jpeg")
    assert row.keeps_pixels(95) == (row.name in ("png", "tiff"))


def test_no_other_decoder_meets_what_a_stranger_sends(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (4, 4)).save(path, format="EPS")  # which Pillow would hand to Ghostscript
    with pytest.raises(ImageError, match=r"photo\.png: a PostScript program, not an image that Pillow can read"):
        read_image(path)


def test_the_docs_have_the_table():
    def mark(holds):
        return "yes" if holds else "–"

    rows = ["| format | names end in | read | written | transparency | 16 bits | ICC profile | EXIF | longest side |"]
    rows += ["|---" * 9 + "|"]
    for row in FORMATS:
        readers = {(True, True): "yes", (False, True): "recipes", (True, False): "command"}
        reader = readers[bool(row.vips_loader), bool(row.pillow)] + ("*" if row.some_builds else "")
        cells = [row.label, " ".join(row.endings + row.read_endings), reader]
        held = [row.alpha, row.wide, row.profile, row.exif] if row.vips_saver else []
        cells += [mark(row.vips_saver), *(mark(part) for part in held), *([f"{row.max_side:,}"] if held else ["–"] * 5)]
        rows.append(f"| {' | '.join(cells)} |")
    assert "\n".join(rows) in (DOCS / "command.md").read_text(), "\n".join(rows)


LEFT_OUT = (
    "._a.png",
    ".ipynb_checkpoints/a.png",
    ".thumbnails/a.png",
    "__MACOSX/a.png",
    "lost+found/a.png",
    "System Volume Information/a.png",
    "@eaDir/a.png/thumb.png",
)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(folder):
    return [path.relative_to(folder).as_posix() for path in formats.find_files(folder, [".png"])]


def test_what_systems_put_beside_pictures_is_left_out(tmp_path):
    folder = tmp_path / ".hidden"  # but what is named itself is searched
    touch(folder, "a.PNG", "b/c.png", "b.txt", *LEFT_OUT, *(f"b/{name}" for name in LEFT_OUT))
    assert found(folder) == ["a.PNG", "b/c.png"]


def test_linked_folders_are_searched_once(tmp_path):
    touch(tmp_path, "set/a.png", "set/z/b.png", "store/c.png", "store/d/e.png", "outside.png")
    for link, target in {"set/linked": "store", "set/twice": "store", "set/0": "set/z", "store/d/back": "set"}.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    (tmp_path / "set/up").symlink_to(tmp_path)
    (tmp_path / "set/self").symlink_to("self")
    (tmp_path / "set/lost.png").symlink_to("nowhere")
    assert found(tmp_path / "set") == ["a.png", "linked/c.png", "linked/d/e.png", "lost.png", "z/b.png"]
    (tmp_path / "other").symlink_to(tmp_path / "set")
    assert found(tmp_path / "other")[0] == "a.png"
