"""Image models made of flowkit: HCFlow, SRFlow and IRN; checkpoints, data, metrics, training, a command."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoints import load
    from .fields import LatentField
    from .imageflow import Encoded, ImageFlow
    from .models import create, list_models
    from .tiling import Tiled

__all__ = ["Encoded", "ImageFlow", "LatentField", "Tiled", "create", "list_models", "load"]

_HOMES = {
    "Encoded": "imageflow",
    "ImageFlow": "imageflow",
    "LatentField": "fields",
    "Tiled": "tiling",
    "create": "models",
    "list_models": "models",
    "load": "checkpoints",
}


def __getattr__(name: str) -> Any:  # `flowkit --help` should not wait for torch
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
