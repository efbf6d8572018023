"""Finds the source of numbers that are not finite: a weight, or the first module that makes them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

ERRORS = (ValueError, FloatingPointError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]
"""Errors that code raises on numbers that are not finite."""


class Source(NamedTuple):
    """Source of numbers that are not finite.

    Attributes:
        rank: distance from the cause: 0 data, 1 a weight, 2 a module, 3 the loss, 4 a gradient.
        text: one line with the full name.
    """

    rank: int
    text: str


@torch.no_grad()
def find_source(objective: nn.Module, run: Callable[[], Any]) -> Source | None:
    """Finds the first weight that is not finite; else the first module that makes numbers that are not.

    Args:
        objective: where to look.
        run: repeats the pass; an error that it raises is what is being looked into.
    """
    for name, tensor in [*objective.named_parameters(), *objective.named_buffers()]:
        if not all_finite(tensor):
            return Source(1, f"weight {name} is not finite")
    with _watched(objective) as found, torch.compiler.set_stance("force_eager"):  # hooks see no module in a graph
        try:
            outcome = run()
        except ERRORS:
            outcome = None
    if found:
        return Source(2, found[0])
    if hasattr(outcome, "loss") and not all_finite(outcome.loss):
        terms = [name for name, value in outcome.logs.items() if not all_finite(value)]
        return Source(3, f"the loss is not finite ({', '.join(terms)})" if terms else "the loss is not finite")
    return None


@contextmanager
def _watched(root: nn.Module) -> Iterator[list[str]]:
    """Collects a line for the first module below whose output is not finite, in the order in which they finish.

    A bijector's `inverse` is no module call, so hooks don't see it: it is shadowed meanwhile.
    """
    found: list[str] = []

    def check(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not found and not all_finite(output):
            label = f"{name} ({type(module).__name__})" if name else type(module).__name__
            found.append(f"{'the output of' if all_finite((args, kwargs)) else 'what reaches'} {label} is not finite")

    def inverted(name: str, module: nn.Module, inverse: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        output = inverse(*args, **kwargs)
        check(f"{name}.inverse", module, args, kwargs, output)
        return output

    hooks, shadowed = [], []
    for name, module in list(root.named_modules())[1:]:
        hooks.append(module.register_forward_hook(partial(check, name), with_kwargs=True))
        if callable(inverse := getattr(module, "inverse", None)):
            module.inverse = partial(inverted, name, module, inverse)
            shadowed.append(module)
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        for module in shadowed:
            del module.inverse


def all_finite(value: Any) -> bool:
    """True if all floating-point numbers in a tree of tensors are finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, Mapping):
        return all(map(all_finite, value.values()))
    return all(map(all_finite, value)) if isinstance(value, tuple | list) else True
