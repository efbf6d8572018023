"""Sub-images, faces and LR files: what is made of which source, and how many sources are worked through."""

from pathlib import Path

import numpy as np
import pytest
import torch

from flowkit_models.data import prepare as preparation
from flowkit_models.data.image_cache import ImageFile
from flowkit_models.data.prepare import CELEBA, Faces, LowResolution, SubImages, prepare_all
from flowkit_models.images.image_file import ImageError, read_image, write_image
from flowkit_models.images.resize import bicubic_resize


def noise(height, width, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, height, width), np.uint8))


def made(preparation, x, name="a.jpg"):
    """Names and images that a preparation makes of a source."""
    source = ImageFile(Path(name), *x.shape[1:])
    targets, images = preparation.targets(source), preparation.images(source, x)
    assert len(targets) == len(images)
    return dict(zip((t.as_posix() for t in targets), images, strict=True))


def chart(height, width):
    """An image that tells the place of its pixels: rows in channel 0, columns in channel 1."""
    x = torch.zeros(3, height, width, dtype=torch.uint8)
    x[0], x[1] = torch.arange(height)[:, None], torch.arange(width)
    return x


def corners(images):
    return [(int(x[0, 0, 0]), int(x[1, 0, 0])) for x in images.values()]


def test_random_sub_images():
    x = chart(100, 80)
    images = made(SubImages(Path("out"), Path(), 16, 47), x, "sub/a.jpg")
    assert list(images) == [f"out/sub/a_{k:03d}.png" for k in range(1, 48)]
    places = corners(images)
    for (top, left), image in zip(places, images.values(), strict=True):
        assert torch.equal(image, x[:, top : top + 16, left : left + 16])
    tops, lefts = zip(*places, strict=True)
    assert min(tops) < 10
    assert max(tops) > 74
    assert min(lefts) < 8
    assert max(lefts) > 56


def test_random_positions_depend_on_the_seed_and_the_name_alone():
    x = chart(100, 80)
    places = corners(made(SubImages(Path("out"), Path("root"), 16), x, "root/a.jpg"))
    assert places == corners(made(SubImages(Path("away"), Path(), 16), x, "a.png"))
    assert places != corners(made(SubImages(Path("out"), Path(), 16), x, "b.png"))
    assert places != corners(made(SubImages(Path("out"), Path(), 16, seed=1), x, "a.png"))
    assert places[:5] == corners(made(SubImages(Path("out"), Path(), 16, count=5), x, "a.png"))


def test_every_random_position_occurs():
    found = {c for n in range(20) for c in corners(made(SubImages(Path("out"), Path(), 8), chart(10, 9), f"{n}.png"))}
    assert found == {(top, left) for top in range(3) for left in range(2)}


def test_a_grid_of_sub_images_reaches_the_edges():
    images = made(SubImages(Path("out"), Path(), 8, None, 5), chart(20, 13))
    assert corners(images) == [(top, left) for top in (0, 5, 10, 12) for left in (0, 5)]
    assert corners(made(SubImages(Path("out"), Path(), 8, None, 8), chart(16, 8))) == [(0, 0), (8, 0)]
    assert corners(made(SubImages(Path("out"), Path(), 8, None, 50), chart(8, 8))) == [(0, 0)]


def test_faces_of_aligned_images():
    x = noise(218, 178)
    images = made(Faces(Path("out")), x, "dir/182638.jpg")
    assert list(images) == ["out/HR/182638.png", "out/LR_bicubic/X8/182638x8.png"]
    hr, lr = images.values()
    assert torch.equal(hr, bicubic_resize(x[:, 20:198], 160 / 178))
    assert hr.shape == (3, 160, 160)
    assert torch.equal(lr, bicubic_resize(hr, 1 / 8))
    assert lr.shape == (3, 20, 20)


def test_face_factor_and_sizes():
    x = noise(218, 178)
    hr, lr = made(Faces(Path("out"), 128, 4, face_factor=0.75), x).values()
    side = round(0.6 * 178 / 0.75)  # 142
    assert torch.equal(hr, bicubic_resize(x[:, 38 : 38 + side, 18 : 18 + side], 128 / side))
    assert (hr.shape, lr.shape) == ((3, 128, 128), (3, 32, 32))


@pytest.mark.parametrize("side", [640, 160])
def test_faces_that_are_cut_out_already_are_taken_whole(side):
    x = noise(side, side)
    hr, _ = made(Faces(Path("out")), x).values()
    assert torch.equal(hr, bicubic_resize(x, 160 / side))


def test_the_parts_of_celeba():
    assert [(part[0], part[-1]) for part in CELEBA.values()] == [(1, 162770), (162771, 182637), (182638, 202599)]


def test_lr_files():
    x = noise(19, 14)
    (image,) = made(LowResolution(Path("out"), 4), x).values()
    assert torch.equal(image, bicubic_resize(x[:, :16, :12], 1 / 4))
    images = made(LowResolution(Path("out"), 3, "clamp", "up", suffix=False), x)
    assert list(images) == ["out/a.png"]
    assert torch.equal(images["out/a.png"], bicubic_resize(x[:, :18, :12], 1 / 3, "clamp", "up"))
    assert list(made(LowResolution(Path("out"), 3), x)) == ["out/ax3.png"]


@pytest.mark.parametrize(
    ("preparation", "size", "message"),
    [
        (SubImages(Path("out"), Path(), 16), (15, 40), "15 × 40 is below 16 pixels"),
        (Faces(Path("out")), (217, 178), "217 × 178 is neither 218 × 178"),
        (Faces(Path("out")), (150, 150), "150 pixels of face would be enlarged to 160"),
        (Faces(Path("out"), face_factor=0.8), (218, 178), "134 pixels of face would be enlarged"),
        (LowResolution(Path("out"), 4), (3, 9), "3 × 9 is below 4 pixels"),
    ],
)
def test_sources_that_are_of_no_use(preparation, size, message):
    with pytest.raises(ImageError, match=rf"^a\.jpg: {message}"):
        made(preparation, noise(*size))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SubImages(Path(), Path(), 0), "size, step and count"),
        (lambda: SubImages(Path(), Path(), count=0), "at least 1"),
        (lambda: SubImages(Path(), Path(), count=None, step=0), "step"),
        (lambda: SubImages(Path(), Path(), seed=-1), "seed not negative"),
        (lambda: Faces(Path(), 160, 7), "size 160 must be a multiple of scale 7"),
        (lambda: Faces(Path(), face_factor=0.5), "got 0.5"),
        (lambda: LowResolution(Path(), 0), "got 0"),
    ],
)
def test_settings_that_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.fixture
def jobs(tmp_path):
    """Four sources for LR files, of which the third is damaged."""
    (tmp_path / "hr").mkdir()
    for n in range(4):
        write_image(tmp_path / f"hr/{n}.png", noise(16, 12, n))
    (tmp_path / "hr/2.png").write_bytes((tmp_path / "hr/2.png").read_bytes()[:300])
    return [(LowResolution(tmp_path / "out/deep", 4), tmp_path / f"hr/{n}.png") for n in range(4)]


def test_all_is_written_and_what_is_bad_is_told(jobs, tmp_path):
    told = []
    report = prepare_all(jobs, 2, told.append)
    assert (report.written, report.existing) == (3, 0)
    assert len(report.failed) == 1
    assert "2.png: damaged or truncated" in report.failed[0]
    assert told == [None, None, report.failed[0], None]
    names = sorted(p.name for p in (tmp_path / "out/deep").iterdir())
    assert names == [
        "0x4.png",
        "1x4.png",
        "3x4.png",
        "prepared.json",
    ]
    assert torch.equal(read_image(tmp_path / "out/deep/3x4.png"), bicubic_resize(noise(16, 12, 3), 1 / 4))


def test_what_is_there_is_neither_decoded_nor_written_again(jobs, tmp_path, monkeypatch):
    prepare_all(jobs)
    (tmp_path / "out/deep/1x4.png").unlink()
    write_image(tmp_path / "out/deep/3x4.png", torch.zeros(3, 1, 1))
    done = []
    read = ImageFile.read
    monkeypatch.setattr(ImageFile, "read", lambda file: done.append(file.path.name) or read(file))
    report = prepare_all(jobs, 1)
    assert (report.written, report.existing, len(report.failed)) == (1, 2, 1)
    assert done == ["1.png", "2.png"]
    assert read_image(tmp_path / "out/deep/3x4.png").shape == (3, 1, 1)


def test_only_what_is_missing_of_a_source_is_written(tmp_path):
    write_image(tmp_path / "a.png", noise(30, 30))
    jobs = [(SubImages(tmp_path / "out", tmp_path, 8, 5), tmp_path / "a.png")]
    prepare_all(jobs)
    before = {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    (tmp_path / "out/a_004.png").unlink()
    write_image(tmp_path / "out/a_005.png", torch.zeros(3, 1, 1))
    assert prepare_all(jobs) == preparation.Report(1, 4)
    after = {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert [p.name for p in before if before[p] != after[p]] == ["a_005.png"]


def test_a_result_that_cannot_be_written_ends_it(jobs, tmp_path, monkeypatch):
    (tmp_path / "out").touch()
    with pytest.raises(ImageError, match="deep: cannot be made"):
        prepare_all(jobs)
    (tmp_path / "out").unlink()

    def full(*_):
        raise ImageError("x.png: cannot be written (No space left on device)")

    monkeypatch.setattr(preparation, "write_image", full)
    with pytest.raises(ImageError, match="No space left"):
        prepare_all(jobs)
