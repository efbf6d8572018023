"""flowkit_models.ray: names and files without a cluster; then all of it on clusters of this machine's processes."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import tiny_flow

from flowkit_models.ray import upscale
from flowkit_models.ray.storage import delivered, exists, fetched, joined, listed
from flowkit_models.ray.tasks import told

HERE = Path(__file__).parent
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: the extra `ray`")


def photos(folder: Path, count: int, side: int = 12) -> None:
    for i in range(count):
        path = folder / f"sub{i % 3}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(path)


def test_without_ray_the_error_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'^flowkit_models\.ray needs Ray: pip install "flowkit-torch\[ray\]"$'):
        upscale(str(tmp_path), str(tmp_path / "out"))


def test_files_of_any_file_system_come_and_go_whole(tmp_path, monkeypatch) -> None:
    with delivered("memory://far/sub/a.txt") as file:
        file.write_text("whole")
    assert exists("memory://far/sub/a.txt")
    with fetched("memory://far/sub/a.txt") as file:
        assert file.read_text() == "whole"
    assert not file.exists()

    def fails() -> None:
        with delivered("memory://far/b.txt") as file:
            file.write_text("half")
            raise ValueError("in between")

    with pytest.raises(ValueError, match="in between"):
        fails()
    assert not exists("memory://far/b.txt")
    for root in ("memory://", "memory:///"):  # the folder of all folders is one, too
        with delivered(joined(root, "in_root.txt")) as file:
            file.write_text(root)
        with fetched("memory://in_root.txt") as file:
            assert file.read_text() == root
    photos(tmp_path, 2)
    (tmp_path / "sub0" / ".hidden.png").touch()
    names, root = listed(str(tmp_path))
    assert [name.removeprefix(root) for name in names] == ["/sub0/0.png", "/sub1/1.png"]
    monkeypatch.chdir(tmp_path / "sub0")
    assert listed("0.png") == ([str(tmp_path / "sub0" / "0.png")], str(tmp_path / "sub0"))
    with pytest.raises(FileNotFoundError, match="no such file, or a folder without pictures"):
        listed(str(tmp_path / "nothing"))


def test_an_object_that_is_gone_is_told_in_words() -> None:
    """Fsspec's error is the path alone."""
    with pytest.raises(FileNotFoundError) as gone, fetched("memory://far/gone.png"):
        pass
    assert told(gone.value) == "/far/gone.png: no such file"
    assert told(FileNotFoundError(2, "No such file or directory", "a.png")).startswith("[Errno 2] No such file")


def on_a_cluster(what: str, tmp_path: Path) -> dict:
    """Runs a function of cluster.py in a process of its own: Ray leaves threads and warnings behind."""
    tiny_flow().save(tmp_path / "tiny.safetensors", temperature="0.3")
    paths = [str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "RAY_USAGE_STATS_ENABLED": "0"}
    line = [sys.executable, str(HERE / "cluster.py"), what, str(tmp_path)]
    done = subprocess.run(line, check=False, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@needs_ray
@pytest.mark.slow
def test_one_node_upscales_scores_and_prepares_and_does_nothing_twice(tmp_path) -> None:
    photos(tmp_path / "in", 5, side=16)
    (tmp_path / "in" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    told = on_a_cluster("one_node", tmp_path)
    assert told["first"] == {"done": 5, "failed": 1}
    assert told["again"] == {"was there": 5, "failed": 1}
    assert told["error"].startswith(str(tmp_path / "in" / "bad.png"))
    assert (told["results"], told["values"], told["crops"]) == (5, 5, 5)
    assert told["same as the command"]
    assert told["scores"] == {"done": 5, "failed": 1}
    assert told["scores again"] == {"was there": 5, "failed": 1}
    assert told["psnr"] == pytest.approx(told["psnr again"])
    assert told["psnr"] == pytest.approx(told["psnr of flowkit evaluate"])
    assert told["prepared"] == [5, 0, 1]
    assert told["prepared again"] == [0, 5, 1]


@needs_ray
@pytest.mark.slow
def test_a_node_that_is_killed_at_work_loses_no_image(tmp_path) -> None:
    photos(tmp_path / "in", 60, side=48)
    told = on_a_cluster("killed_node", tmp_path)
    assert told["nodes that worked"] == 2
    assert told["done before the kill"] < 60
    assert told["rows"] == 60
    assert told["failed"] == []
    results = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.png"))
    assert len(results) == 60
    for path in results:
        with Image.open(tmp_path / "out" / path) as image:
            image.load()
            assert image.size == (192, 192)
