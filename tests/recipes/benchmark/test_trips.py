"""Trips through the package: short ones stay short."""

from pathlib import Path

import pytest
import torch
from benchmark.trips import load_trip, trip_of, upscale_trip

import flowkit_models
from flowkit_models.images import photo_file

PACKAGE = Path(flowkit_models.__file__).parent
pytestmark = pytest.mark.bench


def test_a_trip_is_counted() -> None:
    x = torch.zeros(3, 4, 4)
    files = trip_of(lambda: photo_file.stored(x, None, photo_file.Header()), PACKAGE)
    assert files == ["images/photo_file.py", "images/convert.py"]


def test_opening_a_checkpoint_is_a_short_trip() -> None:
    assert len(load_trip(PACKAGE)) <= 8


def test_enlarging_a_picture_is_a_short_trip() -> None:
    assert len(upscale_trip(PACKAGE)) <= 25
