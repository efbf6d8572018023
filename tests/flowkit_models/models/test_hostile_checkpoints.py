"""Hostile checkpoints: each is refused in one line that names it, in seconds, in little memory; none is executed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import hostile
import pytest
import torch
from PIL import Image

import flowkit_models
from flowkit_models.cli import main
from flowkit_models.demo import scene
from flowkit_models.spandrel import Loader

HERE = Path(__file__).parent
SAYS = {
    "stride_0.pth": "larger than what the file holds of it",
    "one_storage.pth": "its tensors take",
    "inflates.pth": "4 times the file",
    "numpy.pth": "numpy",
    "namespace.pth": "argparse.Namespace",
    "code.pth": "refused, it holds more than weights: io.open",
    "int8.pth": "int8, not float32",
    "float8_e4m3fn.pth": "float8_e4m3fn, not float32",
    "complex64.pth": "complex64, not float32",
    "sparse.pth": "is sparse",
    "large.pth": "too large",
    "twice.safetensors": "holds 'aa' twice",
    "pointer.pth": "git lfs pull",
    "pointer.safetensors": "git lfs pull",
    "page.pth": "a web page",
    "photo.pth": "a picture",
    "text.pth": "a text file",
    "inside.pth": "unpack it, and name the file 'models/irn.pth'",
    "no_config.safetensors": "it has no config",
    "large_1.safetensors": "many more tensors than the file holds",
    "disagree.safetensors": "speak of different models",
}

LOADS = """
import json, os, re, resource, sys, time
import torch, flowkit_models
from pathlib import Path
torch.set_num_threads(1)
flowkit_models.load("good.safetensors"), flowkit_models.load("good.pth")
now = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (now + 2**31, now + 2**31))
for name in sys.argv[1:]:
    start = time.process_time()  # the machine may be busy
    try:
        flowkit_models.load(name)
        said = "opened"
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps([name, said, time.process_time() - start]), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All hostile files, and two good ones."""
    path = tmp_path_factory.mktemp("hostile")
    torch.save(hostile.official(), path / "good.pth")
    flowkit_models.create("hcflow_sr_x4_small").save(path / "good.safetensors")
    Image.new("RGB", (8, 8)).save(path / "picture.png")
    for name, write in hostile.MADE.items():
        write(path / name)
    return path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="how much a process has is asked of Linux")
def test_each_is_refused_in_a_line_in_seconds_and_little_memory(folder) -> None:
    assert len(hostile.MADE) >= 40
    root = str(HERE.parents[2])
    env = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOADS, *hostile.MADE],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-1000:]
    results = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [name for name, _, _ in results] == list(hostile.MADE)
    for name, said, seconds in results:
        assert said.startswith(f"ValueError: {name}: "), (name, said)
        assert "\n" not in said, name
        assert len(said) < 600, (name, said)
        assert "Weights only" not in said
        assert "add_safe_globals" not in said
        assert SAYS.get(name, "") in said, (name, said)
        assert seconds < 10, (name, seconds)
    assert not (folder / "executed.txt").exists()


@pytest.mark.parametrize("name", ["large_0.safetensors", "stride_0.pth", "branching.pth", "code.pth", "page.pth"])
def test_every_way_to_open_a_file_refuses_it_alike(name, folder, tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = folder / name
    with pytest.raises(ValueError, match=f"{name}: ") as error:
        flowkit_models.load(path)
    said = str(error.value)
    with pytest.raises(ValueError, match=f"{name}: ") as error:
        scene.open_model(str(path))
    assert str(error.value) == said
    if name != "branching.pth":  # a foreign state dict, which spandrel has its own words for
        with pytest.raises(ValueError, match=f"{name}: ") as error:
            Loader().load_from_file(path)
        assert str(error.value) == said
    upscale = ["upscale", "-m", path, folder / "picture.png", "-o", "to.png"]
    for line in (["info", path], ["doctor", path], ["convert", path, "to.safetensors"], upscale):
        assert main([str(part) for part in line]) == 1
        out, err = capfd.readouterr()
        assert (out, err.splitlines()) == ("", [f"flowkit: {said}"]), line
    assert list(tmp_path.iterdir()) == []
