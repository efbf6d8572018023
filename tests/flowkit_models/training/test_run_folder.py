"""The folder of a run: not overwritten unasked, not resumed with another config; logs."""

import json
from dataclasses import asdict, dataclass, field

import pytest

from flowkit_models.training.logs import Logs, read_log
from flowkit_models.training.run_folder import RunFolder, check_same_config, plain
from flowkit_models.training.state import save_state

CONFIG = {"name": "a", "size": (1, 2), "loss": {"weight": 0.5, "kind": "l1"}, "training": {"steps": 5}}


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "new" / "run")
    folder.open(CONFIG, resume=False, overwrite=False)
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
    with pytest.raises(ValueError, match=r"already \(state\.pt\): --resume goes on with it, --overwrite deletes it"):
        folder.open(CONFIG, resume=False, overwrite=False)
    folder.open(CONFIG, resume=False, overwrite=True)
    assert sorted(file.name for file in folder.path.iterdir()) == ["config.json", "notes.txt"]


def test_a_resumed_run_keeps_its_files_and_loses_half_written_ones(folder) -> None:
    with_a_run(folder)
    (folder.path / ".flowkit-123-0").write_bytes(b"half")
    (folder.path / ".flowkit-9-12").write_bytes(b"half")
    for name in (
        ".tmpAbCd9f",
        ".state.pt.99",
        ".last.safetensors.1234",
        ".samples.png.7",
    ):  # and older
        (folder.path / name).write_bytes(b"half")
    folder.open({**CONFIG, "training": {"steps": 9}}, resume=True, overwrite=False)
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
        folder.open(other, resume=True, overwrite=False)
    assert json.loads(folder.config.read_text()) == plain(CONFIG)


@dataclass(frozen=True)
class Inner:
    gamma: float = 0.5
    new: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    steps: int
    crop: int = 64
    inner: Inner = field(default_factory=Inner)
    weights: dict[str, float] = field(default_factory=dict)


def without(config, *names):
    """A config as an older flowkit wrote it, which had no such fields."""
    if not isinstance(config, dict):
        return config
    return {name: without(value, *names) for name, value in config.items() if name not in names}


def test_a_field_that_is_newer_than_the_run_had_its_default(folder) -> None:
    old = without({"options": plain(asdict(Outer(5)))}, "new", "weights", "crop")
    check_same_config(old, {"options": Outer(9)}, folder.path)
    changes = {"inner": Inner(new=(3,)), "weights": {"a": 0.5}, "crop": 32}
    expected = (
        r"--crop was 64 and is 32; --inner\.new was \[1, 2\] and is \[3\]; "
        r"--weights\.a was nothing and is 0\.5$"
    )
    with pytest.raises(ValueError, match=expected):
        check_same_config(old, {"options": Outer(5, **changes)}, folder.path)


def test_what_was_recorded_is_no_default(folder) -> None:
    old = {"options": plain(asdict(Outer(5, crop=32, weights={"a": 0.5})))}
    with pytest.raises(ValueError, match=r"--crop was 32 and is 64; --weights\.a was 0\.5 and is nothing$"):
        check_same_config(old, {"options": Outer(5)}, folder.path)


def test_only_whole_names_of_options_and_settings_may_change(folder) -> None:
    check_same_config({"options": {"out": 1}, "sizes": {}}, {"options": {"out": 2}, "sizes": {}}, folder.path)
    for group, name, said in (("options", "step_size", "--step-size"), ("sizes", "steps", "sizes.steps")):
        with pytest.raises(ValueError, match=f"{said} was 1 and is 2$"):
            check_same_config({group: {name: 1}}, {group: {name: 2}}, folder.path)


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
