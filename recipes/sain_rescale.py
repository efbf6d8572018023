"""SAIN for rescaling that survives JPEG: the LR image is stored as JPEG, and the model knows it (AAAI 2023).

With no option it trains the small preset on photographs that scikit-image and scikit-learn carry, in minutes on two
CPU cores, and scores it on three others. Several processes: `torchrun --nproc_per_node N`. It can be stopped at any
moment and goes on with --resume.
"""

import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from flowkit_models.training.objectives import SAINRescaling, SAINWeights
from flowkit_models.training.options import Options
from flowkit_models.training.recipe import command_line, fit, fresh_model, main_console, run
from flowkit_models.training.report import LOOK_AT, finish_rescaling
from flowkit_models.training.validation import HeldOutRescaling


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """Options of the recipe. The defaults shown are those of the chosen preset."""

    preset: Literal["small-x4", "paper-x2", "paper-x4"] = "small-x4"
    """small-x4: two CPU cores, an hour. paper-…: the published networks and settings, for a GPU and days; not run."""
    out: Path = Path("runs/sain_rescale")
    """Folder of the run."""
    loss: SAINWeights = field(default_factory=SAINWeights)
    """Weights of the losses, which are sums over an image, and the range of JPEG's quality."""
    validate_quality: int = 70
    """Quality of the JPEG that held-out LR images go through: the best checkpoint is the best there."""


MODEL = {"small-x4": "sain_x4_small", "paper-x2": "sain_x2", "paper-x4": "sain_x4"}

# the qualities are ours: the paper's are not in our notes
_PUBLISHED = Config(
    steps=500_000,
    batch=16,
    crop=128,
    lr=2e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-5,
    milestones=(100_000, 200_000, 300_000, 400_000),
    halved_at_milestone=False,
    clip_norm=10.0,
)
PRESETS: dict[tuple[str, ...], Config] = {
    # without noise on the details the few steps go into the image
    ("small-x4",): Config(
        steps=2500,
        batch=8,
        crop=80,
        lr=2e-3,
        betas=(0.9, 0.999),
        clip_norm=10.0,
        average=0.99,
        validate_every=250,
        save_every=250,
        loss=SAINWeights(temperature=0.0),
    ),
    ("paper-x2",): replace(
        _PUBLISHED,
        preset="paper-x2",
        out=Path("runs/sain_rescale/paper-x2"),
        loss=SAINWeights(clean=1.0, bicubic=1.0, recovered=1.0, compressed=1.0),
    ),
    ("paper-x4",): replace(_PUBLISHED, preset="paper-x4", out=Path("runs/sain_rescale/paper-x4")),
}


def main(config: Config) -> None:
    """Data, model, losses, schedule, run."""
    out = config.folder()
    console = main_console()

    # Data: aligned crops of whole images and of their bicubic LR, not rounded; flipped and transposed
    model = fresh_model(MODEL[config.preset], config)
    crops = config.aligned_crops(model.scale, rounded=False)
    pairs = config.test_pairs(model.scale)

    # Losses, schedule and run
    objective = SAINRescaling(model, config.loss)
    held_out = HeldOutRescaling(
        pairs, config.loss.temperature, out / "samples.png", LOOK_AT, config.seed, config.validate_quality
    )
    trained = fit(objective, crops, config, held_out, console)

    # Results
    finish_rescaling(trained, crops, pairs, config, config.loss.temperature, console)


parse = partial(command_line, Config, PRESETS, ("preset",), about=__doc__)

if __name__ == "__main__":
    sys.exit(run(lambda: main(parse(sys.argv[1:]))))
