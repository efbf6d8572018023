"""Checkpoint files: written atomically, read without executing code. The format alone, whatever the model.

A file of ours is a .safetensors with the weights, and notes (strings by name) in its metadata. What is needed to make
the model stands in it twice: in the notes, and for programs that see tensors alone as the tensor `flowkit.config`.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from flowkit_models.files import atomic_path
from flowkit_models.models.foreign_files import foreign_kind
from flowkit_models.models.pickled import read_pickled, read_tensors
from flowkit_models.models.state_dicts import State, find_state

FORMAT = "1"

CONFIG_TENSOR = "flowkit.config"
"""Name of the uint8 tensor that holds, as JSON, the notes of `OWN_NOTES`. It is no weight."""

OWN_NOTES = ("flowkit", "model", "config")
"""The notes that `save` writes: format, family of the model, its config as JSON."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types of weights."""

LARGEST = 1e36
"""Of weights: float32 ends at 3.4e38, so that a sum of larger ones overflows."""

MAX_HEADER = 2**24
"""Bytes of a .safetensors file's header: names, shapes and notes of more tensors than any model has."""


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
        raise FileNotFoundError(f"{path}: {'is a folder, no checkpoint' if path.is_dir() else 'no such checkpoint'}")
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


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads all tensors of a .safetensors file by name, and its notes.

    Raises:
        ValueError: if it is damaged, or names a tensor or a note twice.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER:
                raise ValueError(f"its header would take {length} bytes")
            json.loads(file.read(length), object_pairs_hook=_once)
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except OSError:
        raise
    except Exception as error:  # of the library, of JSON, or of torch
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(f"{path}: damaged or truncated safetensors file ({reason})") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it holds {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


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


def check_keys(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Compares names, shapes and types, and tells what is wrong in one sentence.

    Args:
        expected: tensors of the model; their values don't matter.
        state: tensors of the file.
        source: names the file.

    Raises:
        ValueError: names the first missing, unexpected or misshapen entries, those of a type that can't be a weight's
            (integers, 8-bit floats, complex numbers), and those that are not finite, or too large to count with.
    """
    both = {name: (tensor, state[name]) for name, tensor in expected.items() if name in state}
    mistyped = [name for name, (a, b) in both.items() if not _fits(a.dtype, b.dtype)]
    numbers = {name: b for name, (a, b) in both.items() if a.is_floating_point() and name not in mistyped and b.numel()}
    ends = {name: torch.aminmax(b) for name, b in numbers.items()}
    largest = {name: max(-float(low), float(high)) for name, (low, high) in ends.items()}
    problems = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "misshapen": [
            f"{name} {tuple(b.shape)} instead of {tuple(a.shape)}"
            for name, (a, b) in both.items()
            if a.shape != b.shape
        ],
        f"{_types(state[name] for name in mistyped)}, not {_types(expected[name] for name in mistyped)}": mistyped,
        "not finite": [name for name, size in largest.items() if not size < math.inf],
        "too large": [f"{name} up to {size:.0e}" for name, size in largest.items() if LARGEST < size < math.inf],
    }
    told = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in problems.items()
        if names
    ]
    if mistyped:
        told.append(
            "weights are floating-point numbers of 16 to 64 bits: take the file from before they were converted"
        )
    if told:
        raise ValueError(f"{source}: the weights do not fit: {'; '.join(told)}")


def _types(tensors: Iterable[Tensor]) -> str:
    return " and ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}))


def _fits(wanted: torch.dtype, got: torch.dtype) -> bool:
    return got in FLOATS if wanted.is_floating_point else got == wanted
