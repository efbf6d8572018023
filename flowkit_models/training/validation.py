"""Held-out scores while a model trains: the trainer calls one of these every so many steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowkit_models.data.image_pair import Pair
from flowkit_models.evaluation.evaluator import Distance, Evaluator, means
from flowkit_models.evaluation.figures import rescaling_sheet, sample_sheet
from flowkit_models.evaluation.systems import FlowSystem, Network, System
from flowkit_models.metrics.registry import METRICS, Rules, jpeg_metric
from flowkit_models.models.base import ImageFlow

Centres = Mapping[str, tuple[float, float]]


class HeldOut:
    """Scores a super-resolution model on test pairs, and draws a sheet of samples.

    PSNR at τ = 0, and learned metrics of one sample at τ. The best checkpoint is the one with the best `by`.

    Args:
        pairs: test images by name.
        temperature: τ.
        distances: networks of learned metrics by the metric's name.
        picture: the sheet, drawn anew each time; None for none.
        centres: where the sheet looks.
        seed: of the samples.
        by: "psnr", or the name of a learned metric.
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

    def __call__(self, model: ImageFlow, step: int) -> dict[str, float]:
        """The metrics, and the score that picks the best."""
        metrics = _means(Rules(model.scale, ("psnr",)), FlowSystem(model, "τ = 0", (0.0,)), self.pairs)
        if self.distances:
            rules = Rules(model.scale, tuple(self.distances), draws=1, seed=self.seed, rounded=True)
            sample = FlowSystem(model, "sample", (self.temperature,))
            metrics |= _means(rules, sample, self.pairs, self.distances)
        return self._drawn(model, metrics)

    def _drawn(self, model: ImageFlow, metrics: dict[str, float]) -> dict[str, float]:
        """Draws the sheet, and adds the score to the metrics."""
        if self.picture is not None:
            sample_sheet(model, self.pairs, self.picture, self.temperature, seed=self.seed, centres=self.centres)
        return {**metrics, "score": metrics[self.by] * (1 if METRICS[self.by].better == "higher" else -1)}


class HeldOutPrior(HeldOut):
    """Scores the one picture of a model's learned prior: PSNR, and learned metrics. Arguments as `HeldOut`."""

    def __call__(self, model: ImageFlow, step: int) -> dict[str, float]:
        """The metrics, and the score that picks the best."""
        rules = Rules(model.scale, ("psnr", *self.distances), draws=1, rounded=True)
        system = FlowSystem(model, "learned prior", (None,))
        return self._drawn(model, _means(rules, system, self.pairs, self.distances))


class EncoderHeldOut:
    """Scores the own SR image of an SRFlow's encoder: PSNR (RGB)."""

    def __init__(self, pairs: dict[str, Pair]) -> None:
        self.pairs = pairs

    def __call__(self, model: Any, step: int) -> dict[str, float]:
        """The metric, and the score that picks the best."""
        device = next(model.parameters()).device
        encoder = Network(model.encoder.super_resolve, model.scale, "encoder", {}, device)
        metrics = _means(Rules(model.scale, ("psnr",)), encoder, self.pairs)
        return {**metrics, "score": metrics["psnr"]}


class HeldOutRescaling:
    """Scores a rescaling model on test images, down and up again: PSNR on Y; and draws a sheet.

    Args:
        pairs: test images by name.
        temperature: τ of the latents.
        picture, centres, seed: as for `HeldOut`.
        jpeg: quality of the JPEG that the LR images are stored as, and the score is of; None for PNG.
    """

    def __init__(
        self,
        pairs: dict[str, Pair],
        temperature: float,
        picture: Path | None = None,
        centres: Centres | None = None,
        seed: int = 0,
        jpeg: int | None = None,
    ) -> None:
        self.pairs, self.temperature = pairs, temperature
        self.picture, self.centres, self.seed, self.jpeg = picture, centres, seed, jpeg

    def __call__(self, model: ImageFlow, step: int) -> dict[str, float]:
        """The metrics, and the score that picks the best."""
        scored = "psnr_y" if self.jpeg is None else jpeg_metric(self.jpeg)
        metrics = tuple(dict.fromkeys(("psnr_y", "ssim_y", "lr_psnr", scored)))
        rules = Rules(model.scale, metrics, draws=1, seed=self.seed)
        found = _means(rules, FlowSystem(model, "model", (self.temperature,), rescaling=True), self.pairs)
        if self.picture is not None:
            rescaling_sheet(model, self.pairs, self.picture, self.temperature, self.seed, self.centres)
        named = {"psnr": found["psnr_y"], "ssim": found["ssim_y"], "lr_psnr": found["lr_psnr"]}
        return {**named, **({} if self.jpeg is None else {"psnr_jpeg": found[scored]}), "score": found[scored]}


def _means(
    rules: Rules, system: System, pairs: dict[str, Pair], networks: Mapping[str, Distance] | None = None
) -> dict[str, float]:
    """The means of a system's one row.

    Raises:
        ValueError: if a metric can't be computed.
    """
    (row,) = Evaluator(rules, networks=networks).score(system, pairs)
    for metric, why in row["not_computed"].items():
        raise ValueError(f"{metric} of the test images: {why}")
    return means(row)
