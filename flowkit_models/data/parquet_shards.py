"""Images in Parquet files, one a row, as data sets of the Hugging Face hub have them: bytes, or {bytes, path}.

An image is a row of a row group, which is read to get at it: a draw costs as much as its group is large.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from flowkit_models.data.shard_image import HEAD, Index, ShardImage, mark_of, shard_errors
from flowkit_models.files import opened_system
from flowkit_models.images.image_file import ImageError

_NAMES = ("image", "hr")  # of the column that is meant, where several hold images
_ROWS = 16  # in memory at a time


@dataclass(frozen=True)
class ParquetImage(ShardImage):
    """An image in a Parquet file.

    Attributes:
        column: of its bytes, as pyarrow names a leaf.
        group: row group.
        row: in that group.
    """

    column: str
    group: int
    row: int

    def content(self, system: Any, inner: str) -> bytes:
        """See `ShardImage`."""
        with system.open(inner, "rb") as file:
            column = _parquet().ParquetFile(file).read_row_group(self.group, columns=[self.column]).column(0)
        content, _ = _parts(column[self.row].as_py())
        if content is None or mark_of(content) != self.mark:
            raise ImageError(f"{self.path}: another image than before: the shard was exchanged")
        return content


def parquet_index(shard: str) -> Index:
    """The images of a Parquet file. All of its image column is read, a few rows at a time.

    Raises:
        ImageError: if it is missing, no Parquet file, has no column of images, or several and none called image or hr.
        ImportError: without pyarrow.
    """
    index = Index()
    name = PurePosixPath(shard).name
    parquet = _parquet()
    with shard_errors(shard, "Parquet file"):
        system, inner = opened_system(shard)
        with system.open(inner, "rb") as file:
            table = parquet.ParquetFile(file)
            column, is_struct = _image_column(shard, table.schema_arrow)
            leaf = f"{column}.bytes" if is_struct else column
            for number, (group, row, value) in enumerate(_rows(table, column)):
                content, inside = _parts(value)
                path = Path(name, str(number), *([inside.lstrip("/")] if inside else []))
                if content is None:
                    index.problems.append(f"{path}: has no bytes in the shard")
                else:
                    _add(index, path, content, (shard, len(content), mark_of(content), leaf, group, row))
    return index


def _add(index: Index, path: Path, content: bytes, place: tuple[str, int, bytes, str, int, int]) -> None:
    def make(height: int, width: int) -> ShardImage:
        return ParquetImage(path, height, width, *place)

    index.add(path, content[:HEAD], lambda: content, make)


def _rows(table: Any, column: str) -> Iterator[tuple[int, int, Any]]:
    """Row group, row in it, and value of each row."""
    for group in range(table.num_row_groups):
        row = 0
        for batch in table.iter_batches(_ROWS, row_groups=[group], columns=[column]):
            for value in batch.column(0):
                yield group, row, value.as_py()
                row += 1


def _parts(value: Any) -> tuple[bytes | None, str | None]:
    """The bytes of a row's image, and its name, as far as there are any."""
    if isinstance(value, dict):
        return value.get("bytes"), value.get("path")
    return value, None


def _image_column(shard: str, schema: Any) -> tuple[str, bool]:
    """The name of the column of images, and whether it holds {bytes, path}."""
    kinds = {field.name: _holds_images(field.type) for field in schema}
    found = {name: kind == "struct" for name, kind in kinds.items() if kind}
    if not found:
        columns = ", ".join(kinds) or "none"
        raise ImageError(f"{shard}: no column of images, as bytes or {{bytes, path}}; its columns are {columns}")
    if len(found) == 1:
        return next(iter(found.items()))
    for wanted in _NAMES:
        for name, is_struct in found.items():
            if name.lower() == wanted:
                return name, is_struct
    raise ImageError(f"{shard}: {' and '.join(found)} may hold images: call the one to use image")


def _holds_images(kind: Any) -> str:
    """Tells whether values of an Arrow type may be images: "plain" bytes, a "struct" with them, or ""."""
    types = _pyarrow().types
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return "plain"
    if types.is_struct(kind):
        leaves = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        return "struct" if "bytes" in leaves and _holds_images(leaves["bytes"]) == "plain" else ""
    return ""


def _parquet() -> Any:
    _pyarrow()
    from pyarrow import parquet  # noqa: PLC0415 - of an extra

    return parquet


def _pyarrow() -> Any:
    """Raises ImportError without it."""
    try:
        import pyarrow  # noqa: PLC0415 - of an extra
    except ImportError:
        raise ImportError('Parquet needs pyarrow: pip install "flowkit-torch[parquet]"') from None
    return pyarrow
