"""A chain that keeps no activations for the backward pass: it walks back, inverting and recomputing."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .bijector import Bijector
from .chain import Chain
from .tree import Value, leaves, map_leaves


class Reversible(Chain):
    """The same map as a chain, in memory that does not grow with its depth (RevNet's idea, on exact inverses).

    The backward pass starts from the output, and for each part inverts, recomputes and differentiates it, so a
    training step costs about one more forward pass. Gradients reach x, the context and all parameters. Works in
    both directions, and under the names of the chain in a state dict. Recomputed inputs differ from the first ones
    by the round trip's rounding error.

    Args:
        chain: maps a tensor to a tensor at every part.
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
        device = x.device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.chain, ctx.context = chain, context
        ctx.save_for_backward(y, *leaves(context))
        return y, logdet

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_logdet: Tensor) -> tuple[Any, ...]:
        y, *contexts = ctx.saved_tensors
        parameters = [p for p in ctx.chain.parameters() if p.requires_grad]
        totals: dict[Tensor, Tensor] = {}
        with torch.autocast(*ctx.autocast):
            for part in reversed(ctx.chain.parts):
                with torch.no_grad():
                    y = _inverted(part)(y, ctx.context)[0]
                wrt = [y.detach().requires_grad_(), *contexts, *parameters]
                grads = _differentiate(part, wrt, ctx.context, (grad, grad_logdet))
                grad = grads[0]
                for key, value in zip([*contexts, *parameters], grads[1:], strict=True):
                    if value is not None:
                        totals[key] = totals[key] + value if key in totals else value
        return None, None, grad, *(totals.get(key) for key in (*contexts, *parameters))


def _differentiate(
    part: nn.Module, wrt: list[Tensor], context: Value, grads: tuple[Tensor, Tensor]
) -> tuple[Tensor, ...]:
    """Gradients of one part: wrt is [x, *context leaves, *parameters], of which it may use only some."""
    count = len(list(leaves(context)))
    fresh = [c.detach().requires_grad_() for c in wrt[1 : 1 + count]]
    tree = iter(fresh)
    with torch.enable_grad():
        outputs = Chain(part)(wrt[0], map_leaves(lambda _: next(tree), context))
    used = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if out.requires_grad]
    inputs = [wrt[0], *fresh, *wrt[1 + count :]]
    return torch.autograd.grad([out for out, _ in used], inputs, [grad for _, grad in used], allow_unused=True)
