"""First weights of a recipe: a preset's, or in the sizes of the run or of the stage that they go on from."""

import dataclasses
import json

import pytest
import torch

import flowkit_models
from flowkit_models.training.options import Options
from flowkit_models.training.recipe import command_line, fresh_model, initial_model

NAME = "hcflow_sr_x4_small"


def test_weights_are_the_seeds(tmp_path) -> None:
    weights = [fresh_model(NAME, Options(out=tmp_path, seed=seed)).state_dict() for seed in (1, 1, 2)]
    same = [all(torch.equal(weights[0][name], other[name]) for name in other) for other in weights]
    assert same == [True, True, False]


def test_a_resumed_run_keeps_its_sizes(tmp_path) -> None:
    """Those of an older flowkit, whose preset was another and whose config had fewer fields."""
    preset = flowkit_models.create(NAME).config
    sizes = {**dataclasses.asdict(preset), "prior": "exp", "blocks": [[0, 0], [1, 1]]}
    del sizes["purpose"]
    (tmp_path / "config.json").write_text(json.dumps({"sizes": sizes}))
    resumed, new = (Options(out=tmp_path, resume=resume) for resume in (True, False))
    assert fresh_model(NAME, resumed).config == preset  # there is no state to go on from
    (tmp_path / "state.pt").touch()
    assert fresh_model(NAME, resumed).config == dataclasses.replace(preset, prior="exp", blocks=((0, 0), (1, 1)))
    assert fresh_model(NAME, resumed, hidden=8).config.hidden == 8
    assert fresh_model(NAME, new).config == preset


def test_a_stage_starts_from_a_model_of_its_sizes_whatever_bounds_its_priors(tmp_path) -> None:
    flowkit_models.create(NAME, prior="exp").save(tmp_path / "earlier.safetensors")
    like = flowkit_models.create(NAME)
    assert initial_model(tmp_path / "earlier.safetensors", like, ("nll",), "plain", "float32").config.prior == "exp"
    larger = flowkit_models.create(NAME, hidden=32)
    with pytest.raises(ValueError, match="another model than this preset's"):
        initial_model(tmp_path / "earlier.safetensors", larger, ("nll",), "plain", "float32")


@pytest.mark.parametrize("option", ["--data", "--test", "--out", "--init"])
def test_an_empty_path_is_a_usage_error(option, capsys) -> None:
    for line in ([option, ""], [f"{option}="]):
        with pytest.raises(SystemExit) as stop:
            command_line(Options, {(): Options()}, (), line, None)
        assert stop.value.code == 2
        assert capsys.readouterr().err.startswith(f"error: {option}: its value is empty")
