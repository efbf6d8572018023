"""`flowkit models`: the models that come with the package."""

import json

from rich.console import Console
from rich.markup import escape
from rich.table import Table

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
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "", "τ", "for", "style", "licence"):
        table.add_column(heading, overflow="fold", no_wrap=heading != "for")  # a name that is cut can't be pasted
    styles = {name: style for style, name in STYLES.items()}
    for name, model in found.items():
        what = f"{model.factors} {PURPOSES[model.purpose]}"
        table.add_row(name, what, f"{model.temperature:g}", escape(model.use), styles.get(name, ""), model.license)
    Console(highlight=False).print(table)
    return 0
