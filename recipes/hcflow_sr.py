"""HCFlow for super-resolution ×4: train on photographs, score, and look (paper, section 4).

With no option it trains the small preset on photographs that scikit-image and scikit-learn carry, in a few
minutes on two CPU cores, and scores it on three others. `--data` takes your own folder of photographs.
"""

import dataclasses
import json
import sys
import time
import warnings
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

import flowkit
import flowkit_models
from flowkit_models.figures import curves, sample_sheet
from flowkit_models.hcflow import HCFlow
from flowkit_models.images import check_writable
from flowkit_models.photos import Crops, bundled_photos, read_photos, test_photos
from flowkit_models.priors import fit_priors
from flowkit_models.scoring import make_pairs, psnr_at_zero, score
from flowkit_models.training import Batch, Schedule, train

Choice = Literal["small", "paper"]


@dataclass(frozen=True)
class Config:
    """Options of the recipe. The defaults shown are those of the chosen preset."""

    preset: Choice = "small"
    """small: two CPU cores, minutes. paper: the published ×4 network and its NLL stage, for a GPU and days."""
    data: Path | None = None
    """Folder of HR photographs to train on, searched recursively. None: the photographs in the wheels."""
    out: Path = Path("runs/hcflow_sr")
    """Folder for checkpoints, metrics and pictures."""
    steps: int = 700
    """Optimiser steps."""
    batch: int = 8
    """Crops per step."""
    crop: int = 64
    """Side of the HR crops, in pixels; a multiple of 4."""
    lr: float = 1e-3
    """Peak learning rate of Adam."""
    milestones: tuple[int, ...] = ()
    """Steps from which the rate is halved, again at each. None given: 20 steps of warm-up, then a cosine to 0.01."""
    average: float = 0.99
    """Decay of the exponential moving average of the weights; 0 saves the weights themselves."""
    nll_weight: float = 0.005
    """λ₁, weight of the negative log-likelihood, in bits per HR pixel as the paper counts (eq. (7))."""
    pixel_weight: float = 20.0
    """λ₂, weight of the pixel loss at τ = 0, on images in [0, 1] (eq. (7))."""
    pixel_loss: Literal["l1", "l2"] = "l2"
    """l1: mean absolute error, as in eq. (7). l2: mean squared error, whose optimum is the mean that PSNR rewards."""
    draws: int = 5
    """Samples per test image."""
    seed: int = 0
    """Seed of weights, crops, noise and samples."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1, mps."""

    def check(self) -> None:
        """Raises ValueError for numbers that make no sense."""
        if min(self.steps, self.batch, self.crop, self.draws) < 1 or self.lr <= 0:
            raise ValueError("steps, batch, crop and draws must be at least 1, and lr positive")
        if min(self.nll_weight, self.pixel_weight) < 0 or not 0 <= self.average < 1:
            raise ValueError("nll-weight and pixel-weight must not be negative, and average must be in [0, 1)")


PRESETS: dict[str, Config] = {
    "small": Config(),
    # reference/hcflow.md §13: the general ×4 model, stage NLL
    "paper": Config(
        "paper",
        steps=300_000,
        batch=16,
        crop=160,
        lr=2.5e-4,
        milestones=(150_000, 225_000, 270_000, 285_000),
        average=0.0,
        nll_weight=1.0,
        pixel_weight=0.0,
        pixel_loss="l1",
        device="cuda",
    ),
}
MODEL = {"small": "hcflow_sr_x4_small", "paper": "hcflow_sr_x4"}
TEMPERATURE = 0.8
LOOK_AT = {"astronaut": (0.22, 0.45), "chelsea": (0.4, 0.5), "coffee": (0.45, 0.5)}


def main(config: Config) -> None:
    """Data, model, losses, schedule, run."""
    config.check()
    console = Console()
    device = usable_device(config.device)
    torch.manual_seed(config.seed)

    # Data (section 4.1): HR crops, LR made from them by bicubic; the test photographs are never trained on.
    out = check_writable(config.out)
    own = config.data is not None
    photos = read_photos(config.data, config.crop) if config.data is not None else bundled_photos()
    rarely: dict[str, float] = {} if own else {n: 0.1 for n in ("retina", "hubble") if n in photos}
    crops = Crops(photos, config.crop, config.batch, 4, torch.Generator().manual_seed(config.seed), weights=rarely)
    pairs = make_pairs(test_photos(), 4)

    # Model (section 3): its sizes are the preset's.
    model = flowkit_models.create(MODEL[config.preset]).to(device)
    if config.preset == "paper":
        noisy, _ = flowkit.Dequantize(model.config.quant)(next(crops)[0].to(device))
        flowkit.initialize(model.flow, noisy)
    else:  # Haar and identities need no statistics; what is left to start from is the regression of the details
        hr, lr = (torch.cat(part) for part in zip(*(next(crops) for _ in range(8)), strict=True))
        fit_priors(model, hr.to(device), lr.to(device))
    settings = {
        **dataclasses.asdict(config),
        "model": MODEL[config.preset],
        "sizes": dataclasses.asdict(model.config),
    }
    (out / "config.json").write_text(json.dumps(settings, indent=2, default=str) + "\n")
    parameters = sum(p.numel() for p in model.parameters())
    console.print(f"{MODEL[config.preset]}: {parameters:,} parameters; {len(photos)} photographs; {config.steps} steps")

    # Losses (section 3.4)
    pixel_loss = {"l1": F.l1_loss, "l2": F.mse_loss}[config.pixel_loss]

    def losses(model: HCFlow, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        hr, lr = batch
        nll = model.nll(hr, lr).mean()  # eq. (6)
        loss = config.nll_weight * nll
        if config.pixel_weight > 0:
            loss = loss + config.pixel_weight * pixel_loss(model.upscale(lr, temperature=0.0)[0], hr)  # eq. (7)
        return loss, {"bits_per_dim": model.per_dim(float(nll.detach()))}

    # Schedule and run
    started = time.monotonic()
    every = max(1, min(config.steps // 10, 5000))
    schedule = Schedule(config.steps, config.lr, every, config.milestones, config.average)
    trained = train(model, crops, losses, lambda m: psnr_at_zero(m, pairs), schedule, out, console)
    minutes = (time.monotonic() - started) / 60

    # Results (section 4.2)
    metrics = score(trained.model, pairs, TEMPERATURE, config.draws, config.seed)
    metrics["protocol"] |= {
        "preset": config.preset,
        "steps": config.steps,
        "train_minutes": round(minutes, 2),
    }
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    curves(trained.history, metrics["bicubic"]["psnr"], out / "curve.png")
    sample_sheet(trained.model, pairs, out / "samples.png", TEMPERATURE, seed=config.seed, centres=LOOK_AT)
    console.print(results_table(metrics))
    if trained.skipped:
        console.print(f"warning: {trained.skipped} steps were skipped, their loss or gradient was not finite")
    console.print(
        f"trained in {minutes:.1f} minutes; see {out}: samples.png, curve.png, metrics.json, last.safetensors"
    )


def usable_device(name: str) -> torch.device:
    """The device of a name, proved to work."""
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).partition(chr(10))[0]}") from None


def results_table(metrics: dict[str, Any]) -> Table:
    """The results as a table for the terminal."""
    table = Table(title="astronaut, chelsea, coffee: means (dB, RGB)")
    for heading in ("", "PSNR", "SSIM", "consistency", "diversity"):
        table.add_column(heading, justify="left" if not heading else "right")
    rows = {
        "bicubic": "bicubic",
        "HCFlow τ = 0": "tau_0",
        f"HCFlow τ = {TEMPERATURE}": f"tau_{TEMPERATURE:g}",
    }
    for label, key in rows.items():
        row = metrics[key]
        spread = f"{row['diversity']:.2f}" if "diversity" in row else "–"
        table.add_row(label, f"{row['psnr']:.2f}", f"{row['ssim']:.4f}", f"{row['consistency']:.2f}", spread)
    table.caption = (
        f"LR-PSNR of the generated LR {metrics['lr_psnr']:.2f} dB; {metrics['bits_per_dim']:.2f} bits/dim; "
        f"largest round-trip error {metrics['roundtrip_max_error']:.1e}"
    )
    return table


def parse(arguments: list[str]) -> Config:
    """The command line: `--preset` gives the defaults, everything else overrides them."""
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="small")
    preset = first.parse_known_args(arguments)[0].preset
    return tyro.cli(Config, args=arguments, default=PRESETS.get(preset, Config()), description=__doc__)


def run(arguments: list[str]) -> int | str:
    """Runs the recipe; returns 0, or one line that says what was wrong."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        main(parse(arguments))
    except KeyboardInterrupt:
        return "stopped"
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        return f"error: {error}"
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
