"""Weights are found where the docstring says, in that order, and otherwise refused in one line."""

import hashlib
import http.client
import importlib.util
import io
import os
import socket
import sys
import urllib.error
from email.message import Message

import pytest
import torch
from safetensors.torch import save_file

from flowkit_models.metrics import pretrained as weights
from flowkit_models.metrics.pretrained import WeightsError, find_weights

FILE = "alexnet-owt-7be5be79.pth"


def tensors(value=1.0):
    return {"features.0.weight": torch.full((2, 3), value), "features.0.bias": torch.zeros(2)}


def offline(*args, **options):
    raise urllib.error.URLError("no route to host")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub cache, and no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    return cache


def test_an_explicit_file_is_used_in_either_format(hub, tmp_path):
    save_file(tensors(), tmp_path / "a.safetensors")
    torch.save({**tensors(), "classifier.weight": torch.ones(3)}, tmp_path / "a.pth")
    ours, theirs = (find_weights("alexnet", tmp_path / f"a.{end}") for end in ("safetensors", "pth"))
    assert ours.source == str(tmp_path / "a.safetensors")
    assert ours.tensors.keys() == theirs.tensors.keys() == tensors().keys()
    assert torch.equal(ours.tensors["features.0.weight"], torch.ones(2, 3))
    assert ours.checksum == theirs.checksum
    assert len(ours.checksum) == 12


def test_the_checksum_sees_values_names_and_shapes(hub, tmp_path):
    variants = [
        tensors(),
        tensors(1 + 2**-23),
        {"features.0.weight": torch.ones(3, 2), "features.0.bias": torch.zeros(2)},
        {"features.1.weight": torch.ones(2, 3), "features.0.bias": torch.zeros(2)},
    ]
    found = []
    for variant in variants:
        save_file(variant, tmp_path / "a.safetensors")
        found.append(find_weights("alexnet", tmp_path / "a.safetensors").checksum)
    assert len(set(found)) == len(variants)


def test_order_of_the_places(hub, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    torch.save(tensors(1.0), hub / FILE)
    assert find_weights("alexnet").source == str(hub / FILE)
    assert find_weights("alexnet", folder).source == str(hub / FILE)
    torch.save(tensors(2.0), folder / FILE)
    assert find_weights("alexnet", folder).source == str(folder / FILE)
    save_file(tensors(3.0), folder / "alexnet_features.safetensors")
    assert find_weights("alexnet", str(folder)).tensors["features.0.weight"][0, 0] == 3


class Response(io.BytesIO):
    def info(self):
        return Message()


def test_a_download_is_kept_in_the_cache(hub, monkeypatch, capsys):
    file = io.BytesIO()
    torch.save(tensors(4.0), file)
    name = f"alexnet-{hashlib.sha256(file.getvalue()).hexdigest()[:8]}.pth"
    monkeypatch.setitem(weights._HUB, "alexnet", name)
    asked = []

    def urlopen(request):
        asked.append((request.full_url, socket.getdefaulttimeout()))
        return Response(file.getvalue())

    monkeypatch.setattr("torch.hub.urlopen", urlopen)
    assert find_weights("alexnet").source == str(hub / name)
    said = capsys.readouterr()
    assert name in said.err  # it is large: not in silence
    assert said.out == ""
    assert find_weights("alexnet").tensors["features.0.weight"][0, 0] == 4
    ((url, timeout),) = asked
    assert url.endswith(f"/{name}")
    assert timeout > 0
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("content", [b"an error page", b""])
def test_a_wrong_download_is_refused_and_not_kept(hub, monkeypatch, content):
    monkeypatch.setattr("torch.hub.urlopen", lambda request: Response(content))
    with pytest.raises(WeightsError, match=r"the download failed .*invalid hash value") as error:
        find_weights("alexnet")
    assert "\n" not in str(error.value)
    assert list(hub.iterdir()) == []


def test_a_download_that_breaks_off(hub, monkeypatch):
    def urlopen(request):
        raise http.client.IncompleteRead(b"")

    monkeypatch.setattr("torch.hub.urlopen", urlopen)
    with pytest.raises(WeightsError, match="IncompleteRead"):
        find_weights("alexnet")
    assert list(hub.iterdir()) == []


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "vgg19"])
def test_offline_without_weights_one_line_says_why(hub, tmp_path, name):
    (tmp_path / "folder").mkdir()
    for path in (None, tmp_path / "folder"):
        with pytest.raises(WeightsError, match=f"{name} weights: not in .*no route to host") as error:
            find_weights(name, path)
        assert "\n" not in str(error.value)
        assert weights._HUB[name] in str(error.value)
    assert isinstance(error.value, ValueError)
    assert list(hub.iterdir()) == []


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("bomb",)


def damaged(path, kind):
    if kind == "truncated.pth":
        torch.save(tensors(), path)
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "truncated.safetensors":
        save_file(tensors(), path)
        path.write_bytes(path.read_bytes()[:100])
    elif kind == "text.pth":
        path.write_text("hello")
    elif kind == "bomb.pth":
        torch.save({"features.0.weight": Bomb()}, path)
    elif kind == "numbers.pth":
        torch.save({1: torch.ones(2), "a": 2}, path)
    elif kind == "list.pth":
        torch.save([torch.ones(2)], path)
    elif kind == "other.safetensors":
        save_file({"conv.weight": torch.ones(2)}, path)
    elif kind == "nan.safetensors":
        save_file(tensors(float("nan")), path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing.pth", "no such file"),
        ("truncated.pth", "damaged"),
        ("truncated.safetensors", "damaged"),
        ("text.pth", "not a file of weights"),
        ("bomb.pth", "not a file of weights"),
        ("list.pth", r"no weights features\.\*"),
        ("numbers.pth", r"no weights features\.\*"),
        ("other.safetensors", r"no weights features\.\*"),
        ("nan.safetensors", "NaN"),
    ],
)
def test_files_that_cannot_be_used(hub, tmp_path, monkeypatch, kind, message):
    monkeypatch.chdir(tmp_path)
    torch.save(tensors(), hub / FILE)  # which is not silently taken instead
    damaged(tmp_path / kind, kind)
    with pytest.raises(WeightsError, match=message) as error:
        find_weights("alexnet", tmp_path / kind)
    assert "\n" not in str(error.value)
    assert kind in str(error.value)
    assert not (tmp_path / "bomb").exists()


@pytest.mark.parametrize(("name", "package"), [("lpips-alexnet", "lpips"), ("dists", "DISTS_pytorch")])
def test_tables_come_from_their_package(monkeypatch, tmp_path, name, package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    assert package in find_weights(name).source
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=rf"{package}: pip install"):
        find_weights(name)


def test_a_package_without_the_table(monkeypatch, tmp_path):
    (tmp_path / "lpips").mkdir()
    (tmp_path / "lpips" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lpips", raising=False)
    with pytest.raises(WeightsError, match="the installed lpips has no weights"):
        find_weights("lpips-vgg16")


def test_unknown_names():
    with pytest.raises(WeightsError, match=r"'resnet'.*alexnet, vgg16, vgg19, lpips-alexnet"):
        find_weights("resnet")
