"""Scores of any system on any paired set, by any of the metrics, with the protocol that says how."""

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from flowkit_models.data.image_pair import Pair
from flowkit_models.evaluation.systems import Drawn, System
from flowkit_models.images.convert import luma, to_float, to_uint8
from flowkit_models.images.image_file import ImageError
from flowkit_models.metrics.full_reference import Window, consistency, consistency_with_hr, lr_psnr, psnr, ssim
from flowkit_models.metrics.no_reference import brisque, niqe
from flowkit_models.metrics.perceptual import DISTS, LPIPS
from flowkit_models.metrics.pretrained import WeightsError
from flowkit_models.metrics.stochastic import diversity, diversity_score, squared_error_map

MetricName = Literal[
    "psnr",
    "ssim",
    "psnr_y",
    "ssim_y",
    "lpips",
    "dists",
    "niqe",
    "brisque",
    "consistency",
    "consistency_hr",
    "lr_psnr",
    "diversity",
    "ntire",
    "ntire_mse",
    "nll",
    "bits_per_dim",
]
OF_DRAWS = ("diversity", "ntire", "ntire_mse")
"""Metrics of several draws together."""
OF_MODEL = ("lr_psnr", "nll", "bits_per_dim")
"""Metrics of a flow itself, whatever the temperature."""


@dataclass(frozen=True)
class Rules:
    """How images are scored.

    Attributes:
        scale: HR size over LR size.
        metrics: in the table's order.
        draws: samples per image and temperature.
        seed: of the draws, started anew for each row of the table, and of the noise in likelihoods.
        crop: pixels left out at every edge by PSNR and SSIM; None for `scale`. SRFlow: 0.
        window: of SSIM. SRFlow: "uniform".
        luma: Y as it is (HCFlow, IRN), or rounded (MATLAB).
        truncate: results lose the fraction of their grey levels instead of being rounded. SRFlow.
    """

    scale: int
    metrics: tuple[MetricName, ...]
    draws: int = 5
    seed: int = 0
    crop: int | None = None
    window: Window = "gaussian"
    luma: Literal["exact", "integer"] = "exact"
    truncate: bool = False

    @property
    def border(self) -> int:
        """Pixels left out at every edge."""
        return self.scale if self.crop is None else self.crop

    def words(self) -> dict[str, str]:
        """What each metric is."""
        edges = f"without {self.border} pixels at every edge"
        y = "Y of BT.601, " + ("rounded (MATLAB)" if self.luma == "integer" else "not rounded")
        window = "11×11 Gaussian window, σ 1.5" if self.window == "gaussian" else "7×7 uniform window"
        said = {
            "psnr": f"dB; RGB, all channels jointly, {edges}",
            "ssim": f"RGB, mean over channels, {window}, {edges}",
            "psnr_y": f"dB; {y}, {edges}",
            "ssim_y": f"{y}, {window}, {edges}",
            "lpips": "LPIPS v0.1, AlexNet, whole image, not rounded where the system gives it so; smaller is better",
            "dists": "DISTS at the image's own size, not rounded where the system gives it so; smaller is better",
            "niqe": "NIQE, whole image; smaller is more natural",
            "brisque": "BRISQUE, whole image; smaller is more natural",
            "consistency": "dB; PSNR between the bicubic of the 8-bit result and the LR file (paper), RGB, whole image",
            "consistency_hr": "dB; PSNR between the bicubics of the 8-bit result and of HR, neither rounded (official "
            "code), RGB, whole image",
            "lr_psnr": "dB; PSNR between the LR image that the flow makes of HR, 8 bits, no noise added, and the LR "
            "file, RGB, whole image",
            "diversity": "grey levels; standard deviation over the draws (n - 1) of each sub-pixel, not rounded, mean",
            "ntire": "%; NTIRE 2021's diversity score with maps of LPIPS (AlexNet)",
            "ntire_mse": "%; NTIRE 2021's diversity score with maps of the squared error",
            "nll": "bits per HR pixel, as the official code counts them",
            "bits_per_dim": "true bits per sub-pixel of HR given LR",
        }
        return {name: said[name] for name in self.metrics}

    def protocol(self) -> dict[str, Any]:
        """All of this, for a file of results."""
        rounding = "truncated" if self.truncate else "rounded"
        return {
            **asdict(self),
            "crop": self.border,
            "images": f"8 bits, {rounding}; metrics in float64",
            "mean": "over images and draws; spread: standard deviation (n - 1) over draws of the mean over images",
            "metrics": self.words(),
        }


def set_checksum(pairs: Mapping[str, Pair]) -> str:
    """SHA-256 of the names, sizes and pixels of a set's HR and LR images."""
    digest = hashlib.sha256()
    for name, pair in pairs.items():
        for image in (pair.hr, pair.lr):
            digest.update(f"{name}{tuple(image.shape)}".encode())
            digest.update(image.contiguous().numpy().tobytes())
    return digest.hexdigest()


class Scored(NamedTuple):
    """What `Scorer.steps` yields after each image.

    Attributes:
        temperature: of the row.
        image: name of the pair.
        first: the first draw, uint8 (1, 3, H, W).
    """

    temperature: float | None
    image: str
    first: Tensor


class Scorer:
    """Scores systems by one set of rules.

    Args:
        rules: how.
        weights: file or folder of the networks of LPIPS and DISTS, as for `find_weights`.
        device: where these work.

    Attributes:
        missing: metrics that can't be computed for want of weights, and why.
        checksums: of the weights of the learned metrics.
    """

    def __init__(self, rules: Rules, weights: Path | None = None, device: str | torch.device = "cpu") -> None:
        self.rules, self.device = rules, device
        self.missing: dict[str, str] = {}
        self.checksums: dict[str, str] = {}
        self._learned: dict[str, Any] = {}
        for make, users in ((LPIPS, ("lpips", "ntire")), (DISTS, ("dists",))):
            wanted = [name for name in users if name in rules.metrics]
            if not wanted:
                continue
            try:
                network = make(weights=weights).to(device)
            except WeightsError as error:
                self.missing |= {name: str(error) for name in wanted}
                continue
            self._learned |= dict.fromkeys(wanted, network)
            self.checksums |= dict.fromkeys(wanted, network.checksum)

    @torch.no_grad()
    def steps(self, system: System, pairs: Mapping[str, Pair]) -> Iterator[Scored | list[dict[str, Any]]]:
        """Scores a system image by image; what comes last is the rows of results.

        Each row has its temperature, its number of draws, for each metric the mean, the spread over draws (None for
        one draw) and each image's values, and for each metric that could not be computed why not. A metric that
        makes no sense for a system, such as the diversity of one image, is in neither.

        Raises:
            ValueError: if a system makes an image with NaN, or of another size; the message names both.
        """
        model_values, model_missing = self._of_model(system, pairs)
        rows = []
        for temperature in system.temperatures:
            generator = torch.Generator().manual_seed(self.rules.seed)
            values: dict[str, dict[str, list[float]]] = {}
            missing = self.missing | model_missing
            draws = 1
            for image, pair in pairs.items():
                drawn = system.draw(image, pair, temperature, self.rules.draws, generator)
                files = _files(system, image, drawn, pair, self.rules.truncate)
                draws = len(files)
                for metric in self.rules.metrics:
                    if metric in missing or metric in OF_MODEL or (metric in OF_DRAWS and draws < 2):
                        continue
                    try:
                        found = self._measure(metric, files, drawn.images, pair)
                    except ValueError as error:
                        missing[metric] = f"{image}: {error}"
                        continue
                    values.setdefault(metric, {})[image] = found
                yield Scored(temperature, image, files[:1])
            measured = {name: found for name, found in (values | model_values).items() if name not in missing}
            rows.append(
                {
                    "temperature": temperature,
                    "draws": draws,
                    "metrics": {name: _summary(measured[name]) for name in self.rules.metrics if name in measured},
                    "not_computed": {name: why for name, why in missing.items() if self._applies(name, system, draws)},
                }
            )
        yield rows

    def score(self, system: System, pairs: Mapping[str, Pair]) -> list[dict[str, Any]]:
        """The rows of results of a system, see `steps`."""
        rows = list(self.steps(system, pairs))[-1]
        assert isinstance(rows, list)
        return rows

    def _applies(self, metric: str, system: System, draws: int) -> bool:
        if metric in OF_DRAWS:
            return draws > 1
        if metric == "lr_psnr":
            return system.model is not None and system.model.makes_lr
        return metric not in OF_MODEL or (system.model is not None and system.model.base is not None)

    def _of_model(
        self, system: System, pairs: Mapping[str, Pair]
    ) -> tuple[dict[str, dict[str, list[float]]], dict[str, str]]:
        """The metrics of a flow itself, and why one could not be computed."""
        values: dict[str, dict[str, list[float]]] = {}
        missing: dict[str, str] = {}
        for metric in self.rules.metrics:
            if metric not in OF_MODEL or not self._applies(metric, system, 1):
                continue
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.rules.seed)
                try:
                    values[metric] = {name: [_of_flow(metric, system.model, pair)] for name, pair in pairs.items()}
                except ValueError as error:
                    missing[metric] = str(error)
        return values, missing

    def _measure(self, metric: MetricName, files: Tensor, images: Tensor, pair: Pair) -> list[float]:
        """One metric of one image: a value for each draw, or one for all of them."""
        r = self.rules
        y = functools.partial(luma, integer=r.luma == "integer")
        hr = to_float(pair.hr)
        if metric == "diversity":
            return diversity(images[:, None]).tolist()
        if metric in OF_DRAWS:
            error_map = self._maps if metric == "ntire" else squared_error_map
            return diversity_score(images[:, None], hr, error_map).tolist()
        of_file: dict[str, Callable[[Tensor], Tensor]] = {
            "psnr": lambda x: psnr(x, pair.hr, r.border),
            "ssim": lambda x: ssim(x, pair.hr, r.border, r.window),
            "psnr_y": lambda x: psnr(y(x), y(pair.hr), r.border),
            "ssim_y": lambda x: ssim(y(x), y(pair.hr), r.border, r.window),
            "niqe": niqe,
            "brisque": brisque,
            "consistency": lambda x: consistency(x, pair.lr),
            "consistency_hr": lambda x: consistency_with_hr(x, pair.hr, r.scale),
        }
        if metric in of_file:
            return [of_file[metric](x[None]).item() for x in files]  # one by one, for large images
        distance = self._learned[metric]
        given = to_float(images) if images.dtype == torch.uint8 else images
        hr = hr.to(self.device)
        return [distance(x[None].to(self.device), hr).item() for x in given]

    def _maps(self, a: Tensor, b: Tensor) -> Tensor:
        maps: Tensor = self._learned["ntire"].maps(a.to(self.device), b.to(self.device)).cpu()
        return maps


def _files(system: System, image: str, drawn: Drawn, pair: Pair, truncate: bool) -> Tensor:
    """The images as files hold them, checked."""
    if drawn.images.shape[1:] != pair.hr.shape[1:]:
        got, hr = (" × ".join(map(str, x.shape[2:])) for x in (drawn.images, pair.hr))
        raise ImageError(f"{system.name}: made {got} of {image}, whose HR image is {hr}")
    if drawn.images.is_floating_point() and not bool(drawn.images.isfinite().all()):
        raise ImageError(f"{system.name}: NaN or infinity in the result for {image}")
    return to_uint8(drawn.images, truncate)


def _of_flow(metric: str, model: Any, pair: Pair) -> float:
    device = next(model.parameters()).device
    hr, lr = to_float(pair.hr).to(device), to_float(pair.lr).to(device)
    if metric == "lr_psnr":
        return lr_psnr(model.downscale(hr).cpu(), pair.lr).item()
    height, width = (size // model.flow.stride * model.flow.stride for size in hr.shape[2:])
    hr, lr = hr[..., :height, :width], lr[..., : height // model.scale, : width // model.scale]
    value: float = getattr(model, metric)(hr, lr).item()
    return value


def _summary(images: Mapping[str, list[float]]) -> dict[str, Any]:
    """Mean over images and draws, spread over draws, and all values."""
    table = torch.tensor(list(images.values()), dtype=torch.float64)
    spread = table.mean(0).std().item() if table.shape[1] > 1 else None
    return {
        "mean": table.mean().item(),
        "spread": None if spread is None or math.isnan(spread) else spread,
        "images": dict(images),
    }
