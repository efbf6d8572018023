"""Held-out scores while a model trains: the engine calls one of these every so many steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flowkit_models.data.image_pair import Pair
from flowkit_models.evaluation.figures import rescaling_sheet, sample_sheet
from flowkit_models.evaluation.scores import Distance, score_rescaling
from flowkit_models.images.convert import to_float, to_uint8
from flowkit_models.metrics.full_reference import psnr
from flowkit_models.models.base import ImageFlow

Centres = Mapping[str, tuple[float, float]]


class HeldOut:
    """Scores a super-resolution model on test pairs, and draws a sheet of samples.

    PSNR at τ = 0, and learned distances of one sample at τ. The best checkpoint is the one with the best `by`.

    Args:
        pairs: test images by name.
        temperature: τ.
        distances: learned distances by name; smaller is better.
        picture: the sheet, drawn anew each time; None for none.
        centres: where the sheet looks.
        seed: of the samples.
        by: "psnr", or the name of a distance.
    """

    def __init__(
        self,
        pairs: dict[str, Pair],
        temperature: float,
        distances: Mapping[str, Distance],
        picture: Path | None = None,
        centres: Centres | None = None,
        seed: int = 0,
        by: str = "psnr",
    ) -> None:
        self.pairs, self.temperature, self.distances = pairs, temperature, distances
        self.picture, self.centres, self.seed, self.by = picture, centres, seed, by

    @torch.no_grad()
    def __call__(self, model: ImageFlow, step: int) -> dict[str, float]:
        """The metrics, and the score that picks the best."""
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(self.seed)
        values: dict[str, list[float]] = {"psnr": [], **{name: [] for name in self.distances}}
        for pair in self.pairs.values():
            lr = to_float(pair.lr).to(device)
            mode = to_uint8(model.upscale(lr, temperature=0.0)[0].cpu())
            values["psnr"].append(psnr(mode, pair.hr, model.scale).item())
            if self.distances:
                sample = to_uint8(model.upscale(lr, 1, self.temperature, generator)[0].cpu())
                for name, distance in self.distances.items():
                    values[name].append(distance(to_float(sample), to_float(pair.hr)).item())
        if self.picture is not None:
            sample_sheet(model, self.pairs, self.picture, self.temperature, seed=self.seed, centres=self.centres)
        metrics = {name: sum(found) / len(found) for name, found in values.items()}
        return {**metrics, "score": metrics["psnr"] if self.by == "psnr" else -metrics[self.by]}


class EncoderHeldOut:
    """Scores the own SR image of an SRFlow's encoder: PSNR (RGB)."""

    def __init__(self, pairs: dict[str, Pair]) -> None:
        self.pairs = pairs

    @torch.no_grad()
    def __call__(self, model: Any, step: int) -> dict[str, float]:
        """The metric, and the score that picks the best."""
        device = next(model.parameters()).device
        found = [
            psnr(to_uint8(model.encoder.super_resolve(to_float(pair.lr).to(device)).cpu()), pair.hr, model.scale).item()
            for pair in self.pairs.values()
        ]
        mean = sum(found) / len(found)
        return {"psnr": mean, "score": mean}


class HeldOutRescaling:
    """Scores a rescaling model on test images, down and up again: PSNR on Y; and draws a sheet.

    Args:
        pairs: test images by name.
        temperature: τ of the latents.
        picture, centres, seed: as for `HeldOut`.
    """

    def __init__(
        self,
        pairs: dict[str, Pair],
        temperature: float,
        picture: Path | None = None,
        centres: Centres | None = None,
        seed: int = 0,
    ) -> None:
        self.pairs, self.temperature = pairs, temperature
        self.picture, self.centres, self.seed = picture, centres, seed

    def __call__(self, model: ImageFlow, step: int) -> dict[str, float]:
        """The metrics, and the score that picks the best."""
        found = score_rescaling(model, self.pairs, self.temperature, seed=self.seed)["model"]
        if self.picture is not None:
            rescaling_sheet(model, self.pairs, self.picture, self.temperature, self.seed, self.centres)
        return {"psnr": found["psnr_y"], "ssim": found["ssim_y"], "lr_psnr": found["lr_psnr"], "score": found["psnr_y"]}
