"""`flowkit models`: the models that come with the package."""

import json

from flowkit_models.cli.checkpoint_options import Models
from flowkit_models.models.bundled import list_bundled
from flowkit_models.models.words import PURPOSES, STYLES


def list_models(options: Models) -> int:
    """Runs `flowkit models`; returns the exit code, 0."""
    found = list_bundled()
    if options.json:
        told = {name: {**model._asdict(), "path": str(model.path)} for name, model in found.items()}
        print(json.dumps(told, indent=2))
        return 0
    styles = {name: style for style, name in STYLES.items()}
    rows = [("name", "", "τ", "style", "licence")]
    for name, model in found.items():
        what = f"{model.factors} {PURPOSES[model.purpose]}"
        rows.append((name, what, f"{model.temperature:g}", styles.get(name, ""), model.license))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    uses = ["", *(f"  {model.use}" for model in found.values())]
    for row, use in zip(rows, uses, strict=True):  # a line of its own for a phrase: names are not folded, nor it
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if use:
            print(use)
    return 0
