"""Bundled weights of a run: its best checkpoint, with notes on what it is for and how it was made.

    python recipes/bundle.py runs/hcflow_sr/shipped-x4 hcflow_x4 --temperature 0 --use "…" --recipe "…" …

writes flowkit_models/data_files/hcflow_x4.safetensors. Notes that are in the checkpoint already stay where no option
gives another, so a bundled file can be given a new note in the same way. Paths of the machine are cut to their last
part.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from flowkit_models.models import factory
from flowkit_models.models.bundled import folder
from flowkit_models.models.checkpoint_file import OWN_NOTES, read_about
from flowkit_models.training.recipe import run

LARGEST = 8_000_000
"""Bytes of a bundled file."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the script; each that is a text is a note of that name."""

    source: Annotated[Path, tyro.conf.Positional]
    """Folder of a run, or a checkpoint."""
    name: Annotated[str, tyro.conf.Positional]
    """Of the bundled model."""
    temperature: str = ""
    """Recommended τ."""
    use: str = ""
    """What the model is for, a phrase."""
    recipe: str = ""
    """The command that trains it."""
    training: str = ""
    """How it was trained. Without it: steps and crops, as the run says."""
    data: str = ""
    """Photographs that it was trained on, and where their authors are named."""
    scores: str = ""
    """Its scores, in a line."""
    license: str = ""
    """Of the weights. Without it: what the checkpoint says, or else Apache-2.0."""
    out: Path = dataclasses.field(default_factory=folder)
    """Folder of the bundled file."""


def main(options: Options) -> None:
    """Reads the checkpoint, completes its notes, and writes the file."""
    source = options.source / "best.safetensors" if options.source.is_dir() else options.source
    model = factory.load(source)
    notes = {name: text for name, text in read_about(source).items() if name not in OWN_NOTES}
    described = json.loads(notes.get("run", "{}"))
    made = described.get("options", {})
    described["options"] = {name: without_folders(value) for name, value in made.items()}
    if made and "training" not in notes:
        crops = f"{made['batch']} crops of {made['crop']} × {made['crop']}"
        notes["training"] = f"{notes['step']} of {made['steps']} planned steps of {crops}"
    notes |= {name: text for name, text in vars(options).items() if isinstance(text, str) and text and name != "name"}
    notes.setdefault("license", "Apache-2.0")
    wanted = ("temperature", "use", "recipe", "training", "data", "scores", "license", "step", "run")
    if missing := [name for name in wanted if name not in notes]:
        raise ValueError(f"{source}: says nothing of {', '.join(missing)}: give --{missing[0]}")
    if source.stat().st_size > LARGEST:
        raise ValueError(f"{source}: above {LARGEST / 1e6:g} MB, the most of a bundled file")
    target = options.out / f"{options.name}.safetensors"
    model.save(target, **{**notes, "run": json.dumps(described)})
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, step {notes['step']}")


def without_folders(value: Any) -> Any:
    """An option's value; of a path of the machine, the last part."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


if __name__ == "__main__":
    sys.exit(run(lambda: main(tyro.cli(Options, description=__doc__))))
