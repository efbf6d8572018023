"""`flowkit info`: architecture, sizes, cost and training notes of a checkpoint."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import flowkit
from flowkit_models.cli.checkpoint_options import Info
from flowkit_models.cli.model import overrides
from flowkit_models.diagnostics.profile import Cost, Profile, profile_model
from flowkit_models.models import factory
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.checkpoint_file import OWN_NOTES, read_about
from flowkit_models.models.words import factors


def show_info(options: Info) -> int:
    """Runs `flowkit info`; returns the exit code, 0.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if it is none of a known model, or the size does not suit it.
    """
    path = factory.find_checkpoint(options.checkpoint)
    model = factory.load(path, **overrides(options))
    found = profile_model(model, options.size)
    file, training = about_file(path), about_training(path)
    layers = layer_table(model) if options.layers else None
    if options.json:
        told = {"file": file, **dataclasses.asdict(found), "parameters_total": found.total}
        told |= {"receptive_field": found.receptive_field, "training": training}
        print(json.dumps(told | ({"layers": layers.splitlines()} if layers else {}), indent=2))
        return 0
    console = Console(highlight=False)
    for table in tables(found, file, training):
        console.print(table)
    if layers:
        console.print(layers, soft_wrap=True, markup=False)
    return 0


def about_file(path: Path) -> dict[str, Any]:
    """Format, bytes, number of tensors and dtypes of a checkpoint."""
    state, metadata = factory.read_weights(path)
    dtypes = sorted(
        {str(tensor.dtype).removeprefix("torch.") for tensor in state.values() if tensor.is_floating_point()}
    )
    return {
        "path": str(path),
        "format": "flowkit" if "flowkit" in metadata else "published",
        "bytes": path.stat().st_size,
        "tensors": len(state),
        "dtypes": dtypes,
    }


def about_training(path: Path) -> dict[str, Any]:
    """The notes that training left in a checkpoint of ours; what is JSON in them, decoded. {} for others."""
    notes = {name: _decoded(text) for name, text in read_about(path).items() if name not in OWN_NOTES}
    run = notes.get("run")
    if isinstance(run, dict):
        run.pop("sizes", None)  # the config says it
    return notes


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@torch.no_grad()
def layer_table(model: ImageFlow) -> str:
    """`flowkit.summary` of the flow, for an image of the least size that it takes."""
    side = model.flow.stride
    like = next(model.parameters())
    lr = like.new_full((1, 3, side // model.scale, side // model.scale), 0.5)
    return flowkit.summary(model.flow, like.new_full((1, 3, side, side), 0.5), model.context(lr))


def tables(found: Profile, file: Mapping[str, Any], training: Mapping[str, Any]) -> list[Table]:
    """Tables for the terminal."""
    h, w = found.lr_size
    model = _pairs(f"{found.family} {factors(found.scale, found.any_scale)}, {found.purpose}")
    model.add_row("file", f"{escape(file['path'])} ({file['bytes'] / 1e6:.1f} MB, {file['format']} format)")
    model.add_row("tensors", f"{file['tensors']}, {', '.join(file['dtypes'])}")
    model.add_row("receptive field", f"{found.receptive_field} × {found.receptive_field} LR pixels, by structure")
    model.add_row(f"latents of {h} × {w} LR", "\n".join(" × ".join(map(str, shape)) for shape in found.latents))
    parts = Table(title="parameters", title_justify="left")
    parts.add_column("part")
    parts.add_column("number", justify="right")
    parts.add_column("share", justify="right")
    for name, count in found.parameters.items():
        parts.add_row(name, f"{count:,}", f"{count / found.total:.1%}")
    parts.add_section()
    parts.add_row("all", f"{found.total:,}", "")
    costs = Table(title="multiply-accumulates", title_justify="left")
    for heading in ("", "per HR pixel", "per LR pixel", "for any size"):
        costs.add_column(heading, justify="right" if heading else "left")
    rows = {"encode": found.encode, "one draw": found.draw, "each further draw": found.further_draw}
    for name, cost in rows.items():
        costs.add_row(name, *_cost(cost, found.scale))
    config = _pairs("config", {name: repr(value) for name, value in found.config.items()})
    flat = {name.removeprefix("run."): str(value) for name, value in _flat(training).items()}
    return [model, parts, costs, config, *([_pairs("training", flat)] if flat else [])]


def _cost(cost: Cost, scale: int) -> tuple[str, str, str]:
    return _si(cost.per_hr_pixel), _si(cost.per_hr_pixel * scale**2), _si(cost.fixed)


def _si(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number:.0f}"


def _pairs(title: str, rows: Mapping[str, str] | None = None) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in (rows or {}).items():
        table.add_row(name, escape(value))
    return table


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested notes as one list with dotted names; what is empty or None is left out."""
    flat: dict[str, Any] = {}
    for name, part in value.items():
        if isinstance(part, Mapping):
            flat |= _flat(part, f"{prefix}{name}.")
        elif part is not None and part != []:
            flat[prefix + name] = part
    return flat
