"""Data-dependent initialisation of ActNorm layers, as an explicit act."""

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from flowkit.flow import Flow
from flowkit.tree import Value


@torch.no_grad()
def initialize(flow: nn.Module, batch: Value, context: Value = None) -> None:
    """Sets every uninitialised ActNorm so that its output has mean 0 and variance 1 per channel on this batch.

    One forward pass; each layer is set before it acts, so the next one sees standardised data. The ActNorms
    inside conditioner networks take part in the same order. On several processes (torch.distributed) the
    statistics are those of all batches together, so all ranks end up with the same values.

    Args:
        flow: a bijector, or a `Flow`.
        batch: x, as for its forward.
        context: as for its forward.

    Warns:
        UserWarning: names layers that the forward pass did not reach (those used in an `Inverse`, say).

    Example:
        >>> import flowkit
        >>> layer = flowkit.ActNorm(2)
        >>> flowkit.initialize(layer, torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
        >>> layer.bias.data
        tensor([-2., -0.])
    """
    layers = {
        name: layer
        for name, layer in flow.named_modules()
        if hasattr(layer, "statistics_input") and not layer.initialized
    }
    hooks = [layer.register_forward_pre_hook(_set_from_input) for layer in layers.values()]
    try:
        bijector = flow.bijector if isinstance(flow, Flow) else flow  # the base has no part in it
        bijector(batch, context)
    finally:
        for hook in hooks:
            hook.remove()
    missed = [name for name, layer in layers.items() if not layer.initialized]
    if missed:
        warnings.warn(f"initialize: the forward pass did not reach {', '.join(missed[:5])}", stacklevel=2)


def _set_from_input(layer: Any, args: tuple[Any, ...]) -> None:
    """Sets bias and log-scale from the layer's input (Glow, section 3.1; biased variance, 1e-6 on the std)."""
    if layer.initialized:  # a layer that is used twice is set the first time
        return
    x = layer.statistics_input(*args).to(layer.bias.dtype).transpose(0, 1).flatten(1)
    count = x.new_tensor(x.shape[1])
    mean = _over_ranks(x.sum(1)) / _over_ranks(count)
    variance = _over_ranks((x - mean[:, None]).square().sum(1)) / _over_ranks(count)
    layer.bias.copy_(-mean)
    layer.log_scale.copy_(-(variance.sqrt() + 1e-6).log())
    layer.initialized.fill_(True)


def _over_ranks(total: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        total = total.clone()
        dist.all_reduce(total)
    return total
