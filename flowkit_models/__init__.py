"""Image models made of flowkit: HCFlow, SRFlow, IRN and LINF; checkpoints, data, metrics, training, a command."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowkit_models.inference.latent_field import LatentField
    from flowkit_models.inference.tiling import Tiled
    from flowkit_models.models.base import Encoded, ImageFlow
    from flowkit_models.models.bundled import list_bundled
    from flowkit_models.models.factory import create, list_models, load

__all__ = ["Encoded", "ImageFlow", "LatentField", "Tiled", "create", "list_bundled", "list_models", "load"]

_HOMES = {
    "Encoded": "models.base",
    "ImageFlow": "models.factory",
    "LatentField": "inference.latent_field",
    "Tiled": "inference.tiling",
    "create": "models.factory",
    "list_bundled": "models.bundled",
    "list_models": "models.factory",
    "load": "models.factory",
}


def __getattr__(name: str) -> Any:  # `flowkit --help` should not wait for torch
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
