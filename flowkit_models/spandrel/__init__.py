"""Adapter for spandrel: flowkit's models in its registry, and a loader that reads the notes in our files as well."""

from flowkit_models.spandrel.adapter import FlowArchitecture, Loader, register

__all__ = ["FlowArchitecture", "Loader", "register"]
