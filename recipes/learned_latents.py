"""Learned latents: a prior predicts the one sharp picture of a flow, so that there is no τ to choose (BFSR, CVPR 2024).

The flow of --model is frozen; a U-Net for each of its latents learns by a perceptual loss. The checkpoints hold both,
and `upscale` takes the prior by default. The small preset takes minutes on two CPU cores, on photographs that
scikit-image and scikit-learn carry, and is scored on three others. Several processes: `torchrun --nproc_per_node N`.
It can be stopped at any moment and goes on with --resume.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch

from flowkit_models.metrics import features as vgg
from flowkit_models.models.factory import load
from flowkit_models.models.learned_latents import LatentPrior, LatentPriorConfig
from flowkit_models.training.objectives import LearnedLatents
from flowkit_models.training.options import PATH, Options
from flowkit_models.training.recipe import command_line, fit, main_console, run
from flowkit_models.training.report import LOOK_AT, finish_sr, learned_distances
from flowkit_models.training.validation import HeldOutPrior


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """Options of the recipe. The defaults shown are those of the chosen preset."""

    preset: Literal["small", "paper"] = "small"
    """small: two CPU cores, minutes. paper: the published networks and settings, for a GPU and days."""
    model: str = "hcflow_x4_plusplus"
    """The flow: a checkpoint, or a name of `flowkit models`. A prior that it has is trained anew."""
    out: Path = Path("runs/learned_latents")
    """Folder of the run."""
    features: int = 16
    """Width of the U-Nets at full resolution."""
    growth: int = 8
    """Growth of the dense blocks that they start with."""
    vgg: Literal["vgg19", "vgg16"] = "vgg19"
    """Network of the loss: VGG-19, as published, or VGG-16 as a stand-in where its weights are at hand."""
    weights: Annotated[Path | None, PATH] = None
    """File or folder of weights for the loss and for LPIPS. Without it: torch's cache; for the loss, a download."""
    temperature: float = 0.8
    """τ of the samples in the final table and picture."""


# the source at hand names rate, batch, crops and milestones (as parts of the run), not the run's length
_STEPS = 200_000
PRESETS: dict[tuple[str, ...], Config] = {
    ("small",): Config(
        steps=600, batch=4, crop=96, lr=1e-3, clip_norm=100.0, average=0.99, validate_every=100, save_every=100
    ),
    ("paper",): Config(
        preset="paper",
        out=Path("runs/learned_latents/paper"),
        features=64,
        growth=32,
        steps=_STEPS,
        batch=16,
        crop=128,
        lr=1e-4,
        milestones=tuple(_STEPS * part // 100 for part in (20, 40, 60, 80)),
    ),
}


def main(config: Config) -> None:
    """Data, model, loss, schedule, run."""
    out = config.folder()
    console = main_console()

    # Model: a trained flow, and a fresh prior
    model = load(config.model, config.memory, config.networks)
    torch.manual_seed(config.seed)
    model.prior = LatentPrior(model, LatentPriorConfig(config.features, config.growth))

    # Data: HR crops, LR made from them, flipped left-right
    crops = config.crops(model.scale)
    pairs = config.test_pairs(model.scale)

    # Loss, schedule and run
    objective = LearnedLatents(model, vgg.VGGFeatures(config.vgg, config.weights))
    distances = learned_distances(config.weights, console)
    by = "lpips" if distances else "psnr"
    held_out = HeldOutPrior(pairs, config.temperature, distances, out / "samples.png", LOOK_AT, config.seed, by)
    trained = fit(objective, crops, config, held_out, console)

    # Results
    finish_sr(trained, pairs, config, config.temperature, distances, console, by)


parse = partial(command_line, Config, PRESETS, ("preset",), about=__doc__)

if __name__ == "__main__":
    sys.exit(run(lambda: main(parse(sys.argv[1:]))))
