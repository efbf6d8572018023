"""Training states: read without executing anything, refused if damaged; the average."""

import os

import pytest
import torch
from support import InTurns, tiny_flow

from flowkit_models.training.optim import Adam, make_learners
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
    objective = InTurns(tiny_flow())
    state = TrainingState(objective, make_learners(objective, {"model": Adam(1.0), "critic": None}), average=0.75)
    name, weight = next(iter(objective.model.named_parameters()))
    expected = None
    for value in (1.0, 5.0, 9.0):
        weight.data.fill_(value)
        state.average()
        expected = value if expected is None else 0.75 * expected + 0.25 * value
    assert torch.allclose(state.model.get_parameter(name), torch.tensor(expected))
    assert objective.model.get_parameter(name).detach().unique().tolist() == [9]
