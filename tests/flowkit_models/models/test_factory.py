"""Models by name: presets, overrides, and refused choices."""

import pytest
import torch

import flowkit_models
from flowkit_models.models.factory import _SizesAlone


def test_every_listed_model_can_be_made() -> None:
    for name in flowkit_models.list_models():
        with _SizesAlone(10**6), torch.device("meta"):  # first values take most of the time
            model = flowkit_models.create(name)
        assert model.scale == {"x2": 2, "x3": 3, "x8": 8}.get(name.removesuffix("_small").rpartition("_")[2], 4)


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


SMALL = {
    "hcflow_sr_x4_small": {"steps": 1, "conditional_steps": 1, "blocks": ((0, 0), (0, 0))},
    "srflow_x4_small": {"steps": 1},
    "irn_x4_small": {},
}


@pytest.mark.parametrize(
    "name", ["hcflow_sr_x4_small", *(pytest.param(n, marks=pytest.mark.slow) for n in list(SMALL)[1:])]
)
def test_a_model_is_one_graph_in_both_directions(name: str) -> None:
    model = flowkit_models.create(name, **SMALL[name]).eval()
    hr, lr = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 4, 4)
    with torch.no_grad():
        context = model.context(lr)
        latents, logdet = torch.compile(model.flow, fullgraph=True, backend="eager")(hr, context)
        again = torch.compile(model.flow.inv, fullgraph=True, backend="eager")(latents, context)[0]
    assert logdet.dtype == torch.float32
    assert float((again - hr).abs().max()) < 1e-4
