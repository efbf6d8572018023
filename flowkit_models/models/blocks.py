"""Building blocks of the papers' networks: RRDB trunks, the feature extractors made of them, and the flow step."""

import functools
from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flowkit import ActNorm, Affine, Chain, Coupling, InvertibleConv1x1
from flowkit.nets import FCN, DenseBlock, ExactConv2d, small_xavier
from flowkit.tree import channels_last

Init = Callable[[nn.Module], None]
"""Sets the weights of one convolution."""


def small_kaiming(conv: nn.Module) -> None:
    """Kaiming-normal × 0.1 and no bias: how SRFlow's RRDBs start."""
    nn.init.kaiming_normal_(conv.weight)  # type: ignore[arg-type]
    with torch.no_grad():
        conv.weight.mul_(0.1)  # type: ignore[operator]
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]


class ResidualDense(nn.Module):
    """x + 0.2·DenseBlock(x), the residual dense block of ESRGAN."""

    def __init__(self, features: int, growth: int, init: Init) -> None:
        super().__init__()
        self.dense = DenseBlock(features, features, growth)
        for conv in (*self.dense.convs, self.dense.last):
            init(conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, H, W) to the same."""
        out: Tensor = x + 0.2 * self.dense(x)
        return out


class RRDB(nn.Module):
    """x + 0.2·(three residual dense blocks of x)."""

    def __init__(self, features: int, growth: int, init: Init = small_xavier) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualDense(features, growth, init) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, H, W) to the same."""
        out: Tensor = x + 0.2 * self.blocks(x)
        return out


KEPT_OF = 7
"""Lean trunks keep the activations of one block in so many: a seventh of the plain memory for a seventh of the time."""


class Trunk(nn.Sequential):
    """RRDBs one after the other.

    Args:
        count: how many.
        features, growth: width, and growth of the dense blocks.
        init: of their convolutions.
        lean: recompute the blocks in the backward pass instead of keeping their activations, all but one in seven, the
            last ones: they are the first that the backward pass needs.
    """

    def __init__(self, count: int, features: int, growth: int, init: Init, lean: bool) -> None:
        super().__init__(*(RRDB(features, growth, init) for _ in range(count)))
        self.lean = lean

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, H, W) to the same: the last block's output."""
        return [x, *self.outputs(x)][-1]

    def outputs(self, x: Tensor) -> Iterator[Tensor]:
        """Yields every block's output."""
        for i, block in enumerate(self):
            recomputed = self.lean and torch.is_grad_enabled() and i < len(self) - len(self) // KEPT_OF
            x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False) if recomputed else block(x)
            yield x


class FeatureExtractor(nn.Module):
    """HCFlow's network for the features c_l: RRDBs, tapped half-way (official code; paper, section 4.1).

    A = trunk0(conv(u)) and B = conv(trunk1(A)) + conv(u). The features are concat[A, B] for SR, B for rescaling.

    Args:
        in_channels: channels of u.
        blocks: RRDBs in trunk0 and in trunk1.
        features: width; with the tap the output has twice as many channels.
        growth: growth of the dense blocks.
        gain: of the RRDBs' Xavier-normal start.
        tap: A belongs to the features.
        lean: recompute the RRDBs in the backward pass instead of keeping their activations.
    """

    def __init__(
        self,
        in_channels: int,
        blocks: tuple[int, int],
        features: int,
        growth: int,
        gain: float = 0.1,
        tap: bool = True,
        lean: bool = False,
    ) -> None:
        super().__init__()
        self.tap = tap
        init = functools.partial(small_xavier, gain=gain)
        self.first = ExactConv2d(in_channels, features, 3, padding=1)
        self.trunk0, self.trunk1 = (Trunk(count, features, growth, init, lean) for count in blocks)
        self.last = ExactConv2d(features, features, 3, padding=1)

    def forward(self, u: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, 2·features, H, W), or without the tap (B, features, H, W)."""
        start = self.first(channels_last(u))  # exact: so what the blocks add up is not rounded
        a = self.trunk0(start)
        b = self.last(self.trunk1(a)) + start
        return torch.cat([a, b], 1) if self.tap else b


class RRDBNet(nn.Module):
    """The SR network of ESRGAN as SRFlow's encoder: features of an LR image at every size that the flow works at.

    Args:
        scale: its own SR image's size over the LR image's, a power of two.
        blocks: number of RRDBs.
        taps: indices of the blocks whose outputs are stacked.
        features, growth: width, and growth of the dense blocks.
        lean: recompute the RRDBs in the backward pass.
    """

    def __init__(
        self, scale: int, blocks: int, taps: tuple[int, ...], features: int, growth: int, lean: bool = False
    ) -> None:
        super().__init__()
        self.taps = taps
        conv = functools.partial(nn.Conv2d, features, features, 3, padding=1)
        self.first = ExactConv2d(3, features, 3, padding=1)
        self.trunk = Trunk(blocks, features, growth, small_kaiming, lean)
        self.last = ExactConv2d(features, features, 3, padding=1)
        self.up = nn.ModuleList(conv() for _ in range(scale.bit_length() - 1))
        self.hr = conv()
        self.image = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, lr: Tensor, half: bool = True) -> tuple[Tensor, ...]:
        """LR images (B, 3, h, w) to features (B, (taps + 1)·features, …), finest first: scale/2 times h × w … half.

        Without the half, which an image of one pixel has not, where no level works at that size.
        """
        base, stack = self._trunk(lr)
        own = [F.interpolate(base, scale_factor=0.5, mode="bilinear", align_corners=False)] if half else []
        own.append(base)
        for up in self.up[:-1]:  # the last one is for the encoder's own image
            own.append(_upsampled(own[-1], up))
        return tuple(torch.cat([f, F.interpolate(stack, f.shape[2:])], 1) for f in reversed(own))

    def super_resolve(self, lr: Tensor) -> Tensor:
        """The encoder's own SR image, which is what its pre-training trains and the flow does not use."""
        x = self._trunk(lr)[0]
        for up in self.up:
            x = _upsampled(x, up)
        image: Tensor = self.image(F.leaky_relu(self.hr(x), 0.2))
        return image

    def _trunk(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """The trunk's output, with its skip, and the stack of its tapped blocks."""
        x = self.first(channels_last(lr))
        outputs = list(self.trunk.outputs(x))
        x = outputs[-1] if outputs else x
        stack = [outputs[tap] for tap in self.taps]
        return x + self.last(x), torch.cat(stack, 1) if stack else x[:, :0]


def _upsampled(x: Tensor, conv: nn.Module) -> Tensor:
    return F.leaky_relu(conv(F.interpolate(x, scale_factor=2.0)), 0.2)


def transition(channels: int, init: Literal["orthogonal", "identity"] = "orthogonal") -> Chain:
    """ActNorm and an invertible 1×1 convolution: what a flow step starts with, and SRFlow's transition step."""
    return Chain(ActNorm(channels), InvertibleConv1x1(channels, init=init))


def flow_step(
    channels: int,
    hidden: int,
    context_channels: int = 0,
    init: Literal["orthogonal", "identity"] = "orthogonal",
) -> Chain:
    """A flow step: ActNorm, invertible 1×1 convolution, affine coupling of the second half (HCFlow, section 3.2).

    Args:
        channels: of the input; the first half (rounded down) steers.
        hidden: width of the coupling's network.
        context_channels: channels of the features that steer as well, for a conditional step.
        init: how the 1×1 convolution starts.
    """
    keep = channels // 2
    net = FCN(keep, 2 * (channels - keep), hidden, context_channels)
    return Chain(transition(channels, init), Coupling(net, keep, Affine("atan")))
