"""The folder of a run: not overwritten unasked, not resumed with another config."""

import json
from dataclasses import asdict, dataclass, field

import pytest

from flowkit_models.training.logs import Logs, read_log
from flowkit_models.training.run_folder import RunFolder, check_same_config, default_fields, plain
from flowkit_models.training.state import save_state

CONFIG = {"name": "a", "size": (1, 2), "loss": {"weight": 0.5, "kind": "l1"}, "training": {"steps": 5}}


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "new" / "run")
    folder.open(plain(CONFIG), (), resume=False, overwrite=False)
    return folder


def with_a_run(folder):
    save_state(folder.state, {"config": json.dumps(CONFIG)})
    folder.best.write_bytes(b"model")
    (folder.path / "notes.txt").write_text("mine")
    return folder


def test_a_new_folder_gets_the_config(folder) -> None:
    assert json.loads(folder.config.read_text()) == plain(CONFIG)


def test_a_run_is_not_overwritten_unasked(folder) -> None:
    with_a_run(folder)
    with pytest.raises(ValueError, match=r"holds a run already \(state\.pt\); resume it, overwrite it, or choose"):
        folder.open(plain(CONFIG), (), resume=False, overwrite=False)
    folder.open(plain(CONFIG), (), resume=False, overwrite=True)
    assert sorted(file.name for file in folder.path.iterdir()) == ["config.json", "notes.txt"]


def test_a_resumed_run_keeps_its_files_and_loses_half_written_ones(folder) -> None:
    with_a_run(folder)
    (folder.path / ".flowkit-123-0").write_bytes(b"half")
    (folder.path / ".flowkit-9-12").write_bytes(b"half")
    folder.open(plain({**CONFIG, "training": {"steps": 9}}), ("training.steps",), resume=True, overwrite=False)
    assert not list(folder.path.glob(".*"))
    assert folder.state.exists()
    assert folder.best.exists()
    assert json.loads(folder.config.read_text())["training"]["steps"] == 9


def test_another_config_is_refused_and_the_fields_named(folder) -> None:
    with_a_run(folder)
    other = plain({"name": "a", "size": (1, 3), "loss": {"weight": 0.5, "new": None}, "training": {"steps": 9}})
    expected = (
        r"can't resume with another config: loss\.kind was 'l1' and is nothing; loss\.new was nothing and is None; "
        r"size was \[1, 2\] and is \[1, 3\]$"
    )
    with pytest.raises(ValueError, match=expected):
        folder.open(other, ("training",), resume=True, overwrite=False)
    assert json.loads(folder.config.read_text()) == plain(CONFIG)


@dataclass
class Weights:
    pixel: float = 1.0
    gan: float = 0.0


@dataclass
class Sizes:
    width: int
    loss: Weights = field(default_factory=lambda: Weights(pixel=2.0))
    kind: str = "a"


def test_a_field_that_an_older_run_lacks_has_its_default() -> None:
    """A new option, at its default, is no other config; at another value it is."""
    defaults = default_fields(Sizes(4))
    assert defaults == {"loss": {"pixel": 1.0, "gan": 0.0}, "kind": "a"}
    old = {"width": 4, "loss": {"pixel": 2.0}}
    check_same_config(old, asdict(Sizes(4)), (), "run", defaults)
    for now, message in (
        (Sizes(4, kind="b"), "kind was 'a' and is 'b'"),
        (Sizes(4, Weights(2.0, 0.5)), r"loss\.gan was 0\.0 and is 0\.5"),
        (Sizes(4, Weights()), r"loss\.pixel was 2\.0 and is 1\.0"),
    ):
        with pytest.raises(ValueError, match=f"{message}$"):
            check_same_config(old, asdict(now), (), "run", defaults)
    check_same_config(old, old, (), "run", defaults)


def test_harmless_fields_are_whole_names() -> None:
    with pytest.raises(ValueError, match="stepsize"):
        check_same_config({"stepsize": 1}, {"stepsize": 2}, ("step", "steps"), "run")


def test_logs_drop_what_belongs_to_no_state(folder) -> None:
    logs = Logs(folder, 0, 0, tensorboard=False)
    for step in (1, 2, 3):
        logs.write({"kind": "train", "step": step, "loss": float("nan") if step == 2 else 0.5})
        logs.write({"kind": "validation", "step": step, "score": 1.0})
    logs.close()
    with folder.log.open("a") as file:
        file.write('{"kind": "train", "st')
    assert read_log(folder.log)[2] == {"kind": "train", "step": 2, "loss": None}
    Logs(folder, 2, 1, tensorboard=False).close()
    kept = [(row["kind"], row["step"]) for row in read_log(folder.log)]
    assert kept == [("train", 1), ("validation", 1), ("train", 2)]


def test_tensorboard_gets_the_numbers(folder) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for done in (0, 2):
        logs = Logs(folder, done, done, tensorboard=True)
        for step in range(done + 1, 5):
            logs.write({"kind": "train", "step": step, "loss": float(step), "why": "text"})
        logs.close()
    events = accumulator.EventAccumulator(str(folder.tensorboard)).Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
