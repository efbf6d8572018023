"""SRFlow for super-resolution: the conditional baseline (Lugmayr et al., ECCV 2020; HCFlow's Tables 2 and 3).

Two stages: --stage encoder trains the RRDB network that sees the LR image, by L1; --stage nll the flow, by
likelihood, from that encoder. The small preset takes minutes for each on two CPU cores, on photographs that
scikit-image and scikit-learn carry, and is scored on three others. Several processes: `torchrun --nproc_per_node N`.
It can be stopped at any moment and goes on with --resume.
"""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import flowkit
from flowkit_models.data.loader import Batch, Draws
from flowkit_models.models.srflow.encoder import load_encoder
from flowkit_models.training.objectives import EncoderPretraining, SRFlowLikelihood
from flowkit_models.training.options import PATH, Options
from flowkit_models.training.recipe import command_line, fit, fresh_model, main_console, run
from flowkit_models.training.report import LOOK_AT, finish_sr, learned_distances
from flowkit_models.training.validation import EncoderHeldOut, HeldOut


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """Options of the recipe. The defaults shown are those of the chosen preset."""

    preset: Literal[
        "small-x4",
        "paper-x4",
        "paper-x8",
        "paper-face-x8",
        "da-x4",
        "da-s-x4",
        "da-r-x4",
        "da-d-x4",
        "ncsr-x4",
    ] = "small-x4"
    """small-x4: two CPU cores, minutes. paper-…: the published networks and settings, for a GPU and days; da-…, ncsr-…:
    those of SRFlow-DA and NCSR."""
    stage: Literal["encoder", "nll"] = "nll"
    """encoder: the RRDB network alone, by L1, as the published encoders were pre-trained. nll: SRFlow."""
    out: Path = Path("runs/srflow_sr")
    """Folder of the run; of the presets, runs/srflow_sr/PRESET/STAGE."""
    encoder: Annotated[str | None, PATH] = None
    """Encoder of the stage nll: an RRDB_*.pth, a whole SRFlow, or "scratch". Without it: --out/../encoder."""
    frozen: float = 0.0
    """Part of the run in which the encoder stays as it is: officially 0; the authors' stated recipe has 0.5."""
    pixel: float = 0.0
    """Weight of a pixel loss at τ = 0, beside the likelihood; officially 0."""
    weights: Annotated[Path | None, PATH] = None
    """File or folder of weights for LPIPS. Without it: torch's cache."""
    temperature: float = 0.9
    """τ of the samples in the final table and picture, and what the checkpoints recommend to `flowkit upscale`."""


MODEL: dict[str, str] = {
    "small-x4": "srflow_x4_small",
    "paper-x4": "srflow_x4",
    "paper-x8": "srflow_x8",
    "paper-face-x8": "srflow_face_x8",
    "da-x4": "srflow_da_x4",
    "da-s-x4": "srflow_da_s_x4",
    "da-r-x4": "srflow_da_r_x4",
    "da-d-x4": "srflow_da_d_x4",
    "ncsr-x4": "ncsr_x4",
}

OUT = Path("runs/srflow_sr")


def _paper(preset: Any, **nll: Any) -> dict[tuple[str, ...], Config]:
    """Official settings, with the betas that the flow's Adam really has: docs/official/srflow.md."""
    pretraining: dict[str, Any] = {"betas": (0.9, 0.99), "restart_every": 50_000, "lr": 2e-4, "batch": 16}
    base = Config(preset=preset, steps=200_000, crop=160, seed=10)
    flow: dict[str, Any] = {"betas": (0.9, 0.999), "milestones": (100_000, 150_000, 180_000, 190_000), **nll}
    return {
        (preset, "encoder"): replace(base, stage="encoder", out=OUT / preset / "encoder", **pretraining),
        (preset, "nll"): replace(base, stage="nll", out=OUT / preset / "nll", **flow),
    }


_SMALL = Config(batch=8, crop=64, lr=1e-3, clip_norm=100.0, average=0.99, validate_every=100, save_every=100)
PRESETS: dict[tuple[str, ...], Config] = {
    ("small-x4", "nll"): replace(_SMALL, out=OUT / "small-x4" / "nll", steps=600, pixel=5.0, temperature=0.6),
    ("small-x4", "encoder"): replace(_SMALL, out=OUT / "small-x4" / "encoder", stage="encoder", steps=800),
    **_paper("paper-x4", batch=12, lr=2.5e-4),
    **_paper("paper-x8", batch=16, lr=5e-4),
    **_paper("paper-face-x8", batch=16, lr=5e-4, temperature=0.8),
}


# NTIRE 2021: steps, rate and batch are stated, the rest is SRFlow's; this repository has not run them
for _name in ("da-x4", "da-s-x4", "da-r-x4", "da-d-x4"):
    PRESETS |= _paper(_name, batch=12, lr=2e-4)
PRESETS |= _paper("ncsr-x4", batch=18, lr=2e-4, steps=220_000, milestones=(110_000, 165_000, 198_000, 209_000))


def main(config: Config) -> None:
    """Data, model, losses, schedule, run."""
    out = config.folder()
    console = main_console()

    # Data (section 4.1): HR crops, LR made from them by bicubic, flipped left-right
    model = fresh_model(MODEL[config.preset], config)
    crops = config.crops(model.scale)
    pairs = config.test_pairs(model.scale)

    # Model: the encoder from its own stage; the rest from the statistics of data
    if config.stage == "nll" and config.encoder != "scratch":
        load_encoder(model, encoder_of(config))

    def initialize(model: Any, batch: Batch, draws: Draws) -> None:
        if config.stage == "nll":
            flowkit.initialize(model, batch.hr, batch.lr)

    # Loss, schedule and run
    if config.stage == "encoder":
        fit(EncoderPretraining(model), crops, config, EncoderHeldOut(pairs), console, initialize)
        return
    objective = SRFlowLikelihood(model, config.pixel, round(config.frozen * config.steps))
    distances = learned_distances(config.weights, console)
    held_out = HeldOut(pairs, config.temperature, distances, out / "samples.png", LOOK_AT, config.seed)
    trained = fit(objective, crops, config, held_out, console, initialize)

    # Results (section 4.2)
    finish_sr(trained, pairs, config, config.temperature, distances, console)


def encoder_of(config: Config) -> Path:
    """The checkpoint with the encoder.

    Raises:
        ValueError: if there is none.
    """
    path = Path(config.encoder) if config.encoder else config.out.parent / "encoder" / "last.safetensors"
    if not path.is_file():
        raise ValueError(
            f"{path}: no encoder to start from; run --stage encoder first, or say --encoder PATH or scratch"
        )
    return path


parse = partial(command_line, Config, PRESETS, ("preset", "stage"), about=__doc__)

if __name__ == "__main__":
    sys.exit(run(lambda: main(parse(sys.argv[1:]))))
