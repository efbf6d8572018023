"""Fixtures of the demo's tests."""

import pytest
import scenes

from flowkit_models.demo.callbacks import Callbacks


@pytest.fixture(params=scenes.SIZES)
def checkpoint(request, tmp_path):
    return scenes.saved(request.param, tmp_path)


@pytest.fixture
def hcflow(tmp_path):
    return scenes.saved("hcflow_sr_x4_small", tmp_path)


@pytest.fixture
def photo(tmp_path):
    return scenes.make_photo(tmp_path / "a photo.png", 72, 104)


@pytest.fixture
def calls(tmp_path):
    pytest.importorskip("gradio", reason="the demo needs gradio: pip install flowkit-torch[demo]")
    (tmp_path / "out").mkdir()
    return Callbacks(tmp_path / "out", 96, scenes.Direct())
