"""flowkit_models.ray.prepare from and to any file system, with a loop in Ray's place; the cluster is in test_ray.py."""

from pathlib import Path
from unittest import mock

import fsspec
import numpy as np
import pytest
from PIL import Image

from flowkit_models.cli import main
from flowkit_models.data.prepare import Faces, LowResolution, Report, SubImages
from flowkit_models.files import opened_system
from flowkit_models.images.image_file import ImageError
from flowkit_models.ray.preparing import Preparing, prepare_by, prepare_row
from flowkit_models.ray.storage import listed

MEMORY = fsspec.filesystem("memory")


def serially(rows: list[dict], spec: Preparing) -> list[dict]:
    return [prepare_row(row, spec) for row in reversed(rows)]


def prepare(source: str, out: str, make: type = SubImages, overwrite: bool = False, **settings) -> Report:
    return prepare_by(serially, *listed(source), out, make, settings, overwrite)


def contents(folder: str) -> dict[str, bytes]:
    system, inner = opened_system(folder)
    return {name[len(inner) :]: system.cat_file(name) for name in system.find(inner) if not name.endswith(".json")}


@pytest.fixture
def photos(tmp_path) -> Path:
    """Photographs in a folder, and the same at memory://photos; results go to memory://out."""
    for name in ("photos", "out"):
        if MEMORY.exists(f"/{name}"):
            MEMORY.rm(f"/{name}", recursive=True)
    for i in range(3):
        file = tmp_path / "photos" / f"sub{i % 2}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (20, 24, 3), np.uint8)).save(file)
        MEMORY.pipe(f"/photos/sub{i % 2}/{i}.png", file.read_bytes())
    return tmp_path / "photos"


def test_results_are_those_of_the_command_wherever_both_sides_lie(photos, tmp_path) -> None:
    main(["prepare", "sub-images", str(photos), "--out", str(tmp_path / "line"), "--size", "12", "--count", "2"])
    expected = contents(str(tmp_path / "line"))
    assert len(expected) == 6
    for source in (str(photos), "memory://photos"):
        for out in (str(tmp_path / "here"), "memory://out/set"):
            report = prepare(source, out, size=12, count=2, overwrite=True)
            assert (report.written, report.existing, report.failed) == (6, 0, ())
            assert contents(out) == expected
            report = prepare(source, out, size=12, count=2)
            assert (report.written, report.existing) == (0, 6)


def test_names_of_several_photographs_are_below_the_folder_that_all_are_in(photos) -> None:
    paths = [f"memory://photos/sub{i % 2}/{i}.png" for i in range(3)]
    report = prepare_by(serially, paths, "", "memory://out", SubImages, {"size": 12, "count": 1})
    assert report.written == 3
    assert sorted(contents("memory://out")) == ["/sub0/0_001.png", "/sub0/2_001.png", "/sub1/1_001.png"]


def test_what_is_missing_is_made_and_a_bad_photograph_is_one_line(photos) -> None:
    MEMORY.pipe("/photos/bad.png", b"\x89PNG\r\n\x1a\n cut")
    first = prepare("memory://photos", "memory://out", LowResolution, scale=4)
    assert first.written == 3
    assert len(first.failed) == 1
    assert first.failed[0].startswith("memory:///photos/bad.png: ")
    before = contents("memory://out")
    MEMORY.rm("/out/1x4.png")
    again = prepare("memory://photos", "memory://out", LowResolution, scale=4)
    assert (again.written, again.existing) == (1, 2)
    assert contents("memory://out") == before


def test_a_folder_never_holds_results_of_two_kinds(photos) -> None:
    prepare("memory://photos", "memory://out", size=12, count=1)
    with pytest.raises(ImageError, match=r"^memory://out: was prepared with count 1, not count 2: name another"):
        prepare("memory://photos", "memory://out", size=12, count=2)
    MEMORY.pipe("/photos/sub1/1.png", MEMORY.cat("/photos/sub0/0.png"))
    with pytest.raises(ImageError, match=r"^memory://out: made of another sub1/1\.png than is there now"):
        prepare("memory://photos", "memory://out", size=12, count=1)
    assert prepare("memory://photos", "memory://out", size=12, count=2, overwrite=True).written == 6
    MEMORY.rm("/photos/sub1/1.png")
    with pytest.raises(ImageError, match=r"^memory://out: holds what was made of sub1/1\.png, no source any more"):
        prepare("memory://photos", "memory://out", size=12, count=2)
    MEMORY.rm("/out/prepared.json")
    with pytest.raises(ImageError, match=r"^memory://out: holds sub0/0_001\.png.* and no prepared\.json"):
        prepare("memory://photos", "memory://out", size=12, count=2)
    MEMORY.pipe("/out/prepared.json", b"{")
    with pytest.raises(ImageError, match=r"^memory://out/prepared\.json: cannot be read"):
        prepare("memory://photos", "memory://out", size=12, count=2)


def test_results_that_would_be_mixed_up_are_refused(photos) -> None:
    with pytest.raises(ValueError, match=r"^out memory://photos/sub lies in memory:///photos, which is searched"):
        prepare("memory://photos", "memory://photos/sub", size=12)
    MEMORY.pipe("/photos/sub0/0.jpg", MEMORY.cat("/photos/sub0/0.png"))
    with pytest.raises(ValueError, match=r"0\.jpg and memory:///photos/sub0/0\.png have one name"):
        prepare("memory://photos", "memory://out", size=12)
    MEMORY.mv("/photos/sub0/0.jpg", "/photos/sub1/0.png")
    assert prepare("memory://photos", "memory://out", size=12, count=1).written == 4
    with pytest.raises(ValueError, match=r"sub1/0\.png have one name"):
        prepare("memory://photos", "memory://out2", Faces, size=16, scale=4)


def test_a_place_that_cannot_be_written_ends_the_work_in_one_line(photos) -> None:
    with (
        mock.patch("flowkit_models.ray.preparing.delivered", side_effect=PermissionError("no\nright")),
        pytest.raises(ImageError, match=r"^memory://out: cannot be written \(no right\)$"),
    ):
        prepare("memory://photos", "memory://out", size=12, count=1)


def test_a_folder_is_one_from_where_the_caller_is_whichever_the_cluster_is_in(photos, tmp_path, monkeypatch) -> None:
    (tmp_path / "cluster").mkdir()
    monkeypatch.chdir(tmp_path)

    def elsewhere(rows: list[dict], spec: Preparing) -> list[dict]:
        with monkeypatch.context() as there:
            there.chdir(tmp_path / "cluster")
            return serially(rows, spec)

    report = prepare_by(elsewhere, *listed("photos"), "out", SubImages, {"size": 12, "count": 1})
    assert report.written == len(contents(str(tmp_path / "out"))) == 3
