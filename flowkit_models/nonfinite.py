"""Numbers that are not finite: which sample, weight, module or gradient they come from."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .batches import Batch, Draws, key
from .objective import Objective, Outcome

ERRORS = (ValueError, FloatingPointError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]
"""What code raises on numbers that are not finite."""


class Culprit(NamedTuple):
    """Where numbers stop being finite.

    Attributes:
        rank: how near to the cause: 0 data, 1 a weight, 2 a module, 3 the loss, 4 a gradient.
        text: says it, with the full name.
    """

    rank: int
    text: str


class Guarded(nn.Module):
    """An objective as the engine runs it: nothing that comes out of one process can block the others.

    An error that the objective raises because of numbers that are not finite becomes a loss of NaN; other errors
    pass. Logs and image are detached: a parameter that only they depend on would keep `DistributedDataParallel`
    waiting for its gradient.

    Attributes:
        culprit: of the last pass, if that raised an error.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective
        self.culprit: Culprit | None = None

    def forward(self, turn: str, batch: Batch, draws: Draws, step: int, image: Tensor | None) -> Outcome:
        """The objective's forward."""
        self.culprit = None
        try:
            outcome = self.run(turn, batch, draws, step, image)
        except ERRORS:
            self.culprit = find_culprit(self.objective, lambda: self.run(turn, batch, draws, step, image))
            if self.culprit is None:
                raise
            return Outcome(self._undefined(), {})
        image = None if outcome.image is None else outcome.image.detach()
        return Outcome(outcome.loss, {name: value.detach() for name, value in outcome.logs.items()}, image)

    def run(self, turn: str, batch: Batch, draws: Draws, step: int, image: Tensor | None) -> Outcome:
        """The same without a guard. What does not come from `draws` but from torch's generator can be repeated, too."""
        torch.manual_seed(key(draws.seed, turn, step, draws.index[0]))
        outcome: Outcome = self.objective(turn, batch, draws, step, image)
        return outcome

    def _undefined(self) -> Tensor:
        """NaN, with a gradient for every parameter that takes one."""
        return math.nan * torch.stack([p.sum() for p in self.objective.parameters() if p.requires_grad]).sum()


def in_batch(batch: Batch) -> Culprit | None:
    """The samples that are not finite."""
    for name, images in (("hr", batch.hr), ("lr", batch.lr)):
        if _finite(images):
            continue
        bad = batch.index[~images.isfinite().flatten(1).all(1)].tolist()
        numbers = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        return Culprit(0, f"{name} of sample{'s' if len(bad) > 1 else ''} {numbers} is not finite")
    return None


@torch.no_grad()
def find_culprit(objective: nn.Module, run: Callable[[], Any]) -> Culprit | None:
    """The first weight that is not finite; else the first module that makes numbers that are not.

    Args:
        objective: where to look.
        run: repeats the pass; an error that it raises is what is being looked into.
    """
    for name, tensor in [*objective.named_parameters(), *objective.named_buffers()]:
        if not _finite(tensor):
            return Culprit(1, f"weight {name} is not finite")
    with _watched(objective) as found:
        try:
            outcome = run()
        except ERRORS:
            outcome = None
    if found:
        return Culprit(2, found[0])
    if isinstance(outcome, Outcome) and not _finite(outcome.loss):
        terms = [name for name, value in outcome.logs.items() if not _finite(value)]
        return Culprit(3, f"the loss is not finite ({', '.join(terms)})" if terms else "the loss is not finite")
    return None


def in_gradients(gradients: Mapping[str, Tensor]) -> Culprit:
    """The first gradient that is not finite, or the largest one, whose square then overflowed."""
    for name, gradient in gradients.items():
        if not _finite(gradient):
            return Culprit(4, f"the gradient of {name} is not finite")
    largest = max(gradients, key=lambda name: float(gradients[name].abs().max()), default="no parameter")
    return Culprit(4, f"the norm of the gradients overflows; the largest is that of {largest}")


@contextmanager
def _watched(root: nn.Module) -> Iterator[list[str]]:
    """Collects what the modules below say, in the order in which they finish.

    A bijector's `inverse` is no module call, so hooks don't see it: it is shadowed meanwhile.
    """
    found: list[str] = []

    def check(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if not found and not _finite(output):
            label = f"{name} ({type(module).__name__})" if name else type(module).__name__
            found.append(f"{'the output of' if _finite(inputs) else 'what reaches'} {label} is not finite")

    def shadow(name: str, module: Any) -> None:
        inverse = module.inverse

        def watched(*args: Any, **kwargs: Any) -> Any:
            output = inverse(*args, **kwargs)
            check(f"{name}.inverse", module, (args, kwargs), output)
            return output

        module.inverse = watched

    hooks, shadowed = [], []
    for name, module in root.named_modules():
        if module is root:
            continue

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
            check(name, module, (args, kwargs), output)

        hooks.append(module.register_forward_hook(hook, with_kwargs=True))
        if callable(getattr(module, "inverse", None)):
            shadow(name, module)
            shadowed.append(module)
    try:
        yield found
    finally:
        for hook_ in hooks:
            hook_.remove()
        for module in shadowed:
            del module.inverse


def _finite(value: Any) -> bool:
    """Whether all floating-point numbers in a tree of tensors are finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, tuple | list) else True
