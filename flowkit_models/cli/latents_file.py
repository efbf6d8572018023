"""Files of `flowkit encode`: LR image and latents, and all else that it takes to write the picture again."""

import base64
import binascii
import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from flowkit.weights_file import read_safetensors
from flowkit_models.cli.model import Opened
from flowkit_models.files import atomic_path
from flowkit_models.images.formats import named_format
from flowkit_models.images.photo_file import KEPT, Header
from flowkit_models.images.png_file import TEXT_PREFIX
from flowkit_models.images.provenance import LATENTS_NOTE
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.checkpoint_file import is_safetensors, read_about
from flowkit_models.models.factory import bundled_of

FORMAT = "1"


@dataclass(frozen=True, eq=False)
class Latents:
    """Content of a file.

    Attributes:
        parts: "lr", "latent.0" and so on, and for a model that is given an LR image beside its own, "given"; of one
            dtype, padded to what the model can work with.
        size: height and width of the picture.
        header: of the picture.
        alpha: (height, width), int32 as stored in the picture; None without transparency.
    """

    parts: dict[str, Tensor]
    size: tuple[int, int]
    header: Header
    alpha: Tensor | None = None


class _DamagedError(Exception):
    """What is wrong with a file."""


@contextmanager
def written_latents(path: Path, latents: Latents, opened: Opened) -> Iterator[None]:
    """Writes a file, which gets its name when the block ends without an error."""
    header = latents.header
    if not _is_resolution(header.resolution):  # of pictures, it may be anything
        header = dataclasses.replace(header, resolution=(1.0, 1.0))
    about = {
        LATENTS_NOTE: FORMAT,
        "model": opened.checksum,
        "size": json.dumps(latents.size),
        "header": _header_text(header),
    }
    parts = latents.parts if latents.alpha is None else {**latents.parts, "alpha": latents.alpha}
    with atomic_path(path) as unfinished:
        with unfinished.open("r+b") as file:
            file.write(save(parts, about))
            file.flush()
            os.fsync(file.fileno())  # a full disk says so before the block
        yield


def noted_encoder(path: Path) -> str | None:
    """Checksum of the model that encoded a file, as it says; None if it is no file of `flowkit encode`."""
    about = read_about(path)
    return about.get("model") if about.get(LATENTS_NOTE) == FORMAT else None


def read_latents(path: Path, opened: Opened) -> Latents:
    """Reads a file that a model encoded, and checks all in it, so that the model can decode it.

    Raises:
        ValueError: if the file is none of `flowkit encode`, damaged, or another model's.
    """
    try:
        readable = is_safetensors(path)
    except ValueError:  # a picture, say: its words are of checkpoints
        readable = False
    if not readable:
        raise ValueError(f"{path}: not made by flowkit encode: name the .safetensors that it wrote")
    parts, about = read_safetensors(path)
    if about.get(LATENTS_NOTE) != FORMAT:
        raise ValueError(f"{path}: not made by flowkit encode")
    if about.get("model") != opened.checksum:
        own = bundled_of(about.get("model", ""))
        remedy = "give that one with -m" if own is None else f"decode it with -m {own.stem}"
        raise ValueError(f"{path}: another model encoded it than {opened.path.name}: {remedy}")
    try:
        size = _size(_parsed(about, "size"))
        header = _header(_parsed(about, "header"))
        alpha = _alpha(parts.pop("alpha", None), size, header)
        _check_parts(parts, size, opened.model)
    except _DamagedError as error:
        raise ValueError(f"{path}: damaged ({error})") from None
    return Latents(parts, size, header, alpha)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise _DamagedError(what)


def _parsed(about: Mapping[str, str], name: str) -> Any:
    _require(name in about, f"it has no {name}")
    try:
        return json.loads(about[name])
    except (ValueError, RecursionError):
        raise _DamagedError(f"its {name} is no JSON") from None


def _size(found: Any) -> tuple[int, int]:
    sides = found if isinstance(found, list) else []
    _require(
        len(sides) == 2 and all(type(side) is int and side > 0 for side in sides), "its size is no height and width"
    )
    return sides[0], sides[1]


def _alpha(alpha: Tensor | None, size: tuple[int, int], header: Header) -> Tensor | None:
    _require((alpha is not None) == header.alpha, "transparency and header don't belong together")
    if alpha is not None:
        _require(alpha.dtype == torch.int32 and alpha.shape == size, "its transparency is not of the picture's size")
        _require(int(alpha.min()) >= 0 and int(alpha.max()) < 2**header.bits, "its transparency is out of range")
    return alpha


def _check_parts(parts: Mapping[str, Tensor], size: tuple[int, int], model: ImageFlow) -> None:
    """Compares LR image and latents with what the model makes of a picture of this size."""
    sides = [-(-side // model.flow.stride) * model.flow.stride // model.scale for side in size]
    _require(max(sides) < 2**31, "its size is beyond all pictures")
    latents = model.latent_shapes(*sides)
    shapes = {"lr": (1, 3, *sides)} | {f"latent.{i}": (1, *shape) for i, shape in enumerate(latents)}
    if gets_lr(model) and model.makes_lr:
        shapes["given"] = shapes["lr"]
    missing, surplus = shapes.keys() - parts.keys(), parts.keys() - shapes.keys()
    _require(not missing, f"it has no {', '.join(sorted(missing))}")
    _require(not surplus, f"it has {', '.join(sorted(surplus)[:3])}, which this model has no use for")
    dtypes = {next(model.parameters()).dtype, torch.float64}
    for name, shape in shapes.items():
        part = parts[name]
        _require(tuple(part.shape) == shape, f"{name} is {tuple(part.shape)}, for its size it would be {shape}")
        kinds = " or ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        _require(part.dtype in dtypes, f"{name} is {str(part.dtype).removeprefix('torch.')} in place of {kinds}")
        _require(part.dtype == parts["lr"].dtype, f"{name} and lr are of different types")
        _require(bool(part.isfinite().all()), f"{name} is not finite")


def gets_lr(model: ImageFlow) -> bool:
    """The model needs the LR image to encode: it makes none, or is given one beside its own."""
    return not model.makes_lr or getattr(model.config, "given", None) == "lr"


def _header_text(header: Header) -> str:
    fields = dataclasses.asdict(header)
    fields["metadata"] = {
        name: value if isinstance(value, str) else {"base64": base64.b64encode(value).decode()}
        for name, value in header.metadata.items()
    }
    return json.dumps(fields)


def _header(fields: Any) -> Header:
    names = {field.name for field in dataclasses.fields(Header)}
    _require(isinstance(fields, dict) and fields.keys() == names, "its header has other fields than a header")
    try:
        named_format(fields["format"])
    except ValueError:
        raise _DamagedError("its header names no format of pictures") from None
    _require(type(fields["bits"]) is int and fields["bits"] in (8, 16), "its header has no 8 or 16 bits")
    _require(all(isinstance(fields[name], bool) for name in ("gray", "alpha")), "gray and alpha are no yes or no")
    _require(_is_resolution(fields["resolution"]), "its resolution is no pair of positive numbers")
    _require(isinstance(fields["metadata"], dict), "its metadata have no names")
    metadata = {name: _metadata(name, value) for name, value in fields["metadata"].items()}
    across, down = fields["resolution"]
    return Header(**{**fields, "metadata": metadata, "resolution": (float(across), float(down))})


def _is_resolution(value: Any) -> bool:
    numbers = list(value) if isinstance(value, list | tuple) else []
    return len(numbers) == 2 and all(type(n) in (int, float) and 0 < n < 1e9 and math.isfinite(n) for n in numbers)


def _metadata(name: str, value: Any) -> bytes | str:
    if isinstance(value, dict) and value.keys() == {"base64"} and isinstance(value["base64"], str):
        try:
            value = base64.b64decode(value["base64"], validate=True)
        except (binascii.Error, ValueError):
            raise _DamagedError(f"its metadata {name[:60]!r} are no base64") from None
    kind = bytes if name.endswith("-data") and not name.startswith(TEXT_PREFIX) else str
    known = name.startswith((*KEPT, TEXT_PREFIX)) and "\0" not in name
    _require(known and isinstance(value, kind), f"pictures keep no metadata {name[:60]!r} like its")
    kept: bytes | str = value
    return kept
