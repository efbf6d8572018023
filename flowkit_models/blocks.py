"""Building blocks of the papers' networks: RRDB feature extractors, and the flow step."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flowkit import ActNorm, Affine, Chain, Coupling, InvertibleConv1x1
from flowkit.nets import FCN, DenseBlock, small_xavier


class ResidualDense(nn.Module):
    """x + 0.2·DenseBlock(x), the residual dense block of ESRGAN."""

    def __init__(self, features: int, growth: int, gain: float) -> None:
        super().__init__()
        self.dense = DenseBlock(features, features, growth)
        for conv in (*self.dense.convs, self.dense.last):
            small_xavier(conv, gain)

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, H, W) to the same."""
        out: Tensor = x + 0.2 * self.dense(x)
        return out


class RRDB(nn.Module):
    """x + 0.2·(three residual dense blocks of x)."""

    def __init__(self, features: int, growth: int, gain: float = 0.1) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualDense(features, growth, gain) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, H, W) to the same."""
        out: Tensor = x + 0.2 * self.blocks(x)
        return out


class FeatureExtractor(nn.Module):
    """HCFlow's network for the features c_l: RRDBs with two taps (official code; paper, section 4.1).

    A = trunk0(conv(u)), B = conv(trunk1(A)) + conv(u), and the features are concat[A, B].

    Args:
        in_channels: channels of u.
        blocks: RRDBs in trunk0 and in trunk1.
        features: width; the output has twice as many channels.
        growth: growth of the dense blocks.
        gain: of the RRDBs' Xavier-normal start.
        lean: recompute the RRDBs in the backward pass instead of keeping their activations.
    """

    def __init__(
        self,
        in_channels: int,
        blocks: tuple[int, int],
        features: int,
        growth: int,
        gain: float = 0.1,
        lean: bool = False,
    ) -> None:
        super().__init__()
        self.lean = lean
        self.first = nn.Conv2d(in_channels, features, 3, padding=1)
        self.trunk0, self.trunk1 = (
            nn.Sequential(*(RRDB(features, growth, gain) for _ in range(count))) for count in blocks
        )
        self.last = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, u: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, 2·features, H, W)."""
        start = self.first(u)
        a = self._trunk(self.trunk0, start)
        return torch.cat([a, self.last(self._trunk(self.trunk1, a)) + start], 1)

    def _trunk(self, blocks: nn.Sequential, x: Tensor) -> Tensor:
        for block in blocks:
            lean = self.lean and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if lean else block(x)
        return x


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
    return Chain(ActNorm(channels), InvertibleConv1x1(channels, init=init), Coupling(net, keep, Affine("atan")))
