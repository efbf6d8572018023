"""HCFlow for rescaling: down to an LR image and up again, both trained together (paper, sections 3.4 and 4.3).

With no option it trains the small preset on photographs that scikit-image and scikit-learn carry, in minutes on two
CPU cores, and scores it on three others. Several processes: `torchrun --nproc_per_node N`. It can be stopped at any
moment and goes on with --resume.
"""

import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import flowkit
from flowkit_models.data.loader import Batch, Draws
from flowkit_models.training.objectives import Rescaling, RescalingWeights
from flowkit_models.training.options import Options
from flowkit_models.training.prior_init import initialize_latents
from flowkit_models.training.recipe import command_line, fit, fresh_model, main_console, run
from flowkit_models.training.report import LOOK_AT, finish_rescaling
from flowkit_models.training.validation import HeldOutRescaling


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """Options of the recipe. The defaults shown are those of the chosen preset."""

    preset: Literal["small-x4", "small-x2", "paper-x4"] = "small-x4"
    """small-x4, small-x2: two CPU cores, minutes. paper-x4: the published network and settings, for a GPU and days."""
    out: Path = Path("runs/hcflow_rescale")
    """Folder of the run."""
    loss: RescalingWeights = field(default_factory=RescalingWeights)
    """Weights of the losses, eq. (9); --loss.nll adds the likelihood of section 2.2."""


MODEL = {
    "small-x4": "hcflow_rescale_x4_small",
    "small-x2": "hcflow_rescale_x2_small",
    "paper-x4": "hcflow_rescale_x4",
}

# without noise on the latents the few steps go into the image
_SMALL = Config(
    steps=1200,
    batch=8,
    crop=64,
    lr=2e-3,
    clip_value=5.0,
    clip_norm=100.0,
    average=0.99,
    validate_every=100,
    save_every=100,
    loss=RescalingWeights(temperature=0.0),
)
PRESETS: dict[tuple[str, ...], Config] = {
    ("small-x4",): _SMALL,
    ("small-x2",): replace(_SMALL, preset="small-x2", out=Path("runs/hcflow_rescale/small-x2")),
    # the official option file: docs/official/hcflow.md
    ("paper-x4",): Config(
        preset="paper-x4",
        out=Path("runs/hcflow_rescale_paper"),
        steps=500_000,
        batch=16,
        crop=160,
        lr=2.5e-4,
        milestones=(100_000, 200_000, 300_000, 400_000, 450_000),
        clip_value=5.0,
        clip_norm=100.0,
    ),
}


def main(config: Config) -> None:
    """Data, model, losses, schedule, run."""
    out = config.folder()
    console = main_console()

    # Data (section 4.1): aligned crops of whole images and of their bicubic LR, flipped and transposed
    model = fresh_model(MODEL[config.preset], config)
    crops = config.aligned_crops(model.scale, rounded=True)
    pairs = config.test_pairs(model.scale)

    # Model: the published one starts from the statistics of data; the small one as Haar, with standardised latents
    def initialize(model: Any, batch: Batch, draws: Draws) -> None:
        if config.preset == "paper-x4":
            flowkit.initialize(model.flow, batch.hr)
        else:
            initialize_latents(model, batch.hr)

    # Losses (eq. (9)), schedule and run
    objective = Rescaling(model, config.loss)
    held_out = HeldOutRescaling(pairs, config.loss.temperature, out / "samples.png", LOOK_AT, config.seed)
    trained = fit(objective, crops, config, held_out, console, initialize)

    # Results (section 4.3)
    finish_rescaling(trained, crops, pairs, config, config.loss.temperature, console)


parse = partial(command_line, Config, PRESETS, ("preset",), about=__doc__)

if __name__ == "__main__":
    sys.exit(run(lambda: main(parse(sys.argv[1:]))))
