"""Files of torch.save (.pth), read without calling anything that they name.

Only tensors that somebody asks for are read, so that optimizer states cost nothing.
"""

import io
import math
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from flowkit_models.models.foreign_files import archived
from flowkit_models.models.unpickling import ForeignError, Machine, RefusedError, Storage, StoredTensor

MAGIC = 0x1950A86A20F9469CFC6C
"""First number in the files that torch wrote before it wrote ZIP archives."""

INFLATED = 4
"""Parts of an archive may take so many times the file's size; torch does not compress them."""


def read_pickled(path: Path) -> Any:
    """Content of a file of `torch.save`: containers, numbers, strings, and tensors as `StoredTensor`.

    Raises:
        ValueError: if it is no such file, truncated, or names functions that weights don't need.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
        return _read_archive(path) if zipped else _read_stream(path)
    except ForeignError as culprit:
        raise ValueError(
            f"{path}: refused, it holds more than weights: {culprit} (loading that would run its code); if you trust "
            "the file, load it yourself and save its state dict alone"
        ) from None
    except RefusedError as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # a damaged file can fail in any way
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"{path}: not a checkpoint, or a truncated one ({reason})") from None


def read_tensors(state: Mapping[str, Tensor | StoredTensor], path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a state dict, those that are not read yet.

    Raises:
        ValueError: names one that can't be a weight: sparse, quantised, or larger than what the file holds of it; or
            the file is truncated, or all of them together are much larger than it.
    """
    read = {name: tensor for name, tensor in state.items() if isinstance(tensor, StoredTensor)}
    for name, stored in read.items():
        if stored.flaw:
            raise ValueError(f"{path}: {name} is {stored.flaw}: flowkit takes whole floating-point weights; save these")
    needed, size = sum(math.prod(t.shape) * t.dtype.itemsize for t in read.values()), path.stat().st_size
    if needed > INFLATED * size + 2**20:
        raise ValueError(
            f"{path}: refused, its tensors take {needed} bytes and the file has {size}: save copies of them"
        )
    try:
        return {name: t.read() if isinstance(t, StoredTensor) else t for name, t in state.items()}
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: not a checkpoint, or a truncated one ({error})") from None


def _read_archive(path: Path) -> Any:
    """Content of a ZIP archive of torch: PREFIX/data.pkl is the pickle, PREFIX/data/KEY a storage."""
    size = path.stat().st_size
    _check_directory(path, size)
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: info for info in archive.infolist()}
        if sum(info.file_size for info in records.values()) > INFLATED * size + 2**20:
            raise RefusedError(
                f"refused, its parts would take more than {INFLATED} times the file: torch writes them whole"
            )
        pickles = [name for name in records if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
        prefix = pickles[0].removesuffix("data.pkl") if pickles else ""
        if not pickles or prefix + "constants.pkl" in records:
            raise RefusedError(archived(list(records)))
        if prefix + "byteorder" in records and archive.read(prefix + "byteorder") == b"big":
            raise RefusedError("written on a big-endian machine: save it anew on another")
        content = io.BytesIO(archive.read(pickles[0]))

    def find(storage: Storage) -> tuple[int, Callable[[], bytearray]]:
        info = records[f"{prefix}data/{storage.key}"]
        return info.file_size, lambda: _read_record(path, info)

    return Machine(find).run(content)


def _check_directory(path: Path, size: int) -> None:
    """Refuses archives whose list of parts alone is large: a short entry of it becomes a long one in memory."""
    with path.open("rb") as file:
        file.seek(max(0, size - 2**16 - 100))
        tail = file.read()
    at, wide = tail.rfind(b"PK\5\6"), tail.rfind(b"PK\6\6")
    lengths = [struct.unpack_from("<I", tail, at + 12)[0] if 0 <= at <= len(tail) - 16 else 0]
    if 0 <= wide <= len(tail) - 48:
        lengths.append(struct.unpack_from("<Q", tail, wide + 40)[0])
    if any(2**24 < length <= size for length in lengths):
        raise RefusedError("refused, it is an archive of far more parts than a checkpoint has: save the weights alone")


def _read_record(path: Path, info: zipfile.ZipInfo) -> bytearray:
    """A part of an archive. Its checksum is not looked at: torch can leave it out."""
    content = bytearray(info.file_size)
    if info.compress_type != zipfile.ZIP_STORED:
        with zipfile.ZipFile(path) as archive, archive.open(info) as part:
            count = part.readinto(content)  # type: ignore[attr-defined]
    else:
        with path.open("rb") as file:
            file.seek(info.header_offset)
            name, extra = struct.unpack("<26xHH", file.read(30))
            file.seek(name + extra, io.SEEK_CUR)
            count = file.readinto(content)
    if count != len(content):
        raise ValueError(f"{path}: truncated")
    return content


def _read_stream(path: Path) -> Any:
    """Content of a file from before torch wrote archives: five pickles, then the storages one after the other."""
    places: dict[str, int] = {}
    size = path.stat().st_size

    def find(storage: Storage) -> tuple[int, Callable[[], bytearray]]:
        nbytes = storage.count * storage.dtype.itemsize
        return nbytes, lambda: _read_bytes(path, places[storage.key], nbytes)

    machine = Machine(find)
    with path.open("rb") as file:
        first = machine.run(file)
        if not isinstance(first, int) or first != MAGIC:
            raise RefusedError("a pickle that torch.save did not write: save the state dict with torch.save")
        machine.run(file)
        about = machine.run(file)
        if isinstance(about, Mapping) and about.get("little_endian") is False:
            raise RefusedError("written on a big-endian machine: save it anew on another")
        content, keys = machine.run(file), machine.run(file)
        lengths = {storage.key: storage.count * storage.dtype.itemsize for storage in machine.storages}
        place = file.tell()
        for key in keys if isinstance(keys, list) else ():
            places[key] = place + 8
            place += 8 + lengths[key]
    if place > size:
        raise RefusedError(f"not a checkpoint, or a truncated one (its tensors need {place} bytes, it has {size})")
    return content


def _read_bytes(path: Path, place: int, count: int) -> bytearray:
    content = bytearray(count)
    with path.open("rb") as file:
        file.seek(place)
        if file.readinto(content) != count:
            raise ValueError(f"{path}: truncated")
    return content
