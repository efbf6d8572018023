"""Checks of config fields, shared by the model families."""

from typing import Any, Literal

Purpose = Literal["sr", "rescaling"]
"""Purpose of a model: "sr", to enlarge pictures that are small from the start; "rescaling", to restore pictures that
the model itself made small."""


def check_whole(family: str, config: Any, names: tuple[str, ...], least: int) -> None:
    """Raises ValueError, naming the field, unless these fields of a config are whole numbers of at least `least`."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{family}: {name} must be a whole number from {least}, got {value!r}")


def check_choice(family: str, config: Any, name: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless a field is one of the choices."""
    value = getattr(config, name)
    if value not in choices:
        known = '" or "'.join(choices)
        raise ValueError(f'{family}: {name} must be "{known}", got {value!r}')


def power_of_two(family: str, scale: int) -> int:
    """log₂ of a scale.

    Raises:
        ValueError: if that is not a whole number.
    """
    if scale < 2 or scale & (scale - 1):
        raise ValueError(f"{family}: scale must be a power of two, got {scale}")
    return scale.bit_length() - 1
