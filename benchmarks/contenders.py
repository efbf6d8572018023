"""One Glow in several libraries: networks, levels, steps and loss are the same, the rest as each library has it."""

import importlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import handwritten
from flowkit import (
    ActNorm,
    Affine,
    Chain,
    Coupling,
    Hierarchy,
    Independent,
    Injector,
    InvertibleConv1x1,
    Latents,
    Level,
    Reversible,
    SingleScale,
    Squeeze,
)
from flowkit.nets import CNN, ZeroConv2d


@dataclass(frozen=True)
class Sizes:
    """Sizes of the Glow, and of what it is trained on.

    Attributes:
        levels, steps, hidden: L, K, and the width of the couplings' networks.
        side: of the images, 3 × side × side.
        batch: images per training step.
    """

    levels: int = 2
    steps: int = 8
    hidden: int = 64
    side: int = 32
    batch: int = 16

    def level_channels(self) -> list[int]:
        """Channels after the squeeze of each level: 12, 24, and so on."""
        return [12 * 2**i for i in range(self.levels)]


@dataclass(frozen=True)
class Contender:
    """A Glow in one library.

    Attributes:
        module: holds the parameters.
        encode: images to latents and log-det, shape (B,).
        decode: latents back to images.
        note: how it differs from the hand-written one.
    """

    module: nn.Module
    encode: Callable[[Tensor], tuple[Sequence[Tensor], Tensor]]
    decode: Callable[[Sequence[Tensor]], Tensor]
    note: str = ""

    def loss(self, x: Tensor) -> Tensor:
        """Nats per dimension under a standard-normal prior, mean over the batch; a scalar."""
        latents, logdet = self.encode(x)
        log_prob = logdet
        for z in latents:
            log_prob = log_prob - 0.5 * (z.float().square() + math.log(2 * math.pi)).flatten(1).sum(1)
        return -log_prob.mean() / math.prod(x.shape[1:])


def by_hand(sizes: Sizes) -> Contender:
    """Plain torch; its inverse computes no log-det."""
    model = handwritten.Glow(sizes.levels, sizes.steps, sizes.hidden)
    return Contender(model, model, lambda z: model.inverse(list(z)))


class Net(nn.Module):
    """The coupling's network, called with a context as nflows and flowkit do."""

    def __init__(self, in_channels: int, out_channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = handwritten.network(in_channels, out_channels, hidden)

    def forward(self, passive: Tensor, context: Any = None) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        out: Tensor = self.layers(passive)
        return out


def with_flowkit(sizes: Sizes, reversible: bool = False, conditional: bool = False) -> Contender:
    """The primitives of flowkit.

    Args:
        sizes: of the Glow.
        reversible: the levels keep no activations.
        conditional: the latents are standardised given what goes on to the next level, as SRFlow's are.
    """
    chain = Reversible if reversible else Chain
    levels, nets = [], []
    for i, channels in enumerate(sizes.level_channels()):
        steps = (
            ActNorm(channels)
            >> InvertibleConv1x1(channels)
            >> Coupling(CNN(channels // 2, channels, sizes.hidden), channels // 2, Affine("sigmoid", floor=0.0))
            for _ in range(sizes.steps)
        )
        half = channels // 2 if i < sizes.levels - 1 else None
        prior = Injector(ZeroConv2d(channels // 2, channels), Affine("exp", "scale_first", inverted=True))
        levels.append(Level(chain(Squeeze() >> Chain(*steps)), half, prior if half and conditional else None))
        nets.append(nn.Identity() if half and conditional else None)
    flow = Hierarchy(levels, SingleScale(nets) if conditional else Independent())

    def encode(x: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        (_, z), logdet = flow(x)
        return z, logdet

    def decode(z: Sequence[Tensor]) -> Tensor:
        x: Tensor = flow.inverse(Latents(None, tuple(z)))[0]
        return x

    return Contender(flow, encode, decode, "a learned Gaussian for each latent but the last" if conditional else "")


def with_nflows(sizes: Sizes) -> Contender:
    """The pieces of a Glow in nflows."""
    nflows: Any = library("nflows.transforms", "nflows")
    masks: Any = library("nflows.utils.torchutils", "nflows")
    flow = nflows.MultiscaleCompositeTransform(sizes.levels)
    for i, channels in enumerate(sizes.level_channels()):
        parts = [nflows.SqueezeTransform()]
        for _ in range(sizes.steps):
            parts += [
                nflows.ActNorm(channels),
                nflows.OneByOneConvolution(channels),
                nflows.AffineCouplingTransform(
                    masks.create_mid_split_binary_mask(channels), lambda i, o: Net(i, o, sizes.hidden)
                ),
            ]
        side = sizes.side // 2 ** (i + 1)
        flow.add_transform(nflows.CompositeTransform(parts), (channels, side, side))

    def encode(x: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        z, logdet = flow(x)
        return (z,), logdet

    def decode(latents: Sequence[Tensor]) -> Tensor:
        x: Tensor = flow.inverse(latents[0])[0]
        return x

    return Contender(
        flow, encode, decode, "1×1 as triangular factors, a fixed permutation and a bias; scales have a floor"
    )


def with_normflows(sizes: Sizes) -> Contender:
    """The GlowBlock of normflows, with the dense 1×1 convolution that the hand-written one has."""
    normflows: Any = library("normflows")
    blocks, merges, priors = [], [], []
    for i, channels in reversed(list(enumerate(sizes.level_channels()))):
        glow = [normflows.flows.GlowBlock(channels, sizes.hidden, use_lu=False) for _ in range(sizes.steps)]
        blocks.append([*glow, normflows.flows.Squeeze()])
        side = sizes.side // 2 ** (i + 1)
        last = i == sizes.levels - 1
        merges += [] if last else [normflows.flows.Merge()]
        priors.append(
            normflows.distributions.DiagGaussian((channels if last else channels // 2, side, side), trainable=False)
        )
    flow = normflows.MultiscaleFlow(priors, blocks, merges, class_cond=False)
    return Contender(
        flow, flow.inverse_and_log_det, lambda z: flow.forward_and_log_det(list(z))[0], "leaky ReLU of slope 0"
    )


def with_freia(sizes: Sizes) -> Contender:
    """The fused block of FrEIA, in a graph."""
    modules: Any = library("FrEIA.modules", "FrEIA")
    graph: Any = library("FrEIA.framework", "FrEIA")
    node = graph.InputNode(3, sizes.side, sizes.side)
    nodes, outputs = [node], []
    for i in range(sizes.levels):
        node = graph.Node(node, modules.IRevNetDownsampling, {})
        nodes.append(node)
        for _ in range(sizes.steps):
            block = {"subnet_constructor": lambda i, o: handwritten.network(i, o, sizes.hidden), "permute_soft": True}
            node = graph.Node(node, modules.AllInOneBlock, block)
            nodes.append(node)
        if i < sizes.levels - 1:
            split = graph.Node(node, modules.Split, {})
            outputs.append(graph.OutputNode(split.out1))
            nodes.append(split)
            node = split.out0
    flow = graph.GraphINN([*nodes, *outputs, graph.OutputNode(node)], force_tuple_output=True)
    return Contender(
        flow,
        flow,
        lambda z: flow(list(z), rev=True, jac=False)[0][0],
        "no learned 1×1 convolution: a fixed random rotation; scales from tanh",
    )


CONTENDERS: dict[str, Callable[[Sizes], Contender]] = {
    "hand-written": by_hand,
    "flowkit": with_flowkit,
    "flowkit reversible": lambda sizes: with_flowkit(sizes, reversible=True),
    "flowkit conditional": lambda sizes: with_flowkit(sizes, conditional=True),
    "nflows": with_nflows,
    "normflows": with_normflows,
    "FrEIA": with_freia,
}
"""All of them by name."""

BASE = "hand-written"
"""What the others are compared with."""


def contender(name: str, sizes: Sizes, seed: int = 0) -> Contender:
    """Makes a contender with fresh weights.

    Raises:
        ValueError: for an unknown name.
        ImportError: if its library is not installed; the message says how to install it.
    """
    if name not in CONTENDERS:
        raise ValueError(f"no contender {name!r}; there are {', '.join(CONTENDERS)}")
    torch.manual_seed(seed)
    return CONTENDERS[name](sizes)


def library(module: str, package: str | None = None) -> Any:
    """Imports a library that is compared with.

    Raises:
        ImportError: if it is not installed; the message says how to install it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as error:
        name = package or module
        raise ImportError(f'{name} is not installed ({error}): pip install "flowkit-torch[bench]"') from error
