"""Official checkpoints: their names and shapes for our modules, both ways."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from flowkit import ActNorm, InvertibleConv1x1
from flowkit.nets import FCN, ActNormConv2d, DenseBlock, ZeroConv2d

from .imageflow import ImageFlow

Entry = tuple[str, nn.Parameter, tuple[int, ...]]
"""Official name, our parameter, and the shape that it has officially."""


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


def _conv1x1(prefix: str, m: Any) -> Iterator[Entry]:
    yield prefix + ".weight", m.weight, m.weight.shape


_ENTRIES: dict[type[nn.Module], Callable[[str, Any], Iterator[Entry]]] = {
    ActNorm: _actnorm,
    InvertibleConv1x1: _conv1x1,
    FCN: _fcn,
    DenseBlock: _dense,
    ActNormConv2d: _actnorm_conv,
    ZeroConv2d: _zero_conv,
    nn.Conv2d: _conv,
}


def entries(model: ImageFlow) -> Iterator[Entry]:
    """Every parameter of a model with its official name and shape, in the official order."""
    for prefix, module in model.official_layout():
        yield from _ENTRIES[type(module)](prefix, module)


def official_state_dict(model: ImageFlow) -> dict[str, Tensor]:
    """The weights under the official names and shapes, equal to the last bit.

    Raises:
        ValueError: if the model has a part that the official implementation has not (Haar in an SR model, say).
    """
    reason = model.not_official()
    if reason:
        raise ValueError(f"official_state_dict: {reason}")
    return {name: p.detach().reshape(shape).clone() for name, p, shape in entries(model)}


def load_official(model: ImageFlow, state: Mapping[str, Tensor], source: str) -> None:
    """Copies an official state dict into a model of the same sizes.

    Raises:
        ValueError: names the first missing, unexpected or misshapen entries.
    """
    expected = {name: (p, p.detach().reshape(shape).shape) for name, p, shape in entries(model)}
    check_keys({name: tuple(shape) for name, (_, shape) in expected.items()}, state, source)
    ours = {id(p): name for name, p in model.named_parameters()}
    weights = {ours[id(p)]: state[name].reshape(p.shape) for name, (p, _) in expected.items()}
    model.load_state_dict(weights)


def check_keys(expected: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor], source: str) -> None:
    """Compares names and shapes, and tells what is wrong in one sentence.

    Raises:
        ValueError: names the first missing, unexpected or misshapen entries.
    """
    problems = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "misshapen": [
            f"{name} {tuple(state[name].shape)} instead of {shape}"
            for name, shape in expected.items()
            if name in state and tuple(state[name].shape) != shape
        ],
        "not finite": [
            name
            for name in expected
            if name in state and state[name].is_floating_point() and not bool(state[name].isfinite().all())
        ],
    }
    told = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in problems.items()
        if names
    ]
    if told:
        raise ValueError(f"{source}: the weights do not fit: {'; '.join(told)}")
