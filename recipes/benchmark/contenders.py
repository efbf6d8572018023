"""One Glow in several libraries: networks, levels, steps and loss are the same, the rest as each library has it."""

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import handwritten
from flowkit import Affine, Hierarchy, Injector, Latents, Level, Reversible, SingleScale
from flowkit.nets import CNN, ZeroConv2d


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the Glow, and of what it is trained on."""

    levels: int = 2
    """L."""
    steps: int = 8
    """K."""
    hidden: int = 64
    """Width of the couplings' networks."""
    side: int = 32
    """Of the images, 3 × side × side."""
    batch: int = 16
    """Images per training step."""


@dataclass(frozen=True)
class Contender:
    """A Glow in one library.

    Attributes:
        module: holds the parameters.
        encode: images to latents and log-det, shape (B,).
        decode: latents back to images.
    """

    module: nn.Module
    encode: Callable[[Tensor], tuple[Sequence[Tensor], Tensor]]
    decode: Callable[[Sequence[Tensor]], Tensor]

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


class Net(nn.Sequential):
    """Layers that are called with a context, as nflows does."""

    def forward(self, passive: Tensor, context: Any = None) -> Tensor:
        """Ignores the context."""
        return super().forward(passive)


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

    return Contender(flow, encode, lambda z: flow.inverse(Latents(None, tuple(z)))[0])


def with_nflows(sizes: Sizes) -> Contender:
    """The pieces of a Glow in nflows."""
    net = lambda i, o: Net(*handwritten.network(i, o, sizes.hidden))  # noqa: E731
    flow = peer("glow_nflows", "nflows", sizes, net=net)._transform

    def encode(x: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        z, logdet = flow(x)
        return (z,), logdet

    return Contender(flow, encode, lambda z: flow.inverse(z[0])[0])


def with_normflows(sizes: Sizes) -> Contender:
    """The GlowBlock of normflows, with the dense 1×1 convolution that the hand-written one has."""
    block = {"hidden_channels": sizes.hidden, "use_lu": False, "net_actnorm": False}
    flow = peer("glow_normflows", "normflows", sizes, **block)
    return Contender(flow, flow.inverse_and_log_det, lambda z: flow.forward_and_log_det(list(z))[0])


def with_freia(sizes: Sizes) -> Contender:
    """The fused block of FrEIA, in a graph."""
    net = partial(handwritten.network, hidden=sizes.hidden)
    flow = peer("glow_freia", "FrEIA", sizes, net=net, rotation={"permute_soft": True})
    flow.force_tuple_output = True  # of one level, too
    return Contender(flow, flow, lambda z: flow(list(z), rev=True, jac=False)[0][0])


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
    """The Glow that a file of `peers/` builds, of these sizes."""
    try:
        built = importlib.import_module(f"benchmark.peers.{module}").build
    except ImportError as error:
        raise ImportError(f"{library} is not installed ({error}): pip install --group bench") from error
    return built(sizes.side, sizes.levels, sizes.steps, **options)
