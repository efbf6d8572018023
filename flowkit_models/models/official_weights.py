"""Official names and shapes for our modules: copying weights in and out, equal to the last bit."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flowkit import ActNorm, InvertibleConv1x1
from flowkit.nets import FCN, ActNormConv2d, DenseBlock, ExactConv2d, Interleave, ZeroConv2d
from flowkit.spatial import Patch
from flowkit.weights_file import check_keys
from flowkit_models.models.official_names import HaarKernels

Entry = tuple[str, Tensor, tuple[int, ...]]
"""Official name, our parameter (or a constant of the official code), and the shape that it has officially."""


def _actnorm(prefix: str, m: Any) -> Iterator[Entry]:
    yield prefix + ".bias", m.bias, (1, -1, 1, 1)
    yield prefix + ".logs", m.log_scale, (1, -1, 1, 1)


def _conv(prefix: str, m: Any) -> Iterator[Entry]:
    yield prefix + ".weight", m.weight, m.weight.shape
    yield prefix + ".bias", m.bias, m.bias.shape


def _zero_conv(prefix: str, m: Any) -> Iterator[Entry]:
    yield from _conv(prefix, m)
    yield prefix + ".logs", m.log_scale, (-1, 1, 1)


def _actnorm_conv(prefix: str, m: Any) -> Iterator[Entry]:
    yield prefix + ".weight", m.weight, m.weight.shape
    yield from _actnorm(prefix + ".actnorm", m)


def _fcn(prefix: str, m: Any) -> Iterator[Entry]:
    yield from _actnorm_conv(prefix + ".conv1", m.conv1)
    yield from _actnorm_conv(prefix + ".conv2", m.conv2)
    yield from _zero_conv(prefix + ".conv3", m.conv3)


def _dense(prefix: str, m: Any) -> Iterator[Entry]:
    for i, conv in enumerate([*m.convs, m.last], start=1):
        yield from _conv(f"{prefix}.conv{i}", conv)


def _interleaved(prefix: str, m: Any) -> Iterator[Entry]:
    for name, net in zip("GH", m.nets, strict=True):
        yield from _dense(prefix + name, net)


def _conv1x1(prefix: str, m: Any) -> Iterator[Entry]:
    yield prefix + ".weight", m.weight, m.weight.shape


def _patch(prefix: str, m: Any) -> Iterator[Entry]:
    yield prefix + ".conv_weights", m.weight, m.weight.shape


def _haar(prefix: str, m: HaarKernels) -> Iterator[Entry]:
    signs = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=m.dtype)
    kernels = signs.view(4, 1, 2, 2).repeat(m.channels, 1, 1, 1)
    yield prefix + ".haar_weights", kernels, kernels.shape


_ENTRIES: dict[type, Callable[[str, Any], Iterator[Entry]]] = {
    ActNorm: _actnorm,
    InvertibleConv1x1: _conv1x1,
    Patch: _patch,
    HaarKernels: _haar,
    FCN: _fcn,
    DenseBlock: _dense,
    Interleave: _interleaved,
    ActNormConv2d: _actnorm_conv,
    ZeroConv2d: _zero_conv,
    nn.Conv2d: _conv,
    ExactConv2d: _conv,
}


def entries(model: Any) -> Iterator[Entry]:
    """Every parameter of a model, and every stored constant, with official name and shape, in the official order.

    Raises:
        ValueError: if the model has a part that the official implementation has not (Haar in an SR model, say), or is
            of a family whose official names are not known here.
    """
    if not hasattr(model, "official_layout"):
        raise ValueError(
            f"{type(model).__name__}: no official names are known for it; save() writes flowkit's own file"
        )
    for prefix, module in model.official_layout():
        yield from _ENTRIES[type(module)](prefix, module)


def official_state_dict(model: Any) -> dict[str, Tensor]:
    """The weights under the official names and shapes, equal to the last bit.

    Raises:
        ValueError: as `entries`.
    """
    return {name: p.detach().reshape(shape).clone() for name, p, shape in entries(model)}


def load_official(model: Any, state: Mapping[str, Tensor], source: str) -> None:
    """Copies an official state dict into a model of the same sizes.

    Raises:
        ValueError: names the first missing, unexpected or misshapen entries.

    Warns:
        UserWarning: if a stored constant has another value than the official code's; it is ignored.
    """
    load_part(model, state, "", source)
    model.load_state_dict({**model.state_dict(), **_reset_flags(model)})


def check_official(model: Any, state: Mapping[str, Tensor], source: str, prefix: str = "") -> None:
    """Compares an official state dict with a model of any kind, on the meta device as well.

    Raises:
        ValueError: as `check_keys`.
    """
    parts = ((name, p, shape) for name, p, shape in entries(model) if name.startswith(prefix))
    check_keys({name: p.detach().reshape(shape) for name, p, shape in parts}, state, source)


def load_part(model: Any, state: Mapping[str, Tensor], prefix: str, source: str) -> None:
    """Copies the entries of an official state dict whose names start with a prefix. Raises and warns as above."""
    check_official(model, state, source, prefix)
    wanted = {name: p for name, p, _ in entries(model) if name.startswith(prefix)}
    ours = {id(p) for p in model.parameters()}
    altered = [name for name, p in wanted.items() if id(p) not in ours and not torch.equal(p, state[name].to(p))]
    if altered:
        warnings.warn(f"{source}: {', '.join(altered)}: other values than Haar's are ignored", stacklevel=4)
    with torch.no_grad():
        for name, p in wanted.items():
            if id(p) in ours:
                p.copy_(state[name].reshape(p.shape))


def _reset_flags(model: Any) -> dict[str, Tensor]:
    """Official files have no flag of initialisation: it follows from the values."""
    return {name: torch.zeros_like(b) for name, b in model.named_buffers() if name.endswith(".initialized")}
