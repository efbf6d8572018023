"""Parquet files as training data: an image a row, with the samples of a folder; what is wrong is named in one line."""

import io
import pickle
import sys
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from flowkit_models.data.crops import RandomCrops
from flowkit_models.data.shards import shard_images
from flowkit_models.images.image_file import ImageError
from flowkit_models.training.options import Options


def encoded(seed: int, height: int = 20, width: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, format="png")
        return file.getvalue()


PHOTOS = [encoded(i, width=20 + i) for i in range(5)]
COLUMNS = {
    "bytes": (PHOTOS, pa.binary()),
    "large bytes": (PHOTOS, pa.large_binary()),
    "bytes and path": (
        [{"bytes": photo, "path": f"cats/{i}.png"} for i, photo in enumerate(PHOTOS)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    ),
    "bytes and no path": (
        [{"bytes": photo, "path": None} for photo in PHOTOS],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    ),
}


def shard(path: Path, rows: list, kind: pa.DataType | None = None, name: str = "image", **others: list) -> Path:
    columns = {"label": list(range(len(rows))), name: pa.array(rows, kind), **others}
    parquet.write_table(pa.table(columns), path, row_group_size=2)
    return path


@pytest.mark.parametrize("kind", COLUMNS)
def test_the_samples_are_those_of_a_folder(kind, tmp_path) -> None:
    rows, column = COLUMNS[kind]
    names = [f"{i}/cats/{i}.png" if kind == "bytes and path" else f"{i}" for i in range(5)]
    for k, part in enumerate((slice(0, 3), slice(3, 5))):
        file = shard(tmp_path / f"{k:02d}.parquet", rows[part], column)
        fsspec.filesystem("memory").pipe(f"/rows/{file.name}", file.read_bytes())
        for i, photo in enumerate(PHOTOS[part]):
            place = tmp_path / "folder" / file.name / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(photo)
    expected = RandomCrops(tmp_path / "folder", 16, memory=0)
    for data in (tmp_path / "*.parquet", Path("memory://rows/{00..01}.parquet")):
        made = pickle.loads(pickle.dumps(RandomCrops(data, 16, memory=0)))  # as a worker of a DataLoader gets it
        assert made.names[:2] == [f"00.parquet/{name}" for name in names[:2]]
        for index in (0, 1, 2, 3, 10**9):
            assert all(torch.equal(a, b) for a, b in zip(made[index], expected[index], strict=True))


def test_the_image_column_is_found_by_its_kind_and_then_by_its_name(tmp_path) -> None:
    """A set of pairs has two such columns, and its HR images are meant."""
    small = [encoded(9, 5, 6)] * 5
    for name in ("photo", "Image", "hr", "picture.jpg"):
        others = {"lr": pa.array(small)} if name in ("Image", "hr") else {}
        file = shard(tmp_path / "a.parquet", PHOTOS, name=name, **others)
        assert len(shard_images(file, 16)) == 5
    file = shard(tmp_path / "b.parquet", PHOTOS, name="left", right=pa.array(PHOTOS))
    with pytest.raises(ImageError, match=r"b\.parquet: left and right may hold images: call the one to use image$"):
        shard_images(file, 16)
    file = shard(tmp_path / "c.parquet", ["a.png"], name="file")
    told = r"c\.parquet: no column of images, as bytes or \{bytes, path\}; its columns are label, file$"
    with pytest.raises(ImageError, match=told):
        shard_images(file, 16)


def test_rows_without_a_picture_are_left_out_and_named(tmp_path) -> None:
    rows = [{"bytes": PHOTOS[0], "path": "/a.png"}, {"bytes": None, "path": "b.png"}, None]
    rows += [{"bytes": b"no picture", "path": "c.\0"}, {"bytes": encoded(1, 8, 8), "path": "../small.png"}]
    file = shard(tmp_path / "0.parquet", rows)
    with pytest.warns(UserWarning, match="^skipped ") as said:
        assert list(shard_images(file, 16)) == ["0.parquet/0/a.png"]
    texts = [str(warning.message) for warning in said]
    assert texts[0] == "skipped 0.parquet/1/b.png: has no bytes in the shard"
    assert texts[1] == "skipped 0.parquet/2: has no bytes in the shard"
    assert texts[2].startswith("skipped 0.parquet/3/c.\0: ")
    assert texts[3].startswith("skipped 0.parquet/4/")
    assert texts[3].endswith("small.png: 8 × 8 is below 16 pixels")


def test_a_file_that_is_none_is_named(tmp_path) -> None:
    (tmp_path / "1.parquet").write_bytes(b"no table" * 100)
    (tmp_path / "2.parquet").write_bytes(b"")
    (tmp_path / "cut.parquet").write_bytes(shard(tmp_path / "whole.parquet", PHOTOS).read_bytes()[:-200])
    for name, told in (
        ("1", "no Parquet file that can be read"),
        ("2", "no Parquet file that can be read"),
        ("cut", "no Parquet file that can be read"),
        ("3", "no such shard$"),
        ("x*", "no such shards$"),
    ):
        with pytest.raises(ImageError, match=told) as caught:
            shard_images(tmp_path / f"{name}.parquet", 16)
        assert "\n" not in str(caught.value)


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch) -> None:
    file = shard(tmp_path / "0.parquet", PHOTOS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r'^Parquet needs pyarrow: pip install "flowkit-torch\[parquet\]"$'):
        shard_images(file, 16)


def test_another_photograph_is_another_fingerprint_and_no_sample_of_a_running_training(tmp_path) -> None:
    file = shard(tmp_path / "0.parquet", PHOTOS)
    images, before = shard_images(file, 16), RandomCrops(file, 16).fingerprint()
    assert RandomCrops(file, 16).fingerprint() == before
    other = encoded(9, width=21)
    shard(file, [PHOTOS[0], other, *PHOTOS[2:]])
    after = RandomCrops(file, 16).fingerprint()
    assert [name for name in before if after[name] != before[name]] == ["0.parquet/1"]
    assert images["0.parquet/0"].read().shape == (3, 20, 20)
    with pytest.raises(ImageError, match=r"^0\.parquet/1: another image than before: the shard was exchanged$"):
        images["0.parquet/1"].read()
    shard(file, PHOTOS[:1])
    with pytest.raises(ImageError, match=r"^0\.parquet/4: cannot be read \("):
        images["0.parquet/4"].read()


def test_options_of_recipes_know_its_rows(tmp_path) -> None:
    data = shard(tmp_path / "0.parquet", PHOTOS)
    assert len(Options(crop=16, data=data, source_weights={"0.parquet/*": 0.5}).crops(4).names) == 5
    with pytest.raises(ValueError, match=r"^--paired: .* are shards, of HR images alone"):
        Options(crop=16, data=data, paired=True).crops(4)
