"""Examination of a model: where its flow loses precision, explodes, or never saw data, and what to do about it."""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from flowkit import ActNorm, InvertibleConv1x1, Latents
from flowkit.spatial import Patch
from flowkit_models.diagnostics import findings
from flowkit_models.diagnostics.findings import Finding, Latent, Severity
from flowkit_models.diagnostics.layer_stats import Layer, constant_channels, trace
from flowkit_models.diagnostics.nonfinite import ERRORS
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.models.base import ImageFlow

ORDER: tuple[Severity, ...] = ("ok", "warn", "bad")


@dataclass(frozen=True)
class Report:
    """Result of an examination.

    Attributes:
        findings: what was judged, one line each.
        layers: the flow's layers in the order of the way forward; none where numbers that are not finite leave nothing
            to measure.
        levels: error of what enters each level, after the way there and back, finest first, in float32 and float64.
        latents: coarsest first.
        conditions: condition number of each matrix over channels, by name.
        uninitialised: names of the ActNorms that never saw data, those inside networks included.
        dead: by the name of a layer in a coupling's network, its units that are zero at every pixel.
    """

    findings: tuple[Finding, ...]
    layers: tuple[Layer, ...] = ()
    levels: tuple[tuple[float, float], ...] = ()
    latents: tuple[Latent, ...] = ()
    conditions: dict[str, float] | None = None
    uninitialised: tuple[str, ...] = ()
    dead: dict[str, tuple[int, ...]] | None = None

    @property
    def verdict(self) -> Severity:
        """The worst of the findings."""
        return max((finding.severity for finding in self.findings), key=ORDER.index)


@torch.no_grad()
def examine_model(model: ImageFlow, hr: Tensor, lr: Tensor | None = None) -> Report:
    """Examines a model on images.

    Looks at the weights, sends the images through every layer there and back in float32 and in float64, and decodes
    latents drawn at temperature 1. The images get the dequantisation noise that a model for super-resolution was
    trained with, and the latents of such a model should be standard normal. Noise and draws are always the same.
    Networks run in float32, whatever the model's `precision`.

    Args:
        model: any image model; it is left as it is.
        hr: HR images (B, 3, H, W) in [0, 1], sides multiples of the model's stride. Some ten thousand pixels will do;
            memory grows with them and with the layers.
        lr: their LR images; None makes them, bicubic.

    Raises:
        ValueError: for images that do not fit the model or each other.
    """
    if lr is None:
        lr = bicubic_resize(hr, Fraction(1, model.scale)).clamp(0, 1)
    model._check_pair(hr, lr)
    hr, lr = hr.float(), lr.float()
    model = copy.deepcopy(model).float().eval()
    model.precision = "float32"
    generator = torch.Generator().manual_seed(0)
    if model.config.purpose == "sr" and model.draws_noise:
        hr = model._dequantize(hr, noise=torch.rand(hr.shape, generator=generator).to(hr))[0]

    flags = {name: bool(m.initialized) for name, m in model.named_modules() if hasattr(m, "statistics_input")}
    unset = tuple(name for name, initialized in flags.items() if not initialized)
    matrices = dict(condition_numbers(model))
    told = [
        findings.weights(model.state_dict()),
        findings.initialisation(unset, len(flags)),
        findings.conditions(matrices),
    ]
    if told[0].severity == "ok":
        z = model.draw(lr, generator)
        told += [
            findings.finite(model, "forward", lambda: model.flow(hr, model.context(lr))),
            findings.finite(
                model,
                "inverse",
                lambda: model.flow.inverse(Latents(lr if model.makes_lr else None, z), model.context(lr)),
            ),
        ]
        if model.prior is not None:
            told.append(findings.finite(model, "learned prior", lambda: model.upscale(lr)))
    seen = None
    if all(finding.severity == "ok" for finding in told if finding.subject in ("weights", "forward")):
        with contextlib.suppress(*ERRORS):  # a singular matrix, which is told already
            seen = trace(model, hr, lr)
    if seen is None:
        spans = {name: _span(m) for name, m in model.named_modules() if isinstance(m, ActNorm)}
        return Report((*told, findings.scales(spans)), conditions=matrices, uninitialised=unset)

    latents = tuple(findings.statistics(part, constant_channels(part)) for part in seen.latents)
    widths = {name: len(model.get_parameter(f"{name}.bias")) for name in seen.dead}
    told += [
        *findings.round_trip(seen),
        findings.scales({layer.name: layer.scale for layer in seen.layers if layer.scale is not None}),
        *findings.latents(latents, model.config.purpose == "sr"),
        *([] if seen.lr is None else [findings.made_lr(seen.lr, lr)]),
        findings.constant(seen.layers, latents),
        findings.dead_units(seen.dead, widths),
    ]
    return Report(tuple(told), tuple(seen.layers), tuple(seen.level_errors), latents, matrices, unset, seen.dead)


def condition_numbers(model: nn.Module) -> Iterator[tuple[str, float]]:
    """Condition number of every matrix over channels, by its name, in float64; infinite if singular."""
    for name, module in model.named_modules():
        if isinstance(module, InvertibleConv1x1 | Patch):
            matrix = module.matrix() if isinstance(module, InvertibleConv1x1) else module.weight
            if not bool(matrix.isfinite().all()):
                yield name, float("nan")
                continue
            values = torch.linalg.svdvals(matrix.detach().double())
            yield name, float(values[0] / values[-1])


def _span(layer: Any) -> tuple[float, float]:
    factors = layer.log_scale.double().exp()
    return float(factors.min()), float(factors.max())
