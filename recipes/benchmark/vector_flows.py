"""One flow of vectors in several libraries: couplings, networks and linear maps alike, the rest as each has it."""

import importlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowkit import Affine, Autoregressive, Chain, Coupling, Flow, InvertibleConv1x1, RationalQuadratic, StandardNormal
from flowkit.kinds import Kind
from flowkit.nets import MADE, MLP

BINS, TAIL = 8, 5.0
"""Of the splines: in [−5, 5], as zuko has them."""

KINDS: dict[str, Kind] = {
    "affine": Affine("sigmoid", "scale_first", floor=1e-3),  # what the couplings of nflows compute
    "rq": RationalQuadratic(BINS, TAIL),
    "ar": Affine("softplus", "scale_first"),
}
"""Elementwise maps: of couplings, and of an autoregressive flow."""


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Sizes of the flows."""

    steps: int = 8
    """Couplings, or autoregressive maps."""
    hidden: int = 128
    """Width of the networks, which have two hidden layers."""


@dataclass(frozen=True)
class VectorFlow:
    """A flow in one library.

    Attributes:
        module: holds the parameters.
        log_prob: x (B, D) to log-densities (B,).
        sample: draws so many.
    """

    module: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[int], Tensor]


class Net(nn.Sequential):
    """The perceptron of all libraries; nflows calls it with a context."""

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        widths = (inputs, hidden, hidden, outputs)
        layers = [layer for i, o in itertools.pairwise(widths) for layer in (nn.Linear(i, o), nn.SiLU())]
        super().__init__(*layers[:-1])

    def forward(self, passive: Tensor, context: Any = None) -> Tensor:
        """Ignores the context."""
        return super().forward(passive)


def with_flowkit(features: int, kind: str, widths: Widths, maps: bool = True) -> VectorFlow:
    """The primitives of flowkit; `maps` are its PLU matrices, one before every coupling."""
    act, half = KINDS[kind], features // 2
    parts: list[nn.Module] = []
    for i in range(widths.steps):
        if kind == "ar":
            order = None if i % 2 == 0 else range(features - 1, -1, -1)
            parts.append(Autoregressive(MADE(features, 2, widths.hidden, depth=1, residual=False), act, order=order))
            continue
        kept, moved = (features - half, half) if i % 2 else (half, features - half)
        coupling = Coupling(MLP(kept, act.parameters_of(moved), hidden=widths.hidden), half, act, flip=i % 2 == 1)
        parts += [InvertibleConv1x1(features, "plu"), coupling] if maps else [coupling]
    flow = Flow(Chain(*parts), StandardNormal(), shape=(features,))
    return VectorFlow(flow, flow.log_prob, flow.sample)


def with_nflows(features: int, kind: str, widths: Widths) -> VectorFlow:
    """The pieces of nflows: `LULinear` behind a random permutation, and couplings."""
    transforms = _library("nflows", "nflows.transforms")
    parts: list[nn.Module] = []
    for i in range(widths.steps):
        if kind == "ar":
            parts.append(
                transforms.MaskedAffineAutoregressiveTransform(
                    features, widths.hidden, num_blocks=1, use_residual_blocks=False
                )
            )
            parts.append(transforms.ReversePermutation(features))
            continue
        parts += [transforms.RandomPermutation(features), transforms.LULinear(features, identity_init=True)]
        mask = (torch.arange(features) >= features // 2) ^ (i % 2 == 1)
        net = lambda inputs, outputs: Net(inputs, outputs, widths.hidden)  # noqa: E731
        if kind == "affine":
            parts.append(transforms.AffineCouplingTransform(mask.long(), net))
        else:
            spline = transforms.PiecewiseRationalQuadraticCouplingTransform
            parts.append(spline(mask.long(), net, BINS, "linear", TAIL))
    flow = _library("nflows", "nflows.flows").Flow(
        transforms.CompositeTransform(parts), _library("nflows", "nflows.distributions").StandardNormal([features])
    )
    return VectorFlow(flow, flow.log_prob, flow.sample)


def with_zuko(features: int, kind: str, widths: Widths) -> VectorFlow:
    """The flows of zuko, which have no linear maps."""
    flows = _library("zuko", "zuko.flows")
    options: dict[str, Any] = {"transforms": widths.steps, "hidden_features": (widths.hidden,) * 2}
    options["activation"] = nn.SiLU
    if kind == "rq":
        options["univariate"] = _library("zuko", "zuko.transforms").MonotonicRQSTransform
        options["shapes"] = [(BINS,), (BINS,), (BINS - 1,)]
    flow = (flows.MAF if kind == "ar" else flows.NICE)(features, **options)
    return VectorFlow(flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))


def compiled(flow: VectorFlow) -> VectorFlow:
    """A flow of flowkit whose methods are compiled."""
    flow.module.compile()
    return flow


LIBRARIES: dict[str, Callable[[int, str, Widths], VectorFlow]] = {
    "nflows": with_nflows,
    "flowkit": with_flowkit,
    "flowkit compiled": lambda features, kind, widths: compiled(with_flowkit(features, kind, widths)),
    "zuko, no linear maps": with_zuko,
    "flowkit, no linear maps": lambda features, kind, widths: with_flowkit(features, kind, widths, False),
}
"""All of them by name; the first is what the others are compared with."""


def vector_flow(name: str, features: int, kind: str, widths: Widths, seed: int = 0) -> VectorFlow:
    """Makes a flow whose parameters are off their start.

    Raises:
        ValueError: for an unknown name or kind.
        ImportError: if its library is not installed; the message says how to install it.
    """
    for known, asked, what in ((LIBRARIES, name, "flow"), (KINDS, kind, "kind")):
        if asked not in known:
            raise ValueError(f"no {what} {asked!r}; there are {', '.join(known)}")
    torch.manual_seed(seed)
    flow = LIBRARIES[name](features, kind, widths)
    with torch.no_grad():
        for parameter in flow.module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3 / parameter.shape[-1] ** 0.5 if parameter.ndim else 0)
    return flow


def _library(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{name} is not installed ({error}): pip install --group bench") from error
