"""Flows of recipes/density.py: flowkit's for tables and images, and the same families in nflows and zuko."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

import flowkit
from flowkit.nets import ConvResNet, ResidualMLP


@dataclass(frozen=True)
class Sizes:
    """Sizes of a flow.

    Attributes:
        hidden: width of the networks.
        layers: number of couplings or autoregressive maps; None: the system's own.
        blocks: residual blocks of a network, or its hidden layers where they are plain.
        bins: of a spline.
        tail: splines act in [−tail, tail].
        dropout: in the networks of splines.
    """

    hidden: int
    layers: int | None = None
    blocks: int = 2
    bins: int = 8
    tail: float = 3.0
    dropout: float = 0.0


@dataclass(frozen=True)
class System:
    """A flow to be trained.

    Attributes:
        label: its name in the tables.
        library: flowkit, nflows or zuko.
        build: makes it, a module with `log_prob(x, context)`, from the shape of a row, features of the context, sizes.
        layers: its own number of layers.
        images: it is for images, else for tables.
        columns: of a table, that it needs.
    """

    label: str
    library: str
    build: Callable[[tuple[int, ...], int, Sizes], nn.Module]
    layers: int
    images: bool = False
    columns: int = 1

    def made(self, shape: Sequence[int], context: int, sizes: Sizes) -> nn.Module:
        """The flow, with first weights from torch's global random state."""
        return self.build(tuple(shape), context, replace(sizes, layers=sizes.layers or self.layers))

    def matched(self, shape: Sequence[int], context: int, sizes: Sizes, parameters: int) -> Sizes:
        """The sizes with the largest width, in eights, that makes at most so many parameters.

        Raises:
            ValueError: if eight are too many.
        """

        def fits(eights: int) -> bool:
            try:
                return count(self.made(shape, context, replace(sizes, hidden=8 * eights))) <= parameters
            except ValueError:  # too narrow for a masked network
                return True

        with torch.random.fork_rng(()):
            if not fits(1):
                raise ValueError(f"--parameters {parameters}: too few for {self.label}")
            high = 2
            while fits(high):
                high *= 2
            low = high // 2
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if fits(middle) else (low, middle)
        return replace(sizes, hidden=8 * low)


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def _flow(shape: tuple[int, ...], parts: Sequence[nn.Module]) -> flowkit.Flow:
    return flowkit.Flow(flowkit.Chain(*parts), flowkit.StandardNormal(), shape=shape)


def _coupling(features: int, context: int, sizes: Sizes, kind: Any, flip: bool) -> flowkit.Coupling:
    keep = features // 2
    passive = features - keep if flip else keep
    net = ResidualMLP(
        passive, kind.parameters * (features - passive), sizes.hidden, sizes.blocks, sizes.dropout, context
    )
    return flowkit.Coupling(net, keep, kind, flip=flip)


def _autoregressive(
    features: int, context: int, sizes: Sizes, kind: Any, backward: bool = False, residual: bool = True
) -> Any:
    depth = sizes.blocks if residual else sizes.blocks - 1  # plain layers stand behind a first one, as in zuko
    net = flowkit.nets.MADE(
        features, kind.parameters, sizes.hidden, depth, context, residual=residual, dropout=sizes.dropout
    )
    return flowkit.Autoregressive(net, kind, order=range(features)[::-1] if backward else None)


def _alternating(features: int, context: int, sizes: Sizes, kind: Any, residual: bool = True) -> list[Any]:
    """Autoregressive maps in alternate orders."""
    layers = range(sizes.layers or 0)
    return [_autoregressive(features, context, sizes, kind, i % 2 == 1, residual) for i in layers]


def _normed(features: int, steps: Sequence[nn.Module]) -> list[nn.Module]:
    """An ActNorm before each step."""
    return [part for step in steps for part in (flowkit.ActNorm(features), step)]


def _mixed(features: int, first: bool = False) -> list[nn.Module]:
    """What stands before a layer. The first one sees columns unmixed: where they end is easiest to learn there."""
    norm = flowkit.ActNorm(features)
    return [norm] if first else [norm, flowkit.InvertibleConv1x1(features, "plu")]


def _splines(sizes: Sizes) -> flowkit.RationalQuadratic:
    return flowkit.RationalQuadratic(sizes.bins, tail_bound=sizes.tail, identity=True)


def realnvp(shape: tuple[int, ...], context: int, sizes: Sizes) -> nn.Module:
    """Affine couplings of alternate halves (Dinh et al. 2017), with ActNorm in place of batch norm."""
    parts: list[nn.Module] = []
    for i in range(sizes.layers or 0):
        parts += [flowkit.ActNorm(shape[0]), _coupling(shape[0], context, sizes, flowkit.Affine("soft"), i % 2 == 1)]
    return _flow(shape, parts)


def glow(shape: tuple[int, ...], context: int, sizes: Sizes) -> nn.Module:
    """ActNorm, a learned linear map, affine coupling (Kingma and Dhariwal 2018)."""
    parts: list[nn.Module] = []
    for i in range(sizes.layers or 0):
        parts += [*_mixed(shape[0], first=i == 0), _coupling(shape[0], context, sizes, flowkit.Affine("soft"), False)]
    return _flow(shape, parts)


def nsf(shape: tuple[int, ...], context: int, sizes: Sizes) -> nn.Module:
    """Rational-quadratic spline couplings between learned linear maps (Durkan et al. 2019)."""
    parts: list[nn.Module] = []
    for i in range(sizes.layers or 0):
        parts += [*_mixed(shape[0], first=i == 0), _coupling(shape[0], context, sizes, _splines(sizes), False)]
    return _flow(shape, parts)


def nsf_ar(shape: tuple[int, ...], context: int, sizes: Sizes) -> nn.Module:
    """Autoregressive rational-quadratic splines between learned linear maps (Durkan et al. 2019)."""
    parts: list[nn.Module] = []
    for i in range(sizes.layers or 0):
        parts += [*_mixed(shape[0], first=i == 0), _autoregressive(shape[0], context, sizes, _splines(sizes))]
    return _flow(shape, parts)


def nsf_orders(shape: tuple[int, ...], context: int, sizes: Sizes) -> nn.Module:
    """Autoregressive rational-quadratic splines in alternate orders: columns are never mixed linearly."""
    return _flow(shape, _normed(shape[0], _alternating(shape[0], context, sizes, _splines(sizes))))


def nsf_plain(shape: tuple[int, ...], context: int, sizes: Sizes) -> nn.Module:
    """The same with plain networks of few and wide layers and splines in [−5, 5], as zuko has them."""
    kind = _splines(replace(sizes, tail=5.0))
    return _flow(shape, _normed(shape[0], _alternating(shape[0], context, sizes, kind, residual=False)))


def maf(shape: tuple[int, ...], context: int, sizes: Sizes) -> nn.Module:
    """Autoregressive affine maps in alternate orders (Papamakarios et al. 2017)."""
    return _flow(shape, _normed(shape[0], _alternating(shape[0], context, sizes, flowkit.Affine("soft"))))


def iaf(shape: tuple[int, ...], context: int, sizes: Sizes) -> nn.Module:
    """Inverses of autoregressive affine maps (Kingma et al. 2016): draws take one pass, a density one a column."""
    steps = _alternating(shape[0], context, sizes, flowkit.Affine("soft"))
    return _flow(shape, _normed(shape[0], [step.inv for step in steps]))


def residual(shape: tuple[int, ...], context: int, sizes: Sizes) -> nn.Module:
    """Residual flow: x + f(x) with contractions f of three layers (Chen et al. 2019)."""
    parts: list[nn.Module] = []
    for _ in range(sizes.layers or 0):
        net = flowkit.nets.lipschitz(flowkit.nets.MLP(shape[0], shape[0], sizes.hidden, 2, context), 0.97)
        parts += [flowkit.ActNorm(shape[0]), flowkit.Residual(net, 0.97)]
    return _flow(shape, parts)


def ode(shape: tuple[int, ...], context: int, sizes: Sizes) -> nn.Module:
    """Continuous flow (Grathwohl et al. 2019), by likelihood with the exact divergence, in eight steps of rk4."""
    parts: list[nn.Module] = []
    for _ in range(sizes.layers or 0):
        net = flowkit.nets.WithTime(flowkit.nets.MLP(shape[0] + 1, shape[0], sizes.hidden, 3, context))
        parts += [flowkit.ActNorm(shape[0]), flowkit.ODE(net, solver="rk4", steps=8)]
    return _flow(shape, parts)


def _image_flow(shape: tuple[int, ...], sizes: Sizes, step: Callable[[int, int], list[nn.Module]]) -> nn.Module:
    """Dequantised, at half size and at a quarter of it, all numbers kept to the end."""
    parts: list[nn.Module] = [flowkit.Dequantize(256)]
    channels, layers = shape[0], sizes.layers or 0
    for first in (0, layers - layers // 2):
        channels *= 4
        parts.append(flowkit.Squeeze())
        for i in range(first, layers if first else layers - layers // 2):
            parts += step(channels, i)
    return _flow(shape, parts)


def glow_images(shape: tuple[int, ...], context: int, sizes: Sizes) -> nn.Module:
    """Glow on images: steps of ActNorm, 1×1 convolution and affine coupling."""

    def step(channels: int, i: int) -> list[nn.Module]:
        net = flowkit.nets.CNN(channels // 2, channels, sizes.hidden)
        return [*_mixed(channels), flowkit.Coupling(net, channels // 2, flowkit.Affine("soft"))]

    return _image_flow(shape, sizes, step)


def realnvp_images(shape: tuple[int, ...], context: int, sizes: Sizes) -> nn.Module:
    """RealNVP on images: affine couplings of alternate halves of the channels, steered by residual networks."""

    def step(channels: int, i: int) -> list[nn.Module]:
        net = ConvResNet(channels // 2, channels, sizes.hidden, 1)
        coupling = flowkit.Coupling(net, channels // 2, flowkit.Affine("soft"), flip=i % 2 == 1)
        return [flowkit.ActNorm(channels), coupling]

    return _image_flow(shape, sizes, step)


def tarflow_images(shape: tuple[int, ...], context: int, sizes: Sizes) -> nn.Module:
    """TarFlow: autoregressive over 4×4 patches, by causal transformers of two layers each."""
    hidden = sizes.hidden if sizes.hidden < 128 else sizes.hidden // 64 * 64  # in heads of 64
    flow = flowkit.tarflow(shape[0], (shape[1], shape[2]), 4, sizes.layers or 0, hidden, 2)
    return _flow(shape, [flowkit.Dequantize(256), flow])


def _nflows(shape: tuple[int, ...], sizes: Sizes, step: Callable[[Any, int], Any], linear: bool) -> nn.Module:
    from nflows import distributions, flows, transforms  # noqa: PLC0415 - an extra

    parts = []
    for i in range(sizes.layers or 0):
        parts += [transforms.RandomPermutation(shape[0])] if linear else [transforms.ReversePermutation(shape[0])]
        parts += [transforms.LULinear(shape[0], identity_init=True)] if linear else []
        parts.append(step(transforms, i))
    flow: nn.Module = flows.Flow(transforms.CompositeTransform(parts), distributions.StandardNormal(shape))
    return flow


def nflows_nsf(shape: tuple[int, ...], context: int, sizes: Sizes) -> nn.Module:
    """Spline couplings as nflows has them."""

    def step(transforms: Any, i: int) -> Any:
        from nflows.nn.nets import ResidualNet  # noqa: PLC0415

        def net(features_in: int, features_out: int) -> nn.Module:
            made: nn.Module = ResidualNet(
                features_in,
                features_out,
                sizes.hidden,
                context or None,
                sizes.blocks,
                dropout_probability=sizes.dropout,
            )
            return made

        mask = torch.arange(shape[0]) % 2
        return transforms.PiecewiseRationalQuadraticCouplingTransform(mask, net, sizes.bins, "linear", sizes.tail)

    return _nflows(shape, sizes, step, linear=True)


def nflows_nsf_ar(shape: tuple[int, ...], context: int, sizes: Sizes) -> nn.Module:
    """Autoregressive splines as nflows has them."""

    def step(transforms: Any, i: int) -> Any:
        return transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
            shape[0],
            sizes.hidden,
            context or None,
            sizes.bins,
            "linear",
            sizes.tail,
            sizes.blocks,
            dropout_probability=sizes.dropout,
        )

    return _nflows(shape, sizes, step, linear=True)


def nflows_maf(shape: tuple[int, ...], context: int, sizes: Sizes) -> nn.Module:
    """MAF as nflows has it."""

    def step(transforms: Any, i: int) -> Any:
        return transforms.MaskedAffineAutoregressiveTransform(shape[0], sizes.hidden, context or None, sizes.blocks)

    return _nflows(shape, sizes, step, linear=False)


class Zuko(nn.Module):
    """A zuko flow with `log_prob(x, context)`."""

    def __init__(self, flow: Any) -> None:
        super().__init__()
        self.flow = flow

    def log_prob(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """(B, D) to (B,)."""
        log_prob: torch.Tensor = self.flow(context).log_prob(x)
        return log_prob


def zuko_nsf(shape: tuple[int, ...], context: int, sizes: Sizes) -> nn.Module:
    """Autoregressive splines as zuko has them, in [−5, 5]."""
    import zuko  # noqa: PLC0415 - an extra

    hidden = (sizes.hidden,) * sizes.blocks
    return Zuko(zuko.flows.NSF(shape[0], context, bins=sizes.bins, transforms=sizes.layers, hidden_features=hidden))


def zuko_maf(shape: tuple[int, ...], context: int, sizes: Sizes) -> nn.Module:
    """MAF as zuko has it."""
    import zuko  # noqa: PLC0415

    return Zuko(
        zuko.flows.MAF(shape[0], context, transforms=sizes.layers, hidden_features=(sizes.hidden,) * sizes.blocks)
    )


SYSTEMS = {
    "realnvp": System("RealNVP", "flowkit", realnvp, 8, columns=2),
    "glow": System("Glow", "flowkit", glow, 8, columns=2),
    "nsf": System("NSF (coupling)", "flowkit", nsf, 6, columns=2),
    "nsf_ar": System("NSF (AR)", "flowkit", nsf_ar, 5),
    "nsf_orders": System("NSF (AR, orders alternate)", "flowkit", nsf_orders, 5),
    "nsf_plain": System("NSF (AR, orders alternate, plain networks)", "flowkit", nsf_plain, 5),
    "maf": System("MAF", "flowkit", maf, 5),
    "iaf": System("IAF", "flowkit", iaf, 5),
    "residual": System("residual flow", "flowkit", residual, 8),
    "ode": System("continuous (ODE)", "flowkit", ode, 1),
    "glow_images": System("Glow", "flowkit", glow_images, 8, images=True),
    "realnvp_images": System("RealNVP", "flowkit", realnvp_images, 8, images=True),
    "tarflow_images": System("TarFlow", "flowkit", tarflow_images, 4, images=True),
    "nflows_nsf": System("nflows NSF (coupling)", "nflows", nflows_nsf, 6, columns=2),
    "nflows_nsf_ar": System("nflows NSF (AR)", "nflows", nflows_nsf_ar, 5),
    "nflows_maf": System("nflows MAF", "nflows", nflows_maf, 5),
    "zuko_nsf": System("zuko NSF", "zuko", zuko_nsf, 5),
    "zuko_maf": System("zuko MAF", "zuko", zuko_maf, 5),
}
"""Systems by the names that `--systems` takes."""


def nats(flow: Any, x: torch.Tensor, context: torch.Tensor | None, batch: int = 1024) -> float:
    """Mean log-density of rows, in nats."""
    device = next(flow.parameters()).device
    total = 0.0
    with torch.no_grad():
        for i in range(0, len(x), batch):
            given = None if context is None else context[i : i + batch].to(device)
            total += float(flow.log_prob(x[i : i + batch].to(device), given).double().sum())
    return total / len(x)


def bits_per_dim(mean_nats: float, shape: Sequence[int]) -> float:
    """Bits for each number of an image."""
    return -mean_nats / math.log(2) / math.prod(shape)
