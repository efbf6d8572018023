"""Weights in .safetensors files: read without executing code, compared with those that a module wants."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types of weights."""

LARGEST = 1e36
"""Of weights: float32 ends at 3.4e38, so that a sum of larger ones overflows."""

MAX_HEADER = 2**24
"""Bytes of a .safetensors file's header: names, shapes and notes of more tensors than any model has."""


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
            header = json.loads(file.read(length), object_pairs_hook=_once)
        if not _is_utf8(path):  # the library opens no such name
            return safetensors.torch.load(path.read_bytes()), header.get("__metadata__", {})
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except OSError:
        raise
    except Exception as error:  # of the library, of JSON, or of torch
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(f"{path}: damaged or truncated safetensors file ({reason})") from None


def _is_utf8(path: Path) -> bool:
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:
        return False


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it holds {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def check_notes(notes: Mapping[str, Any]) -> None:
    """Compares a file's notes with what it can hold.

    Raises:
        TypeError: for one that is no text.
    """
    for name, text in notes.items():
        if not isinstance(text, str):
            raise TypeError(f"{name}={text!r}: notes are text, write {name}={str(text)!r}")


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
