"""Checkpoint files: written atomically, read without executing code, told by a checksum; whatever the model.

A file of ours is a .safetensors with the weights, and notes (strings by name) in its metadata. What is needed to make
the model stands in it twice: in the notes, and for programs that see tensors alone as the tensor `flowkit.config`.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from flowkit.weights_file import MAX_HEADER, check_notes, read_safetensors
from flowkit_models.files import atomic_path
from flowkit_models.models.foreign_files import foreign_kind
from flowkit_models.models.pickled import read_pickled, read_tensors
from flowkit_models.models.state_dicts import State, find_state

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
        TypeError: if a note is no text.
        ValueError: if the name ends otherwise.
        OSError: if the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a checkpoint's name ends in .safetensors")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    check_notes(notes or {})
    own = dict(zip(OWN_NOTES, (FORMAT, model, json.dumps(config)), strict=True))
    stored = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    stored[CONFIG_TENSOR] = torch.tensor(list(json.dumps(own).encode()), dtype=torch.uint8)
    with atomic_path(path) as unfinished:
        save_file(stored, unfinished, {**(notes or {}), **own})


def read_weights(
    path: str | os.PathLike[str], known: Callable[[State], bool] = lambda state: CONFIG_TENSOR in state
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the weights of a checkpoint by name, and its notes, without executing anything in it.

    Args:
        path: the file.
        known: tells the state dict that is wanted, where a file holds several in wrappers (`find_state`).

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no checkpoint, or damaged, or holds no tensors.

    Warns:
        UserWarning: if the file holds several state dicts that are wanted, or counters beside it.
    """
    path = Path(path)
    content: Any
    if is_safetensors(path):
        content, notes = read_safetensors(path)
        if "flowkit" in notes:
            return _own_weights(content, notes, str(path))
    else:
        content, notes = read_pickled(path), {}
    found = find_state(content, known, str(path))
    if not found:
        kind = "a list" if isinstance(content, list | tuple) else type(content).__name__
        raise ValueError(f"{path}: holds {kind} without weights; a state dict was expected")
    return _own_weights(read_tensors(found, path), notes, str(path))


def _own_weights(
    state: Mapping[str, Tensor], notes: Mapping[str, str], source: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights and notes of a file, whose tensor `flowkit.config` says what its notes say."""
    weights, own = split_config(state, source)
    if not weights:
        raise ValueError(f"{source}: holds no weights; a state dict was expected")
    if own and notes.get("flowkit") == FORMAT and any(notes.get(name, own[name]) != own[name] for name in OWN_NOTES):
        raise ValueError(f"{source}: damaged, its notes and its tensor {CONFIG_TENSOR} speak of different models")
    return weights, {**own, **notes}


def is_safetensors(path: Path) -> bool:
    """Tells by the first bytes, and where these say nothing by the name, if a file is a .safetensors file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is something else than a checkpoint, a picture or a web page, say.
    """
    if not path.is_file():
        lacking = "is a folder: name the checkpoint in it" if path.is_dir() else "no such checkpoint"
        raise FileNotFoundError(f"{path}: {lacking}")
    with path.open("rb") as file:
        start = file.read(1024)
    if start[8:9] == b"{":
        return True
    if start.startswith((b"PK", b"\x80")):
        return False
    what = foreign_kind(start)
    if what is not None:
        raise ValueError(f"{path}: not a checkpoint, but {what}")
    return path.suffix == ".safetensors"


def read_about(path: str | os.PathLike[str]) -> dict[str, str]:
    """Notes of a .safetensors checkpoint: its config, and what training said of it; {} for other files."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError:
        try:  # its name may be no UTF-8
            return read_safetensors(Path(path))[1]
        except (ValueError, OSError):
            return {}
    except OSError:
        return {}


def noted_number(notes: Mapping[str, str], name: str) -> float | None:
    """A number of at least 0 among a checkpoint's notes; None if there is none that makes sense."""
    try:
        value = float(notes[name])
    except (KeyError, ValueError):
        return None
    return value if 0 <= value < math.inf else None


def split_config(state: Mapping[str, Any], source: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Takes the tensor `flowkit.config` out of a state dict: the weights, and the notes that it holds, {} without it.

    Raises:
        ValueError: if it is damaged.
    """
    weights = {name: tensor for name, tensor in state.items() if name != CONFIG_TENSOR}
    if CONFIG_TENSOR not in state:
        return weights, {}
    tensor = state[CONFIG_TENSOR]
    try:
        if tensor.dtype != torch.uint8 or tensor.ndim != 1 or len(tensor) > MAX_HEADER:
            raise ValueError("not bytes")
        own = json.loads(tensor.cpu().numpy().tobytes())
        return weights, {name: str(own[name]) for name in OWN_NOTES}
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(f"{source}: {CONFIG_TENSOR} is damaged, it is not what flowkit writes") from None


def checksum(model: nn.Module) -> str:
    """SHA-256 over names and values of the flow's weights, without a learned prior's: the same for all its files."""
    digest = hashlib.sha256()
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("prior.")}
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
