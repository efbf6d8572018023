"""Helpers that tests of several folders share: tiny models, formula weights, data, objectives; run, it trains."""

import json
import math
import os
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

import flowkit
import flowkit_models
from flowkit_models import ImageFlow
from flowkit_models.training.objective import Objective, Outcome, Phase
from flowkit_models.training.optim import Adam, Milestones
from flowkit_models.training.settings import Settings
from flowkit_models.training.trainer import train

SIZES = {"steps": 1, "conditional_steps": 1, "blocks": ((0, 0), (0, 0)), "features": 4, "growth": 4, "hidden": 4}


def tiny_flow(memory="plain"):
    torch.manual_seed(0)
    return flowkit_models.create("hcflow_sr_x4_small", memory, **SIZES, conditional_hidden=4)


def bundle(folder: Path, **presets: str) -> None:
    """A folder of tiny models as they come with the package: presets by the models' names."""
    irn = {"growth": 2, "blocks": (1, 1)}
    for name, preset in presets.items():
        torch.manual_seed(0)
        sizes = irn if preset == "irn_x4" else irn | {"blocks": (1,)} if preset == "irn_x2" else SIZES
        sizes = {"blocks": 1, "features": 3, "width": 4, "hidden": 4} if preset == "linf_small" else sizes
        temperature = "0.3" if preset.startswith("hcflow") else "0"
        model = flowkit.testing.perturb(flowkit_models.create(preset, **sizes), 0.02)
        model.save(folder / f"{name}.safetensors", temperature=temperature, use="tests", license="MIT")


def opened(state: dict[str, Tensor], folder: Path, **options) -> ImageFlow:
    """As a user opens an official checkpoint."""
    torch.save(state, folder / "official.pth")
    return flowkit_models.load(folder / "official.pth", **options)


def close(got: Tensor, expected: Tensor, relative: float, least: float = 1e-3) -> None:
    """Equal within a tolerance relative to the largest expected value, and at least to `least`."""
    got, expected = got.detach(), expected.detach()
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) <= relative * max(float(expected.abs().max()), least)


def equals(tensor: Tensor, number: float | list[float] | Tensor, atol: float = 1e-9) -> None:
    """A float64 result that has this value everywhere, or these."""
    assert tensor.dtype == torch.float64
    torch.testing.assert_close(
        tensor, torch.as_tensor(number, dtype=torch.float64).expand(tensor.shape), atol=atol, rtol=0
    )


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


def formula_weights(shapes: dict[str, list[int]], constants: dict[str, list[float]]) -> dict[str, Tensor]:
    """Formula weights of a plain convolutional network; `constants` are given, as are the 1×1 layers of its means."""
    weights = {}
    for key, shape in shapes.items():
        if key in constants:
            weights[key] = torch.tensor(constants[key])
        elif key.endswith("_mean.weight"):
            weights[key] = torch.eye(3).view(3, 3, 1, 1)
        else:
            gain = np.sqrt(3 / np.prod(shape[1:])) if len(shape) > 1 else 0.05
            weights[key] = torch.from_numpy(gain * hashed(key, int(np.prod(shape))).reshape(shape)).float()
    return weights


def edsr(scale: int) -> dict[str, Tensor]:
    """A small checkpoint laid out as EDSR's own."""
    recorded = json.loads((Path(__file__).parent / "flowkit_models/evaluation/baselines.json").read_text())
    return formula_weights(recorded[f"EDSR x{scale}"]["shapes"], recorded[f"EDSR x{scale}"]["constants"])


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


class Noise:
    """Sample i is a function of i; those in `bad` are broken."""

    def __init__(self, dtype=torch.float32, bad=()):
        self.dtype, self.bad = dtype, bad

    def __getitem__(self, i):
        hr = torch.from_numpy(np.random.Generator(np.random.Philox(key=i)).random((3, 8, 8), dtype=np.float32))
        lr = F.avg_pool2d(hr, 4)
        if i in self.bad:
            hr[0, 0, 0] = math.nan
        return hr.to(self.dtype), lr.to(self.dtype)


def noisy(batch, draws, model):
    return batch.hr + draws.uniform("noise", batch.hr.shape[1:]).to(batch.hr) / model.config.quant


def initialize(model, batch, draws):
    flowkit.initialize(model.flow, noisy(batch, draws, model))


class Summed(Objective):
    """Likelihood and pixel loss, one optimiser step."""

    def forward(self, phase, batch, draws, step, image=None):
        nll = self.model.nll(batch.hr, batch.lr, draws.uniform("noise", batch.hr.shape[1:]).to(batch.hr)).mean()
        pixel = (self.model.upscale(batch.lr, temperature=0.0)[0] - batch.hr).abs().mean()
        return Outcome(nll + 10 * pixel, {"nll": nll, "pixel": pixel, "bits_per_dim": nll / 3})


class InPhases(Objective):
    """HCFlow+: a step for each loss, the first one on top of the gradient of the last."""

    phases = (Phase("nll", zero_grad=False), Phase("pixel"))

    def forward(self, phase, batch, draws, step, image=None):
        if phase == "nll":
            nll = self.model.nll(batch.hr, batch.lr, draws.uniform("noise", batch.hr.shape[1:]).to(batch.hr)).mean()
            return Outcome(nll, {"nll": nll})
        pixel = (self.model.upscale(batch.lr, temperature=0.0)[0] - batch.hr).abs().mean()
        return Outcome(pixel, {"pixel": pixel})


class Adversarial(InPhases):
    """HCFlow++: then a discriminator's opinion, then the discriminator; for two steps the discriminator alone."""

    phases = (Phase("nll"), Phase("pixel"), Phase("gan"), Phase("discriminator", "discriminator"))

    def __init__(self, model, norm=nn.BatchNorm2d):
        discriminator = nn.Sequential(nn.Conv2d(3, 4, 4, 4), norm(4), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 2))
        super().__init__(model, discriminator)

    def active(self, step):
        return self.phases if step > 2 else self.phases[-1:]

    def forward(self, phase, batch, draws, step, image=None):
        if phase in ("nll", "pixel"):
            return super().forward(phase, batch, draws, step)
        if image is None:
            latents = tuple(
                draws.normal(f"z{i}", shape).to(batch.lr)
                for i, shape in enumerate(self.model.latent_shapes(*batch.lr.shape[2:]))
            )
            image = self.model.upscale(batch.lr, latents=latents)[0]
        judged = self.discriminator(image)
        if phase == "gan":
            loss = F.softplus(-judged).mean()
            return Outcome(loss, {"gan": loss}, image)
        loss = (F.softplus(-self.discriminator(batch.hr)) + F.softplus(judged)).mean()
        return Outcome(loss, {"discriminator": loss})


def without_statistics(model):
    return Adversarial(model, norm=nn.Identity)


OBJECTIVES = {
    "summed": Summed,
    "phases": InPhases,
    "adversarial": Adversarial,
    "without statistics": without_statistics,
}


def settings(**changes):
    model = Adam(1e-3, schedule=Milestones((6, 12)), clip_value=5.0, clip_norm=100.0)
    values = {"steps": 8, "batch": 4, "model": model, "discriminator": Adam(1e-3), "average": 0.9, "validate_every": 5}
    return Settings(**{**values, "save_every": 3, "tensorboard": False, "cpu": True, **changes})


def validate(model, step):
    hr, lr = Noise(next(model.parameters()).dtype)[10**6]
    error = (model.upscale(lr[None], temperature=0.0)[0] - hr).square().mean()
    return {"score": -float(error), "psnr": -10 * float(error.log10())}


def run(out, kind="summed", dtype=torch.float32, bad=(), validate=validate, resume=False, **changes):
    """Trains, with the console in a file beside `out`."""
    torch.set_num_threads(1)
    with Path(f"{out}.txt").open("a") as file:
        return train(
            OBJECTIVES[kind](tiny_flow()).to(dtype),
            Noise(dtype, bad),
            settings(**changes),
            out,
            validate=validate,
            initialize=initialize,
            resume=resume,
            console=Console(file=file, width=200),
        )


def on_several_processes(folder):
    """What `torchrun` starts, and one process alone for comparison: runs with a resume, and broken data."""
    for kind in ("summed", "phases", "without statistics"):
        for steps in (3, 6):
            result = run(folder / kind, kind, torch.float64, resume=steps > 3, steps=steps, accumulate=2, bad=(13,))
        rank = os.environ.get("RANK", "0")
        torch.save(result.model.state_dict(), folder / f"{kind}.{rank}")


def restartable(folder):
    """A run that goes on where it was when its processes are started again; then the first comes LATE seconds late."""
    if (folder / "run").exists() and os.environ.get("RANK") == "0":
        time.sleep(float(os.environ.get("LATE", "0")))
    result = run(folder / "run", dtype=torch.float64, resume=True, steps=120, save_every=10, validate_every=1000)
    torch.save(result.model.state_dict(), folder / f"restarted.{os.environ.get('RANK', '0')}")


if __name__ == "__main__":
    what, where = sys.argv[1:]
    if what == "train":
        on_several_processes(Path(where))
    elif what == "restartable":
        restartable(Path(where))
    else:
        run(where, steps=10**6, validate_every=10**6, save_every=10**6)
