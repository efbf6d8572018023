"""The folder of a training run: its files, its config, and when it may be used again."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flowkit_models.files import remove_unfinished, write_text
from flowkit_models.training.state import load_state


class RunFolder:
    """Where a run writes: state.pt, config.json, log.jsonl, tensorboard/, best.safetensors, last.safetensors.

    Args:
        path: the folder; it and those above are made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "state.pt"
        self.config = path / "config.json"
        self.log = path / "log.jsonl"
        self.tensorboard = path / "tensorboard"
        self.best = path / "best.safetensors"
        self.last = path / "last.safetensors"

    @property
    def _files(self) -> tuple[Path, ...]:
        return self.state, self.config, self.log, self.best, self.last

    def open(
        self,
        config: Mapping[str, Any],
        harmless: tuple[str, ...],
        resume: bool,
        overwrite: bool,
        defaults: Mapping[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """Prepares the folder for a run; returns the state to go on from, if there is one.

        Args:
            config: of this run.
            harmless: dotted names of config fields, or groups of them, that may differ from the resumed run's.
            resume: go on with the run that is there; a folder without a state is started in.
            overwrite: delete the run that is there.
            defaults: what fields of the config stand for that the resumed run, started by an older flowkit, lacks.

        Raises:
            ValueError: if the folder holds a run and neither is asked for, or one with another config.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        there = [file.name for file in (self.state, self.log) if file.exists()]
        if there and not (resume or overwrite):
            raise ValueError(
                f"{self.path}: holds a run already ({', '.join(there)}); "
                "resume it, overwrite it, or choose another folder"
            )
        self._clean(all_of_it=overwrite and not resume)
        state = load_state(self.state) if self.state.exists() else None
        if state is not None:
            check_same_config(json.loads(state["config"]), config, harmless, self.path, defaults or {})
        write_text(self.config, json.dumps(config, indent=2) + "\n")
        return state

    def _clean(self, all_of_it: bool) -> None:
        """Removes what a killed process left half written, or everything that a run writes."""
        remove_unfinished(self.path)
        if all_of_it:
            for file in (*self._files, *self.tensorboard.glob("events.out.tfevents.*")):
                file.unlink(missing_ok=True)


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as JSON keeps it: tuples become lists, and what JSON has no word for its string."""
    out: dict[str, Any] = json.loads(json.dumps(config, default=str))
    return out


def default_fields(value: Any) -> dict[str, Any]:
    """Defaults of a dataclass's fields, without those that have none; of fields that hold a dataclass, its own."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        if dataclasses.is_dataclass(held):
            found[field.name] = default_fields(held)
        elif field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found


def check_same_config(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    harmless: tuple[str, ...],
    path: Path,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Compares the plain configs of a run and of the one that resumes it; a field absent in `old` has its default.

    Raises:
        ValueError: names the fields, if any but the harmless ones differ.
    """
    absent, before, now = (dict(_flat(plain(config))) for config in (defaults or {}, old, new))
    before = {name: repr(value) for name, value in {**absent, **before}.items() if name in before or name in now}
    now = {name: repr(value) for name, value in now.items()}
    differing = [
        f"{name} was {before.get(name, 'nothing')} and is {now.get(name, 'nothing')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
        and not any(name == other or name.startswith(other + ".") for other in harmless)
    ]
    if differing:
        raise ValueError(f"{path}: can't resume with another config: {'; '.join(differing)}")


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
