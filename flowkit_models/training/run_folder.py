"""Folder of a training run: its files, its config, and when it may be used again."""

import dataclasses
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowkit_models.files import remove_unfinished, write_text
from flowkit_models.terminal import first_few
from flowkit_models.training.settings import FIELDS_AFTER_FAILURE, RESUMABLE_FIELDS
from flowkit_models.training.state import load_state

_LEFT = re.compile(r"\.tmp\w{6}|\.(state\.pt|config\.json|log\.jsonl|metrics\.json|\w+\.(safetensors|png))\.\d+")
"""What killed processes leave beside `files.UNFINISHED`: safetensors' temporary files, and an older flowkit's."""


class RunFolder:
    """Paths of what a run writes: state.pt, config.json, log.jsonl, tensorboard/, best.safetensors, last.safetensors.

    previous.pt is the state before state.pt, and known to be a good one: iterations after it were finite.

    Args:
        path: the folder; it and those above are made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "state.pt"
        self.previous = path / "previous.pt"
        self.config = path / "config.json"
        self.log = path / "log.jsonl"
        self.tensorboard = path / "tensorboard"
        self.best = path / "best.safetensors"
        self.last = path / "last.safetensors"

    @property
    def _files(self) -> tuple[Path, ...]:
        return self.state, self.previous, self.config, self.log, self.best, self.last

    def open(
        self, config: Mapping[str, Any], resume: bool, overwrite: bool, data: Mapping[str, str] | None = None
    ) -> list[str]:
        """Prepares the folder for a run.

        Args:
            config: of this run.
            resume: go on with the run that is there; a folder without a state is started in.
            overwrite: delete the run that is there.
            data: digests of what it trains on, by name, in order; None if nobody knows.

        Returns:
            The options that a resumed run changed and that reach the weights, in words.

        Raises:
            ValueError: if the folder holds a run and neither is asked for, or one with another config or other data.

        Warns:
            UserWarning: if the run that is there did not note its data.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        there = [file.name for file in (self.state, self.log) if file.exists()]
        if there and not (resume or overwrite):
            raise ValueError(
                f"{self.path}: holds a run already ({', '.join(there)}): --resume goes on with it, --overwrite deletes "
                "it, or choose another folder with --out"
            )
        self._clean(all_of_it=overwrite and not resume)
        changed: list[str] = []
        if self.state.exists():
            found = load_state(self.state)
            changed = check_same_config(json.loads(found["config"]), config, self.path, self._failed())
            if data is not None:
                check_same_data(found.get("data"), data, self.path)
        write_text(self.config, json.dumps(plain(config), indent=2) + "\n")
        return changed

    def _failed(self) -> bool:
        """True if the run ended because its numbers were not finite, or its loss far too large."""
        rows = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.exists() else []
        return bool(rows) and rows[-1].startswith('{"kind": "failed"')

    def _clean(self, all_of_it: bool) -> None:
        """Removes what a killed process left half written, or everything that a run writes."""
        remove_unfinished(self.path)
        for file in self.path.iterdir():
            if _LEFT.fullmatch(file.name):
                file.unlink()
        if all_of_it:
            for file in (*self._files, *self.tensorboard.glob("events.out.tfevents.*")):
                file.unlink(missing_ok=True)


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as JSON keeps it: dataclasses become objects, tuples lists, and what JSON has no word for its string."""
    default = lambda value: vars(value) if dataclasses.is_dataclass(value) else str(value)  # noqa: E731
    out: dict[str, Any] = json.loads(json.dumps(config, default=default))
    return out


def check_same_config(old: Mapping[str, Any], new: Mapping[str, Any], path: Path, failed: bool = False) -> list[str]:
    """Checks that a run goes on with the config that it had.

    `settings.RESUMABLE_FIELDS` may differ, and what the model is for ("sizes.purpose"); the length of a schedule that
    is as long as the run; and after a failure `settings.FIELDS_AFTER_FAILURE`. A field that the old config doesn't
    have, since it was written before there was one, had the default of its dataclass.

    Args:
        old: as `plain` gives it.
        new: dataclasses, or as `plain` gives it.
        path: of the run, for the message.
        failed: numbers that were not finite, or a diverged loss, ended the run.

    Returns:
        The changes that reach the weights, in words.

    Raises:
        ValueError: names the fields that differ.
    """
    before = {**plain(_defaults(new)), **_flat(old)}
    now = _flat(plain(new))
    resumable = {f"{group}.{name}" for group in ("options", "training") for name in RESUMABLE_FIELDS}
    names = sorted((_flat(old).keys() | now.keys()) - resumable - {"sizes.purpose"})
    differing = [name for name in names if _shown(before, name) != _shown(now, name)]
    changed = [name for name in differing if _follows_the_length(name, before, now)]
    if failed:
        fields = {f"{part}.{name}" for part in _OPTIMIZERS for name in (*FIELDS_AFTER_FAILURE, "schedule.floor")}
        changed += [name for name in differing if name in fields | {f"options.{n}" for n in FIELDS_AFTER_FAILURE}]
    refused = [name for name in differing if name not in changed]
    if refused:
        said = "; ".join(f"{_spelled(n)} was {_shown(before, n)} and is {_shown(now, n)}" for n in _as_told(refused))
        raise ValueError(f"{path}: can't resume with another config: {said}")
    lengths = [name for name in changed if name.endswith(".schedule.steps")]
    told = [*lengths[:1], *_as_told([name for name in changed if name not in lengths])]
    words = ["--steps" if name in lengths else _spelled(name) for name in told]
    return [f"{word} is {_shown(now, n)}, was {_shown(before, n)}" for word, n in zip(words, told, strict=True)]


_OPTIMIZERS = ("training.model", "training.discriminator")


def _follows_the_length(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """True for the length of a schedule that was, and is, the length of the run."""
    lengths = [config.get("training.steps") for config in (before, now)]
    return name in {f"{part}.schedule.steps" for part in _OPTIMIZERS} and lengths == [before.get(name), now.get(name)]


def _as_told(names: Sequence[str]) -> list[str]:
    """Names of a command line's options where it has such, without the settings that follow from them."""
    return [name for name in names if name.startswith("options.")] or list(names)


def _spelled(name: str) -> str:
    """A field as it is given on a command line, or its dotted name."""
    return f"--{name.removeprefix('options.').replace('_', '-')}" if name.startswith("options.") else name


def check_same_data(old: Mapping[str, str] | None, new: Mapping[str, str], path: Path) -> None:
    """Checks that a run goes on with the photographs that it had.

    Args:
        old: their digests by name, in order; None for a run that did not note them.
        new: those that are there now.
        path: of the run, for the message.

    Raises:
        ValueError: names what was added, removed or changed.

    Warns:
        UserWarning: if the run did not note them.
    """
    if old is None:
        text = f"{path}: this run is of an older flowkit, which noted no photographs: see that they are the same"
        warnings.warn(text, stacklevel=2)
        return
    differing = {
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "changed": [name for name in old if name in new and old[name] != new[name]],
    }
    said = [f"{what} {first_few(names, 5)}" for what, names in differing.items() if names]
    if not said and list(old) != list(new):
        said = ["the same in another order"]
    if said:
        raise ValueError(
            f"{path}: can't resume with other photographs: {'; '.join(said)}; have them as they were, or start anew "
            "with --overwrite or another --out"
        )


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
