"""Image models made of flowkit: HCFlow for super-resolution; checkpoints, data, metrics."""

from .checkpoints import load
from .imageflow import Encoded, ImageFlow
from .models import create, list_models

__all__ = ["Encoded", "ImageFlow", "create", "list_models", "load"]
