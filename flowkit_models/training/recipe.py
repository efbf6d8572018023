"""Parts that training recipes share: command line, first weights, and the options as the trainer's."""

import dataclasses
import json
import os
import signal
import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro
from rich.console import Console
from torch import Tensor

from flowkit_models.devices import bf16_warning, find_device
from flowkit_models.files import read_text
from flowkit_models.models import factory
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.checkpoint_file import read_about
from flowkit_models.terminal import CLOSED, empty_argument, output_closed, replace_unprintable
from flowkit_models.training import folder_lock
from flowkit_models.training.objective import Objective
from flowkit_models.training.optim import Adam
from flowkit_models.training.options import Options
from flowkit_models.training.run_folder import RunFolder
from flowkit_models.training.signals import Stopped, stopping_at_once
from flowkit_models.training.trainer import Initialize, Result, Validate, train

C = TypeVar("C")


def first_batch(samples: Any, count: int) -> tuple[Tensor, Tensor]:
    """The first samples of training data, as one batch: hr and lr."""
    hr, lr = zip(*(samples[i] for i in range(count)), strict=True)
    return torch.stack(hr), torch.stack(lr)


def fresh_model(name: str, options: Options, **sizes: Any) -> Any:
    """The model of a preset with first weights by the seed; of a resumed run, in the sizes that it was started with.

    Args:
        name: of the model.
        options: of the recipe; --network goes before the preset's fields.
        **sizes: fields of the config that go before both.
    """
    sizes = {**options.sizes(), **sizes}
    folder = RunFolder(options.out)
    if options.resume and folder.state.exists() and folder.config.exists():
        sizes = {**json.loads(read_text(folder.config)).get("sizes", {}), **sizes}
    torch.manual_seed(options.seed)
    return factory.create(name, options.memory, options.networks, **sizes)


def initial_model(path: Path, like: ImageFlow, stages: tuple[str, ...], memory: str, networks: str) -> ImageFlow:
    """The model of a checkpoint to start from, which must be one of the sizes of `like` and of one of the stages.

    A checkpoint that says nothing of its stage, a published one, is taken for what it is given as.

    Raises:
        ValueError: if it is another model, or was trained in another stage.
    """
    model = factory.load(path, memory, networks)
    own = {"quant", "centred", "lr_rounded", "gain", "init", "prior", "purpose"}  # no sizes, so they may differ
    sizes = {f.name for f in dataclasses.fields(like.config)} - own
    if type(model) is not type(like) or any(getattr(model.config, o) != getattr(like.config, o) for o in sizes):
        raise ValueError(f"--init {path}: another model than this preset's: {model.config}")
    stage = stage_of(path)
    if stage is not None and stage not in stages:
        raise ValueError(f"--init {path}: trained in stage {stage!r}; this one starts from {' or '.join(stages)}")
    model.prior = None  # it suits the flow that it was trained with
    return model.train()


def command_line(
    kind: type[C], presets: Mapping[tuple[str, ...], C], names: tuple[str, ...], arguments: list[str], about: str | None
) -> C:
    """Parses a command line: the options called `names` choose a preset, whose values are all others' defaults.

    Raises:
        SystemExit: for `--help`; with code 2 for a line that can't be parsed, has an empty argument, or names values
            of which no preset has both.
    """
    if empty := empty_argument(arguments):
        print(f"error: {empty}", file=sys.stderr)
        raise SystemExit(2)
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    default = next(iter(presets.values()))
    for name in names:
        first.add_argument(f"--{name}")
    chosen, _ = first.parse_known_args(arguments)
    wanted = {name: getattr(chosen, name) for name in names if getattr(chosen, name) is not None}
    matches = [p for p in presets.values() if all(getattr(p, name) == value for name, value in wanted.items())]
    if not matches and all(any(getattr(p, name) == value for p in presets.values()) for name, value in wanted.items()):
        (first_name, value), (second, other) = wanted.items()  # each is known: they don't go together
        known = ", ".join(str(getattr(p, second)) for p in presets.values() if getattr(p, first_name) == value)
        print(f"error: --{first_name} {value} has no --{second} {other}; it has {known}", file=sys.stderr)
        raise SystemExit(2)
    return tyro.cli(kind, args=arguments, default=matches[0] if matches else default, description=about)


def run(main: Callable[[], object]) -> int | str:
    """Runs a recipe; returns 0, or one line that says what was wrong.

    Raises:
        Stopped: after SIGTERM or Ctrl-C, before, in or after training: the exit code is 143 or 130.
    """
    replace_unprintable()
    said: set[str] = set()

    def once(message: Warning | str, *_: object, **__: object) -> str:
        line = f"warning: {' '.join(str(message).split())}\n"
        new = line not in said
        said.add(line)
        return line if new else ""

    formatted = warnings.formatwarning
    warnings.formatwarning = once
    try:
        with stopping_at_once():
            main()
        sys.stdout.flush()  # a closed output shows here at the latest, not as the interpreter ends
    except Stopped as stop:
        if not stop.told and os.environ.get("RANK", "0") == "0":
            text = f"{stop.signal.name}: stopped; nothing is half-written, and --resume goes on with the run"
            print(text, file=sys.stderr)
        raise
    except KeyboardInterrupt:  # the second one in training
        print("SIGINT: stopped at once; --resume goes on from the last state", file=sys.stderr)
        raise Stopped(signal.SIGINT, told=True) from None
    except SystemExit as end:
        if output_closed(end):
            return CLOSED
        raise
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        if output_closed(error):
            return CLOSED
        return f"error: {' '.join(str(error).split())}"
    finally:
        warnings.formatwarning = formatted
        folder_lock.release_all()
    return 0


def fit(
    objective: Objective,
    samples: Any,
    options: Options,
    validate: Validate,
    console: Console,
    initialize: Initialize | None = None,
    discriminator: Adam | None = None,
) -> Result:
    """Trains an objective as the options say, in their folder; they are saved with the run and in each checkpoint.

    Raises:
        ValueError: for crops that are too small for the networks of the losses.
    """
    model = objective.model
    if samples.size < objective.smallest:
        enough = -(-objective.smallest // model.scale) * model.scale
        enough *= options.crop // samples.size  # where a batch's factor is drawn, --crop is the side at the largest
        raise ValueError(
            f"--crop {options.crop}: the networks of the losses need HR crops of {objective.smallest} pixels a side or "
            f"more; try {enough}"
        )
    if "bf16" in (options.networks, options.autocast) and (slow := bf16_warning(find_device(options.device))):
        console.print(slow)
    console.print(
        f"{type(model).__name__} ×{model.scale}: {sum(p.numel() for p in model.parameters()):,} parameters; "
        f"{len(samples.names)} photographs; {options.steps} steps"
    )
    result = train(
        objective,
        samples,
        options.settings(discriminator),
        options.out,
        config={"options": options, "sizes": model.config},
        notes=_notes(options, model),
        validate=validate,
        initialize=initialize,
        resume=options.resume,
        overwrite=options.overwrite,
        console=console,
    )
    if result.skipped:
        console.print(f"warning: {result.skipped} steps were skipped, their loss or gradient was not finite")
    return result


def _notes(options: Options, model: ImageFlow) -> dict[str, str]:
    """What checkpoints recommend: the τ of the run's pictures, or that it enlarges with in training."""
    given = options if hasattr(options, "temperature") else getattr(options, "loss", None)
    temperature: float | None = getattr(given, "temperature", None)
    return {} if temperature is None or model.prior is not None else {"temperature": f"{temperature:g}"}


def main_console() -> Console:
    """The console of a recipe: silent on all processes but the first."""
    return Console(quiet=os.environ.get("RANK", "0") != "0")


def stage_of(path: Path) -> str | None:
    """The stage that a checkpoint says it was trained in."""
    options = json.loads(read_about(path).get("run", "{}")).get("options", {})
    stage: str | None = options.get("stage")
    return stage
