"""Checkpoint files: written atomically, read without executing code. The format alone, whatever the model.

A file of ours is a .safetensors with the weights, and notes (strings by name) in its metadata. What is needed to make
the model stands in it twice: in the notes, and for programs that see tensors alone as the tensor `flowkit.config`.
"""

import json
import math
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from flowkit_models.files import atomic_path

FORMAT = "1"

CONFIG_TENSOR = "flowkit.config"
"""Name of the uint8 tensor that holds, as JSON, the notes of `OWN_NOTES`. It is no weight."""

OWN_NOTES = ("flowkit", "model", "config")
"""The notes that `save` writes: format, family of the model, its config as JSON."""


def save(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    model: str,
    config: Mapping[str, Any],
    notes: Mapping[str, str] | None = None,
) -> None:
    """Writes a .safetensors file with weights and config, atomically: the old file stays until the new is whole.

    Args:
        path: ends in .safetensors.
        tensors: the weights by name.
        model: name of the family.
        config: fields of the model's config; JSON can hold them.
        notes: further notes for the file's metadata, strings by name.

    Raises:
        ValueError: if the name ends otherwise.
        OSError: if the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a checkpoint's name ends in .safetensors")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    own = dict(zip(OWN_NOTES, (FORMAT, model, json.dumps(config)), strict=True))
    stored = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    stored[CONFIG_TENSOR] = torch.tensor(list(json.dumps(own).encode()), dtype=torch.uint8)
    with atomic_path(path) as unfinished:
        save_file(stored, unfinished, {**(notes or {}), **own})


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the weights of a checkpoint by name, and its notes, without executing anything in it.

    Of a wrapped state dict what is inside; a leading `module.` is dropped.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no checkpoint, or damaged, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    with path.open("rb") as file:
        start = file.read(9)
    notes: dict[str, str] = {}
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        content, notes = _read_safetensors(path)
    else:
        content = _read_pickled(path, start)
    state, own = split_config(content if "flowkit" in notes else _unwrap(content), str(path))
    if not state:
        raise ValueError(f"{path}: holds {type(content).__name__} without weights; a state dict was expected")
    return state, {**own, **notes}


def read_about(path: str | os.PathLike[str]) -> dict[str, str]:
    """Notes of a .safetensors checkpoint: its config, and what training said of it; {} for other files."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def noted_number(notes: Mapping[str, str], name: str) -> float | None:
    """A number of at least 0 among a checkpoint's notes; None if there is none that makes sense."""
    try:
        value = float(notes[name])
    except (KeyError, ValueError):
        return None
    return value if 0 <= value < math.inf else None


def split_config(state: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Takes the tensor `flowkit.config` out of a state dict: the weights, and the notes that it holds, {} without it.

    Raises:
        ValueError: if it is damaged.
    """
    weights = {name: tensor for name, tensor in state.items() if name != CONFIG_TENSOR}
    if CONFIG_TENSOR not in state:
        return weights, {}
    try:
        own = json.loads(bytes(state[CONFIG_TENSOR].tolist()))
        return weights, {name: str(own[name]) for name in OWN_NOTES}
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{source}: {CONFIG_TENSOR} is damaged, it is not what flowkit writes") from None


def check_keys(expected: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor], source: str) -> None:
    """Compares names and shapes, and tells what is wrong in one sentence.

    Raises:
        ValueError: names the first missing, unexpected or misshapen entries, or those that are not finite.
    """
    problems = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "misshapen": [
            f"{name} {tuple(state[name].shape)} instead of {shape}"
            for name, shape in expected.items()
            if name in state and tuple(state[name].shape) != shape
        ],
        "not finite": [
            name
            for name in expected
            if name in state and state[name].is_floating_point() and not bool(state[name].isfinite().all())
        ],
    }
    told = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in problems.items()
        if names
    ]
    if told:
        raise ValueError(f"{source}: the weights do not fit: {'; '.join(told)}")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or truncated safetensors file ({error})") from None


def _read_pickled(path: Path, start: bytes) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of pickle protocols before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way; none of them runs its code
        if isinstance(error, pickle.UnpicklingError) and "Weights only load failed" in str(error) and _is_pickle(start):
            raise ValueError(f"{path}: refused, it holds more than weights (loading it would run its code)") from None
        reason = str(error).partition("\n")[0][:120]
        raise ValueError(f"{path}: not a checkpoint, or a truncated one ({reason})") from None


def _is_pickle(start: bytes) -> bool:
    return start.startswith((b"PK", b"\x80"))


def _unwrap(content: Any) -> dict[str, Tensor]:
    """The state dict in what a file holds: of all mappings in it the one with most tensors, without `module.`."""
    if not isinstance(content, Mapping):
        return {}
    own = {str(name).removeprefix("module."): t for name, t in content.items() if isinstance(t, Tensor)}
    return max([own, *(_unwrap(value) for value in content.values())], key=len)
