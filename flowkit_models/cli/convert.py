"""`flowkit convert`: checkpoints under flowkit's names or the published ones, compared bit for bit."""

import dataclasses
import os
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from flowkit_models.cli.checkpoint_options import Convert
from flowkit_models.cli.model import overrides
from flowkit_models.files import UNFINISHED, named_errors, remove_abandoned, write_whole
from flowkit_models.models import factory
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.checkpoint_file import OWN_NOTES, read_about
from flowkit_models.models.detect import known_sizes

STARTS = ("init", "gain")
"""Fields of a config that only say how fresh weights are drawn."""


def convert_file(options: Convert) -> int:
    """Runs `flowkit convert`; returns the exit code, 0.

    Raises:
        FileNotFoundError: if there is no source, or no folder for the target.
        FileExistsError: if the target is there and is not to be replaced.
        ValueError: if the source is no checkpoint, has no published form, or the copy differs from it.
    """
    source = factory.find_checkpoint(options.source)
    if options.target.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"{options.target}: the target's name says the format: .safetensors (flowkit's) or .pth")
    if options.target.exists() and source.exists() and options.target.samefile(source):
        raise ValueError(f"{options.target}: is the source itself: name another target")
    if options.target.exists() and not options.overwrite:
        raise FileExistsError(f"{options.target}: is there already; --overwrite replaces it")
    if not options.target.parent.is_dir():
        raise FileNotFoundError(f"{options.target}: there is no folder {options.target.parent}")
    model = factory.load(source, **overrides(options))
    remove_abandoned(options.target.parent)
    proof = options.target.with_name(f"{UNFINISHED}{os.getpid()}-proof{options.target.suffix}")
    try:
        with named_errors(options.target, proof):
            write(model, proof, source)
        copy = factory.load(proof, **overrides(model.config))
        count = check_equal(model, copy, options.target)
        proof.replace(options.target)
    finally:
        proof.unlink(missing_ok=True)
    form = "flowkit's" if options.target.suffix == ".safetensors" else "the published"
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{options.target}: {type(model).__name__} ×{model.scale} under {form} names; "
        f"{count} tensors, equal to the source's bit for bit"
    )
    if options.target.suffix == ".pth" and (lost := not_stored(model)):
        console.print(f"published files don't hold {lost}: give it to load() as well")
    return 0


def write(model: ImageFlow, path: Path, source: Path) -> None:
    """Writes the model of a source in the format that the name says, whole or not at all.

    Raises:
        ValueError: if it has no published form; names the source.
    """
    if path.suffix == ".safetensors":
        model.save(path, **{name: text for name, text in read_about(source).items() if name not in OWN_NOTES})
    else:
        try:
            state = model.official_state_dict()
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
        write_whole(path, lambda file: torch.save(state, file))


def check_equal(model: ImageFlow, copy: ImageFlow, path: Path) -> int:
    """Compares the tensors of two models bit for bit; returns how many there are.

    Published files don't store the flags of initialisation: these follow from the values and are left out.

    Raises:
        ValueError: names tensors that differ.
    """
    expected, got = model.state_dict(), copy.state_dict()
    names = [name for name in expected if path.suffix != ".pth" or not name.endswith(".initialized")]
    differing = [name for name in names if name not in got or not same_bits(expected[name], got[name])]
    if differing:
        raise ValueError(f"{path}: not written, it would differ from its source in {', '.join(differing[:3])}")
    return len(names)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equality of dtype, shape and every bit: a minus zero is no zero."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(*(x.contiguous().flatten().view(torch.uint8) for x in (a, b)))


def not_stored(model: ImageFlow) -> str:
    """The fields of the config that the published names and shapes don't tell; "" if there is none."""
    known = known_sizes({name: tuple(tensor.shape) for name, tensor in model.official_state_dict().items()})
    assert known is not None, "it was just loaded"
    told = {**dataclasses.asdict(type(model.config)()), **known[1]}
    wanted = dataclasses.asdict(model.config)
    return ", ".join(f"{n}={v!r}" for n, v in wanted.items() if n not in STARTS and told[n] != v)
