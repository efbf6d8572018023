"""Shards as training data: the samples are those of a folder, wherever the shards lie; what is wrong is named."""

import gzip
import io
import pickle
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from flowkit_models.data.crops import AlignedCrops, RandomCrops
from flowkit_models.data.shards import find_shards, shard_images
from flowkit_models.images.image_file import ImageError
from flowkit_models.training.options import Options


def encoded(seed: int, height: int = 20, width: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, format="png")
        return file.getvalue()


def shard(files: dict[str, bytes]) -> bytes:
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return out.getvalue()


@pytest.fixture
def two(tmp_path) -> Path:
    """The same photographs in a folder, in two shards, and in two shards at a URL."""
    photos = {f"{i}.png": encoded(i, width=20 + i) for i in range(4)}
    for i in range(2):
        part = {name: photos[name] for name in (f"{2 * i}.png", f"{2 * i + 1}.png")}
        notes = {"0.txt": b"a caption", "._0.png": b"a stranger's", "cls/0.json": b"{}"}
        content = shard({**part, **notes})
        (tmp_path / f"{i:02d}.tar").write_bytes(content)
        fsspec.filesystem("memory").pipe(f"/photos/{i:02d}.tar", content)
        for name, photo in part.items():
            (tmp_path / "folder" / f"{i:02d}.tar").mkdir(parents=True, exist_ok=True)
            (tmp_path / "folder" / f"{i:02d}.tar" / name).write_bytes(photo)
    return tmp_path


@pytest.mark.parametrize("kind", [RandomCrops, AlignedCrops])
def test_the_samples_of_shards_are_those_of_a_folder(kind, two) -> None:
    expected = kind(two / "folder", 16, memory=0)
    memory = ("memory://photos/*.tar", Path("memory://photos/{00..01}.tar"))
    local = (f"file://{two}/*.tar", Path(f"file://{two}/*.tar"), Path(f"file://{two}/{{00..01}}.tar"))
    for data in (two / "*.tar", str(two / "{00..01}.tar"), *memory, *local):
        made = pickle.loads(pickle.dumps(kind(data, 16, memory=0)))  # as a worker of a DataLoader gets it
        assert made.names == expected.names
        for index in (0, 1, 10**9):
            assert all(torch.equal(a, b) for a, b in zip(made[index], expected[index], strict=True))


def test_another_photograph_is_another_fingerprint(two) -> None:
    data = str(two / "*.tar")
    before = RandomCrops(data, 16).fingerprint()
    assert RandomCrops(data, 16).fingerprint() == before
    (two / "00.tar").write_bytes(shard({"0.png": encoded(9), "1.png": encoded(1, width=21)}))
    after = RandomCrops(data, 16).fingerprint()
    assert [name for name in before if after[name] != before[name]] == ["00.tar/0.png"]


def test_what_cannot_be_used_is_left_out_or_named(tmp_path) -> None:
    files = {"a.png": encoded(0), "small.png": encoded(1, 8, 8), "bad.png": b"no picture"}
    (tmp_path / "0.tar").write_bytes(shard(files))
    with pytest.warns(UserWarning, match="^skipped ") as said:
        assert list(shard_images(tmp_path / "0.tar", 16)) == ["0.tar/a.png"]
    texts = sorted(str(warning.message) for warning in said)
    assert texts[0].startswith("skipped 0.tar/bad.png: ")
    assert texts[1] == "skipped 0.tar/small.png: 8 × 8 is below 16 pixels"
    (tmp_path / "1.tar").write_bytes(b"no archive" * 100)
    for data, told in (("1.tar", "no tar archive"), ("2.tar", "no such shard$"), ("x*.tar", "no such shards$")):
        with pytest.raises(ImageError, match=told):
            shard_images(tmp_path / data, 16)
    (tmp_path / "3.tar").write_bytes(shard({"bad.png": b"no picture"}))
    with pytest.warns(UserWarning, match="bad.png"), pytest.raises(ImageError, match="none of its images can be used"):
        shard_images(tmp_path / "3.tar", 16)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar"])
def test_a_compressed_shard_says_what_to_do(name, tmp_path) -> None:
    """Whatever its name: an image of it can't be read without all that is before it."""
    (tmp_path / name).write_bytes(gzip.compress(shard({"a.png": encoded(0)})))
    with pytest.raises(ImageError, match=r"is compressed, .*: unpack it to a plain \.tar \(gunzip"):
        RandomCrops(tmp_path / name, 16)


def test_names_in_a_shard_are_names_below_it(tmp_path) -> None:
    """Absolute and overlong ones as well: no file of this machine is called so."""
    (tmp_path / "0.tar").write_bytes(shard({"/a.png": encoded(0), "b" * 300 + ".png": encoded(1)}))
    images = shard_images(tmp_path / "0.tar", 16)
    assert list(images) == ["0.tar/a.png", f"0.tar/{'b' * 300}.png"]
    assert all(image.read().shape[0] == 3 for image in images.values())


def test_an_image_whose_head_lies_at_its_end_is_found(tmp_path) -> None:
    """TIFF may tell its size behind its pixels; they are more than the piece that is read at first."""
    pixels = np.random.default_rng(0).integers(0, 256, (320, 320, 3), np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, format="tiff")
        plain = file.getvalue()
    start = int.from_bytes(plain[4:8], "little")
    entries = plain[start : start + 2 + 12 * int.from_bytes(plain[start : start + 2], "little") + 4]
    moved = plain[:4] + len(plain).to_bytes(4, "little") + plain[8:] + entries
    (tmp_path / "0.tar").write_bytes(shard({"a.tif": moved}))
    assert torch.equal(shard_images(tmp_path / "0.tar", 16)["0.tar/a.tif"].read(), torch.tensor(pixels).movedim(-1, 0))


def test_a_shard_that_shrank_is_told_when_an_image_is_read(two) -> None:
    images = shard_images(two / "00.tar", 16)
    (two / "00.tar").write_bytes((two / "00.tar").read_bytes()[:700])
    with pytest.raises(ImageError, match=r"^00\.tar/0\.png: truncated, the shard was longer"):
        images["00.tar/0.png"].read()


def test_options_of_recipes_that_go_with_folders_alone_say_so(two) -> None:
    data = two / "*.tar"
    assert len(Options(crop=16, data=data, source_weights={"00.tar/*": 0.5}).crops(4).names) == 4
    with pytest.raises(ValueError, match=r"^--source-weights: nothing in .* is called 02"):
        Options(crop=16, data=data, source_weights={"02.tar/*": 0.5}).crops(4)
    with pytest.raises(ValueError, match=r"^--paired: .* are shards, of HR images alone"):
        Options(crop=16, data=data, paired=True).crops(4)


def test_ranges_keep_their_zeros() -> None:
    assert find_shards("s3://bucket/a-{008..010}.tar")[0] == "s3://bucket/a-008.tar"
    assert len(find_shards("x{0..1}/{0..9}.tar")) == 20
    with pytest.raises(ImageError, match=r"^a-\{2\.\.0\}\.tar: no such shards$"):
        find_shards("a-{2..0}.tar")


def test_a_folder_of_shards_or_a_pattern_of_images_is_told_how_shards_are_given(two) -> None:
    """`--data shards`, `--data "photos/*.png"`: what one tries first."""
    (two / "shards").mkdir()
    (two / "00.tar").rename(two / "shards" / "00.tar")
    for kind in (RandomCrops, AlignedCrops):
        with pytest.raises(ImageError, match=r"no images in it \(.*; shards are given by a pattern: .*shards/\*\.tar$"):
            kind(two / "shards", 16)
        for data in (two / "*", two / "{00..01}", Path("s3://photos/large")):
            with pytest.raises(ImageError, match=r"no such folder; a URL or .* ends in \.tar or \.parquet$"):
                kind(data, 16)
    with pytest.raises(ImageError, match=r"shards/\*\.tar$"):
        Options(crop=16, data=two / "shards", source_weights={"00.tar/*": 0.5}).crops(4)
