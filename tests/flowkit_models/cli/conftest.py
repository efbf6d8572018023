"""The command as a user sees it: exit code, lines, files."""

from dataclasses import dataclass

import pytest
import torch

import flowkit_models
from flowkit.testing import perturb
from flowkit_models.cli import main

SMALL = {"steps": 1, "conditional_steps": 1, "hidden": 4, "conditional_hidden": 4, "features": 3, "growth": 2}
SIZES = {
    "hcflow_sr_x4": {**SMALL, "blocks": ((1, 0), (0, 1)), "squeeze": "haar", "init": "identity"},
    "hcflow_rescale_x4": {**SMALL, "blocks": ((0, 0), (0, 0))},
    "srflow_x4": {"steps": 1, "transitions": 1, "hidden": 4, "blocks": 2, "taps": (1,), "features": 3, "growth": 2},
    "irn_x4": {"blocks": (1, 1), "growth": 2},
    "linf_small": {"steps": 2, "blocks": 1, "features": 3, "width": 4, "hidden": 4, "depth": 1},
    "sain_x4": {"enhanced": 1, "blocks": 1, "growth": 2},
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Makes checkpoints of tiny models, by the name of the preset."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def make(name="hcflow_sr_x4", **about):
        path = folder / f"{name}{'_'.join(map(str, about.values()))}.safetensors"
        if not path.exists():
            torch.manual_seed(0)
            perturb(flowkit_models.create(name, **SIZES[name]), 0.02).save(path, **about)
        return path

    return make


@dataclass
class Ran:
    """What a run of the command has left."""

    code: int
    out: list[str]
    err: list[str]


@pytest.fixture
def flowkit(capfd):
    """Runs the command in this process; capfd, since C libraries write past Python."""

    def run(*arguments) -> Ran:
        capfd.readouterr()
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return Ran(code, out.splitlines(), err.splitlines())

    return run


@pytest.fixture
def upscale(flowkit, checkpoint):
    """Runs `flowkit upscale` with a tiny model, which asks for a τ that keeps its details below clipping."""
    return lambda *arguments: flowkit("upscale", "-m", checkpoint(temperature="0.1"), *arguments)
