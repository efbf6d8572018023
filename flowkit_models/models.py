"""The models by name: published sizes, and small ones for the recipes."""

import dataclasses
from typing import Any

from .hcflow import HCFlow, HCFlowConfig
from .imageflow import ImageFlow
from .irn import IRN, IRNConfig
from .srflow import SRFlow, SRFlowConfig

MODELS: dict[str, Any] = {"HCFlow": HCFlow, "SRFlow": SRFlow, "IRN": IRN}
"""Model classes by the name that a checkpoint stores. Each is made from its config."""

CONFIGS: dict[str, type[Any]] = {"HCFlow": HCFlowConfig, "SRFlow": SRFlowConfig, "IRN": IRNConfig}

_RESCALING = {"squeeze": "haar", "body": "bands", "prior": "atan", "tap": False, "quant": 256}
_X8 = {"scale": 8, "taps": (1, 3, 5, 7)}

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "hcflow_sr_x4": ("HCFlow", {}),
    "hcflow_face_x8": ("HCFlow", {"scale": 8, "blocks": ((5, 5),) * 3, "quant": 256}),
    "hcflow_rescale_x4": (
        "HCFlow",
        {
            **_RESCALING,
            "steps": 8,
            "conditional_steps": 6,
            "hidden": 32,
            "blocks": ((2, 1), (2, 1)),
            "growth": 16,
        },
    ),
    "srflow_x4": ("SRFlow", {}),
    "srflow_x8": ("SRFlow", _X8),
    "srflow_face_x8": ("SRFlow", {**_X8, "blocks": 8}),
    "irn_x2": ("IRN", {"scale": 2, "blocks": (8,)}),
    "irn_x3": ("IRN", {"scale": 3, "blocks": (12,), "downscaling": "learned"}),
    "irn_x4": ("IRN", {}),
    # starts from a sane image: Haar and identity 1×1 convolutions make the LR image a block mean at once
    "hcflow_sr_x4_small": (
        "HCFlow",
        {
            "steps": 2,
            "conditional_steps": 2,
            "hidden": 24,
            "conditional_hidden": 24,
            "blocks": ((0, 0), (2, 1)),
            "features": 24,
            "growth": 8,
            "gain": 1.0,
            "squeeze": "haar",
            "init": "identity",
            "prior": "soft",
            "quant": 256,
            "centred": True,
            "lr_rounded": False,
        },
    ),
    # the weights that come with the package: all but the extractor at LR size is as cheap as a flow can be
    "hcflow_shipped_x4": (
        "HCFlow",
        {
            "steps": 2,
            "conditional_steps": 1,
            "hidden": 16,
            "conditional_hidden": 16,
            "blocks": ((0, 0), (1, 1)),
            "features": 32,
            "growth": 16,
            "gain": 1.0,
            "tap": False,
            "squeeze": "haar",
            "init": "identity",
            "prior": "soft",
            "quant": 256,
            "centred": True,
            "lr_rounded": False,
        },
    ),
    "hcflow_rescale_x4_small": (
        "HCFlow",
        {
            **_RESCALING,
            "steps": 4,
            "conditional_steps": 1,
            "hidden": 16,
            "conditional_hidden": 16,
            "blocks": ((0, 0), (0, 0)),
            "features": 16,
            "growth": 8,
            "gain": 1.0,
            "init": "identity",
        },
    ),
    "srflow_x4_small": (
        "SRFlow",
        {
            "transitions": 1,
            "steps": 2,
            "hidden": 24,
            "blocks": 3,
            "taps": (0, 2),
            "features": 24,
            "growth": 8,
            "quant": 256,
            "noisy": True,
            "unused": False,
        },
    ),
    "irn_x4_small": ("IRN", {"blocks": (2, 2), "growth": 16}),
}


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
