"""Words that people use of models: styles, purposes, factors. Imports no torch."""

from typing import Literal

STYLES = {"faithful": "hcflow_x4", "crisp": "hcflow_x4_plusplus", "photo": "hcflow_x4_photo"}
"""Names of the models that the styles stand for."""

Purpose = Literal["sr", "rescaling"]
"""Purpose of a model: "sr", to enlarge pictures that are small from the start; "rescaling", to restore pictures that
the model itself made small."""

PURPOSES: dict[Purpose, str] = {"sr": "super-resolution", "rescaling": "rescaling"}
"""Names of the purposes, for people."""


def factors(scale: int, any_scale: bool) -> str:
    """Factors that a model enlarges by, for people: its one, or those that a model of any scale was trained for."""
    return f"×1 to ×{scale}" if any_scale else f"×{scale}"
