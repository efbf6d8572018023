"""`flowkit export`: a checkpoint as a program that runs without flowkit."""

from pathlib import Path

import torch
from rich.console import Console

from flowkit import exporting
from flowkit_models.cli.checkpoint_options import Export
from flowkit_models.inference.export import OPSET, program_of, write
from flowkit_models.models import factory

FORMATS = {"onnx": "ONNX", "pt2": "a program of torch.export"}


def export_model(options: Export) -> int:
    """Runs `flowkit export`; returns the exit code, 0.

    Raises:
        FileExistsError: if the file is there and is not to be replaced.
        ModuleNotFoundError: without the packages of the extra `export`.
        ValueError: if it is no checkpoint, has a part that can't be exported, or the file ends like the other format.
    """
    source = factory.find_checkpoint(options.model)
    path = Path(options.output or f"{source.stem}.{options.to}")
    if path.exists() and path.samefile(source):
        raise ValueError(f"{path}: is the checkpoint itself: name another file with -o")
    _check_ending(path, options.to)
    if path.exists() and not options.overwrite:
        raise FileExistsError(f"{path}: is there already; --overwrite replaces it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    if options.to == "onnx":
        exporting.check_packages()  # before the work
    model = factory.load(source)
    program = program_of(model, options.temperature, options.half)
    write(program, path, options.to)

    # what a user will run is tried once, on another size than it was traced with
    unit = model.lr_multiple
    lr = torch.rand(1, 3, 11 * unit, 7 * unit, generator=torch.Generator().manual_seed(0))
    latents = model.draw(lr, torch.Generator().manual_seed(1))
    inputs = (lr, latents) if options.temperature else (lr,)
    with torch.no_grad():
        expected = model.upscale(lr, temperature=options.temperature, latents=latents)[0]
        difference = float((program.module()(*inputs) - expected).abs().max())
    kind = f"ONNX, opset {OPSET}" if options.to == "onnx" else "torch.export"
    names = ["lr", *(f"z{i}" for i in range(len(latents)))] if options.temperature else ["lr"]
    sides = f" of sides in multiples of {unit}" if unit > 1 else ""
    Console(highlight=False, soft_wrap=True).print(
        f"{path}: {kind}, {path.stat().st_size / 2**20:.1f} MiB; {type(model).__name__} ×{model.scale} of "
        f"{', '.join(names)}{sides}; the program is within {difference:.0e} of the model"
    )
    return 0


def _check_ending(path: Path, to: str) -> None:
    """Raises ValueError if a file's name ends like the other format's."""
    ending = path.suffix[1:].lower()
    if ending in FORMATS and ending != to:
        raise ValueError(f"{path}: ends like {FORMATS[ending]}, and would be {FORMATS[to]}: add --to {ending}")
