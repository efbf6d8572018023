"""Checks of the arguments of bijectors, kinds, bases and nets: one line that names the class and the argument."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any


def check_whole(owner: str, least: int = 1, **sizes: object) -> None:
    """Raises TypeError unless each argument is a whole number, a bool is none, and ValueError if it is below `least`.

    Example:
        >>> check_whole("MLP", hidden=0)
        Traceback (most recent call last):
            ...
        ValueError: MLP: hidden must be at least 1, got 0
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, Integral):
            raise TypeError(f"{owner}: {name} must be a whole number, got {size!r}")
        if int(size) < least:
            raise ValueError(f"{owner}: {name} must be at least {least}, got {size!r}")


def check_numbers(owner: str, interval: str, **numbers: object) -> None:
    """Raises ValueError unless each argument is in an interval such as "[0, 1)", and TypeError if it is no number."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, Real):
            raise TypeError(f"{owner}: {name} must be a number, got {number!r}")
        value = float(number)
        above = low < value or (interval[0] == "[" and value == low)
        below = value < high or (interval[-1] == "]" and value == high)
        if not above or not below:
            words = {"(0, inf)": "positive", "(-inf, inf)": "finite"}.get(interval, f"a number in {interval}")
            raise ValueError(f"{owner}: {name} must be {words}, got {number!r}")


def check_choice(owner: str, choices: Sequence[Any], **values: object) -> None:
    """Raises ValueError unless each argument is one of the choices."""
    for name, value in values.items():
        if isinstance(value, bool) or value not in choices:
            quoted = [f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in choices]
            raise ValueError(f"{owner}: {name} must be {', '.join(quoted[:-1])} or {quoted[-1]}, got {value!r}")


def check_net(owner: str, net: object, example: str = "flowkit.nets.MLP(2, 4)") -> None:
    """Raises TypeError unless a net can be called."""
    if not callable(net):
        raise TypeError(f"{owner}: net must be a module such as {example}, got {net!r}")


def as_tuple(value: Any, count: int = 1) -> tuple[Any, ...]:
    """An argument as a tuple: the values of a sequence, or anything else, a string too, `count` times."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * count
