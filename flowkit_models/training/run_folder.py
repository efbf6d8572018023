"""Folder of a training run: its files, its config, and when it may be used again."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowkit_models.files import remove_unfinished, write_text
from flowkit_models.training.settings import RESUMABLE_FIELDS
from flowkit_models.training.state import load_state


class RunFolder:
    """Paths of what a run writes: state.pt, config.json, log.jsonl, tensorboard/, best.safetensors, last.safetensors.

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

    def open(self, config: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
        """Prepares the folder for a run.

        Args:
            config: of this run.
            resume: go on with the run that is there; a folder without a state is started in.
            overwrite: delete the run that is there.

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
        if self.state.exists():
            check_same_config(json.loads(load_state(self.state)["config"]), config, self.path)
        write_text(self.config, json.dumps(plain(config), indent=2) + "\n")

    def _clean(self, all_of_it: bool) -> None:
        """Removes what a killed process left half written, or everything that a run writes."""
        remove_unfinished(self.path)
        if all_of_it:
            for file in (*self._files, *self.tensorboard.glob("events.out.tfevents.*")):
                file.unlink(missing_ok=True)


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as JSON keeps it: dataclasses become objects, tuples lists, and what JSON has no word for its string."""
    default = lambda value: vars(value) if dataclasses.is_dataclass(value) else str(value)  # noqa: E731
    out: dict[str, Any] = json.loads(json.dumps(config, default=default))
    return out


def check_same_config(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    """Checks that a run goes on with the config that it had.

    `settings.RESUMABLE_FIELDS` may differ, and what the model is for ("sizes.purpose"). A field that the old config
    doesn't have, since it was written before there was one, had the default of its dataclass.

    Args:
        old: as `plain` gives it.
        new: dataclasses, or as `plain` gives it.
        path: of the run, for the message.

    Raises:
        ValueError: names the fields that differ.
    """
    before = {**plain(_defaults(new)), **_flat(old)}
    now = _flat(plain(new))
    resumable = {f"{group}.{name}" for group in ("options", "training") for name in RESUMABLE_FIELDS}
    differing = [
        f"{name} was {_shown(before, name)} and is {_shown(now, name)}"
        for name in sorted((_flat(old).keys() | now.keys()) - resumable - {"sizes.purpose"})
        if _shown(before, name) != _shown(now, name)
    ]
    if differing:
        raise ValueError(f"{path}: can't resume with another config: {'; '.join(differing)}")


def _shown(config: Mapping[str, Any], name: str) -> str:
    return repr(config[name]) if name in config else "nothing"


def _defaults(config: Any, prefix: str = "") -> dict[str, Any]:
    """The defaults of the fields of all dataclasses in a config, by dotted names."""
    out: dict[str, Any] = {}
    if dataclasses.is_dataclass(config):
        for field in dataclasses.fields(config):
            if field.default is not dataclasses.MISSING:
                out[prefix + field.name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                out[prefix + field.name] = field.default_factory()
        config = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    for name, value in config.items() if isinstance(config, Mapping) else ():
        out |= _defaults(value, f"{prefix}{name}.")
    return out


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields of a plain config by dotted names."""
    out: dict[str, Any] = {}
    for name, value in config.items():
        out |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return out
