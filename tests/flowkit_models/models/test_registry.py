"""A family is a row of the registry: with it, everything that depends on the family knows a new one."""

from dataclasses import dataclass, replace

import pytest
import torch

import flowkit_models
from flowkit_models.cli.model import open_model
from flowkit_models.cli.options import Upscale
from flowkit_models.diagnostics.profile import profile_model
from flowkit_models.models.factory import build
from flowkit_models.models.irn.model import IRN, IRNConfig
from flowkit_models.models.registry import FAMILIES
from flowkit_models.spandrel import Loader


@dataclass(frozen=True)
class ToyConfig(IRNConfig):
    purpose: str = "sr"

    def __post_init__(self) -> None:
        """An IRN for super-resolution, which there is none of."""


class Toy(IRN):
    """A family that only this test knows."""


@pytest.fixture
def toy(monkeypatch):
    row = replace(FAMILIES["IRN"], model=Toy, config=ToyConfig, official_sizes=lambda _: None)
    monkeypatch.setitem(FAMILIES, "Toy", row)
    torch.manual_seed(0)
    return build("Toy", {"blocks": (1, 1), "growth": 2}).eval()


def test_a_new_row_is_known_everywhere(toy, tmp_path) -> None:
    path = tmp_path / "toy.safetensors"
    toy.save(path)
    loaded = flowkit_models.load(path)
    assert (type(loaded), loaded.config) == (Toy, toy.config)
    opened = open_model(Upscale(files=[], model=path, device="cpu"))
    assert (opened.rescales, opened.temperature) == (False, 0.8)
    found = profile_model(toy, (2, 2))
    assert (found.family, found.purpose) == ("Toy", "super-resolution")
    described = Loader().load_from_file(path)
    assert (described.architecture.name, described.tags[0]) == ("Toy", "super-resolution")


def test_the_names_of_families_are_those_of_their_classes() -> None:
    """Checkpoints hold the name of the class."""
    assert list(FAMILIES) == [family.model.__name__ for family in FAMILIES.values()]
