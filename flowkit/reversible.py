"""A chain that keeps no activations for the backward pass: it walks back, inverting and recomputing."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .bijector import Bijector
from .chain import Chain
from .tree import Value, describe, leaves, map_leaves


class Reversible(Chain):
    """The same map as a chain, in memory that does not grow with its depth (RevNet's idea, on exact inverses).

    The backward pass starts from the output, and for each part inverts, recomputes and differentiates it, so a
    training step costs about one more forward pass. Gradients reach x, the context and all parameters. Works in
    both directions, and under the names of the chain in a state dict. Recomputed inputs differ from the first ones
    by the round trip's rounding error; networks with dropout would draw another mask, so leave it out.

    Args:
        chain: maps a tensor to a tensor at every part.

    Raises:
        ValueError: from a call, if the result is a tree.
    """

    def __init__(self, chain: nn.Module) -> None:
        super().__init__(chain)

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """The chain's forward."""
        if not torch.is_grad_enabled():
            return super().forward(x, context)
        return _walk(list(self.parts), x, context)

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """The chain's inverse."""
        if not torch.is_grad_enabled():
            return super().inverse(y, context)
        return _walk([_inverted(part) for part in reversed(self.parts)], y, context)


def _walk(parts: list[nn.Module], x: Tensor, context: Value) -> tuple[Tensor, Tensor]:
    chain = Chain(*parts)
    parameters = [p for p in chain.parameters() if p.requires_grad]
    result: tuple[Tensor, Tensor] = _Walk.apply(chain, context, x, *leaves(context), *parameters)
    return result


def _inverted(part: nn.Module) -> Bijector:
    return (part if isinstance(part, Bijector) else Chain(part)).inv


class _Walk(torch.autograd.Function):
    """Forward without a graph; backward part by part, from the output."""

    @staticmethod
    def forward(ctx: Any, chain: Chain, context: Value, x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        y, logdet = chain(x, context)
        if not isinstance(y, Tensor):
            raise ValueError(f"Reversible: its parts must map a tensor to a tensor, the result is {describe(y)}")
        device = x.device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.chain, ctx.context = chain, context
        ctx.save_for_backward(y, *leaves(context))
        return y, logdet

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_logdet: Tensor) -> tuple[Any, ...]:
        y, *contexts = ctx.saved_tensors
        totals: list[Tensor | None] = [None] * len(contexts)
        of_parameters: dict[int, Tensor] = {}
        with torch.autocast(*ctx.autocast):
            for part in reversed(ctx.chain.parts):
                with torch.no_grad():
                    y = _inverted(part)(y, ctx.context)[0]
                x = y.detach().requires_grad_()
                fresh = [c.detach().requires_grad_(c.is_floating_point()) for c in contexts]
                own = [p for p in part.parameters() if p.requires_grad]
                with torch.enable_grad():
                    outputs = Chain(part)(x, map_leaves(_taken_from(iter(fresh)), ctx.context))
                grad, *grads = _gradients(outputs, (grad, grad_logdet), [x, *fresh, *own])
                totals = [_add(total, new) for total, new in zip(totals, grads, strict=False)]
                for p, new in zip(own, grads[len(fresh) :], strict=True):
                    if new is not None:
                        of_parameters[id(p)] = _add(of_parameters.get(id(p)), new)
        parameters = [p for p in ctx.chain.parameters() if p.requires_grad]
        return None, None, grad, *totals, *(of_parameters.get(id(p)) for p in parameters)


def _gradients(outputs: Any, grads: Any, wrt: list[Tensor]) -> list[Any]:
    """Gradients for those of `wrt` that the outputs depend on, None for the others."""
    used = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if out.requires_grad]
    asked = [w for w in wrt if w.requires_grad]
    found = iter(torch.autograd.grad([out for out, _ in used], asked, [grad for _, grad in used], allow_unused=True))
    return [next(found) if w.requires_grad else None for w in wrt]


def _taken_from(tensors: Iterator[Tensor]) -> Callable[[Tensor], Tensor]:
    """A function for `map_leaves` that puts these tensors in the places of the old ones."""
    return lambda _: next(tensors)


def _add(total: Any, new: Any) -> Any:
    return new if total is None else total if new is None else total + new
