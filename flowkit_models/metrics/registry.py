"""The metric registry: a metric is a function and a `Metric` row, and everything that scores asks here.

`flowkit evaluate`, the recipes' tables and validation while training all go through `METRICS`. To add a metric, write
the function and a row in `_ROWS`; its name then works in `flowkit evaluate --metrics`. A program's own `register`s it.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowkit_models.images.convert import luma, to_float
from flowkit_models.metrics.full_reference import Window, consistency, consistency_with_hr, lr_psnr, psnr, ssim
from flowkit_models.metrics.no_reference import brisque, niqe
from flowkit_models.metrics.perceptual import DISTS, LPIPS
from flowkit_models.metrics.stochastic import diversity, diversity_score, squared_error_map


@dataclass(frozen=True)
class Rules:
    """Scoring protocol: metrics, draws, borders, colour, rounding.

    Attributes:
        scale: HR size over LR size.
        metrics: names of the registry's, in the table's order.
        draws: samples per image and temperature.
        seed: of the draws, started anew for each row of the table, and of the noise in likelihoods.
        crop: pixels left out at every edge by PSNR and SSIM; None for `scale`, rounded up. SRFlow: 0.
        window: of SSIM. SRFlow: "uniform".
        luma: Y as it is (HCFlow, IRN), or rounded (MATLAB).
        truncate: results lose the fraction of their grey levels instead of being rounded. SRFlow.
        rounded: LPIPS and DISTS see 8-bit images too, as in the recipes' tables, and not what the network made.
    """

    scale: float
    metrics: tuple[str, ...]
    draws: int = 5
    seed: int = 0
    crop: int | None = None
    window: Window = "gaussian"
    luma: Literal["exact", "integer"] = "exact"
    truncate: bool = False
    rounded: bool = False

    @property
    def border(self) -> int:
        """Pixels left out at every edge."""
        return math.ceil(self.scale) if self.crop is None else self.crop

    def y(self, x: Tensor) -> Tensor:
        """The Y channel of RGB images."""
        return luma(x, integer=self.luma == "integer")

    def words(self) -> dict[str, str]:
        """Definition of each metric."""
        said = {
            "edges": f"without {self.border} pixels at every edge",
            "y": "Y of BT.601, " + ("rounded (MATLAB)" if self.luma == "integer" else "not rounded"),
            "window": "11×11 Gaussian window, σ 1.5" if self.window == "gaussian" else "7×7 uniform window",
            "seen": "8 bits" if self.rounded else "not rounded where the system gives it so",
        }
        return {name: METRICS[name].words.format_map(said) for name in self.metrics}

    def protocol(self) -> dict[str, Any]:
        """The protocol in values and words, for a file of results."""
        values = asdict(self)
        del values["rounded"]  # the words say it
        return {
            **values,
            "crop": self.border,
            "images": f"8 bits, {'truncated' if self.truncate else 'rounded'}; metrics in float64",
            "mean": "over images and draws; spread: standard deviation (n - 1) over draws of the mean over images",
            "metrics": self.words(),
        }


@dataclass(frozen=True)
class Case:
    """One test image with a system's results, as a metric gets it.

    Attributes:
        rules: how to score.
        hr, lr: the pair, uint8 (1, 3, H, W) and (1, 3, h, w).
        images: the results (n, 3, H, W) as the system gave them: floats in [0, 1], or uint8.
        files: the same as files hold them, uint8. Of a metric of the model itself, both are empty.
        model: the flow model behind them, if there is one.
        network: the metric's learned network, if it has one.
        of_jpeg: makes `files` of the LR image as a JPEG file of a quality gives it back; None where nothing does.
    """

    rules: Rules
    hr: Tensor
    lr: Tensor
    images: Tensor
    files: Tensor
    model: Any = None
    network: Any = None
    of_jpeg: Callable[[int], Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """The network's device; the CPU if it has no weights."""
        weights = self.network.parameters() if isinstance(self.network, nn.Module) else iter(())
        return next((p.device for p in weights), torch.device("cpu"))

    def encodable(self) -> tuple[Tensor, Tensor]:
        """The part of HR and LR, in [0, 1] and on the model's device, that the model can encode."""
        device, stride, scale = next(self.model.parameters()).device, self.model.flow.stride, self.model.scale
        height, width = (size // stride * stride for size in self.hr.shape[2:])
        hr, lr = self.hr[..., :height, :width], self.lr
        if not self.model.any_scale:  # to which LR and HR belong as they are
            lr = lr[..., : height // scale, : width // scale]
        return to_float(hr).to(device), to_float(lr).to(device)


@dataclass(frozen=True)
class Metric:
    """Row of the registry: a metric, its heading and its function.

    Attributes:
        name: in options and in files of results.
        heading: of its column.
        decimals: in tables.
        better: whether a higher or a lower value is better.
        words: its definition, for the protocol; {edges}, {window}, {y} and {seen} are replaced by what the rules say.
        compute: values of a case: one for each draw, or one for all of them. A ValueError says why there are none.
        of: the results one by one ("image"), all results of an image together ("draws", two or more), or the flow model
            itself, whatever the temperature ("model").
        applies: tells the flow models that a metric of the model makes sense for.
        network: makes its learned network, which has a `checksum`, given `weights`, a file or folder of them.
    """

    name: str
    heading: str
    decimals: int
    better: Literal["higher", "lower"]
    words: str
    compute: Callable[[Case], list[float]]
    of: Literal["image", "draws", "model"] = "image"
    applies: Callable[[Any], bool] = lambda model: True
    network: Callable[..., nn.Module] | None = None

    @property
    def title(self) -> str:
        """The heading, with which way is better."""
        return f"{self.heading} {'↑' if self.better == 'higher' else '↓'}"

    @property
    def form(self) -> str:
        """Its number format."""
        return f".{self.decimals}f"


def register(metric: Metric) -> Metric:
    """Adds a metric to the registry.

    Raises:
        ValueError: if its name is taken.
    """
    if METRICS.setdefault(metric.name, metric) is not metric:
        raise ValueError(f"metric {metric.name!r} is registered already")
    return metric


def check_metrics(names: Iterable[str]) -> None:
    """Raises a ValueError that lists all metrics if a name is none of them."""
    for name in names:
        if name not in METRICS:
            raise ValueError(f"no metric is called {name!r}; there are {', '.join(METRICS)}")


def _each(measure: Callable[[Tensor, Case], Tensor]) -> Callable[[Case], list[float]]:
    """`compute` of a function of images: it gets each 8-bit result by itself, (1, 3, H, W), as images may be large."""
    return lambda case: [measure(x[None], case).item() for x in case.files]


def _distance(case: Case) -> list[float]:
    images = case.files if case.rules.rounded else case.images
    images = to_float(images) if images.dtype == torch.uint8 else images
    return [case.network(x[None].to(case.device), to_float(case.hr).to(case.device)).item() for x in images]


def _diversity(case: Case) -> list[float]:
    return diversity(case.images[:, None]).tolist()


def _ntire(case: Case) -> list[float]:
    def maps(a: Tensor, b: Tensor) -> Tensor:
        found: Tensor = case.network.maps(a.to(case.device), b.to(case.device)).cpu()
        return found

    return diversity_score(case.images[:, None], to_float(case.hr), maps).tolist()


def _ntire_mse(case: Case) -> list[float]:
    return diversity_score(case.images[:, None], to_float(case.hr), squared_error_map).tolist()


def _lr_psnr(case: Case) -> list[float]:
    hr = to_float(case.hr).to(next(case.model.parameters()).device)
    return [lr_psnr(case.model.downscale(hr).cpu(), case.lr).item()]


def _likelihood(name: str) -> Callable[[Case], list[float]]:
    return lambda case: [getattr(case.model, name)(*case.encodable()).item()]


def _has_density(model: Any) -> bool:
    return model.base is not None


def _roundtrip_error(case: Case) -> list[float]:
    hr, lr = case.encodable()
    encoded = case.model.encode(hr, lr)
    again = case.model.decode(lr if encoded.lr is None else encoded.lr, encoded.latents, lr)
    return [float((again - hr).abs().max())]


def _of_jpeg(quality: int) -> Callable[[Case], list[float]]:
    def compute(case: Case) -> list[float]:
        if case.of_jpeg is None:
            raise ValueError("these results can't be made again from other LR images")
        return _psnr_y(replace(case, files=case.of_jpeg(quality)))

    return compute


_psnr = _each(lambda x, c: psnr(x, c.hr, c.rules.border))
_ssim = _each(lambda x, c: ssim(x, c.hr, c.rules.border, c.rules.window))
_psnr_y = _each(lambda x, c: psnr(c.rules.y(x), c.rules.y(c.hr), c.rules.border))
_ssim_y = _each(lambda x, c: ssim(c.rules.y(x), c.rules.y(c.hr), c.rules.border, c.rules.window))
_niqe = _each(lambda x, c: niqe(x))
_brisque = _each(lambda x, c: brisque(x))
_consistency = _each(lambda x, c: consistency(x, c.lr))
_consistency_hr = _each(lambda x, c: consistency_with_hr(x, c.hr, c.rules.scale))

_LPIPS = "LPIPS v0.1, AlexNet, whole image, {seen}; smaller is better"
_DISTS = "DISTS at the image's own size, {seen}; smaller is better"
_TO_LR = "dB; PSNR between the bicubic of the 8-bit result and the LR file (paper), RGB, whole image"
_TO_HR = (
    "dB; PSNR between the bicubics of the 8-bit result and of HR, neither rounded (official code), RGB, whole image"
)
_OWN_LR = (
    "dB; PSNR between the LR image that the flow makes of HR, 8 bits, no noise added, and the LR file, RGB, whole image"
)
_DEVIATION = "grey levels; standard deviation over the draws (n - 1) of each sub-pixel, not rounded, mean"
_NTIRE = "%; NTIRE 2021's diversity score with maps of "
_NLL = "bits per HR pixel, as the official code counts them"
_BITS = "true bits per sub-pixel of HR given LR"
_ROUNDTRIP = "largest |decode(encode(x)) − x| of a sub-pixel in float32, image range [0, 1]"

_ROWS = (
    Metric("psnr", "PSNR", 2, "higher", "dB; RGB, all channels jointly, {edges}", _psnr),
    Metric("ssim", "SSIM", 4, "higher", "RGB, mean over channels, {window}, {edges}", _ssim),
    Metric("psnr_y", "PSNR (Y)", 2, "higher", "dB; {y}, {edges}", _psnr_y),
    Metric("ssim_y", "SSIM (Y)", 4, "higher", "{y}, {window}, {edges}", _ssim_y),
    Metric("lpips", "LPIPS", 4, "lower", _LPIPS, _distance, network=LPIPS),
    Metric("dists", "DISTS", 4, "lower", _DISTS, _distance, network=DISTS),
    Metric("niqe", "NIQE", 2, "lower", "NIQE, whole image; smaller is more natural", _niqe),
    Metric("brisque", "BRISQUE", 2, "lower", "BRISQUE, whole image; smaller is more natural", _brisque),
    Metric("consistency", "consistency", 2, "higher", _TO_LR, _consistency),
    Metric("consistency_hr", "consistency (HR)", 2, "higher", _TO_HR, _consistency_hr),
    Metric("lr_psnr", "LR-PSNR", 2, "higher", _OWN_LR, _lr_psnr, "model", lambda model: model.makes_lr),
    Metric("diversity", "diversity", 2, "higher", _DEVIATION, _diversity, "draws"),
    Metric("ntire", "NTIRE diversity", 2, "higher", f"{_NTIRE}LPIPS (AlexNet)", _ntire, "draws", network=LPIPS),
    Metric("ntire_mse", "NTIRE diversity (MSE)", 2, "higher", f"{_NTIRE}the squared error", _ntire_mse, "draws"),
    Metric("nll", "NLL", 3, "lower", _NLL, _likelihood("nll"), "model", _has_density),
    Metric("bits_per_dim", "bits/dim", 3, "lower", _BITS, _likelihood("bits_per_dim"), "model", _has_density),
    Metric("roundtrip_error", "round-trip error", 7, "lower", _ROUNDTRIP, _roundtrip_error, "model"),
)
METRICS: dict[str, Metric] = {row.name: row for row in _ROWS}
"""Every metric by name."""


def jpeg_metric(quality: int) -> str:
    """Name of the PSNR on Y of results whose LR image was stored as JPEG of a quality; in the registry from now on.

    Raises:
        ValueError: for a quality that is none of 1 to 100.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"JPEG: quality is 1 to 100, got {quality}")
    name = f"psnr_y_jpeg{quality}"
    if name not in METRICS:
        words = f"dB; PSNR (Y) where the LR image is a JPEG file of quality {quality}, 4:2:0; {{y}}, {{edges}}"
        register(Metric(name, f"JPEG {quality}", 2, "higher", words, _of_jpeg(quality)))
    return name


for _quality in (30, 50, 70, 80, 90):
    jpeg_metric(_quality)
