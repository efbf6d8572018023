"""Checkpoints: written atomically, read without executing code; ours, and the official ones."""

import dataclasses
import json
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


def save(model: Any, path: str | os.PathLike[str], about: Mapping[str, str] | None = None) -> None:
    """Writes a model to a .safetensors file with its config, atomically: the old file stays until the new is whole.

    Args:
        model: any `ImageFlow`.
        path: ends in .safetensors.
        about: further notes for the file's metadata, strings by name.

    Raises:
        ValueError: if the name ends otherwise.
        OSError: if the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a checkpoint's name ends in .safetensors")
    metadata = {
        **(about or {}),
        "flowkit": FORMAT,
        "model": type(model).__name__,
        "config": json.dumps(dataclasses.asdict(model.config)),
    }
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    with atomic_path(path) as unfinished:
        save_file(tensors, unfinished, metadata)


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the tensors of a checkpoint by name, and its metadata, without executing anything in it.

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
    metadata: dict[str, str] = {}
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        content, metadata = _read_safetensors(path)
    else:
        content = _read_pickled(path, start)
    state = content if "flowkit" in metadata else _unwrap(content)
    if not state:
        raise ValueError(f"{path}: holds {type(content).__name__} without weights; a state dict was expected")
    return state, metadata


def read_about(path: str | os.PathLike[str]) -> dict[str, str]:
    """The notes in a checkpoint of ours: its config, and what the engine said of its training; {} for other files."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


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
