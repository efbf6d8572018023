"""Models by name: presets, overrides, and refused choices."""

import pytest

import flowkit_models


def test_every_listed_model_can_be_made() -> None:
    for name in flowkit_models.list_models():
        model = flowkit_models.create(name)
        assert model.scale == {"x2": 2, "x3": 3, "x4": 4, "x8": 8}[name.removesuffix("_small").rpartition("_")[2]]


def test_config_is_frozen() -> None:
    config = flowkit_models.create("hcflow_sr_x4_small").config
    with pytest.raises(AttributeError):
        config.scale = 8


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("hcflow", {}, "no model 'hcflow'; there are"),
        ("hcflow_sr_x4", {"depth": 3}, "no option 'depth'; it has"),
        ("hcflow_sr_x4", {"scale": 3}, "power of two"),
        ("hcflow_sr_x4", {"scale": 8}, "a pair for each of 3 levels"),
        ("hcflow_sr_x4", {"squeeze": "fold"}, "squeeze must be"),
        ("hcflow_sr_x4", {"steps": -1}, "steps must be a whole number from 0, got -1"),
        ("hcflow_sr_x4", {"precision": "fp8"}, "precision must be"),
        ("hcflow_sr_x4", {"memory": "none"}, "memory must be"),
    ],
)
def test_refused(name, overrides, message) -> None:
    with pytest.raises(ValueError, match=message):
        flowkit_models.create(name, **overrides)
