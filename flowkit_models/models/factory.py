"""Making image models: by name, or of a checkpoint."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flowkit_models.models.base import ImageFlow
from flowkit_models.models.checkpoint_file import FORMAT, check_keys, read_weights
from flowkit_models.models.detect import known_sizes, looks_like
from flowkit_models.models.official_weights import load_official
from flowkit_models.models.presets import PRESETS
from flowkit_models.models.registry import FAMILIES


def list_models() -> list[str]:
    """The names that `create` knows.

    Example:
        >>> "hcflow_sr_x4" in list_models()
        True
    """
    return sorted(PRESETS)


def create(name: str, memory: str = "plain", precision: str = "float32", **overrides: Any) -> ImageFlow:
    """Makes a model with fresh weights.

    Args:
        name: one of `list_models()`.
        memory: "plain", or "lean": reversible flows and recomputed feature extractors keep few activations.
        precision: "float32", or "bf16" for the networks (the invertible maps stay in float32).
        **overrides: fields of the model's config.

    Raises:
        ValueError: for an unknown name, an unknown field, or an impossible choice.

    Example:
        >>> model = create("hcflow_sr_x4_small", steps=1)
        >>> model.config.steps, model.config.scale
        (1, 4)
    """
    if name not in PRESETS:
        raise ValueError(f"no model {name!r}; there are {', '.join(list_models())}")
    family, config = PRESETS[name]
    return build(family, config, memory, precision, overrides)


def build(
    family: str,
    config: Mapping[str, Any],
    memory: str = "plain",
    precision: str = "float32",
    overrides: Mapping[str, Any] | None = None,
) -> ImageFlow:
    """Makes a model of a family from fields of its config, some of them overridden; arguments as for `create`."""
    if memory not in ("plain", "lean"):
        raise ValueError(f'memory must be "plain" or "lean", got {memory!r}')
    if precision not in ("float32", "bf16"):
        raise ValueError(f'precision must be "float32" or "bf16", got {precision!r}')
    record = FAMILIES[family]
    fields = {field.name for field in dataclasses.fields(record.config)}
    values = {name: _frozen(value) for name, value in {**config, **(overrides or {})}.items()}
    unknown = [name for name in values if name not in fields]
    if unknown:
        raise ValueError(f"{family} has no option {unknown[0]!r}; it has {', '.join(sorted(fields))}")
    make: Any = record.model
    model: ImageFlow = make(record.config(**values), memory)
    model.precision = precision  # type: ignore[assignment]
    return model


def _frozen(value: Any) -> Any:
    """Lists, which JSON makes of tuples, back to tuples."""
    return tuple(_frozen(part) for part in value) if isinstance(value, list | tuple) else value


def load(
    path: str | os.PathLike[str], memory: str = "plain", precision: str = "float32", **overrides: Any
) -> ImageFlow:
    """Opens a checkpoint: one of ours (.safetensors), or an official one (.pth), told by its content.

    Nothing in the file is executed. Architecture and sizes come from the stored config, or for an official
    checkpoint from its names and shapes; the model is in eval mode, on the CPU, in the precision of the file.

    Args:
        path: the file.
        memory: as for `create`.
        precision: as for `create`.
        **overrides: fields of the config that weights can't tell, such as quant.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no checkpoint of a known model, or its weights do not fit, or are not finite.
    """
    return from_weights(*read_weights(path), str(path), memory, precision, overrides)


def from_weights(
    state: Mapping[str, Tensor],
    notes: Mapping[str, str],
    source: str,
    memory: str = "plain",
    precision: str = "float32",
    overrides: Mapping[str, Any] | None = None,
) -> ImageFlow:
    """Makes the model of a checkpoint's weights and notes; arguments as for `load`.

    Args:
        state: weights by name, ours or official ones.
        notes: {} for official weights.
        source: names the checkpoint in errors.
        memory: as for `create`.
        precision: as for `create`.
        overrides: as for `load`.

    Raises:
        ValueError: as `load`.
    """
    if "flowkit" in notes:
        return _of_own(state, notes, source, memory, precision, overrides)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    known = known_sizes(shapes)
    if known is None:
        raise ValueError(
            f"{source}: looks like {looks_like(shapes)}; known are the published checkpoints of {', '.join(FAMILIES)} "
            "and flowkit's own .safetensors"
        )
    try:
        model = build(*known, memory, precision, overrides)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    load_official(_match_dtype(model, state), state, source)
    return model.eval()


def _of_own(
    state: Mapping[str, Tensor],
    notes: Mapping[str, str],
    source: str,
    memory: str,
    precision: str,
    overrides: Mapping[str, Any] | None,
) -> ImageFlow:
    family = notes.get("model")
    if notes["flowkit"] != FORMAT or family not in FAMILIES:
        raise ValueError(f"{source}: written by another flowkit ({family}, format {notes['flowkit']})")
    stored = json.loads(notes["config"])
    config = {"purpose": FAMILIES[family].first_purpose(stored), **stored}
    model = build(family, config, memory, precision, overrides)
    check_keys({name: tuple(t.shape) for name, t in model.state_dict().items()}, state, source)
    _match_dtype(model, state).load_state_dict(state)
    return model.eval()


def _match_dtype(model: ImageFlow, state: Mapping[str, Tensor]) -> ImageFlow:
    """Takes over float64 weights as they are; half-precision ones are widened on loading."""
    wide = any(tensor.dtype == torch.float64 for tensor in state.values())
    return model.double() if wide else model
