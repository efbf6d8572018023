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
    "ar rq": RationalQuadratic(BINS, TAIL),
}
"""Elementwise maps: of couplings, and of autoregressive flows."""


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
        if kind.startswith("ar"):
            order = None if i % 2 == 0 else range(features - 1, -1, -1)
            net = MADE(features, act.parameters, max(widths.hidden, features), depth=1, residual=kind == "ar rq")
            parts.append(Autoregressive(net, act, order=order))
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
        if kind.startswith("ar"):
            hidden = max(widths.hidden, features)
            if kind == "ar":
                affine = transforms.MaskedAffineAutoregressiveTransform
                parts.append(affine(features, hidden, num_blocks=1, use_residual_blocks=False))
            else:
                spline = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform
                parts.append(spline(features, hidden, None, BINS, "linear", TAIL, num_blocks=1))
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
    if kind.endswith("rq"):
        options["univariate"] = _library("zuko", "zuko.transforms").MonotonicRQSTransform
        options["shapes"] = [(BINS,), (BINS,), (BINS - 1,)]
    flow = (flows.MAF if kind.startswith("ar") else flows.NICE)(features, **options)
    return VectorFlow(flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))


def with_normflows(features: int, kind: str, widths: Widths) -> VectorFlow:
    """The pieces of normflows: `LULinearPermute` and couplings; its maps lead from the latents to the data."""
    library = _library("normflows", "normflows")
    flows, splines = library.flows, _library("normflows", "normflows.flows.neural_spline.coupling")
    parts: list[nn.Module] = []
    hidden = max(widths.hidden, features)
    for i in range(widths.steps):
        if kind == "ar":
            affine = flows.MaskedAffineAutoregressive(features, hidden, num_blocks=1, use_residual_blocks=False)
            parts += [_Turned(features), flows.Reverse(affine)]
            continue
        if kind == "ar rq":
            spline = flows.AutoregressiveRationalQuadraticSpline
            parts += [_Turned(features), spline(features, 1, hidden, num_bins=BINS, tail_bound=TAIL)]
            continue
        kept, moved = (features // 2, features - features // 2)[:: -1 if i % 2 else 1]
        if kind == "affine":
            net = Net(kept, 2 * moved, widths.hidden)
            mode = "channel_inv" if i % 2 else "channel"
            parts.append(flows.AffineCouplingBlock(net, scale_map="sigmoid", split_mode=mode))
        else:
            mask = (torch.arange(features) >= features // 2) ^ (i % 2 == 1)
            make = lambda inputs, outputs: Net(inputs, outputs, widths.hidden)  # noqa: E731
            spline = splines.PiecewiseRationalQuadraticCoupling(mask.long(), make, BINS, "linear", TAIL)
            parts.append(_Summed(spline))
        parts.append(flows.LULinearPermute(features))
    flow = library.NormalizingFlow(library.distributions.DiagGaussian(features, trainable=False), parts)
    return VectorFlow(flow, flow.log_prob, lambda n: flow.sample(n)[0])


class _Turned(nn.Module):
    """The numbers from the last to the first: normflows has random permutations only."""

    order: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("order", torch.arange(features - 1, -1, -1))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latents to data."""
        return z[:, self.order], z.new_zeros(len(z))

    inverse = forward


class _Summed(nn.Module):
    """A coupling of normflows, which is written from data to latents, from latents to data."""

    def __init__(self, coupling: Any) -> None:
        super().__init__()
        self.coupling = coupling

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latents to data."""
        x, logdet = self.coupling.inverse(z)
        return x, logdet.view(-1)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data to latents."""
        z, logdet = self.coupling(x)
        return z, logdet.view(-1)


def with_freia(features: int, kind: str, widths: Widths) -> VectorFlow:
    """One-sided affine couplings of FrEIA behind fixed permutations: it has no learned linear map of vectors."""
    modules = _library("FrEIA", "FrEIA.modules")
    flow = _library("FrEIA", "FrEIA.framework").SequenceINN(features)
    net = lambda inputs, outputs: Net(inputs, outputs, widths.hidden)  # noqa: E731
    for i in range(widths.steps):
        flow.append(modules.PermuteRandom, seed=i)
        flow.append(modules.AffineCouplingOneSided, subnet_constructor=net)
    base = StandardNormal()

    def log_prob(x: Tensor) -> Tensor:
        z, logdet = flow(x)
        density: Tensor = base.log_prob(z) + logdet
        return density

    return VectorFlow(flow, log_prob, lambda n: flow(torch.randn(n, features, device=_device(flow)), rev=True)[0])


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def compiled(flow: VectorFlow, **options: Any) -> VectorFlow:
    """A flow of flowkit whose methods are compiled; `options` are those of `torch.compile`."""
    flow.module.compile(**options)
    return flow


LIBRARIES: dict[str, Callable[[int, str, Widths], VectorFlow]] = {
    "nflows": with_nflows,
    "flowkit": with_flowkit,
    "flowkit compiled": lambda features, kind, widths: compiled(with_flowkit(features, kind, widths)),
    "flowkit compiled for one batch": lambda features, kind, widths: compiled(
        with_flowkit(features, kind, widths), dynamic=False, options={"cpp_wrapper": True}
    ),
    "flowkit compiled, to stay as it is": lambda features, kind, widths: compiled(
        with_flowkit(features, kind, widths),
        dynamic=False,
        options={"cpp_wrapper": True, "guard_filter_fn": torch.compiler.keep_tensor_guards_unsafe},
    ),
    "zuko, no linear maps": with_zuko,
    "flowkit, no linear maps": lambda features, kind, widths: with_flowkit(features, kind, widths, False),
    "flowkit compiled, no linear maps": lambda features, kind, widths: compiled(
        with_flowkit(features, kind, widths, False)
    ),
    "normflows": with_normflows,
    "FrEIA, no linear maps": with_freia,
}
"""All of them by name; the first is what the others are compared with."""


def is_there(name: str, kind: str, features: int) -> bool:
    """Whether a library has the flow, and another entry isn't the same: autoregressive flows have no linear maps.

    Compiled, a draw of an autoregressive flow is D passes, all of them in one graph: it is left out from D = 9 on.
    """
    if name == "FrEIA, no linear maps":
        return kind == "affine"
    if not kind.startswith("ar"):
        return True
    return not (name.startswith("flowkit") and "no linear maps" in name) and ("compiled" not in name or features <= 8)


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
        for parameter in filter(torch.is_floating_point, flow.module.parameters()):
            parameter.add_(torch.randn_like(parameter), alpha=0.3 / parameter.shape[-1] ** 0.5 if parameter.ndim else 0)
    return flow


def _library(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{name} is not installed ({error}): pip install --group bench") from error
