"""Training states: read without executing anything, refused if damaged; the average."""

import json
import os
import re

import pytest
import torch
from support import InPhases, run, tiny_flow

from flowkit_models.training.optim import Adam, make_optimizers
from flowkit_models.training.state import TrainingState, load_state, save_state


@pytest.mark.parametrize("length", [0, 1, 100, 1000, -1])
def test_truncated_states_are_refused(tmp_path, length) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"weights": torch.arange(1000)})
    assert torch.equal(load_state(path)["weights"], torch.arange(1000))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"state\.pt: damaged, truncated or not a training state"):
        load_state(path)


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.zeros(1)}, "weights alone can't be resumed"),
        ([1], "not a training state"),
        ({"flowkit_training": 99}, "of format 99"),
        (Evil(), "damaged, truncated or not"),
    ],
)
def test_foreign_files_are_refused(tmp_path, monkeypatch, content, message) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(ValueError, match=message):
        load_state(tmp_path / "state.pt")
    assert not (tmp_path / "executed").exists()


def test_the_average_is_torchs(tmp_path) -> None:
    objective = InPhases(tiny_flow())
    state = TrainingState(
        objective, make_optimizers(objective, {"model": Adam(1.0), "discriminator": None}), average=0.75
    )
    name, weight = next(iter(objective.model.named_parameters()))
    expected = None
    for value in (1.0, 5.0, 9.0):
        weight.data.fill_(value)
        state.average()
        expected = value if expected is None else 0.75 * expected + 0.25 * value
    assert torch.allclose(state.model.get_parameter(name), torch.tensor(expected))
    assert objective.model.get_parameter(name).detach().unique().tolist() == [9]


def test_a_state_of_the_first_format_goes_on_under_the_new_names(tmp_path) -> None:
    """It called the discriminator "critic", in weights, optimizers, gradients and config."""
    for steps in (3, 6):
        run(tmp_path / f"whole{steps}", "adversarial", steps=steps)
    state = torch.load(tmp_path / "whole3" / "state.pt")
    config = json.loads(state["config"])
    assert renamed({"discriminator.0": 1, "discriminators": 2}) == {"critic.0": 1, "discriminators": 2}
    old = {
        **state,
        "flowkit_training": 1,
        "config": json.dumps({**config, "training": renamed(config["training"])}),
        "objective": renamed(state["objective"]),
        "optimizers": renamed(state["optimizers"]),
        "gradients": {name: renamed(found) for name, found in renamed(state["gradients"]).items()},
    }
    assert "critic" in str(old.keys() | old["optimizers"].keys())
    torch.save(old, tmp_path / "whole3" / "state.pt")
    run(tmp_path / "whole3", "adversarial", steps=6, resume=True)
    once, resumed = (load_state(tmp_path / name / "state.pt")["objective"] for name in ("whole6", "whole3"))
    assert once.keys() == resumed.keys()
    assert all(torch.equal(once[name], resumed[name]) for name in once)


def renamed(entries):
    return {re.sub(r"^discriminator\b", "critic", name): value for name, value in entries.items()}
