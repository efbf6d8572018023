"""Making image models: by name, or of a checkpoint."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from flowkit.hub import check_named
from flowkit.weights_file import check_keys
from flowkit_models.models import checkpoint_file, state_dicts
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.bundled import find_bundled, list_bundled
from flowkit_models.models.checkpoint_file import CONFIG_TENSOR, FORMAT, OWN_NOTES, checksum
from flowkit_models.models.detect import known_sizes, looks_like
from flowkit_models.models.hub import SharedModel
from flowkit_models.models.learned_latents import PRIOR, LatentPrior, prior_config
from flowkit_models.models.official_weights import check_official, load_official
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
        **overrides: fields of the model's config; and learned_prior={…}, the fields of a `LatentPriorConfig`.

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
    prior = values.pop(PRIOR, None)
    unknown = [name for name in values if name not in fields]
    if unknown:
        raise ValueError(f"{family} has no option {unknown[0]!r}; it has {', '.join(sorted(fields))}")
    make: Any = record.model
    model: ImageFlow = make(record.config(**values), memory)
    model.precision = precision  # type: ignore[assignment]
    if prior is not None:
        model.prior = LatentPrior(model, prior_config(prior))
    return model


def _frozen(value: Any) -> Any:
    """Lists, which JSON makes of tuples, back to tuples."""
    return tuple(_frozen(part) for part in value) if isinstance(value, list | tuple) else value


def load(
    path: str | os.PathLike[str], memory: str = "plain", precision: str = "float32", **overrides: Any
) -> ImageFlow:
    """Opens a checkpoint: one of ours (.safetensors), an official one (.pth), or one that comes with the package.

    What a file is, its content tells; nothing in it is executed. Architecture and sizes come from the stored config, or
    for an official checkpoint from its names and shapes; the model is in eval mode, on the CPU, in the precision of the
    file. It is made when names and shapes in the file are those of its config, so that a small file takes little
    memory.

    Args:
        path: the file; or a name of `list_bundled`, where no file is called so.
        memory: as for `create`.
        precision: as for `create`.
        **overrides: fields of the config that weights can't tell, such as quant.

    Raises:
        FileNotFoundError: if there is none; for a bare name, one without folder and suffix, it lists those bundled.
        ValueError: if it is no checkpoint of a known model, or its weights do not fit, or are not finite; one line
            that names the file, the reason and what to do.

    Warns:
        UserWarning: if the file holds several state dicts, averaged weights beside others, say, or counters.

    Example:
        >>> load("hcflow_x4").scale
        4
    """
    return from_weights(*read_weights(path), str(path), memory, precision, overrides)


SharedModel.open_file = staticmethod(load)  # for from_pretrained, which is below the families


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the weights of a checkpoint by name, and its notes: `checkpoint_file.read_weights`, for our models."""
    return checkpoint_file.read_weights(find_checkpoint(path), _is_known)


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The file that a path or a bare name stands for: what is there under that path, else one of `list_bundled`.

    Raises:
        FileNotFoundError: for a bare name that is neither; it lists those bundled. Other paths are returned as they
            are.
        ValueError: if it is empty.
    """
    check_named(path)
    file = Path(path)
    bare = file.name == os.fspath(path) and not file.suffix
    return find_bundled(path) if bare and not file.exists() else file


def bundled_of(checksum_of_weights: str) -> Path | None:
    """The file of the model that comes with the package and has these weights, or None."""
    paths = (model.path for model in list_bundled().values())
    return next((path for path in paths if checksum(load(path)) == checksum_of_weights), None)


def choose_state(content: Any, source: str) -> state_dicts.State:
    """The state dict in a content: one that a model can be made of rather than the largest; see `find_state`."""
    return state_dicts.find_state(content, _is_known, source)


def _is_known(state: Mapping[str, Any]) -> bool:
    return CONFIG_TENSOR in state or _sizes(state) is not None


def _sizes(state: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    return known_sizes({name: tuple(tensor.shape) for name, tensor in state.items()})


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
        family, config = _stored_config(notes, source)
    else:
        known = _sizes(state)
        if known is None:
            shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
            published = ", ".join(name for name, record in FAMILIES.items() if record.official_sizes is not None)
            raise ValueError(
                f"{source}: looks like {looks_like(shapes)}; known are the published checkpoints of {published} and "
                "flowkit's own .safetensors"
            )
        family, config = known
    try:
        with _SizesAlone(TENSORS_EACH * len(state) + 1000), torch.device("meta"):
            model = build(family, config, memory, precision, overrides)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    except Exception as error:  # a config that is damaged can fail anywhere
        raise ValueError(f"{source}: damaged config ({type(error).__name__}: {error})".replace("\n", " ")) from None
    if any(tensor.dtype == torch.float64 for tensor in state.values()):  # half precision is widened
        model = model.double()
    if "flowkit" in notes:
        check_keys(model.state_dict(), state, source)
        _with_memory(model).load_state_dict(state)
    else:
        check_official(model, state, source)
        load_official(_with_memory(model), state, source)
    model.notes = {name: text for name, text in notes.items() if name not in OWN_NOTES}
    return model.eval()


def _with_memory(model: ImageFlow) -> ImageFlow:
    """A model from the meta device with memory for its tensors on the CPU, as `to_empty`, and ten times as fast."""
    return model._apply(lambda tensor: torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype))


def _stored_config(notes: Mapping[str, str], source: str) -> tuple[str, dict[str, Any]]:
    """Family and config of a file of ours."""
    lacking = [name for name in OWN_NOTES if name not in notes]
    if lacking:
        raise ValueError(f"{source}: damaged, it has no {lacking[0]}")
    family = notes["model"]
    if notes["flowkit"] != FORMAT or family not in FAMILIES:
        raise ValueError(f"{source}: written by another flowkit ({family}, format {notes['flowkit']})")
    try:
        stored = json.loads(notes["config"], parse_constant=_no_number)
        if not isinstance(stored, dict):
            raise ValueError(f"{type(stored).__name__} in place of its fields")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: damaged config ({error})") from None
    return family, {"purpose": FAMILIES[family].first_purpose(stored), **stored}


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


TENSORS_EACH = 4
"""Tensors that a model makes for each one of its state, at most: some only serve to draw first values."""


class _SizesAlone(TorchFunctionMode):
    """Makes models fast, without first values, and not above a number of tensors: what a file holds says how many."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._left = most

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls `func`, unless it only sets values."""
        if func in _MAKE:
            self._left -= 1
            if self._left < 0:
                raise ValueError("the weights do not fit: the config asks for many more tensors than the file holds")
        kwargs = kwargs or {}
        if func in _FILL or getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if func in _DRAW:  # without memory, torch imports half of itself for these
            return torch.empty(*args, **kwargs)
        return torch.empty(args[0], args[0], **kwargs) if func is torch.eye else func(*args, **kwargs)


_DRAW = {torch.randn, torch.rand}
_MAKE = {torch.empty, torch.zeros, torch.ones, torch.full, torch.eye, torch.randn, torch.rand, torch.tensor}
_FILL = {Tensor.normal_, Tensor.uniform_, Tensor.zero_, Tensor.fill_, Tensor.mul_}
