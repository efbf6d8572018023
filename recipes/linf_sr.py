"""LINF: super-resolution by any factor with one model (Yao et al., CVPR 2023).

With no option it trains the small preset on photographs that scikit-image and scikit-learn carry, in minutes on a CPU
core, and scores it on three others at ×2, ×2.7, ×3 and ×4. Several processes: `torchrun --nproc_per_node N`. It can be
stopped at any moment and goes on with --resume.
"""

import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from flowkit_models.data.loader import Batch, Draws
from flowkit_models.metrics import features as vgg
from flowkit_models.training.objectives import AnyScale, AnyScaleWeights
from flowkit_models.training.options import PATH, Options
from flowkit_models.training.prior_init import whiten_latents
from flowkit_models.training.recipe import command_line, fit, fresh_model, initial_model, main_console, run
from flowkit_models.training.report import LOOK_AT, finish_sr, learned_distances
from flowkit_models.training.validation import HeldOut


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """Options of the recipe. The defaults shown are those of the chosen preset and stage."""

    preset: Literal["small", "paper-p1", "paper-p3"] = "small"
    """small: a CPU core, minutes. paper-…: the published networks and settings, of pixels or of patches of 3 × 3, for
    a GPU and days."""
    stage: Literal["nll", "plus"] = "nll"
    """nll: the likelihood; with --loss.pixel also the mean. plus: from that, images too, pixel by pixel and (paper-p3)
    in VGG's features."""
    init: Annotated[Path | None, PATH] = None
    """Checkpoint that the stage plus starts from. Without it: last.safetensors of the preset's stage nll."""
    out: Path = Path("runs/linf_sr")
    """Folder of the run."""
    loss: AnyScaleWeights = field(default_factory=AnyScaleWeights)
    """Weights of the losses."""
    scales: tuple[float, ...] = (2, 2.7, 3, 4)
    """Factors of the final table."""
    weights: Annotated[Path | None, PATH] = None
    """File or folder of weights for LPIPS and the perceptual loss. Without it: torch's cache, or for the loss a
    download."""
    temperature: float = 0.4
    """τ of the samples in the final table and picture, and what the checkpoints recommend to `flowkit upscale`."""


MODEL = {"small": "linf_small", "paper-p1": "linf_p1", "paper-p3": "linf_p3"}

OUT = Path("runs/linf_sr")

# the published settings; the length of the run and its halvings are LIIF's, whose training LINF takes over
_PAPER = Config(
    steps=1_000_000,
    batch=16,
    crop=192,
    lr=1e-4,
    betas=(0.9, 0.999),
    milestones=(200_000, 400_000, 600_000, 800_000),
    out=OUT / "paper-p1" / "nll",
)
_TO_IMAGES = AnyScaleWeights(nll=5e-4, pixel=1.0, perceptual=2.5e-2, apart=True)
_SMALL = Config(batch=8, crop=96, lr=1e-3, clip_norm=100.0, average=0.99, validate_every=250, save_every=50)
PRESETS: dict[tuple[str, ...], Config] = {
    ("small", "nll"): replace(_SMALL, out=OUT / "small" / "nll", steps=1500, loss=AnyScaleWeights(pixel=200.0)),
    ("small", "plus"): replace(
        _SMALL, stage="plus", out=OUT / "small" / "plus", steps=500, lr=2e-4, loss=replace(_TO_IMAGES, perceptual=0.0)
    ),
    ("paper-p1", "nll"): replace(_PAPER, preset="paper-p1"),
    ("paper-p3", "nll"): replace(_PAPER, preset="paper-p3", out=OUT / "paper-p3" / "nll"),
    ("paper-p3", "plus"): replace(
        _PAPER, preset="paper-p3", stage="plus", out=OUT / "paper-p3" / "plus", loss=_TO_IMAGES
    ),
}


def main(config: Config) -> None:
    """Data, model, losses, schedule, run."""
    out = config.folder()
    console = main_console()

    # Data: HR crops of all sizes, one factor from U(1, 4) for a batch, LR made from them by bicubic
    model = starting_point(config)
    crops = config.any_scale_crops(model.scale)
    pairs = config.test_pairs(model.scale)

    # Model: the linear layers from the statistics of data
    def initialize(model: Any, batch: Batch, draws: Draws) -> None:
        if config.stage == "nll":
            whiten_latents(model, batch.hr, batch.lr)

    # Losses: the likelihood of as many HR pixels as LR has, and of images
    features = vgg.VGGFeatures("vgg19", config.weights) if config.loss.perceptual else None
    objective = AnyScale(model, config.loss, features)

    # Schedule and run
    distances = learned_distances(config.weights, console)
    held_out = HeldOut(pairs, config.temperature, distances, out / "samples.png", LOOK_AT, config.seed)
    trained = fit(objective, crops, config, held_out, console, initialize)

    # Results: one model at all factors
    scales = {scale: config.test_pairs(scale) for scale in config.scales}
    finish_sr(trained, pairs, config, config.temperature, distances, console, scales=scales)


def starting_point(config: Config) -> Any:
    """A fresh model; for the stage plus a trained one.

    Raises:
        ValueError: if that is missing, or another one.
    """
    model = fresh_model(MODEL[config.preset], config)
    if config.stage == "nll":
        if config.init is not None:
            raise ValueError("--init: the stage nll starts from scratch; --resume goes on with a run")
        return model
    path = config.init or OUT / config.preset / "nll" / "last.safetensors"
    if not path.is_file():
        raise ValueError(f"--init {path}: no checkpoint to start from; run --stage nll first")
    return initial_model(path, model, ("nll", "plus"), config.memory, config.networks)


parse = partial(command_line, Config, PRESETS, ("preset", "stage"), about=__doc__)

if __name__ == "__main__":
    sys.exit(run(lambda: main(parse(sys.argv[1:]))))
