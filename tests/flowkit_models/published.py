"""What the tests of published models share: opening a state dict as a user does, and weights made by formula."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import flowkit_models
from flowkit_models import ImageFlow


def opened(state: dict[str, Tensor], folder: Path, **options) -> ImageFlow:
    """As a user opens an official checkpoint."""
    torch.save(state, folder / "official.pth")
    return flowkit_models.load(folder / "official.pth", **options)


def close(got: Tensor, expected: Tensor, relative: float, least: float = 1e-3) -> None:
    """Equal within a tolerance relative to the largest expected value, and at least to `least`."""
    got, expected = got.detach(), expected.detach()
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) <= relative * max(float(expected.abs().max()), least)


def key_list(shared: Path, name: str) -> dict[str, list[int]]:
    """The official names and shapes of a full-size model."""
    return json.loads((shared / "reference" / f"{name}.json").read_text())


def hashed(key: str, count: int) -> np.ndarray:
    """The formula's numbers in [-1, 1) for a name (reference/srflow.md, formula weights)."""
    with np.errstate(over="ignore"):
        x = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x += np.uint64(zlib.crc32(key.encode()) * 0xD1B54A32D192ED03 % 2**64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            x ^= x >> np.uint64(shift)
            x *= np.uint64(factor)
    return (x >> np.uint64(40)) / 2.0**23 - 1


def _reflection(key: str, size: int) -> np.ndarray:
    v = hashed(key, size)
    return np.eye(size) - 2 * np.outer(v, v) / (v @ v)


def _conv(key: str, shape: list[int], gain: float) -> np.ndarray:
    u = hashed(key, int(np.prod(shape))).reshape(shape)
    return gain * np.sqrt(3 / np.prod(shape[1:])) * u


def srflow_weight(key: str, shape: list[int], transition: bool, blocks: int) -> np.ndarray:
    if key.endswith(".invconv.weight"):
        size = shape[0]
        scaled = np.diag(1 + 0.1 * hashed(key + "#d", size))
        return scaled @ _reflection(key + "#1", size) @ _reflection(key + "#2", size)
    if key.endswith((".logs", ".bias")):
        raised = 0.2 if key.endswith(".actnorm.logs") and not transition else 0.0
        return raised + 0.05 * hashed(key, int(np.prod(shape))).reshape(shape)
    gain = 1.0
    if key.endswith((".4.weight", ".conv.weight")):
        gain = 0.1
    elif ".RRDB_trunk." in key:
        gain = 0.5
    elif key == "RRDB.conv_first.weight":
        gain = 4 * 1.2**-blocks
    return _conv(key, shape, gain)


def srflow_weights(keys: dict[str, list[int]], blocks: int) -> dict[str, Tensor]:
    """Formula weights of an SRFlow."""
    steps = {key.rpartition(".affine.")[0] for key in keys if ".affine." in key}
    transitions = {key for key in keys if key.endswith("actnorm.logs") and ".affine." not in key}
    transitions = {key for key in transitions if key.removesuffix(".actnorm.logs") not in steps}
    return {
        key: torch.from_numpy(srflow_weight(key, shape, key in transitions, blocks)).float()
        for key, shape in keys.items()
    }


def irn_weights(keys: dict[str, list[int]]) -> dict[str, Tensor]:
    """Formula weights of an IRN; the Haar kernels are what they are."""
    kernels = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1.0]]).view(4, 1, 2, 2)
    weights = {}
    for key, shape in keys.items():
        if key.endswith("haar_weights"):
            weights[key] = kernels.repeat(shape[0] // 4, 1, 1, 1)
        elif key.endswith(".bias"):
            weights[key] = torch.from_numpy(0.05 * hashed(key, shape[0])).float()
        else:
            weights[key] = torch.from_numpy(_conv(key, shape, 0.3 if ".conv5." in key else 1.0)).float()
    return weights
