"""Photographs from the wheels."""

import importlib.util

import pytest
import torch

from flowkit_models.data.sample_photos import bundled_photos, test_photos


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
    with pytest.raises(ImportError, match=r'pip install "flowkit-torch\[train\]"'):
        load()
