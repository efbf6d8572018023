"""Photographs in shards: tar archives or Parquet files, on this machine or at a URL, read at random.

An image keeps its place in its shard, so that sample i stays a function of i, and a resumed run goes on with the very
samples that it would have seen.
"""

import os
import re
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from flowkit_models.data.parquet_shards import parquet_index
from flowkit_models.data.shard_image import Index, ShardImage
from flowkit_models.data.tar_shards import PACKED, tar_index
from flowkit_models.files import opened_system
from flowkit_models.images.image_file import ImageError

_TARS = (".tar", ".tgz", *(f".tar{ending}" for ending in PACKED))
_PARQUET = ".parquet"
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def is_sharded(data: str | os.PathLike[str]) -> bool:
    """Tells whether training data are shards: a path or URL that ends in .tar or .parquet, with * or {000..127} or not.

    Compressed archives (.tar.gz) count, so that opening them can say what is wrong: they can't be read at random.
    """
    return os.fspath(data).lower().endswith((*_TARS, _PARQUET))


@contextmanager
def shard_hint(data: str | os.PathLike[str]) -> Iterator[None]:
    """Adds to the `ImageError` of a folder that is none, or holds no images, how shards are given."""
    try:
        yield
    except ImageError as error:
        kinds = sorted({path.suffix for path in Path(data).glob("*") if path.suffix in (*_TARS, _PARQUET)})
        if kinds:
            hint = f"; shards are given by a pattern: {Path(data) / ('*' + kinds[0])}"
        elif re.search(r":/|[*{]", os.fspath(data)):
            hint = "; a URL or a pattern names shards alone, and ends in .tar or .parquet"
        else:
            raise
        raise ImageError(f"{error}{hint}") from None


def shard_images(data: str | os.PathLike[str], size: int) -> dict[str, ShardImage]:
    """The images of shards by SHARD/NAME, in order. Each shard is looked through in a thread.

    In a tar archive NAME is the image's there, and heads alone are read. In a Parquet file it is the row's number, and
    the image's path if the row has one.

    Images that can't be used, or are smaller than `size` pixels a side, are left out with a UserWarning.

    Args:
        data: path or URL of a shard, or of several: with *, or a range {000..127}.
        size: side of a crop in pixels.

    Raises:
        ImageError: if there is no such shard, one can't be read, or none of the images can be used.
        ImportError: for Parquet without pyarrow.
    """
    shards = find_shards(os.fspath(data))
    found: dict[str, ShardImage] = {}
    with ThreadPoolExecutor(min(16, len(shards))) as pool:
        for index in pool.map(_index, shards):
            for problem in index.problems:
                warnings.warn(f"skipped {problem}", stacklevel=5)
            for image in index.images:
                name = image.path.as_posix()
                if name in found:
                    raise ImageError(f"{name} is there twice: give shards, and images in them, names of their own")
                if min(image.height, image.width) < size:
                    warnings.warn(
                        f"skipped {name}: {image.height} × {image.width} is below {size} pixels", stacklevel=5
                    )
                else:
                    found[name] = image
    if not found:
        raise ImageError(f"{os.fspath(data)}: none of its images can be used (readable, {size} pixels a side)")
    return found


def _index(shard: str) -> Index:
    return parquet_index(shard) if shard.lower().endswith(_PARQUET) else tar_index(shard)


def find_shards(data: str) -> list[str]:
    """The shards that a path or URL with * or {000..127} stands for.

    >>> find_shards("s3://photos/{08..10}.tar")
    ['s3://photos/08.tar', 's3://photos/09.tar', 's3://photos/10.tar']

    Raises:
        ImageError: if there is none.
    """
    data = re.sub(r"^(file|local):/(?=[^/])", r"\1:///", data)  # what pathlib makes of a URL without a host
    data = re.sub(r"^(\w+):/(?=[^/])", r"\1://", data)  # and of one with a host
    if span := _RANGE.search(data):
        first, last = span.groups()
        numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
        found = [shard for number in numbers for shard in find_shards(_RANGE.sub(number, data, count=1))]
        if not found:
            raise ImageError(f"{data}: no such shards")
        return found
    if "*" not in data:
        return [data]
    try:
        system, inner = opened_system(data)
        found = sorted(system.glob(inner))
    except Exception as error:  # of whatever file system
        raise ImageError(f"{data}: cannot be read ({' '.join(str(error).split())})") from None
    if not found:
        raise ImageError(f"{data}: no such shards")
    return [system.unstrip_protocol(name) if "://" in data else name for name in found]
