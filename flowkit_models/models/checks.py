"""Checks of what image models are made of, the fields of their configs, and of what they are called with."""

import math
import operator
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch.nn.functional as F
from torch import Tensor

from flowkit.checks import unreadable

MOST = 2**16
"""Largest whole number in a config: no sane model has so many steps or channels, or as many grey levels."""


def is_whole(value: Any, least: int = 0) -> bool:
    """Tells if a value is a whole number from `least` to `MOST`; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= MOST


def check_fields(family: str, config: Any, **least: int) -> None:
    """Raises ValueError, naming the field, unless a config holds what its annotations say.

    A Literal is one of its choices, a bool True or False, an int a whole number from 1 to `MOST`, a float finite and
    above 0. Fields of other kinds are the config's own to check.

    Args:
        family: names the config in the error.
        config: a dataclass.
        least: numbers that fields start from instead, themselves included.
    """
    for name, kind in get_type_hints(type(config)).items():
        value, start = getattr(config, name), least.get(name)
        if get_origin(kind) is Literal:
            right, wanted = value in get_args(kind), " or ".join(f'"{choice}"' for choice in get_args(kind))
        elif kind is bool:
            right, wanted = isinstance(value, bool), "true or false"
        elif kind is int:
            start = 1 if start is None else start
            end = f" to {MOST}" if isinstance(value, int) and value > MOST else ""
            right, wanted = is_whole(value, start), f"a whole number from {start}{end}"
        elif kind is float:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            right = number and (0 < value < math.inf or value == start)
            wanted = "a positive number" if start is None else f"{start} or a positive number"
        else:
            continue
        if not right:
            raise ValueError(f"{family}: {name} must be {wanted}, got {shown(value)}")


def shown(value: Any) -> str:
    """A value for a message: its repr, cut where it is long."""
    text = "a number beyond 10^18" if isinstance(value, int) and abs(value) > 10**18 else repr(value)
    return text if len(text) <= 60 else f"{text[:60]} …"


def power_of_two(family: str, scale: int) -> int:
    """log₂ of a scale.

    Raises:
        ValueError: if that is not a whole number.
    """
    if scale < 2 or scale & (scale - 1):
        raise ValueError(f"{family}: scale must be a power of two, got {scale}")
    return scale.bit_length() - 1


def temperatures(
    n: int,
    temperature: float | Sequence[float] | None,
    latents: object = None,
    prior: object = None,
    usual: float = 0.8,
) -> list[float]:
    """The τ of each of n draws; by default the usual one, and 1 with a learned prior, or given latents where that is 0.

    Raises:
        ValueError: for n below 1, latents or a prior together with n above 1, a prior with latents or a temperature, or
            temperatures that are not one for each draw.
    """
    if not hasattr(n, "__index__"):
        raise ValueError(f"upscale: n must be a whole number, got {n}")
    n = operator.index(n)
    if n < 1 or (n > 1 and latents is not None):
        raise ValueError(f"upscale: n must be at least 1, and 1 with latents, got {n}")
    if prior is not None and (n > 1 or latents is not None or temperature is not None):
        raise ValueError(
            "upscale: a learned prior makes one picture, without temperature or latents; a τ draws several"
        )
    if temperature is None:
        temperature = 1.0 if prior is not None or (latents is not None and not usual) else usual
    if hasattr(temperature, "tolist"):  # an array or a tensor
        temperature = temperature.tolist()
    taus = list(temperature) if isinstance(temperature, Sequence) else [temperature] * n
    if len(taus) != n or not all(0 <= tau < math.inf for tau in taus):
        raise ValueError(f"upscale: temperature must be at least 0, one for all draws or {n}, got {temperature}")
    return taus


def checked_size(size: object) -> tuple[int, int]:
    """(height, width) of images that are asked for.

    Raises:
        ValueError: if that is none.
    """
    sides = tuple(size) if isinstance(size, Sequence) else ()
    if len(sides) != 2 or not all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= 1 for n in sides):
        raise ValueError(f"size: expected (height, width) in whole pixels from 1 on, got {size}")
    return int(sides[0]), int(sides[1])


def check_multiple(x: Tensor, name: str, multiple: int) -> None:
    """Raises ValueError, naming the argument, unless the sides of images are multiples of a number."""
    if x.shape[2] % multiple or x.shape[3] % multiple:
        raise ValueError(
            f"{name}: height and width must be multiples of {multiple}, got {x.shape[2]} × {x.shape[3]}; "
            "crop or pad the image (upscale and downscale do it by themselves)"
        )


def check_image(x: Tensor, name: str) -> None:
    """Raises ValueError, naming the argument, unless x is images (B, 3, H, W) of finite numbers."""
    if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[1] != 3 or min(x.shape) < 1:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}: expected images (B, 3, H, W), got {got}")
    if not x.is_floating_point():
        raise ValueError(f"{name}: expected floats in [0, 1], got {x.dtype}; divide 8-bit images by 255")
    if not unreadable(x) and not bool(x.isfinite().all()):  # on a GPU the host waits for it
        raise ValueError(f"{name}: contains NaN or infinity")


def padded(x: Tensor, multiple: int) -> Tensor:
    """Images made larger at the bottom and the right, to multiples.

    By mirroring without the edge, as SRFlow's test code does; by repeating it where that is too narrow.
    """
    height, width = x.shape[2:]
    pad = (-width % multiple, -height % multiple)
    mode = "reflect" if pad[0] < width and pad[1] < height else "replicate"
    return F.pad(x, (0, pad[0], 0, pad[1]), mode=mode) if any(pad) else x
