"""T-IRN's maps: colours apart from luma and details, and the coupling block of the three."""

import torch
from torch import Tensor, nn

from flowkit import Additive, Affine, Chain, Coupling
from flowkit.elementwise import Matrix
from flowkit.nets import DenseBlock

YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""Full-range BT.601: Y, Cb and Cr of R, G and B; the latter two are shifted by ½."""


def to_branches(channels: int) -> Matrix:
    """The map from channels whose first three are R, G and B to [Cb, Cr | the others | Y].

    A fixed channel-linear map, log|det| = −1.44274 a pixel. Nothing is clamped, so that it can be undone.
    """
    # constants are there on the meta device too, where models are laid out; first values, such as `eye`, are not
    matrix = torch.diag(torch.ones(channels, device="cpu"))
    matrix[:3, :3] = torch.tensor(YCBCR, device="cpu")
    bias = torch.zeros(channels, device="cpu")
    bias[1:3] = 0.5
    order = [1, 2, *range(3, channels), 0]
    return Matrix(matrix[order], bias[order])


def block(channels: int, growth: int) -> Chain:
    """A coupling block on [colours c (2) | details h | luma y (1)], with eight dense blocks E to L.

    c' = c + E(y) + F(h); y' = y + K(c') + L(h); h' = h·exp(s + t) + G(c') + I(y') with s = 2σ(H(c')) − 1 and
    t = 2σ(J(y')) − 1.
    """
    high = channels - 3

    def dense(inputs: int, outputs: int) -> DenseBlock:
        return DenseBlock(inputs, outputs, growth)

    return Chain(
        Coupling(Added(dense(high, 2), dense(1, 2), high), 2, Additive(), flip=True),
        Coupling(Added(dense(2, 1), dense(high, 1), 2), channels - 1, Additive()),
        Coupling(
            Modulation(dense(2, high), dense(1, high), dense(2, high), dense(1, high)),
            [0, 1, channels - 1],
            Affine("exp", "scale_first"),
        ),
    )


class Added(nn.Module):
    """Two nets on two parts of the channels, added: the shift of a coupling.

    Args:
        first: sees the leading channels.
        second: sees the others.
        split: number of leading channels.
    """

    def __init__(self, first: nn.Module, second: nn.Module, split: int) -> None:
        super().__init__()
        self.first, self.second, self.split = first, second, split

    def forward(self, passive: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, out, H, W)."""
        out: Tensor = self.first(passive[:, : self.split]) + self.second(passive[:, self.split :])
        return out


class Modulation(nn.Module):
    """Shift and log-scale of the details from colours and luma; the log-scale is within ±2, so `exp` can take it.

    Args:
        shift_c, shift_y: G and I, on colours (the first two channels) and on luma.
        scale_c, scale_y: H and J.
    """

    def __init__(self, shift_c: nn.Module, shift_y: nn.Module, scale_c: nn.Module, scale_y: nn.Module) -> None:
        super().__init__()
        self.shift_c, self.shift_y, self.scale_c, self.scale_y = shift_c, shift_y, scale_c, scale_y

    def forward(self, passive: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) to (B, 2·details, H, W), shift and log-scale of one channel side by side."""
        c, y = passive[:, :2], passive[:, 2:]
        shift = self.shift_c(c) + self.shift_y(y)
        log_scale = torch.tanh(self.scale_c(c) / 2) + torch.tanh(self.scale_y(y) / 2)  # tanh(x/2) = 2σ(x) − 1
        return torch.stack([shift, log_scale], 2).flatten(1, 2)
