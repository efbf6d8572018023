"""Makes image models: by name, or from a checkpoint."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowkit_models.models.base import ImageFlow
from flowkit_models.models.checkpoint_file import (
    FORMAT,
    read_weights,
)
from flowkit_models.models.detect import known_sizes, looks_like
from flowkit_models.models.hcflow.model import HCFlow, HCFlowConfig
from flowkit_models.models.irn.model import IRN, IRNConfig
from flowkit_models.models.official_weights import check_keys, load_official, load_part
from flowkit_models.models.presets import PRESETS
from flowkit_models.models.srflow.model import SRFlow, SRFlowConfig

MODELS: dict[str, Any] = {"HCFlow": HCFlow, "SRFlow": SRFlow, "IRN": IRN}
"""Model classes by the name that a checkpoint stores. Each is made from its config."""

CONFIGS: dict[str, type[Any]] = {"HCFlow": HCFlowConfig, "SRFlow": SRFlowConfig, "IRN": IRNConfig}


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


def build(family: str, config: dict[str, Any], memory: str, precision: str, overrides: dict[str, Any]) -> ImageFlow:
    """Makes a model of a family from the fields of its config, some of them overridden."""
    if memory not in ("plain", "lean"):
        raise ValueError(f'memory must be "plain" or "lean", got {memory!r}')
    if precision not in ("float32", "bf16"):
        raise ValueError(f'precision must be "float32" or "bf16", got {precision!r}')
    fields = {field.name for field in dataclasses.fields(CONFIGS[family])}
    unknown = [name for name in (*config, *overrides) if name not in fields]
    if unknown:
        raise ValueError(f"{family} has no option {unknown[0]!r}; it has {', '.join(sorted(fields))}")
    values = {name: _frozen(value) for name, value in {**config, **overrides}.items()}
    model: ImageFlow = MODELS[family](CONFIGS[family](**values), memory)
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
    path = Path(path)
    state, metadata = read_weights(path)
    if "flowkit" in metadata:
        return _load_ours(path, state, metadata, memory, precision, overrides)
    return _load_official(path, state, memory, precision, overrides)


def _load_ours(
    path: Path,
    state: dict[str, Tensor],
    metadata: dict[str, str],
    memory: str,
    precision: str,
    overrides: dict[str, Any],
) -> ImageFlow:
    if metadata["flowkit"] != FORMAT or metadata.get("model") not in MODELS:
        raise ValueError(f"{path}: written by another flowkit ({metadata.get('model')}, format {metadata['flowkit']})")
    model = build(metadata["model"], json.loads(metadata["config"]), memory, precision, overrides)
    check_keys({name: tuple(t.shape) for name, t in model.state_dict().items()}, state, str(path))
    _match_dtype(model, state).load_state_dict(state)
    return model.eval()


def _load_official(
    path: Path, state: dict[str, Tensor], memory: str, precision: str, overrides: dict[str, Any]
) -> ImageFlow:
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    known = known_sizes(shapes)
    if known is None:
        raise ValueError(
            f"{path}: looks like {looks_like(shapes)}; known are the published checkpoints of {', '.join(MODELS)} "
            "and flowkit's own .safetensors"
        )
    try:
        model = build(*known, memory, precision, overrides)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    load_official(_match_dtype(model, state), state, str(path))
    return model.eval()


def load_encoder(model: SRFlow, path: str | os.PathLike[str]) -> None:
    """Copies an RRDB network's weights into an SRFlow's encoder: an official RRDB_*.pth, or those in any SRFlow.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no RRDB network of these sizes.
    """
    state, metadata = read_weights(path)
    if "flowkit" in metadata:
        own = {name.removeprefix("encoder."): t for name, t in state.items() if name.startswith("encoder.")}
        check_keys({name: tuple(t.shape) for name, t in model.encoder.state_dict().items()}, own, str(path))
        model.encoder.load_state_dict(own)
        return
    whole = any(name.startswith("RRDB.") for name in state)
    alone = {name if whole else f"RRDB.{name}": tensor for name, tensor in state.items()}
    load_part(model, {name: t for name, t in alone.items() if name.startswith("RRDB.")}, "RRDB.", str(path))


def _match_dtype(model: ImageFlow, state: Mapping[str, Tensor]) -> ImageFlow:
    """Takes over float64 weights as they are; half-precision ones are widened on loading."""
    wide = any(tensor.dtype == torch.float64 for tensor in state.values())
    return model.double() if wide else model
