"""The scorer: any system on any paired set, by any metrics of the registry, with the protocol that says how."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowkit_models.data.image_pair import Pair
from flowkit_models.evaluation.systems import Drawn, System
from flowkit_models.images.convert import to_uint8
from flowkit_models.images.image_file import ImageError
from flowkit_models.metrics.pretrained import WeightsError
from flowkit_models.metrics.registry import METRICS, Case, Metric, Rules, check_metrics

Distance = Callable[[Tensor, Tensor], Tensor]
"""A learned distance of two batches of images in [0, 1], (B,), such as LPIPS."""
Values = dict[str, dict[str, list[float]]]
"""For each metric each image's values: one for each draw, or one."""


class Scored(NamedTuple):
    """One image of a row that has been scored.

    Attributes:
        temperature: of the row.
        image: name of the pair.
        first: the first draw, uint8 (1, 3, H, W).
    """

    temperature: float | None
    image: str
    first: Tensor


class Evaluator:
    """Scores systems by one set of rules.

    Args:
        rules: how.
        weights: file or folder of the weights of learned metrics, as for `find_weights`.
        device: where these work.
        networks: learned metrics' networks that are at hand, by the metric's name; the others are made.

    Attributes:
        missing: metrics that can't be computed for want of weights, and why.
        checksums: of the weights of the learned metrics that were made here.

    Raises:
        ValueError: if there is no metric of a name.
    """

    def __init__(
        self,
        rules: Rules,
        weights: Path | None = None,
        device: str | torch.device = "cpu",
        networks: Mapping[str, Distance] | None = None,
    ) -> None:
        check_metrics(rules.metrics)
        self.rules = rules
        self.missing: dict[str, str] = {}
        self.checksums: dict[str, str] = {}
        self._metrics = [METRICS[name] for name in rules.metrics]
        self._networks: dict[str, Any] = dict(networks or {})
        made: dict[Any, Any] = {}  # metrics share a network
        for metric in self._metrics:
            if metric.network is None or metric.name in self._networks:
                continue
            try:
                if metric.network not in made:
                    made[metric.network] = metric.network(weights=weights).to(device)
            except WeightsError as error:
                self.missing[metric.name] = str(error)
                continue
            self._networks[metric.name] = network = made[metric.network]
            self.checksums[metric.name] = network.checksum

    @torch.no_grad()
    def score(
        self, system: System, pairs: Mapping[str, Pair], report: Callable[[Scored], None] = lambda scored: None
    ) -> list[dict[str, Any]]:
        """Scores a system on a set: a row for each of its temperatures.

        Each row has its temperature, its number of draws, for each metric the mean, the spread over draws (None for
        one draw) and each image's values, and for each metric that could not be computed why not. A metric that
        makes no sense for a system, such as the diversity of one image, is in neither.

        Args:
            system: what is scored.
            pairs: the set's images by name.
            report: called after each image of each row.

        Raises:
            ValueError: if a system makes an image with NaN, or of another size; the message names both.
        """
        model_values, model_missing = self._of_model(system, pairs)
        rows = []
        for temperature in system.temperatures:
            generator = torch.Generator().manual_seed(self.rules.seed)
            values: Values = {}
            missing = self.missing | model_missing
            draws = 1
            for image, pair in pairs.items():
                drawn = system.draw(image, pair, temperature, self.rules.draws, generator)
                files = _files(system, image, drawn, pair, self.rules.truncate)
                draws = len(files)
                of_jpeg = partial(self._of_jpeg, system, image, pair, temperature)
                case = Case(self.rules, pair.hr, pair.lr, drawn.images, files, system.model, of_jpeg=of_jpeg)
                for metric in self._metrics:
                    if metric.name in missing or metric.of == "model" or not _applies(metric, system, draws):
                        continue
                    try:
                        found = metric.compute(replace(case, network=self._networks.get(metric.name)))
                    except ValueError as error:
                        missing[metric.name] = f"{image}: {error}"
                        continue
                    values.setdefault(metric.name, {})[image] = found
                report(Scored(temperature, image, files[:1]))
            measured = {name: found for name, found in (values | model_values).items() if name not in missing}
            applying = [metric.name for metric in self._metrics if _applies(metric, system, draws)]
            rows.append(
                {
                    "temperature": temperature,
                    "draws": draws,
                    "metrics": {name: _summary(measured[name]) for name in self.rules.metrics if name in measured},
                    "not_computed": {name: why for name, why in missing.items() if name in applying},
                }
            )
        return rows

    def _of_jpeg(self, system: System, image: str, pair: Pair, temperature: float | None, quality: int) -> Tensor:
        """What a system makes, as files, of its LR image stored as JPEG; the draws are those of the first image."""
        generator = torch.Generator().manual_seed(self.rules.seed)
        drawn = system.draw(image, pair, temperature, self.rules.draws, generator, quality)
        return _files(system, image, drawn, pair, self.rules.truncate)

    def _of_model(self, system: System, pairs: Mapping[str, Pair]) -> tuple[Values, dict[str, str]]:
        """The metrics of a flow itself, and why one could not be computed."""
        values: Values = {}
        missing: dict[str, str] = {}
        for metric in self._metrics:
            if metric.of != "model" or not _applies(metric, system, 1):
                continue
            device = next(system.model.parameters()).device if system.model else torch.device("cpu")
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(self.rules.seed)  # of the dequantisation noise
                try:
                    values[metric.name] = {
                        name: metric.compute(Case(self.rules, p.hr, p.lr, p.hr[:0], p.hr[:0], system.model))
                        for name, p in pairs.items()
                    }
                except ValueError as error:
                    missing[metric.name] = str(error)
        return values, missing


def means(row: Mapping[str, Any]) -> dict[str, float]:
    """The mean of each metric in a row of results."""
    return {name: found["mean"] for name, found in row["metrics"].items()}


def set_checksum(pairs: Mapping[str, Pair]) -> str:
    """SHA-256 of the names, sizes and pixels of a set's HR and LR images."""
    digest = hashlib.sha256()
    for name, pair in pairs.items():
        for image in (pair.hr, pair.lr):
            digest.update(f"{name}{tuple(image.shape)}".encode(errors="surrogateescape"))
            digest.update(image.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _applies(metric: Metric, system: System, draws: int) -> bool:
    """Tells whether a metric makes sense for a system with so many draws."""
    if metric.of == "model":
        return system.model is not None and metric.applies(system.model)
    return metric.of == "image" or draws > 1


def _files(system: System, image: str, drawn: Drawn, pair: Pair, truncate: bool) -> Tensor:
    """The images as files hold them, checked."""
    if drawn.images.shape[1:] != pair.hr.shape[1:]:
        got, hr = (" × ".join(map(str, x.shape[2:])) for x in (drawn.images, pair.hr))
        raise ImageError(f"{system.name}: made {got} of {image}, whose HR image is {hr}")
    if drawn.images.is_floating_point() and not bool(drawn.images.isfinite().all()):
        raise ImageError(f"{system.name}: NaN or infinity in the result for {image}")
    return to_uint8(drawn.images, truncate)


def _summary(images: Mapping[str, list[float]]) -> dict[str, Any]:
    """Mean over images and draws, spread over draws, and all values."""
    table = torch.tensor(list(images.values()), dtype=torch.float64)
    spread = table.mean(0).std().item() if table.shape[1] > 1 else None
    return {
        "mean": table.mean().item(),
        "spread": None if spread is None or math.isnan(spread) else spread,
        "images": dict(images),
    }
