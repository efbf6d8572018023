"""Photographs from the wheels and from folders, and the training batches cropped from them."""

import importlib.util
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from flowkit_models.bicubic import bicubic_resize
from flowkit_models.images import ImageError
from flowkit_models.metrics import to_uint8
from flowkit_models.photos import Crops, bundled_photos, read_photos, test_photos


def crops(photos, size=16, batch=4, scale=4, seed=0, **options):
    return Crops(photos, size, batch, scale, torch.Generator().manual_seed(seed), **options)


@pytest.fixture(scope="module")
def random_photos():
    g = torch.Generator().manual_seed(0)
    return {name: torch.randint(0, 256, (3, 40, w), generator=g).byte() for name, w in (("a", 30), ("b", 90))}


def test_bundled_photos_are_those_of_the_wheels():
    photos = bundled_photos()
    expected = {
        "china": (427, 640),
        "flower": (427, 640),
        "motorcycle_left": (500, 741),
        "motorcycle_right": (500, 741),
        "rocket": (427, 640),
        "retina": (1411, 1411),
        "hubble": (872, 1000),
    }
    assert {name: tuple(x.shape[1:]) for name, x in photos.items()} == expected
    assert all(x.dtype == torch.uint8 and len(x) == 3 and x.double().std() > 20 for x in photos.values())
    assert not photos.keys() & test_photos().keys()


def test_test_photos_are_cropped_to_multiples_of_8():
    photos = test_photos()
    shapes = {name: tuple(x.shape) for name, x in photos.items()}
    assert shapes == {"astronaut": (3, 512, 512), "chelsea": (3, 296, 448), "coffee": (3, 400, 600)}
    assert all(x.dtype == torch.uint8 for x in photos.values())


def test_photos_missing_in_a_wheel_are_left_out(tmp_path, monkeypatch):
    (tmp_path / "skimage").mkdir()
    (tmp_path / "skimage" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(importlib.sys.modules, "skimage", raising=False)
    assert set(bundled_photos()) == {"china", "flower"}
    assert test_photos() == {}


@pytest.mark.parametrize("load", [bundled_photos, test_photos])
def test_missing_wheel(monkeypatch, load):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r'pip install "flowkit-torch\[recipes\]"'):
        load()


def test_read_photos_uses_what_it_can_and_says_what_it_skips(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "gray.png")
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    (tmp_path / "sub").mkdir()
    Image.fromarray(pixels[..., :3]).save(tmp_path / "sub" / "rgb.jpg")
    Image.fromarray(pixels[:10]).save(tmp_path / "small.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "rgba.png").read_bytes()[:500])
    (tmp_path / "empty.png").touch()
    with pytest.warns(UserWarning, match="skipped") as caught:
        photos = read_photos(tmp_path, 16)
    assert {name: tuple(x.shape) for name, x in photos.items()} == dict.fromkeys(
        ("gray.png", "rgba.png", "sub/rgb.jpg"), (3, 20, 30)
    )
    said = [str(w.message) for w in caught]
    assert len(said) == 3
    assert "cut.png: damaged or truncated" in said[0]
    assert "empty.png: empty file" in said[1]
    assert "small.png: 10 × 30 is below 16 pixels" in said[2]
    assert all(w.filename == __file__ for w in caught)


def test_read_photos_rejects(tmp_path):
    with pytest.raises(ImageError, match="no such folder"):
        read_photos(tmp_path / "nowhere", 8)
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    with pytest.warns(UserWarning, match="4 × 4"), pytest.raises(ImageError, match="none of its images"):
        read_photos(str(tmp_path), 8)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_batches_are_8_bit_pairs(random_photos, scale):
    hr, lr = next(crops(random_photos, scale=scale))
    assert hr.dtype == lr.dtype == torch.float32
    assert hr.shape == (4, 3, 16, 16)
    assert lr.shape == (4, 3, 16 // scale, 16 // scale)
    assert torch.equal(to_uint8(lr), bicubic_resize(to_uint8(hr), Fraction(1, scale)))
    assert torch.equal(to_uint8(lr).float() / 255, lr)


def test_the_generator_is_the_whole_state(random_photos):
    first, second = crops(random_photos), crops(random_photos)
    for (hr, lr), (hr2, lr2) in islice(zip(first, second, strict=True), 3):
        assert torch.equal(hr, hr2)
        assert torch.equal(lr, lr2)
    second.generator.set_state(first.generator.get_state())
    assert torch.equal(next(first)[0], next(second)[0])
    assert not torch.equal(next(first)[0], next(crops(random_photos, seed=1))[0])


def test_every_orientation_and_every_place_occur():
    ramp = torch.arange(3 * 3).view(1, 3, 3).expand(3, -1, -1).byte()
    hr, _ = next(crops({"ramp": ramp}, size=2, batch=600, scale=1))
    kinds, counts = to_uint8(hr)[:, 0].flatten(1).unique(dim=0, return_counts=True)
    square = torch.arange(9).view(3, 3)
    expected = {
        tuple(view.flatten().tolist())
        for part in (square[i : i + 2, j : j + 2] for i in (0, 1) for j in (0, 1))
        for side in (part, part.flip(0), part.flip(1), part.flip(0, 1))
        for view in (side, side.T)
    }
    assert {tuple(kind) for kind in kinds.tolist()} == expected
    assert len(expected) == 32
    assert counts.max() < 45  # 19 on average


def test_photos_are_chosen_by_pixels_times_weight():
    photos = {"a": torch.zeros(3, 8, 8).byte(), "b": torch.full((3, 8, 24), 255).byte()}
    share = next(crops(photos, size=4, batch=2000))[0].mean()
    torch.testing.assert_close(share.item(), 3 / 4, atol=0.04, rtol=0)
    share = next(crops(photos, size=4, batch=2000, weights={"b": 0.1}))[0].mean()
    torch.testing.assert_close(share.item(), 0.3 / 1.3, atol=0.04, rtol=0)
    assert next(crops(photos, size=4, batch=50, weights={"b": 0}))[0].max() == 0


def test_photo_as_small_as_the_crop(random_photos):
    hr, _ = next(crops({"a": random_photos["a"][:, :16, :16]}, batch=1))
    assert to_uint8(hr).sum() == random_photos["a"][:, :16, :16].sum()


def test_photos_are_not_written_into(random_photos):
    before = {name: x.clone() for name, x in random_photos.items()}
    next(crops(random_photos))
    assert all(torch.equal(x, before[name]) for name, x in random_photos.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 18}, "size 18 must be a multiple of scale 4"),
        ({"size": 0}, "size 0"),
        ({"batch": 0}, "batch 0 at least 1"),
        ({"size": 32}, r"32 pixels do not fit into photos \['a'\]"),
        ({"photos": {}}, "no photos"),
        ({"weights": {"c": 1.0}}, r"unknown photos \['c'\]; there are \['a', 'b'\]"),
        ({"weights": {"a": -1.0}}, "negative"),
        ({"weights": {"b": float("nan")}}, "finite"),
        ({"weights": {"a": 0, "b": 0}}, "all zero"),
    ],
)
def test_crops_rejects(random_photos, options, message):
    with pytest.raises(ValueError, match=message) as error:
        crops(**{"photos": random_photos} | options)
    assert "\n" not in str(error.value)
