"""HCFlow, HCFlow+ and HCFlow++ for super-resolution: train on photographs, score, and look (paper, section 4).

With no option it trains the quick preset on photographs that scikit-image and scikit-learn carry, in a few minutes
on two CPU cores, and scores it on three others. `--data` takes your own folder of photographs. The other presets
have the paper's three stages, one after the other: --stage nll, plus, plusplus. Several processes: start it with
`torchrun --nproc_per_node N`. It can be stopped at any moment and goes on with --resume.
"""

import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import flowkit
from flowkit_models.data.loader import Batch, Draws
from flowkit_models.metrics import features as vgg
from flowkit_models.metrics.perceptual import LPIPS
from flowkit_models.models.factory import find_checkpoint
from flowkit_models.models.hcflow.model import HCFlow
from flowkit_models.training.discriminator import Discriminator
from flowkit_models.training.objectives import SRWeights, SuperResolution
from flowkit_models.training.optim import Adam, Milestones
from flowkit_models.training.options import PATH, Options
from flowkit_models.training.prior_init import fit_priors
from flowkit_models.training.recipe import command_line, first_batch, fit, fresh_model, initial_model, main_console, run
from flowkit_models.training.report import LOOK_AT, finish_sr, learned_distances
from flowkit_models.training.validation import HeldOut

Preset = Literal["quick", "small-x4", "shipped-x4", "paper-x4", "paper-x8"]
Stage = Literal["nll", "plus", "plusplus"]


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """Options of the recipe. The defaults shown are those of the chosen preset and stage."""

    preset: Preset = "quick"
    """quick, small-x4 (three stages): CPU, minutes. shipped-x4: the weights in the package. paper-…: GPU, days."""
    stage: Stage = "nll"
    """nll: HCFlow, by likelihood. plus: HCFlow+, with a pixel loss. plusplus: HCFlow++, perceptual and GAN too."""
    init: Annotated[str | None, PATH] = None
    """What plus and plusplus start from: a checkpoint of an earlier stage or the same; "scratch". Else ../nll."""
    out: Path = Path("runs/hcflow_sr")
    """Folder of the run; of the stages, runs/hcflow_sr/PRESET/STAGE."""
    loss: SRWeights = field(default_factory=SRWeights)
    """Weights of the losses."""
    official_steps: bool = False
    """An optimizer step for each loss, as the official code takes them, instead of one for their sum."""
    critic_lr: float = 5e-5
    """Learning rate of the discriminator."""
    critic_first: int = 0
    """Iterations in which only the discriminator is trained."""
    critic_features: int = 64
    """Channels of the discriminator's first layers."""
    vgg: Literal["vgg19", "vgg16"] = "vgg19"
    """Network of the perceptual loss: VGG-19, as published, or VGG-16 as a stand-in where its weights are at hand."""
    lpips: Literal["alexnet", "vgg16"] = "alexnet"
    """Network of --loss.lpips; tables report AlexNet's."""
    weights: Annotated[Path | None, PATH] = None
    """File or folder of weights for the perceptual loss and for LPIPS. Without it: torch's cache, or a download."""
    temperature: float = 0.8
    """τ of the samples in the final table and picture, and what the checkpoints recommend to `flowkit upscale`."""


MODEL: dict[str, str] = {
    "quick": "hcflow_sr_x4_small",
    "small-x4": "hcflow_sr_x4_small",
    "shipped-x4": "hcflow_shipped_x4",
    "paper-x4": "hcflow_sr_x4",
    "paper-x8": "hcflow_face_x8",
}
EARLIER: dict[str, tuple[str, ...]] = {"plus": ("nll", "plus"), "plusplus": ("nll", "plus", "plusplus")}
"""Stages that a stage may start from, its own among them: a run that goes on from weights. Officially both from nll."""

# the official option files, line by line: docs/official/hcflow.md
_OFFICIAL: dict[str, Any] = {"batch": 16, "crop": 160, "clip_value": 5.0, "clip_norm": 100.0}
_FINE: dict[str, Any] = {"steps": 50_000, "milestones": (20_000, 40_000)}
_PLUS = SRWeights(nll=2e-3, pixel=1.0)


def _paper(preset: Preset, tau: float, **nll: Any) -> dict[tuple[str, ...], Config]:
    out = Path("runs/hcflow_sr") / preset
    base = Config(preset=preset, temperature=tau, **_OFFICIAL)
    plusplus = replace(_PLUS, perceptual=5e-2, gan=0.5, temperature=tau)
    return {
        (preset, "nll"): replace(base, stage="nll", out=out / "nll", **nll),
        (preset, "plus"): replace(base, stage="plus", out=out / "plus", lr=5e-5, loss=_PLUS, **_FINE),
        (preset, "plusplus"): replace(
            base, stage="plusplus", out=out / "plusplus", lr=1.25e-5, loss=plusplus, critic_first=1500, **_FINE
        ),
    }


# two cores, minutes: a squared error, whose optimum PSNR rewards, and a smaller discriminator
_SMALL = Config(
    preset="small-x4",
    steps=500,
    batch=8,
    crop=64,
    lr=1e-3,
    clip_value=5.0,
    clip_norm=100.0,
    average=0.99,
    validate_every=100,
    save_every=100,
    critic_features=16,
    vgg="vgg16",
)
PRESETS: dict[tuple[str, ...], Config] = {
    ("quick", "plus"): replace(
        _SMALL,
        preset="quick",
        stage="plus",
        init="scratch",
        steps=700,
        validate_every=70,
        temperature=0.1,  # best by LPIPS; above 0.2, a flow so small and so young draws grain
        loss=SRWeights(nll=0.005, pixel=20.0, pixel_loss="l2"),
    ),
    ("small-x4", "nll"): replace(_SMALL, out=Path("runs/hcflow_sr/small-x4/nll"), loss=SRWeights(nll=0.02)),
    ("small-x4", "plus"): replace(
        _SMALL,
        stage="plus",
        out=Path("runs/hcflow_sr/small-x4/plus"),
        steps=300,
        loss=SRWeights(nll=0.005, pixel=20.0, pixel_loss="l2"),
    ),
    ("small-x4", "plusplus"): replace(
        _SMALL,
        stage="plusplus",
        out=Path("runs/hcflow_sr/small-x4/plusplus"),
        steps=300,
        lr=5e-4,
        critic_first=20,
        critic_lr=1e-4,
        loss=SRWeights(nll=0.002, pixel=10.0, perceptual=0.5, gan=0.02, temperature=0.8, pixel_loss="l2"),
    ),
    # docs/model_card.md: mostly the image at τ = 0, which is what it is for
    ("shipped-x4", "plus"): replace(
        _SMALL,
        preset="shipped-x4",
        stage="plus",
        init="scratch",
        out=Path("runs/hcflow_sr/shipped-x4"),
        steps=12_000,
        crop=96,
        augment="colours",
        smallest=0.5,
        lr=1.5e-3,
        average=0.999,
        validate_every=1500,
        save_every=250,
        temperature=0.3,
        loss=SRWeights(nll=0.005, nll_every=8, pixel=200.0, pixel_loss="l2"),
    ),
    # docs/model_card.md: crisp samples, from the weights above; a consistency term keeps them to their LR image
    ("shipped-x4", "plusplus"): replace(
        _SMALL,
        preset="shipped-x4",
        stage="plusplus",
        init="hcflow_x4",
        out=Path("runs/hcflow_sr/shipped-x4-plusplus"),
        steps=600,
        crop=96,
        lr=3e-4,
        muon=2.0,
        augment="flips",
        smallest=0.5,
        critic_first=20,
        critic_lr=1e-4,
        average=0.995,
        validate_every=300,
        save_every=100,
        loss=SRWeights(nll=0.002, pixel=20.0, lpips=2.0, gan=0.02, consistency=300.0, temperature=0.8, pixel_loss="l2"),
    ),
    **_paper("paper-x4", 0.9, steps=300_000, milestones=(150_000, 225_000, 270_000, 285_000)),
    **_paper("paper-x8", 0.8, steps=350_000, milestones=(200_000, 250_000, 280_000, 310_000, 340_000)),
}


def main(config: Config) -> None:
    """Data, model, losses, schedule, run."""
    out = config.folder()
    console = main_console()

    # Data (section 4.1): HR crops, LR made from them by bicubic; the test photographs are never trained on.
    model, earlier = starting_point(config)
    crops = config.crops(model.scale)
    pairs = config.test_pairs(model.scale)

    # Model (section 3): its sizes are the preset's. What it starts from is another stage's, or data.
    def initialize(model: Any, batch: Batch, draws: Draws) -> None:
        if earlier is not None:
            return
        if config.preset.startswith("paper"):
            noise = draws.uniform("noise", batch.hr.shape[1:])
            flowkit.initialize(model.flow, model.dequantize(batch.hr, noise=noise)[0])
        else:  # Haar and identities need no statistics; what is left to start from is the regression of the details
            hr, lr = first_batch(crops, 64)
            fit_priors(model, hr.to(batch.hr.device), lr.to(batch.hr.device))

    # Losses (section 3.4)
    features = vgg.VGGFeatures(config.vgg, config.weights) if config.loss.perceptual else None
    discriminator = Discriminator(config.crop, config.critic_features) if config.loss.gan else None
    distance = LPIPS(config.lpips, config.weights) if config.loss.lpips else None
    objective = SuperResolution(
        model, config.loss, features, discriminator, config.critic_first, config.official_steps, distance
    )

    # Schedule (section 4.1) and run
    adam = Adam(config.critic_lr, config.betas, schedule=Milestones(config.milestones)) if discriminator else None
    distances = learned_distances(config.weights, console)
    best = "lpips" if config.stage == "plusplus" and distances else "psnr"
    held_out = HeldOut(pairs, config.temperature, distances, out / "samples.png", LOOK_AT, config.seed, best)
    if features is not None:
        console.print(f"perceptual loss: {features.label}")
    trained = fit(objective, crops, config, held_out, console, initialize, adam)

    # Results (section 4.2)
    finish_sr(trained, pairs, config, config.temperature, distances, console, best)


def starting_point(config: Config) -> tuple[HCFlow, Path | None]:
    """The model to train, and the checkpoint of an earlier stage that it comes from, if it does.

    Raises:
        ValueError: if that is missing, or is none to start from.
    """
    model = fresh_model(MODEL[config.preset], config)
    if config.init == "scratch" or (config.stage == "nll" and config.init is None):
        return model, None
    if config.stage == "nll":
        raise ValueError("--init: the stage nll starts from scratch; --resume goes on with a run")
    path = find_checkpoint(config.init) if config.init else config.out.parent / "nll" / "last.safetensors"
    if not path.is_file():
        raise ValueError(f"{path}: no checkpoint to start from; run --stage nll first, or say --init PATH or scratch")
    earlier: Any = initial_model(path, model, EARLIER[config.stage], config.memory, config.networks)
    return earlier, path


parse = partial(command_line, Config, PRESETS, ("preset", "stage"), about=__doc__)

if __name__ == "__main__":
    sys.exit(run(lambda: main(parse(sys.argv[1:]))))
