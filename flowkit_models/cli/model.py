"""The model of a command line: opened, on its device, with what it is for and how to tell it from another."""

import contextlib
import copy
import dataclasses
import functools
import multiprocessing
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from flowkit_models.cli.options import ModelOptions, RescalingOptions, Upscale
from flowkit_models.devices import bf16_warning, find_device
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.bundled import ANY_SCALE, SHIPPED, find_bundled, rescaling_model
from flowkit_models.models.checkpoint_file import checksum, noted_number, read_about
from flowkit_models.models.factory import bundled_of, find_checkpoint, load
from flowkit_models.models.registry import default_temperature
from flowkit_models.models.words import STYLES

Options = TypeVar("Options", bound=ModelOptions)


@dataclass(frozen=True, eq=False)
class Opened:
    """A model that was opened.

    Attributes:
        model: on its device, in eval mode.
        path: of its checkpoint.
        rescales: it was made for going down and up again, and not for pictures that are small from the start.
        temperature: τ that suits it.
        checksum: of its weights, hexadecimal.
        own_lr: threshold of `flowkit_models.diagnostics.lr_provenance`, where training left one in the checkpoint.
    """

    model: ImageFlow
    path: Path
    rescales: bool
    temperature: float
    checksum: str
    own_lr: float | None = None

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    def in_dtype(self, dtype: torch.dtype) -> ImageFlow:
        """The model, or its double in float64, which is made once: the model itself is never converted."""
        return self.model if dtype == next(self.model.parameters()).dtype else self._wide

    @functools.cached_property
    def _wide(self) -> ImageFlow:
        return copy.deepcopy(self.model).double()

    def require_lr(self) -> None:
        """Raises ValueError, the library's own, if the model makes no LR image."""
        if not self.model.makes_lr:
            self.model.downscale(torch.zeros(1, 3, self.model.flow.stride, self.model.flow.stride))


def open_model(options: ModelOptions) -> Opened:
    """Opens the checkpoint that the options name, or one that comes with the package.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is none of ours, damaged or not finite, or the device is not there.
    """
    path = chosen_checkpoint(options)
    device = find_device(options.device)
    if options.precision == "bf16" and multiprocessing.parent_process() is None and (slow := bf16_warning(device)):
        print(slow, file=sys.stderr)
    model = load(path, precision=options.precision)
    notes = read_about(path)
    return Opened(
        model.to(device),
        path,
        model.config.purpose == "rescaling",
        default_temperature(model, notes),
        checksum(model),
        noted_number(notes, "own_lr"),
    )


def chosen_checkpoint(options: ModelOptions) -> Path:
    """The file that the options name, or the one that comes with the package for what they ask.

    Raises:
        FileNotFoundError: if there is none.
    """
    if options.model is not None:
        return find_checkpoint(options.model)
    if isinstance(options, RescalingOptions):
        return rescaling_model(options.scale or 4)
    if isinstance(options, Upscale) and options.style is not None:
        try:
            return find_bundled(STYLES[options.style])
        except FileNotFoundError as error:
            raise FileNotFoundError(f"--style {options.style} takes {error}") from None
    if isinstance(options, Upscale) and (options.size is not None or options.scale not in (None, 4)):
        with contextlib.suppress(FileNotFoundError):  # without it, the line that says what the other one can't
            return find_bundled(ANY_SCALE)
    if not SHIPPED.is_file():
        raise FileNotFoundError("no weights came with this package: name a checkpoint with -m")
    return SHIPPED


def with_maker(options: Options, noted: Iterable[str | None]) -> Options:
    """Options that name the model that made all inputs, if they name none and it comes with the package.

    Args:
        options: of the command line.
        noted: checksums of the models that made the inputs, as their notes say.
    """
    chosen = (getattr(options, name, None) for name in ("model", "style", "scale", "size"))
    if any(choice is not None for choice in chosen):
        return options
    made_by, *others = set(noted) or {None}
    path = None if others or made_by is None else bundled_of(made_by)
    return options if path is None else dataclasses.replace(options, model=path)


def overrides(source: Any) -> dict[str, Any]:
    """The fields of a config that published weights don't tell, as options or another config have them, for `load`."""
    known = {name: getattr(source, name, None) for name in ("quant", "taps")}
    return {name: value for name, value in known.items() if value is not None}
