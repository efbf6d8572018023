"""One Glow in several libraries: networks, levels, steps and loss are the same, the rest as each library has it."""

import importlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import handwritten
from flowkit import Affine, Hierarchy, Injector, Latents, Level, Reversible, SingleScale
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
    """The coupling's network, called with a context as nflows does."""

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
    net = partial(CNN, hidden=sizes.hidden)
    flow = peer("glow_flowkit", "flowkit", sizes, net=net, floor=0.0, conv="dense").bijector
    if reversible:
        flow = Hierarchy([Level(Reversible(level.body), level.keep) for level in flow.levels])
    if conditional:
        levels = []
        for level in flow.levels:
            conv = ZeroConv2d(level.keep, 2 * level.keep) if level.keep else None
            prior = conv and Injector(conv, Affine("exp", "scale_first", inverted=True))
            levels.append(Level(level.body, level.keep, prior))
        flow = Hierarchy(levels, SingleScale([nn.Identity() if level.keep else None for level in levels]))

    def encode(x: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        (_, z), logdet = flow(x)
        return z, logdet

    def decode(z: Sequence[Tensor]) -> Tensor:
        x: Tensor = flow.inverse(Latents(None, tuple(z)))[0]
        return x

    return Contender(flow, encode, decode, "a learned Gaussian for each latent but the last" if conditional else "")


def with_nflows(sizes: Sizes) -> Contender:
    """The pieces of a Glow in nflows."""
    flow = peer("glow_nflows", "nflows", sizes, net=partial(Net, hidden=sizes.hidden))._transform

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
    block = {"hidden_channels": sizes.hidden, "use_lu": False, "net_actnorm": False}
    flow = peer("glow_normflows", "normflows", sizes, **block)
    return Contender(
        flow, flow.inverse_and_log_det, lambda z: flow.forward_and_log_det(list(z))[0], "leaky ReLU of slope 0"
    )


def with_freia(sizes: Sizes) -> Contender:
    """The fused block of FrEIA, in a graph."""
    net = partial(handwritten.network, hidden=sizes.hidden)
    flow = peer("glow_freia", "FrEIA", sizes, net=net, rotation={"permute_soft": True})
    flow.force_tuple_output = True  # of one level, too
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


def peer(module: str, library: str, sizes: Sizes, **options: Any) -> Any:
    """The Glow that a file of `peers/` builds, of these sizes.

    Raises:
        ImportError: if its library is not installed; the message says how to install it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            built = importlib.import_module(f"benchmark.peers.{module}").build
    except ImportError as error:
        raise ImportError(f"{library} is not installed ({error}): pip install --group bench") from error
    return built(sizes.side, sizes.levels, sizes.steps, **options)
