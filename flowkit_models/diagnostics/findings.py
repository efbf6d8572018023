"""Findings on a flow's statistics: ok, a warning, or bad, with the remedy."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from flowkit.weights_file import FLOATS
from flowkit_models.diagnostics.layer_stats import Layer, Trace
from flowkit_models.diagnostics.nonfinite import ERRORS, find_source
from flowkit_models.terminal import first_few

Severity = Literal["ok", "warn", "bad"]

GREY_LEVEL = 1 / 255

ROUND_TRIP = (GREY_LEVEL / 10, GREY_LEVEL / 2)
"""Error of the image in float32 from which on it is a warning, and bad: half a grey level shows in the file."""

ROUND_TRIP_64 = (1e-8, 1e-6)
"""The same in float64, where rounding is no excuse."""

SCALES = (1e4, 1e6)
"""Factors up or down. Float32 has seven digits, and each power of ten takes one; a prior that is as sharp as the noise
of 8-bit images multiplies by a thousand."""

CONDITIONS = (1e3, 1e5)
"""Condition numbers of matrices: each power of ten takes a digit of float32 as well."""

SPREADS = ((0.5, 2.0), (0.1, 10.0))
"""Standard deviation of a latent: outside the first range a warning, outside the second bad."""

KURTOSIS = 50.0
"""Excess kurtosis of a latent from which on it is a warning. The finest details of photographs have heavy tails."""

LR_PSNR = 25.0
"""PSNR in dB of the LR image that the model makes, below which it is a warning."""


class Finding(NamedTuple):
    """One line of the verdict.

    Attributes:
        severity: "ok", "warn" or "bad".
        subject: what was looked at.
        text: what was found, with the names of the modules.
        remedy: what to do; "" where nothing is wrong.
    """

    severity: Severity
    subject: str
    text: str
    remedy: str = ""


class Latent(NamedTuple):
    """Statistics of a latent over a batch; N(0, 1) has mean 0, standard deviation 1 and excess kurtosis 0.

    `constant` are its channels that hold one value.
    """

    shape: tuple[int, ...]
    mean: float
    std: float
    kurtosis: float
    constant: tuple[int, ...]


def weights(tensors: Mapping[str, Tensor]) -> Finding:
    """Finding on weights that are not finite, in a state dict."""
    broken = [name for name, t in tensors.items() if t.dtype in FLOATS and not bool(t.isfinite().all())]
    if broken:
        return Finding(
            "bad", "weights", f"not finite: {first_few(broken)}", "go back to a checkpoint before they broke"
        )
    return Finding("ok", "weights", "all finite")


def initialisation(names: Sequence[str], total: int) -> Finding:
    """Finding on ActNorms that never saw data."""
    if names:
        text = f"{len(names)} of {total} ActNorms are not initialised and act as the identity: {first_few(names)}"
        return Finding("warn", "ActNorm", text, "flowkit.initialize(model, batch) before training")
    return Finding("ok", "ActNorm", f"all {total} are initialised" if total else "there is none")


def conditions(numbers: Mapping[str, float]) -> Finding:
    """Finding on condition numbers of the matrices over channels."""
    return _worst(
        "1×1 convolutions",
        {name: (_rising(number, CONDITIONS), f"condition number {number:.2g}") for name, number in numbers.items()},
        "the inverse loses that many digits: start from an orthogonal matrix, train it with a lower rate, or use "
        'InvertibleConv1x1(channels, "plu"), whose diagonal can be bounded',
    )


def finite(model: nn.Module, way: str, run: Callable[[], Any]) -> Finding:
    """Finding on a pass with numbers that are not finite; it names the first module that makes them."""
    remedy = "its input is finite: bound its scale (a clamp, a floor), and see the log-scales and conditions below"
    source = find_source(model, run)
    if source is not None:
        return Finding("bad", way, source.text, remedy)
    try:
        run()
    except ERRORS as error:
        return Finding("bad", way, str(error).partition("\n")[0], "a 1×1 convolution is singular: see below")
    return Finding("ok", way, "all numbers finite")


def round_trip(seen: Trace) -> list[Finding]:
    """Findings on the round-trip error of the image, in float32 and in float64."""
    loses = max(seen.layers, key=lambda a: math.inf if math.isnan(a.own_error) else a.own_error, default=None)
    where = f"; {loses.name} ({loses.kind}) loses most, {loses.own_error:.1e} of a channel" if loses else ""
    text = f"off by {seen.image_error:.1e} at most, {seen.image_error / GREY_LEVEL:.2g} grey levels{where}"
    if len(seen.level_errors) > 1:
        text += f"; entering the levels, finest first: {', '.join(f'{single:.1e}' for single, _ in seen.level_errors)}"
    single, double = _rising(seen.image_error, ROUND_TRIP), _rising(seen.image_error64, ROUND_TRIP_64)
    return [
        Finding(single, "round trip", text, _unless_ok(single, "see the scales and conditions of that layer")),
        Finding(
            double,
            "round trip, float64",
            f"off by {seen.image_error64:.1e} at most",
            _unless_ok(double, "not a matter of rounding: that layer's inverse is wrong, or nearly singular"),
        ),
    ]


def scales(spans: Mapping[str, tuple[float, float]]) -> Finding:
    """Finding on the factors of affine maps: those too large or too small for float32."""
    judged = {}
    for name, (low, high) in spans.items():
        extreme = max(high, 1 / low if low > 0 else math.inf)
        judged[name] = _rising(extreme, SCALES), f"factors {low:.2g} … {high:.2g}"
    return _worst(
        "scales",
        judged,
        'bound the log-scale (Affine("atan"), a clamp, a floor); for an ActNorm look for a channel that was constant '
        "when it was initialised, and initialise on more images",
    )


def latents(found: Sequence[Latent], asked: bool) -> list[Finding]:
    """Findings on the moments of latents. `asked`: the model's training wants them standard normal."""
    findings = []
    for i, z in enumerate(found):
        text = f"mean {z.mean:+.2f}, std {z.std:.2f}, excess kurtosis {z.kurtosis:+.1f}"
        severity: Severity = "ok"
        if asked:
            inside = [low <= z.std <= high and abs(z.mean) <= high / 2 for low, high in SPREADS]
            severity = "bad" if not inside[1] else "ok" if inside[0] and z.kurtosis <= KURTOSIS else "warn"
        remedy = (
            "draws at temperature 1 won't look like data: train longer by likelihood, or the images are of another "
        )
        remedy += "kind than the training's"
        subject = f"latent {i}" + (" (coarsest)" if i == 0 and len(found) > 1 else "")
        findings.append(Finding(severity, subject, text, _unless_ok(severity, remedy)))
    return findings


def made_lr(made: Tensor, lr: Tensor) -> Finding:
    """Finding on the PSNR of the LR image that the flow makes."""
    psnr = -10 * math.log10(max(float((made - lr).square().mean()), 1e-12))
    severity: Severity = "ok" if psnr >= LR_PSNR else "warn"
    remedy = _unless_ok(severity, "train longer; a fresh model wants Haar levels and identity 1×1 convolutions")
    return Finding(severity, "LR image", f"{psnr:.1f} dB from the LR images", remedy)


def constant(layers: Sequence[Layer], found: Sequence[Latent]) -> Finding:
    """Finding on constant channels: they carry nothing, and an ActNorm would blow them up."""
    held = {layer.name: layer.constant for layer in layers if layer.constant}
    held |= {f"latent {i}": z.constant for i, z in enumerate(found) if z.constant}
    if not held:
        return Finding("ok", "constant channels", "none")
    name, channels = next(iter(held.items()))
    text = f"first in {name}: {first_few(channels)} ({len(held)} layers and latents have some)"
    return Finding(
        "warn", "constant channels", text, "if the image isn't flat, that layer's scale or weights are broken"
    )


def dead_units(dead: Mapping[str, tuple[int, ...]], widths: Mapping[str, int]) -> Finding:
    """Finding on dead units: those of the networks that are zero at every pixel."""
    many = {name: len(units) for name, units in dead.items() if 2 * len(units) > widths[name]}
    total = sum(map(len, dead.values()))
    share = f"{total} of {sum(widths.values())} units of the networks are zero at every pixel"
    if not many:
        return Finding("ok", "dead units", share if dead else "no network of that kind")
    names = first_few([f"{name} ({count} of {widths[name]})" for name, count in many.items()])
    remedy = "nothing to do if you only use it; if you train it: initialise on data, or take a lower rate"
    return Finding("warn", "dead units", f"{share}; most of those in {names}", remedy)


def _worst(subject: str, judged: Mapping[str, tuple[Severity, str]], remedy: str) -> Finding:
    """One finding on many modules: the worst of them by name."""
    for severity in ("bad", "warn"):
        names = [f"{name} ({text})" for name, (judgement, text) in judged.items() if judgement == severity]
        if names:
            return Finding(severity, subject, first_few(names), remedy)
    return Finding("ok", subject, f"{len(judged)} within bounds" if judged else "there is none")


def _rising(value: float, bounds: tuple[float, float]) -> Severity:
    """Severity of a value that should be small; NaN is bad."""
    return "ok" if value < bounds[0] else "warn" if value < bounds[1] else "bad"


def _unless_ok(severity: Severity, remedy: str) -> str:
    return "" if severity == "ok" else remedy


def statistics(z: Tensor, constant_channels: tuple[int, ...]) -> Latent:
    """Moments of a latent (B, C, H, W), over all of its numbers."""
    z = z.double()
    mean, std = z.mean(), z.std(correction=0)
    kurtosis = ((z - mean) / std).pow(4).mean() - 3
    return Latent(tuple(z.shape[1:]), float(mean), float(std), float(kurtosis), constant_channels)
