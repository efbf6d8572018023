"""Pretrained weights of feature networks and learned metrics: lookup, download, checksum."""

import contextlib
import hashlib
import http.client
import importlib.util
import os
import pickle
import socket
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import safetensors.torch
import torch
from torch import Tensor

StrPath: TypeAlias = str | os.PathLike[str]

# torchvision's ImageNet classifiers: the file in torch's hub cache, whose name holds the start of its SHA-256
_HUB = {
    "alexnet": "alexnet-owt-7be5be79.pth",
    "vgg16": "vgg16-397923af.pth",
    "vgg19": "vgg19-dcbb9e9d.pth",
}
# small tables inside the wheels of their authors: the package and the file in it
_WHEELS = {
    "lpips-alexnet": ("lpips", "weights/v0.1/alex.pth"),
    "lpips-vgg16": ("lpips", "weights/v0.1/vgg.pth"),
    "dists": ("DISTS_pytorch", "weights.pt"),
}
_URL = "https://download.pytorch.org/models/"
_TIMEOUT = 20  # seconds without a byte


class WeightsError(ValueError):
    """Weights that are not here or do not fit. The message is one line, to be printed as "not computed: why"."""


@dataclass(frozen=True)
class Weights:
    """Tensors by name, where they came from, and the first 12 digits of the SHA-256 of their values.

    The checksum is that of the float32 values with their names and shapes, so that the same weights have the
    same checksum in any file format. A protocol that quotes it says which network was used.
    """

    tensors: dict[str, Tensor]
    source: str
    checksum: str


def find_weights(name: str, path: StrPath | None = None) -> Weights:
    """Finds weights by name. They are never made up: what is not found is a `WeightsError`.

    Args:
        name: "alexnet", "vgg16" or "vgg19" (convolutions of torchvision's ImageNet classifiers, with its names
            `features.0.weight`, …), "lpips-alexnet" or "lpips-vgg16" (LPIPS v0.1, from the lpips package), or
            "dists" (from the DISTS-pytorch package).
        path: a .safetensors or .pth file, which is then used and nothing else; or a folder, in which
            `<name>_features.safetensors` or the file that torchvision publishes is looked for first. Without
            it, or if the folder holds neither: torch's hub cache, then a download into it. Tables from
            packages are found where these are installed, without importing them.

    Raises:
        WeightsError: if they are nowhere, or their file cannot be read; nothing in a file is executed.
    """
    if name in _WHEELS:
        return _read(_in_wheel(name))
    if name not in _HUB:
        raise WeightsError(f"no weights are called {name!r}: known are {', '.join([*_HUB, *_WHEELS])}")
    places = [] if path is None else [Path(path)]
    if places and places[0].is_dir():
        places = [places[0] / f"{name}_features.safetensors", places[0] / _HUB[name]]
    elif places:
        return _read(places[0], "features.")
    places.append(_hub_folder() / _HUB[name])
    found = next((place for place in places if place.is_file()), None)
    return _download(name, places) if found is None else _read(found, "features.")


def is_cached(name: str) -> bool:
    """Tells whether weights lie in torch's hub cache, so that `find_weights` needs neither path nor download."""
    return (_hub_folder() / _HUB[name]).is_file()


def _hub_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _in_wheel(name: str) -> Path:
    package, file = _WHEELS[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise WeightsError(f'{name} weights come with the package {package}: pip install "flowkit-torch[metrics]"')
    found = Path(spec.origin).parent / file
    if not found.is_file():
        raise WeightsError(f"{name} weights: the installed {package} has no {file}")
    return found


def _download(name: str, places: list[Path]) -> Weights:
    """Downloads into torch's hub cache, wholly or not at all."""
    file, target = _HUB[name], places[-1]
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)  # torch.hub has no such option
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it says what it downloads
            content = torch.hub.load_state_dict_from_url(
                _URL + file,
                str(target.parent),
                map_location="cpu",
                progress=sys.stderr.isatty(),
                check_hash=True,
                weights_only=True,
            )
    except (OSError, http.client.HTTPException, RuntimeError, pickle.UnpicklingError) as error:
        looked, reason = ", ".join(map(str, places)), str(error).partition("\n")[0]
        raise WeightsError(
            f"{name} weights: not in {looked}, and the download failed ({reason}): give the path of {file}"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
    return _checked(content, target, "features.")


def _read(path: Path, prefix: str = "") -> Weights:
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it warns of pickle protocols before it refuses them
                content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file of weights") from None
    except Exception as error:  # a damaged file can fail in any way
        reason = str(error).partition("\n")[0][:120]
        raise WeightsError(f"{path}: not a file of weights, or a damaged one ({reason})") from None
    return _checked(content, path, prefix)


def _checked(content: Any, path: Path, prefix: str) -> Weights:
    """The floating-point tensors of a file's content whose names start with `prefix`."""
    tensors = {
        str(key): value.float()
        for key, value in (content.items() if isinstance(content, dict) else ())
        if isinstance(value, Tensor) and value.is_floating_point() and str(key).startswith(prefix)
    }
    if not tensors or not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise WeightsError(f"{path}: {'holds NaN or infinite weights' if tensors else f'no weights {prefix}* in it'}")
    digest = hashlib.sha256()
    for key, value in sorted(tensors.items()):
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return Weights(tensors, str(path), digest.hexdigest()[:12])
