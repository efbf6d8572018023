"""Checkpoints that are no checkpoints, damaged, or made to harm: one function that writes each."""

import argparse
import json
import pathlib
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import flowkit_models

MADE: dict[str, Callable[[Path], object]] = {}
"""By file name, what writes the file at a path."""


class Code:
    """What would make a file where it stands, were it called."""

    def __reduce__(self):
        return (open, ("executed.txt", "w"))


class Call:
    """A call of a function that torch's own files call, with other arguments."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def official() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return flowkit_models.create("irn_x2", blocks=(1,), growth=2).official_state_dict()


def own() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors without the config, and notes, of a file of ours."""
    torch.manual_seed(0)
    model = flowkit_models.create("hcflow_sr_x4_small")
    config = {name: getattr(model.config, name) for name in model.config.__dataclass_fields__}
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    return state, {"flowkit": "1", "model": "HCFlow", "config": json.dumps(config)}


def file(name: str) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    def keep(write: Callable[[Path], object]) -> Callable[[Path], object]:
        MADE[name] = write
        return write

    return keep


def content(name: str, made: Callable[[], Any], **options: Any) -> None:
    MADE[name] = lambda path: torch.save(made(), path, **options)


def starts(name: str, start: bytes) -> None:
    MADE[name] = lambda path: path.write_bytes(start)


def config(name: str, **changes: Any) -> None:
    def write(path: Path) -> None:
        state, notes = own()
        save_file(state, path, {**notes, "config": json.dumps({**json.loads(notes["config"]), **changes})})

    MADE[name] = write


def notes(name: str, **changes: str | None) -> None:
    def write(path: Path) -> None:
        state, kept = own()
        save_file(state, path, {key: text for key, text in (kept | changes).items() if text is not None})

    MADE[name] = write


def archive(name: str, parts: dict[str, bytes], pickled: Any = None) -> None:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("a/data.pkl", pickle.dumps(pickled or {}, 2))
            file.writestr("a/version", "3")
            for part, inside in parts.items():
                file.writestr(part, inside)

    MADE[name] = write


def wide(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(3000 if side == 2 else side for side in shape)


def branching() -> dict[str, Any]:
    tree: dict[str, Any] = {"t": torch.zeros(2)}
    for _ in range(40):
        tree = {"a": tree, "b": tree}
    return tree


def deep() -> dict[str, Any]:
    before, tree = sys.getrecursionlimit(), {"t": torch.zeros(2)}
    for _ in range(900):
        tree = {"a": tree}
    sys.setrecursionlimit(max(before, 20_000))  # of pickling; reading needs none
    return tree


def itself() -> dict[str, Any]:
    ring: dict[str, Any] = {"state_dict": {"weight": torch.zeros(2, 2)}}
    ring["self"] = ring
    return ring


# it asks for the world
for number, fields in enumerate(
    [
        {"steps": 10**9},
        {"steps": 60_000},
        {"blocks": [[10**9, 0], [1, 1]]},
        {"features": 10**6},
        {"hidden": 60_000},
        {"features": 65_536, "growth": 65_536},
        {"scale": 2**16, "blocks": [[60_000, 60_000]] * 16},
        {"conditional_steps": [50_000, 50_000]},
        {"steps": 10**400},
    ]
):
    config(f"large_{number}.safetensors", **fields)
content("stride_0.pth", lambda: {k: torch.zeros(1).expand(wide(v.shape)) for k, v in official().items()})
content("one_storage.pth", lambda: {f"x.{i}": torch.ones(10**6).view(1000, 1000) for i in range(1)} | shared())
content("branching.pth", branching)
content("deep.pth", deep)
content("itself.pth", itself)
archive("inflates.pth", {"a/data/0": bytes(2**28)})
archive("inflates_pickle.pth", {}, {"x": "0" * 2**26})
archive("many_parts.pth", {f"a/data/{i}": b"" for i in range(3000)}, {"x": 1})
MADE["long_index.pth"] = lambda path: path.write_bytes(b"\x80\x02" + b"N" * 5_000_000 + b".")
MADE["memo.pth"] = lambda path: path.write_bytes(b"\x80\x02Nr\xff\xff\xff\x7f" + b"0N" * 100 + b".")
MADE["long_string.pth"] = lambda path: path.write_bytes(b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x" * 100)
MADE["header.safetensors"] = lambda path: path.write_bytes(struct.pack("<Q", 2**60) + b'{"a":{}}')
MADE["deep_header.safetensors"] = lambda path: path.write_bytes(struct.pack("<Q", 10**6) + b'{"a":' + b"[" * 10**6)


def shared() -> dict[str, torch.Tensor]:
    whole = torch.ones(10**6)
    return {f"y.{i}": whole.view(1000, 1000) for i in range(1000)}


# it holds code
content("code.pth", lambda: {"flow.layers.1.actnorm.bias": Code()})
content("code_4.pth", lambda: {"a": Code()}, pickle_protocol=4)
content("code_before.pth", lambda: {"a": Code()}, _use_new_zipfile_serialization=False)
MADE["code.safetensors"] = lambda path: path.write_bytes(pickle.dumps(Code()))
MADE["build.pth"] = lambda path: path.write_bytes(pickle.dumps([Code()], 0))
content("bytes.pth", lambda: {"a": Call(bytearray, 10**11), "b": torch.zeros(2)})
content("sets.pth", lambda: {"a": [Call(set, list(range(10**4)))] * 3, "b": torch.zeros(2)})
content("numpy.pth", lambda: {"state_dict": official(), "best": np.float64(30)})
content("namespace.pth", lambda: {"state_dict": official(), "args": argparse.Namespace(lr=1)})
content("path.pth", lambda: {"state_dict": official(), "path": pathlib.PurePosixPath("x")})

# it holds no weights of ours
for dtype in ("int8", "int32", "float8_e4m3fn", "complex64"):
    content(f"{dtype}.pth", lambda dtype=dtype: {k: v.to(getattr(torch, dtype)) for k, v in official().items()})
content("sparse.pth", lambda: {k: v.to_sparse() for k, v in official().items()})
content("meta.pth", lambda: {k: v.to("meta") for k, v in official().items()})
content("large.pth", lambda: {k: v * 0 + 3e38 for k, v in official().items()})
content("scalars.pth", lambda: {k: torch.tensor(1.0) for k in official()})
content("numbers.pth", lambda: [1, 2])


@file("int8.safetensors")
def _(path: Path) -> None:
    state, kept = own()
    save_file({k: v.to(torch.int8) for k, v in state.items()}, path, kept)


@file("fp8.safetensors")
def _(path: Path) -> None:
    state, kept = own()
    save_file({k: v.to(torch.float8_e4m3fn) if v.is_floating_point() else v for k, v in state.items()}, path, kept)


@file("twice.safetensors")
def _(path: Path) -> None:
    save_file({"aa": torch.zeros(2), "ab": torch.zeros(2)}, path)
    path.write_bytes(path.read_bytes().replace(b'"ab"', b'"aa"'))


@file("disagree.safetensors")
def _(path: Path) -> None:
    flowkit_models.create("hcflow_sr_x4_small").save(path)
    state, kept = load_file(path), own()[1]
    save_file(state, path, {**kept, "config": kept["config"].replace('"quant": 256', '"quant": 64')})


# its config is damaged
for number, text in enumerate(["[]", "3", "{", "[" * 10**5, "null", '{"gain": NaN}', '{"no": 1}']):
    notes(f"config_{number}.safetensors", config=text)
notes("no_config.safetensors", config=None)
notes("no_model.safetensors", model=None)
for number, fields in enumerate(
    [
        {"gain": "x"},
        {"gain": -1},
        {"lr_std": 0},
        {"blocks": None},
        {"blocks": [[[]]]},
        {"tap": "yes"},
        {"steps": True},
        {"squeeze": ["haar"]},
        {"conditional_steps": [[1]]},
    ]
):
    config(f"field_{number}.safetensors", **fields)

# it is something else
starts("pointer.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 3\n")
starts("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 3\n")
starts("page.pth", b"\n<!DOCTYPE html><html><head><title>Sign in</title>")
starts("photo.pth", b"\xff\xd8\xff\xe0" + bytes(99))
starts("photo.safetensors", b"\x89PNG\r\n\x1a\n" + bytes(99))
starts("text.pth", b"these are not weights")
starts("empty.pth", b"")
starts("zeros.pth", bytes(999))
starts("noise.pth", np.random.default_rng(0).bytes(4000))
starts("noise.safetensors", np.random.default_rng(0).bytes(4000))
starts("packed.pth", b"\x1f\x8b" + bytes(99))
starts("pickle.pkl", pickle.dumps({"a": 1}))
archive("another.pth", {"a/constants.pkl": b""})
MADE["arrays.npz"] = lambda path: np.savez(path, a=1)


@file("inside.pth")
def _(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("models/irn.pth", b"PK")
