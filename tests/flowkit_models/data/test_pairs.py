"""Every layout of HR and LR files, on made-up trees and on Set5, and what is said where pairs do not match."""

import numpy as np
import pytest
import torch
from PIL import Image

from flowkit_models.data.pairs import PairFiles, find_pairs, images_in, read_pair
from flowkit_models.images.image_file import ImageError
from flowkit_models.images.resize import bicubic_resize

NAMES = ("img_001", "img_002", "img_010")


def save(path, height=16, width=12, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


LAYOUTS = {  # HR and LR of image n for scale 4
    "HR": ("HR/{n}.png", "LR_bicubic/X4/{n}.png"),
    "HR with x4": ("HR/{n}.png", "LR_bicubic/X4/{n}x4.png"),
    "HR with _x4": ("HR/{n}.bmp", "LR_bicubic/X4/{n}_x4.png"),
    "GTmod12": ("GTmod12/{n}.png", "LRbicx4/{n}.png"),
    "DIV2K": ("DIV2K_valid_HR/{n}.png", "DIV2K_valid_LR_bicubic/X4/{n}x4.png"),
    "SelfExSR": ("image_SRF_4/{n}_SRF_4_HR.png", "image_SRF_4/{n}_SRF_4_LR.png"),
    "SelfExSR, flat": ("{n}_SRF_4_HR.png", "{n}_SRF_4_LR.png"),
    "endings alone": ("{n}_HR.png", "{n}_LR.png"),
}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def layout(request, tmp_path):
    hr, lr = request.param
    for seed, name in enumerate(NAMES):
        save(tmp_path / hr.format(n=name), seed=seed)
        save(tmp_path / lr.format(n=name), 4, 3, seed)
    return tmp_path, hr, lr


def test_every_layout_is_found_and_read(layout):
    folder, hr, lr = layout
    pairs = find_pairs(folder, 4)
    assert pairs == [PairFiles(n, folder / hr.format(n=n), folder / lr.format(n=n)) for n in NAMES]
    assert find_pairs(str(folder), 4) == pairs
    for pair in pairs:
        x, y = read_pair(pair, 4)
        assert x.dtype == y.dtype == torch.uint8
        assert (x.shape, y.shape) == ((3, 16, 12), (3, 4, 3))


@pytest.mark.parametrize("kind", ["HR", "LR"])
def test_what_lacks_its_partner_is_named(layout, kind):
    folder, *patterns = layout
    (folder / patterns[kind == "LR"].format(n="img_002")).unlink()
    missing = {"HR": r"no HR for img_002", "LR": "no LR for img_002$"}[kind]
    with pytest.raises(ImageError, match=rf"do not match: {missing}") as error:
        find_pairs(folder, 4)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_natural_order(tmp_path):
    for name in ("b10", "b9", "a2", "a10", "10", "9"):
        save(tmp_path / f"{name}.png")
    assert [pair.name for pair in find_pairs(tmp_path, 2)] == ["9", "10", "a2", "a10", "b9", "b10"]
    assert list(images_in(tmp_path)) == ["9", "10", "a2", "a10", "b9", "b10"]


def test_two_folders(tmp_path):
    for name in NAMES:
        save(tmp_path / "photos" / f"{name}.jpg")
        save(tmp_path / "small" / f"{name}x3.png")
    pairs = find_pairs(tmp_path / "photos", 3, tmp_path / "small")
    assert [(p.name, p.hr.name, p.lr.name) for p in pairs] == [(n, f"{n}.jpg", f"{n}x3.png") for n in NAMES]


def test_a_name_that_ends_like_a_scale_keeps_it(tmp_path):
    save(tmp_path / "HR/boxx4.png")
    save(tmp_path / "LR_bicubic/X4/boxx4.png", 4, 3)
    assert find_pairs(tmp_path, 4)[0].name == "boxx4"


@pytest.mark.parametrize("place", ["", "HR/", "GTmod12/", "DIV2K_valid_HR/"])
def test_hr_alone(tmp_path, place):
    for name in NAMES:
        save(tmp_path / f"{place}{name}.png", 17, 14)
    save(tmp_path / "deeper/elsewhere.png")
    pairs = find_pairs(tmp_path, 4)
    assert pairs == [PairFiles(n, tmp_path / f"{place}{n}.png", None) for n in NAMES]
    hr, lr = read_pair(pairs[0], 4)  # no warning: this is what is always done
    assert hr.shape == (3, 16, 12)
    assert torch.equal(lr, bicubic_resize(hr, 1 / 4))
    _, lr = read_pair(pairs[0], 4, edges="clamp", ties="up")
    assert torch.equal(lr, bicubic_resize(hr, 1 / 4, "clamp", "up"))
    assert not torch.equal(lr, bicubic_resize(hr, 1 / 4))


def test_pictures_of_methods_are_left_alone(tmp_path):
    for kind in ("HR", "LR", "bicubic", "SelfExSR"):
        save(tmp_path / f"image_SRF_2/img_001_SRF_2_{kind}.png")
    assert [pair.name for pair in find_pairs(tmp_path, 2)] == ["img_001"]
    assert find_pairs(tmp_path / "image_SRF_2", 2) == find_pairs(tmp_path, 2)


def test_scales_side_by_side(tmp_path):
    for scale in (2, 4):
        save(tmp_path / f"flat/a_SRF_{scale}_HR.png")
        save(tmp_path / f"flat/a_SRF_{scale}_LR.png")
        save(tmp_path / f"set/LR_bicubic/X{scale}/a.png")
    save(tmp_path / "set/HR/a.png")
    for scale in (2, 4):
        assert find_pairs(tmp_path / "flat", scale)[0].lr.name == f"a_SRF_{scale}_LR.png"
        assert find_pairs(tmp_path / "set", scale)[0].lr.parent.name == f"X{scale}"


def test_of_two_hr_folders_the_one_with_lr_is_meant(tmp_path):
    for part in ("train", "valid"):
        save(tmp_path / f"DIV2K_{part}_HR/1.png")
    with pytest.raises(ImageError, match="holds DIV2K_train_HR and DIV2K_valid_HR"):
        find_pairs(tmp_path, 4)
    save(tmp_path / "DIV2K_valid_LR_bicubic/X4/1x4.png")
    assert find_pairs(tmp_path, 4)[0].hr.parent.name == "DIV2K_valid_HR"
    save(tmp_path / "DIV2K_train_LR_bicubic/X4/1x4.png")
    with pytest.raises(ImageError, match="holds DIV2K_train_HR and DIV2K_valid_HR"):
        find_pairs(tmp_path, 4)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no images directly in it and none of HR"),
        (["HR/a.png", "LR_bicubic/X2/a.png", "LR_bicubic/X3/a.png"], r"LR_bicubic/X2, LR_bicubic/X3, none for ×4"),
        (["GTmod12/a.png", "LRbicx2/a.png"], r"LR files in LRbicx2, none for ×4"),
        (["a_SRF_2_HR.png", "a_SRF_2_LR.png", "a_SRF_3_LR.png"], r"pairs for × 2, 3, none for ×4"),
        (["a_SRF_4_HR.png", "a_SRF_4_bicubic.png"], "no LR for a$"),
        (["HR/a.png", "HR/a.jpg"], r"a\.jpg and a\.png have one name"),
        (["HR/a.png", "LR_bicubic/X4/a.png", "LR_bicubic/X4/ax4.png"], r"a\.png and ax4\.png are both LR of a\.png"),
        (["HR/a.png", "LR_bicubic/X4/.hidden"], "X4: no images directly in it"),
        (["HR/a.png", "LR_bicubic/X4/b.png"], "no LR for a; no HR for b$"),
        ([*(f"HR/{n}.png" for n in range(9)), "LR_bicubic/X4/8.png"], "no LR for 0, 1, 2 and 5 more$"),
        (["HR/a.png", "LR_bicubic/X4/ax2.png"], "no HR for ax2$"),
    ],
)
def test_sets_that_are_refused(tmp_path, files, message):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(ImageError, match=message) as error:
        find_pairs(tmp_path, 4)
    assert "\n" not in str(error.value)


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(ImageError, match="nowhere: no such folder"):
        find_pairs(tmp_path / "nowhere", 4)
    save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="nowhere: no such folder"):
        find_pairs(tmp_path, 4, tmp_path / "nowhere")
    with pytest.raises(ImageError, match=r"a\.png: not a folder"):
        find_pairs(tmp_path / "a.png", 4)
    with pytest.raises(ValueError, match="got 0"):
        find_pairs(tmp_path, 0)


@pytest.mark.parametrize(("height", "width"), [(17, 12), (16, 15), (19, 15)])
def test_hr_a_few_pixels_larger_is_cropped_at_the_bottom_and_right(tmp_path, height, width):
    pair = PairFiles("a", save(tmp_path / "a.png", height, width), save(tmp_path / "b.png", 4, 3))
    with pytest.warns(UserWarning, match=rf"a\.png: cropped from {height} × {width} to 16 × 12, LR × 4") as caught:
        hr, lr = read_pair(pair, 4)
    assert caught[0].filename == __file__
    assert (hr.shape, lr.shape) == ((3, 16, 12), (3, 4, 3))
    assert torch.equal(hr, torch.from_numpy(np.array(Image.open(pair.hr))).permute(2, 0, 1)[:, :16, :12])


@pytest.mark.parametrize(("height", "width"), [(15, 12), (16, 11), (20, 12), (16, 16), (4, 3)])
def test_other_sizes_are_refused_by_both_sizes(tmp_path, height, width):
    pair = PairFiles("a", save(tmp_path / "a.png", height, width), save(tmp_path / "b.png", 4, 3))
    with pytest.raises(ImageError, match=rf"{height} × {width} is not ×4 of .*b\.png: 4 × 3, which makes 16 × 12"):
        read_pair(pair, 4)


def test_an_image_below_the_scale_is_refused(tmp_path):
    pair = PairFiles("a", save(tmp_path / "a.png", 3, 9), None)
    with pytest.raises(ImageError, match=r"a\.png: 3 × 9 pixels are too few for ×4"):
        read_pair(pair, 4)


def test_files_of_other_kinds_are_read_as_everywhere(tmp_path):
    levels = np.arange(16 * 12, dtype=np.uint16).reshape(16, 12) * 257
    Image.fromarray(levels).save(tmp_path / "sixteen_HR.png")
    Image.new("RGBA", (3, 4), (10, 20, 30, 0)).save(tmp_path / "sixteen_LR.png")
    hr, lr = read_pair(find_pairs(tmp_path, 4)[0], 4)
    assert torch.equal(hr[1], torch.arange(192, dtype=torch.uint8).view(16, 12))
    assert lr.unique().tolist() == [255]


def test_set5(shared):
    pairs = find_pairs(shared / "data/benchmarks/Set5", 4)
    assert [pair.name for pair in pairs] == [f"img_{n:03d}" for n in range(1, 6)]
    sizes = []
    for pair in pairs:
        hr, lr = read_pair(pair, 4)
        assert hr.shape[1:] == tuple(4 * side for side in lr.shape[1:])
        assert torch.equal(lr, bicubic_resize(hr, 1 / 4, "clamp", "up"))
        sizes.append(tuple(hr.shape[1:]))
    assert sizes == [(512, 512), (288, 288), (256, 256), (280, 280), (344, 228)]
    for name in ("Set14", "BSD100"):
        assert all(pair.lr for pair in find_pairs(shared / "data/benchmarks" / name, 4))
