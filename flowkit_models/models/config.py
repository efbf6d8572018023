"""Checks of config fields, shared by the model families."""

import math
from typing import Any, Literal

Purpose = Literal["sr", "rescaling"]
"""Purpose of a model: "sr", to enlarge pictures that are small from the start; "rescaling", to restore pictures that
the model itself made small."""

PURPOSES: dict[Purpose, str] = {"sr": "super-resolution", "rescaling": "rescaling"}
"""Names of the purposes, for people."""


def factors(scale: int, any_scale: bool) -> str:
    """Factors that a model enlarges by, for people: its one, or those that a model of any scale was trained for."""
    return f"×1 to ×{scale}" if any_scale else f"×{scale}"


MOST = 2**16
"""Largest whole number in a config: no sane model has so many steps or channels, or as many grey levels."""


def is_whole(value: Any, least: int = 0) -> bool:
    """Tells if a value is a whole number from `least` to `MOST`; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= MOST


def check_whole(family: str, config: Any, names: tuple[str, ...], least: int) -> None:
    """Raises ValueError, naming the field, unless these fields of a config are whole numbers from `least` to `MOST`."""
    for name in names:
        value = getattr(config, name)
        if not is_whole(value, least):
            end = f" to {MOST}" if isinstance(value, int) and value > MOST else ""
            raise ValueError(f"{family}: {name} must be a whole number from {least}{end}, got {shown(value)}")


def check_positive(family: str, config: Any, names: tuple[str, ...]) -> None:
    """Raises ValueError, naming the field, unless these fields of a config are finite numbers above 0."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise ValueError(f"{family}: {name} must be a positive number, got {shown(value)}")


def check_flags(family: str, config: Any, names: tuple[str, ...]) -> None:
    """Raises ValueError, naming the field, unless these fields of a config are True or False."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, bool):
            raise ValueError(f"{family}: {name} must be true or false, got {shown(value)}")


def shown(value: Any) -> str:
    """A value for a message: its repr, cut where it is long."""
    text = "a number beyond 10^18" if isinstance(value, int) and abs(value) > 10**18 else repr(value)
    return text if len(text) <= 60 else f"{text[:60]} …"


def check_choice(family: str, config: Any, name: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless a field is one of the choices."""
    value = getattr(config, name)
    if value not in choices:
        known = '" or "'.join(choices)
        raise ValueError(f'{family}: {name} must be "{known}", got {shown(value)}')


def power_of_two(family: str, scale: int) -> int:
    """log₂ of a scale.

    Raises:
        ValueError: if that is not a whole number.
    """
    if scale < 2 or scale & (scale - 1):
        raise ValueError(f"{family}: scale must be a power of two, got {scale}")
    return scale.bit_length() - 1
