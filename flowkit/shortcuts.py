"""Shortcuts that stand in for the calls of a part, and the conditions: it must be what the shortcut takes it for."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules import module as hooks_of_all

Written = dict[str, tuple[type, tuple[tuple[str, Any], ...]]]
"""For each description: the class that wrote it, and all methods that the class had then."""

_DESCRIPTIONS = ("forward", "after", "retrace", "inverse_alone")


def recorded(cls: type, base: type) -> Written:
    """Descriptions that a new class defines together with both directions, beside those that it inherits.

    Args:
        cls: the class, complete.
        base: a method of this class is nobody's own.
    """
    inherited: Written = getattr(cls, "written", {})
    if not {"forward", "inverse"} <= vars(cls).keys():
        return inherited
    own = {name for name in dir(cls) if not hasattr(base, name)} | {"forward", "inverse", "__call__", "_call_impl"}
    methods = tuple((name, getattr(cls, name)) for name in sorted(own) if callable(getattr(cls, name)))
    return {**inherited, **{name: (cls, methods) for name in _DESCRIPTIONS if name in vars(cls)}}


def author(part: nn.Module, description: str) -> type | None:
    """The class that wrote a part's description and both its directions together, if nothing was replaced since.

    Args:
        part: any module.
        description: "after", "retrace", "inverse_alone", or "forward" for the directions themselves.

    Returns:
        None if a subclass, a patch of the class or one of the instance has replaced any method of that class.
    """
    written: Written = getattr(type(part), "written", {})
    if description not in written:
        return None
    cls, methods = written[description]
    its, patched = type(part), part.__dict__
    for name, method in methods:
        if getattr(its, name) is not method or name in patched:
            return None
    return cls


def hooked(part: nn.Module) -> bool:
    """Whether somebody watches the part's calls, or has compiled them."""
    return bool(
        part._forward_hooks
        or part._forward_pre_hooks
        or part._backward_hooks
        or part._backward_pre_hooks
        or part._compiled_call_impl is not None
    )


def all_hooked() -> bool:
    """Whether somebody watches the calls of all modules; torch 2.6 has no function for it."""
    return bool(
        hooks_of_all._global_forward_hooks
        or hooks_of_all._global_forward_pre_hooks
        or hooks_of_all._global_backward_hooks
        or hooks_of_all._global_backward_pre_hooks
    )


def replaceable(part: nn.Module, description: str) -> type | None:
    """The author of a description that may stand in for calls of the part: nobody has hooked them."""
    return None if hooked(part) or all_hooked() else author(part, description)


def decoding(net: nn.Module) -> Any:
    """The `decoder` of a net, item after item, if it may stand in for calls of the net; else None."""
    classes = type(net).__mro__
    own: Any = next((vars(cls) for cls in classes if {"forward", "decoder"} & vars(cls).keys()), {})
    changed = "decoder" not in own or "forward" in vars(net) or hooked(net) or all_hooked()
    return None if changed else net.decoder


def of_another_map(cls: type, fact: str) -> bool:
    """Whether a class has a fact from one whose `forward` or `inverse` it, or a class between, overrides."""
    defining = [i for i, c in enumerate(cls.__mro__) if {"forward", "inverse"} & vars(c).keys()]
    stating = next(i for i, c in enumerate(cls.__mro__) if fact in vars(c))
    return any(defining[0] < i <= stating for i in defining)
