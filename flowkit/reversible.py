"""A chain that keeps no activations for the backward pass: it walks back, inverting and recomputing."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.chain import Chain, apply_run, walk
from flowkit.checks import as_wide
from flowkit.coupling import Retraced
from flowkit.fusion import Pixelwise, compose
from flowkit.moment import Moment
from flowkit.shortcuts import author, replaceable
from flowkit.tree import Value, describe, leaves, map_leaves

_Map = Callable[..., tuple[Any, Tensor]]


class Reversible(Chain):
    """The same map as a chain, in memory that does not grow with its depth (RevNet's idea, on exact inverses).

    The backward pass starts from the output, and for each part inverts, recomputes and differentiates it, so a
    training step costs about one more forward pass. Gradients reach x, the context and all parameters. Works in
    both directions, and under the names of the chain in a state dict. Recomputed inputs differ from the first ones
    by the round trip's rounding error; networks with dropout would draw another mask, so leave it out.

    It recomputes with the parameters, buffers, parts and modes of the forward pass: under `torch.func.functional_call`,
    and if weights are exchanged before the backward pass. A parameter changed in place between the two is an error, as
    anywhere in autograd. Only first derivatives, by `backward` or `torch.autograd.grad`: for second ones, and for
    `vmap`, `jacrev`, `jacfwd` and `jvp`, use `Chain(*reversible)`, which shares the parts.

    Args:
        chain: maps a tensor to a tensor at every part.

    Raises:
        ValueError: from a call, if the result is a tree, or a part draws what it moves by.
        RuntimeError: from a backward pass with `create_graph=True`, or after a change in place.
    """

    def __init__(self, chain: nn.Module) -> None:
        super().__init__(chain)
        if author(self, "forward") is Reversible:
            self.constant_logdet = self._constant_logdet()

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """The chain's forward."""
        return _remembering_only_the_end(self, x, context, inverse=False)

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """The chain's inverse."""
        return _remembering_only_the_end(self, y, context, inverse=True)

    def inverse_alone(self, y: Value, context: Value = None) -> Value:
        """The chain's inverse without its log-det."""
        return self.inverse(y, context)[0] if torch.is_grad_enabled() else super().inverse_alone(y, context)


def _remembering_only_the_end(chain: Chain, x: Tensor, context: Value, inverse: bool) -> tuple[Tensor, Tensor]:
    if not torch.is_grad_enabled():
        return walk(chain.runs(), x, context, inverse)
    if torch.compiler.is_compiling():  # a graph can't hold what the backward pass walks through
        return torch.compiler.disable(_with_gradients)(chain, x, context, inverse)
    return _with_gradients(chain, x, context, inverse)


def _with_gradients(chain: Chain, x: Tensor, context: Value, inverse: bool) -> tuple[Tensor, Tensor]:
    moment = Moment(chain.parts)
    if drawing := moment.drawing():
        raise ValueError(
            f"Reversible: {drawing} would draw other numbers on the way back, and gradients be wrong; use "
            "Chain(*reversible), which has the same parts and keeps their activations"
        )
    result: tuple[Tensor, Tensor] = _Walk.apply(
        chain.runs(), moment, inverse, context, x, *leaves(context), *moment.wanted()
    )
    return result


class _Walk(torch.autograd.Function):
    """Forward without a graph; backward run by run, from the output."""

    @staticmethod
    def forward(
        ctx: Any, runs: list[list[Any]], moment: Moment, inverse: bool, context: Value, x: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        y, logdet = walk(runs, x, context, inverse)
        if not isinstance(y, Tensor):
            raise ValueError(f"Reversible: its parts must map a tensor to a tensor, the result is {describe(y)}")
        device = x.device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.runs, ctx.moment, ctx.inverse, ctx.context = runs, moment, inverse, context
        ctx.save_for_backward(y, *leaves(context), *moment.values())  # which autograd watches for changes in place
        return y, logdet

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_logdet: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "Reversible: no second derivatives (create_graph=True) pass through it; use Chain(*reversible), "
                "which has the same parts and keeps their activations"
            )
        y, *saved = (tensor.detach() for tensor in ctx.saved_tensors)
        contexts = saved[: sum(1 for _ in leaves(ctx.context))]

        def back() -> tuple[Tensor, list[Tensor | None], list[Tensor | None]]:
            return _back(ctx, y, contexts, grad, grad_logdet)

        grad, totals, of_parameters = ctx.moment.again(saved[len(contexts) :], back)
        return None, None, None, None, grad, *totals, *of_parameters


def _back(
    ctx: Any, y: Tensor, contexts: list[Tensor], grad: Tensor, grad_logdet: Tensor
) -> tuple[Tensor, list[Tensor | None], list[Tensor | None]]:
    """Gradients of x, of the context's tensors and of the wanted parameters."""
    totals: list[Tensor | None] = [None] * len(contexts)
    of_parameters: dict[int, Tensor] = {}

    def collect(parameters: list[Tensor], grads: list[Any]) -> None:
        for p, new in zip(parameters, grads, strict=True):
            of_parameters[id(p)] = _add(of_parameters.get(id(p)), new)

    runs = ctx.runs[:: 1 if ctx.inverse else -1]  # from the output back
    undo = compose(runs, y, not ctx.inverse)
    ctx.moment.rewind()
    with torch.enable_grad():
        maps = list(compose(runs, y, ctx.inverse))
    of_maps: list[tuple[Tensor, Any]] = []
    with torch.autocast(*ctx.autocast):
        for run, as_one, back in zip(runs, maps, undo, strict=True):
            fresh = [c.detach().requires_grad_(c.is_floating_point()) for c in contexts]
            if as_one and back:
                cut = Pixelwise(*(None if part is None else part.detach().requires_grad_() for part in as_one))  # type: ignore[arg-type]
                own = [part for part in cut if part is not None]
                retraced = _retraced(y, back.apply, cut.apply, ctx.moment)
            else:
                own = [p for part in run for p in part.parameters() if p.requires_grad]
                context = map_leaves(_taken_from(iter(fresh)), ctx.context)
                retraced = _retrace(run, y, context, ctx.inverse, ctx.moment)
            inputs = retraced.inputs
            of_logdet = grad_logdet.sum_to_size(retraced.outputs[1].shape)  # a scalar, where all samples share it
            found = _gradients(retraced.outputs, (grad, of_logdet), [*inputs, *fresh, *own])
            y, grad = _joined(retraced, inputs), _joined(retraced, found[: len(inputs)])
            of_contexts, of_own = found[len(inputs) :][: len(fresh)], found[len(inputs) + len(fresh) :]
            totals = [_add(total, new) for total, new in zip(totals, of_contexts, strict=True)]
            if as_one:
                of_maps += zip((part for part in as_one if part is not None), of_own, strict=True)
            else:
                collect(own, of_own)
    # the matrices of all runs were made together, so their gradients go back to the parameters together
    joined = {p: None for run, m in zip(runs, maps, strict=True) if m for part in run for p in part.parameters()}
    parameters = [p for p in joined if p.requires_grad]
    if parameters:
        collect(parameters, _gradients([end for end, _ in of_maps], [new for _, new in of_maps], parameters))
    return grad, totals, [of_parameters.get(id(p)) for p in ctx.moment.wanted()]


def _retrace(run: list[Any], y: Tensor, context: Value, inverse: bool, moment: Moment) -> Retraced:
    """What goes into a run to make y, and the way from there to y again, with a graph."""
    if len(run) == 1 and replaceable(run[0], "retrace"):
        moment.rewind()
        with torch.enable_grad():
            out: Retraced = run[0].retrace(y, as_wide(context, y), inverse)
        return out
    return _retraced(
        y, lambda y: apply_run(run, y, context, not inverse), lambda x: apply_run(run, x, context, inverse), moment
    )


def _retraced(y: Tensor, back: _Map, there: _Map, moment: Moment) -> Retraced:
    moment.rewind()
    with torch.no_grad():
        x = back(y)[0].detach()
    x.requires_grad_()
    moment.rewind()
    with torch.enable_grad():
        return Retraced([x], there(x))


def _joined(retraced: Retraced, parts: list[Tensor]) -> Tensor:
    """The inputs of what was retraced, or their gradients, as one."""
    return parts[0] if retraced.join is None else retraced.join(*(part.detach() for part in parts))


def _gradients(outputs: Any, grads: Any, wrt: list[Tensor]) -> list[Any]:
    """Gradients for those of `wrt` that the outputs depend on, None for the others."""
    used = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if out.requires_grad and grad is not None]
    asked = [w for w in wrt if w.requires_grad]
    found = iter(torch.autograd.grad([out for out, _ in used], asked, [grad for _, grad in used], allow_unused=True))
    return [next(found) if w.requires_grad else None for w in wrt]


def _taken_from(tensors: Iterator[Tensor]) -> Callable[[Tensor], Tensor]:
    """A function for `map_leaves` that puts these tensors in the places of the old ones."""
    return lambda _: next(tensors)


def _add(total: Any, new: Any) -> Any:
    return new if total is None else total if new is None else total + new
