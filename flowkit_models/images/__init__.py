"""Images: tensors, files and resizing."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowkit_models.images.image_file import read_image as read_image


def __getattr__(name: str) -> Any:  # `flowkit --help` looks at formats, and should not wait for torch
    if name == "read_image":
        return importlib.import_module("flowkit_models.images.image_file").read_image
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
