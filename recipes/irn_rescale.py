"""IRN, IRN+ and T-IRN for rescaling: the baseline without conditioning (Xiao et al., ECCV 2020; HCFlow's Table 4).

With no option it trains the small preset on photographs that scikit-image and scikit-learn carry, in minutes on two
CPU cores, and scores it on three others. Several processes: `torchrun --nproc_per_node N`. It can be stopped at any
moment and goes on with --resume.
"""

import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from flowkit_models.metrics import features as vgg
from flowkit_models.training.discriminator import Discriminator
from flowkit_models.training.objectives import IRNRescaling, IRNWeights
from flowkit_models.training.optim import Adam, Milestones
from flowkit_models.training.options import PATH, Options
from flowkit_models.training.recipe import command_line, fit, fresh_model, initial_model, main_console, run
from flowkit_models.training.report import LOOK_AT, finish_rescaling
from flowkit_models.training.validation import HeldOutRescaling


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """Options of the recipe. The defaults shown are those of the chosen preset and stage."""

    preset: Literal[
        "small-x4",
        "small-x2",
        "paper-x2",
        "paper-x3",
        "paper-x4",
        "tirn-small-x4",
        "tirn-paper-x2",
        "tirn-paper-x4",
    ] = "small-x4"
    """small-…: two CPU cores, minutes. paper-…: the published networks and settings, for a GPU and days. tirn-…: T-IRN,
    with colours, luma and details in three branches, and zero for the latent."""
    stage: Literal["irn", "plus"] = "irn"
    """irn: as published, T-IRN too. plus: IRN+ (×4 only), from an IRN, with perceptual and adversarial losses."""
    init: Annotated[Path | None, PATH] = None
    """Checkpoint that the stage plus starts from. Without it: last.safetensors of the preset's stage irn."""
    out: Path = Path("runs/irn_rescale")
    """Folder of the run."""
    loss: IRNWeights = field(default_factory=IRNWeights)
    """Weights of the losses, which are sums over an image."""
    critic_first: int = 0
    """Iterations in which only the discriminator is trained."""
    critic_features: int = 64
    """Channels of the discriminator's first layers."""
    vgg: Literal["vgg19", "vgg16"] = "vgg19"
    """Network of the perceptual loss: VGG-19, as published, or VGG-16 as a stand-in where its weights are at hand."""
    weights: Annotated[Path | None, PATH] = None
    """File or folder of weights for the perceptual loss. Without it: torch's cache, or a download."""


MODEL = {
    "small-x4": "irn_x4_small",
    "small-x2": "irn_x2_small",
    "paper-x2": "irn_x2",
    "paper-x3": "irn_x3",
    "paper-x4": "irn_x4",
    "tirn-small-x4": "tirn_x4_small",
    "tirn-paper-x2": "tirn_x2",
    "tirn-paper-x4": "tirn_x4",
}

# the official option files: docs/official/irn.md
_OFFICIAL = Config(
    steps=500_000,
    batch=16,
    crop=144,
    lr=2e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-5,
    milestones=(100_000, 200_000, 300_000, 400_000),
    halved_at_milestone=False,
    clip_norm=10.0,
    seed=10,
)
# without noise on the latent the few steps go into the image
_SMALL = Config(
    steps=1200,
    batch=8,
    crop=64,
    lr=2e-3,
    betas=(0.9, 0.999),
    clip_norm=10.0,
    average=0.99,
    validate_every=100,
    save_every=100,
    loss=IRNWeights(temperature=0.0),
)
# T-IRN: no loss of the latent, which is zero; settings of its paper, which this repository has not run
_TIRN = IRNWeights(fit=0.25, latent=0.0, temperature=0.0)
_TIRN_OFFICIAL = replace(_OFFICIAL, crop=128, loss=_TIRN)
PRESETS: dict[tuple[str, ...], Config] = {
    ("small-x4", "irn"): _SMALL,
    ("small-x2", "irn"): replace(
        _SMALL, preset="small-x2", out=Path("runs/irn_rescale/small-x2"), loss=IRNWeights(fit=4.0, temperature=0.0)
    ),
    ("paper-x2", "irn"): replace(
        _OFFICIAL, preset="paper-x2", out=Path("runs/irn_rescale/paper-x2"), loss=IRNWeights(fit=4.0)
    ),
    ("paper-x3", "irn"): replace(
        _OFFICIAL, preset="paper-x3", out=Path("runs/irn_rescale/paper-x3"), loss=IRNWeights(fit=9.0)
    ),
    ("paper-x4", "irn"): replace(_OFFICIAL, preset="paper-x4", out=Path("runs/irn_rescale/paper-x4")),
    ("paper-x4", "plus"): replace(
        _OFFICIAL,
        preset="paper-x4",
        stage="plus",
        init=Path("runs/irn_rescale/paper-x4/last.safetensors"),
        out=Path("runs/irn_rescale/paper-x4-plus"),
        steps=400_000,
        lr=1e-4,
        milestones=(50_000, 100_000, 200_000, 300_000),
        loss=IRNWeights(latent=0.0, back=0.01, perceptual=0.01, gan=1.0),
        critic_first=5000,
    ),
    ("tirn-small-x4", "irn"): replace(
        _SMALL,
        preset="tirn-small-x4",
        out=Path("runs/irn_rescale/tirn-small-x4"),
        loss=replace(_TIRN, fit=16.0),  # IRN's: with a quarter, few steps leave the LR image 11 dB from bicubic's
    ),
    ("tirn-paper-x2", "irn"): replace(
        _TIRN_OFFICIAL,
        preset="tirn-paper-x2",
        out=Path("runs/irn_rescale/tirn-paper-x2"),
        steps=800_000,
        milestones=tuple(range(100_000, 800_000, 100_000)),
    ),
    ("tirn-paper-x4", "irn"): replace(
        _TIRN_OFFICIAL,
        preset="tirn-paper-x4",
        out=Path("runs/irn_rescale/tirn-paper-x4"),
        steps=600_000,
        milestones=tuple(range(40_000, 600_000, 40_000)),
    ),
}


def main(config: Config) -> None:
    """Data, model, losses, schedule, run."""
    out = config.folder()
    console = main_console()

    # Data: aligned crops of whole images and of their bicubic LR, not rounded; flipped and transposed
    model = starting_point(config)
    crops = config.aligned_crops(model.scale, rounded=False)
    pairs = config.test_pairs(model.scale)

    # Losses
    features = vgg.VGGFeatures(config.vgg, config.weights) if config.loss.perceptual else None
    discriminator = Discriminator(config.crop, config.critic_features) if config.loss.gan else None
    objective = IRNRescaling(model, config.loss, features, discriminator, config.critic_first)

    # Schedule and run
    schedule = Milestones(config.milestones, inclusive=config.halved_at_milestone)
    adam = Adam(config.lr, (0.9, 0.99), schedule=schedule) if discriminator else None
    held_out = HeldOutRescaling(pairs, config.loss.temperature, out / "samples.png", LOOK_AT, config.seed)
    trained = fit(objective, crops, config, held_out, console, discriminator=adam)

    # Results (Table 4)
    finish_rescaling(trained, crops, pairs, config, config.loss.temperature, console)


def starting_point(config: Config) -> Any:
    """A fresh model, whose LR image is the Haar transform's; for IRN+ a trained one.

    Raises:
        ValueError: if that is missing, or another one.
    """
    model = fresh_model(MODEL[config.preset], config)
    if config.stage == "irn":
        if config.init is not None:
            raise ValueError("--init: the stage irn starts from scratch; --resume goes on with a run")
        return model
    if config.init is None or not config.init.is_file():
        raise ValueError(f"--init {config.init}: no checkpoint to start from; run --stage irn first")
    trained: Any = initial_model(config.init, model, ("irn", "plus"), config.memory, config.networks)
    return trained


parse = partial(command_line, Config, PRESETS, ("preset", "stage"), about=__doc__)

if __name__ == "__main__":
    sys.exit(run(lambda: main(parse(sys.argv[1:]))))
