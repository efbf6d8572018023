"""Data-dependent initialisation of ActNorm layers, as an explicit act."""

import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from flowkit.bijector import widest
from flowkit.flow import Flow
from flowkit.tree import Value


@torch.no_grad()
def initialize(flow: nn.Module, batch: Value, context: Value = None, *, again: bool = False) -> None:
    """Sets every uninitialised ActNorm so that its output has mean 0 and variance 1 per channel on this batch.

    One forward pass; each layer is set before it acts, so the next one sees standardised data. The ActNorms
    inside conditioner networks take part in the same order. On several processes (torch.distributed) the
    statistics are those of all batches together, so all ranks end up with the same values. A channel that is constant
    on the batch is shifted to 0 and not scaled.

    Args:
        flow: a bijector, or a `Flow`.
        batch: x, as for its forward.
        context: as for its forward.
        again: set the layers that were initialised before (or loaded), too.

    Raises:
        ValueError: names a layer whose input is empty or has numbers that are not finite. Then, and whenever the pass
            fails, all parameters and buffers are as they were.

    Warns:
        UserWarning: names layers that the forward pass did not reach (those used in an `Inverse`, say), or constant
            channels; or says that all layers were initialised before, so that nothing was done.

    Example:
        >>> import flowkit
        >>> layer = flowkit.ActNorm(2)
        >>> flowkit.initialize(layer, torch.tensor([[1.0, 0.0], [3.0, 2.0]]))
        >>> layer.bias.data
        tensor([-2., -1.])
    """
    found = {name: layer for name, layer in flow.named_modules() if hasattr(layer, "statistics_input")}
    layers: dict[str, Any] = {name: layer for name, layer in found.items() if again or not layer.initialized}
    if found and not layers:
        text = "initialize: every ActNorm was initialised before, nothing was done; again=True sets them anew"
        warnings.warn(text, stacklevel=2)
        return
    kept = [*flow.buffers(), *(p for layer in layers.values() for p in layer.parameters())]
    before = [(tensor, tensor.clone()) for tensor in kept]
    seen: dict[str, list[int]] = {}
    hooks = [
        layer.register_forward_pre_hook(partial(_set_from_input, name=name, seen=seen))
        for name, layer in layers.items()
    ]
    try:
        with _uncompiled():
            _map_of(flow)(batch, context)
    except BaseException:
        for tensor, value in before:
            tensor.copy_(value)
        raise
    finally:
        for hook in hooks:
            hook.remove()
    constant = [f"{name or 'the layer'} {channels}" for name, channels in seen.items() if channels]
    if constant:
        text = ", ".join(constant[:5]) + (", …" if len(constant) > 5 else "")
        warnings.warn(f"initialize: channels constant on this batch are shifted, not scaled: {text}", stacklevel=2)
    missed = [name for name in layers if name not in seen]
    if missed:
        warnings.warn(f"initialize: the forward pass did not reach {', '.join(missed[:5])}", stacklevel=2)


def _map_of(flow: nn.Module) -> Callable[..., Any]:
    """The way of a `Flow` to its latents, the base has no part in it; but a flow with a call of its own is called."""
    own = any(getattr(type(flow), name, None) is not getattr(Flow, name) for name in ("forward", "log_prob"))
    return flow.encode if isinstance(flow, Flow) and not own else flow


def _uncompiled() -> AbstractContextManager[Any]:
    """Compiled flows run as they are written: what is set depends on data, which no whole graph holds."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled; the stance would import it, for a second
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def _set_from_input(layer: Any, args: tuple[Any, ...], name: str, seen: dict[str, list[int]]) -> None:
    """Sets bias and log-scale from the layer's input (Glow, section 3.1; biased variance, 1e-6 on the std)."""
    if name in seen:  # a layer that is used twice is set the first time
        return
    x = layer.statistics_input(*args)
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or x.shape[1:2] != layer.bias.shape:
        return  # the layer says itself what it takes
    eps = torch.finfo(x.dtype).eps
    x = x.to(widest(x.device)).transpose(0, 1).flatten(1)
    count = _over_ranks(x.new_tensor(x.shape[1]))
    which = f"{name or 'the layer'}, {type(layer).__name__}({layer.extra_repr()})"
    if not count:
        raise ValueError(f"initialize: the input of {which} is empty; nothing was set")
    mean = _over_ranks(x.sum(1)) / count
    deviation = (_over_ranks((x - mean[:, None]).square().sum(1)) / count).sqrt()
    odd = (~deviation.isfinite()).nonzero().flatten().tolist()
    if odd:
        raise ValueError(f"initialize: the input of {which} has NaN or infinity in channels {odd}; nothing was set")
    largest = x.abs().amax(1) if x.shape[1] else torch.zeros_like(mean)
    constant = deviation <= eps / 8 * _over_ranks(largest, largest=True)  # up to rounding
    log_scale = torch.where(constant, 0.0, -(deviation + 1e-6).log())
    for key, value in (("bias", -mean), ("log_scale", log_scale)):
        if is_parametrized(layer, key):
            setattr(layer, key, value.to(getattr(layer, key).dtype))
        else:
            getattr(layer, key).copy_(value)
    layer.initialized.fill_(True)
    seen[name] = constant.nonzero().flatten().tolist()


def _over_ranks(total: Tensor, largest: bool = False) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        total = total.clone()
        dist.all_reduce(total, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
    return total
