"""The device law for image models: on fake CUDA tensors all that users call runs on the device alone.

There need be no GPU. Images that are given are looked at for NaN and infinity, one host read each; under compilation,
and on fake tensors, they are not. A training step's noise is drawn on the host, and copied.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from on_device import Reads, on_the_device, stays
from torch import Tensor

import flowkit_models
from flowkit_models import ImageFlow
from flowkit_models.data.loader import Batch, Draws
from flowkit_models.training.objective import Objective
from flowkit_models.training.objectives import (
    IRNRescaling,
    IRNWeights,
    Rescaling,
    RescalingWeights,
    SRFlowLikelihood,
    SRWeights,
    SuperResolution,
)

HCFLOW = {"steps": 1, "conditional_steps": 1, "blocks": ((0, 0), (0, 0)), "features": 4, "growth": 4, "hidden": 4}
SIZES = {
    "hcflow_sr_x4_small": {**HCFLOW, "conditional_hidden": 4},
    "hcflow_shipped_x4": {**HCFLOW, "conditional_hidden": 4},
    "hcflow_rescale_x4_small": {**HCFLOW, "conditional_hidden": 4},
    "srflow_x4_small": {"steps": 1, "hidden": 4, "blocks": 1, "taps": (0,), "features": 4, "growth": 4},
    "irn_x4_small": {"blocks": (1, 1), "growth": 2},
}
"""The small presets, of every family, made smaller still."""


def made(name: str, memory: str = "plain") -> ImageFlow:
    torch.manual_seed(0)
    return flowkit_models.create(name, memory, **SIZES[name])  # type: ignore[arg-type]


def objective(model: ImageFlow, name: str) -> Objective:
    if name.startswith("irn"):
        return IRNRescaling(model, IRNWeights())
    if name.startswith("srflow"):
        return SRFlowLikelihood(model)
    if "rescale" in name:
        return Rescaling(model, RescalingWeights())
    return SuperResolution(model, SRWeights(pixel=1.0))


@pytest.mark.parametrize(("name", "memory"), [*((name, "plain") for name in SIZES), ("hcflow_sr_x4_small", "lean")])
def test_models(name: str, memory: str) -> None:
    model = made(name, memory)
    images = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 4, 4), torch.rand(2, 3, 5, 6)
    with on_the_device(model, *images) as (model, hr, lr, odd), torch.no_grad():
        encoded = model.encode(hr, lr)
        stays(tuple(encoded))
        stays(model.decode(lr if encoded.lr is None else encoded.lr, encoded.latents, lr))
        stays(model.upscale(odd, 2, temperature=[0.0, 0.8]))
        if model.base is not None:
            stays((model.nll(hr, lr), model.bits_per_dim(hr, lr)))
        if model.makes_lr:
            stays(model.downscale(hr[..., :15, :13]))


class Drawn(Draws):
    """What the host draws is copied: here it is there already."""

    def _fill(self, kind: str, name: str, shape: Any, fill: Any) -> Tensor:
        return torch.empty(len(self.index), *shape, device="cuda")


@pytest.mark.parametrize("name", SIZES)
def test_the_forward_of_a_training_step(name: str) -> None:
    images, index = (torch.rand(2, 3, 16, 16), torch.rand(2, 3, 4, 4)), torch.arange(2)
    draws = Drawn(0, index)
    with on_the_device(objective(made(name), name), *images) as (step, hr, lr):
        outcome = step(step.phases[0].name, Batch(hr, lr, index), draws, 1)
        stays((outcome.loss, *outcome.logs.values()))


def read(call: Callable[[], object]) -> int:
    with Reads() as reads, torch.no_grad():
        call()
    return reads.count


def test_an_image_is_looked_at_once() -> None:
    model, hr, lr = made("hcflow_sr_x4_small"), torch.rand(1, 3, 16, 16), torch.rand(1, 3, 4, 4)
    z = model.draw(lr)
    calls = {
        "nll": (2, lambda: model.nll(hr, lr)),
        "bits_per_dim": (2, lambda: model.bits_per_dim(hr, lr)),
        "encode": (1, lambda: model.encode(hr)),
        "encode with lr": (2, lambda: model.encode(hr, lr)),
        "decode": (1, lambda: model.decode(lr, z)),
        "decode given y*": (2, lambda: model.decode(lr, z, lr.clone())),
        "upscale": (1, lambda: model.upscale(lr, 2)),
        "downscale": (1, lambda: model.downscale(hr)),
    }
    assert {name: read(call) for name, (_, call) in calls.items()} == {name: n for name, (n, _) in calls.items()}
