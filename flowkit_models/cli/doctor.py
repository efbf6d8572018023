"""`flowkit doctor`: examines a checkpoint's flow layer by layer, with a remedy for what is wrong."""

import dataclasses
import json
import textwrap
from collections.abc import Iterator

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from flowkit_models.cli.checkpoint_options import Doctor
from flowkit_models.cli.model import overrides
from flowkit_models.data.sample_photos import test_photos
from flowkit_models.diagnostics import findings
from flowkit_models.diagnostics.examine import Report, examine_model
from flowkit_models.diagnostics.findings import Finding
from flowkit_models.diagnostics.lr_provenance import jpeg_warning
from flowkit_models.files import jsonable
from flowkit_models.images.image_file import read_image
from flowkit_models.images.photo_file import Header, read_photo
from flowkit_models.images.provenance import made_by
from flowkit_models.models import factory
from flowkit_models.models.base import ImageFlow

COLOURS = {"ok": "green", "warn": "yellow", "bad": "bold red"}


def examine_file(options: Doctor) -> int:
    """Runs `flowkit doctor`; returns the exit code: 1 if something is bad, else 0.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if it is none of a known model, or the image can't be read or is too small.
    """
    finding = findings.weights(factory.read_weights(options.checkpoint)[0])
    if finding.severity == "ok":
        model = factory.load(options.checkpoint, **overrides(options))
        report = examine_model(model, _images(options, model))
        report = dataclasses.replace(report, findings=(*report.findings, *_jpeg(options, model)))
    else:  # which `load` refuses
        report = Report((finding,))
    if options.json:
        print(json.dumps(jsonable({"verdict": report.verdict, **dataclasses.asdict(report)}), indent=2))
    else:
        console = Console(highlight=False)
        if not options.no_layers and report.layers:
            console.print(layer_table(report))
        for finding in report.findings:
            print_finding(console, finding)
    return int(report.verdict == "bad")


def _images(options: Doctor, model: ImageFlow) -> Tensor:
    """The middle of each image, (B, 3, H, W) in [0, 1]."""
    multiple = model.flow.stride
    side = options.crop // multiple * multiple
    if side < 1:
        raise ValueError(f"--crop {options.crop}: this model takes multiples of {multiple}")
    if options.image is not None:
        images = [read_image(options.image)]
    elif options.noise or not (images := _photographs()):
        return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    return torch.stack([_middle(image, side, multiple) for image in images]).float() / 255


def _jpeg(options: Doctor, model: ImageFlow) -> Iterator[Finding]:
    """Finding on an image that is the small one of a downscaling, stored as JPEG, where the model can't take that."""
    header = read_photo(options.image).header if options.image is not None else Header()
    warning = jpeg_warning(model, header) if made_by(header) else None
    if warning:
        text, _, remedy = warning.partition("; ")
        yield Finding("warn", "JPEG", text, remedy)


def _photographs() -> list[Tensor]:
    try:
        return list(test_photos().values())
    except ImportError:
        return []


def _middle(image: Tensor, side: int, multiple: int) -> Tensor:
    height, width = (min(side, size // multiple * multiple) for size in image.shape[1:])
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]


def print_finding(console: Console, finding: Finding) -> None:
    """Prints a finding, and below it what to do, in lines that fit."""
    indent = 5 * " "

    def filled(text: str, further: str) -> str:
        width = max(40, console.width)
        return textwrap.fill(text, width, subsequent_indent=further, break_long_words=False, break_on_hyphens=False)

    lines = filled(f"{finding.severity:<4} {finding.subject}: {finding.text}", indent)
    console.print(Text(lines[:4], COLOURS[finding.severity]), Text(lines[4:]), sep="", soft_wrap=True)
    if finding.remedy:
        console.print(Text(filled(f"{indent} → {finding.remedy}", f"{indent}   ")), soft_wrap=True)


def layer_table(report: Report) -> Table:
    """The layers of the flow, in 80 columns; the layer that loses most is marked."""
    table = Table(
        title="layers, in the order of the way forward",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading in ("layer", "module", "bits/\ndim", "own\nerror", "error", "float\n64", "factors, or\ncondition"):
        table.add_column(heading, justify="left" if heading in ("layer", "module") else "right", overflow="fold")
    worst = max(layer.own_error for layer in report.layers)
    for layer in report.layers:
        scale = "" if layer.scale is None else " … ".join(f"{factor:.2g}" for factor in layer.scale)
        condition = report.conditions.get(layer.name) if report.conditions else None
        table.add_row(
            layer.name.removeprefix("flow."),
            layer.kind,
            f"{layer.bits:+.2f}",
            *(f"{error:.0e}" for error in (layer.own_error, layer.error, layer.error64)),
            scale if condition is None else f"cond. {condition:.2g}",
            style="bold" if layer.own_error == worst else None,
        )
    return table
