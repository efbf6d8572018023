"""Maps between pixels and channels: squeeze, Haar and learned patch transforms; and the split of channels."""

import math
from fractions import Fraction

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from flowkit.arguments import check_whole
from flowkit.bijector import Bijector, TensorMap, no_logdet
from flowkit.linear import inverted, mix_channels
from flowkit.tree import Value, describe


class Squeeze(TensorMap):
    """Space to depth, (B, C, f·H, f·W) to (B, f²·C, H, W), in the channel order of `pixel_unshuffle`.

    Args:
        factor: f.

    Raises:
        ValueError: if the factor is below 1, or the sizes, or in the inverse the channels, do not divide.
    """

    constant_logdet = True

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        check_whole("Squeeze", factor=factor)
        self.stride = factor
        self.shrink = Fraction(factor)

    def extra_repr(self) -> str:
        """The factor."""
        return str(self.stride)

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Pixels to channels."""
        _check_image(self, x, 1)
        if x.shape[0] == 0:  # torch gives an empty tensor back as it is, and so an empty gradient
            b, c, h, w = x.shape
            return x.reshape(b, c * self.stride**2, h // self.stride, w // self.stride), no_logdet(x)
        return F.pixel_unshuffle(x, self.stride), no_logdet(x)

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Channels to pixels."""
        _check_image(self, y, self.stride**2)
        if y.shape[0] == 0:
            b, c, h, w = y.shape
            return y.reshape(b, c // self.stride**2, h * self.stride, w * self.stride), no_logdet(y)
        return F.pixel_shuffle(y, self.stride), no_logdet(y)


class Haar(TensorMap):
    """The Haar transform of 2×2 blocks, (B, C, 2H, 2W) to (B, 4C, H, W), bands before colours.

    For a block a b / c d: average (a+b+c+d)/4, horizontal (a−b+c−d)/4, vertical (a+b−c−d)/4 and diagonal
    (a−b−c+d)/4, all C averages first. So the first C channels are the image at half size. Not orthonormal:
    log|det| = −log 16 per block and channel (IRN, section 3.2; HCFlow, section 4.1, rescaling).
    """

    stride = 2
    shrink = Fraction(2)
    constant_logdet = True

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Pixels to averages and details."""
        _check_image(self, x, 1)
        a, b = x[:, :, 0::2, 0::2], x[:, :, 0::2, 1::2]
        c, d = x[:, :, 1::2, 0::2], x[:, :, 1::2, 1::2]
        y = torch.cat(_butterfly(a, b, c, d), 1) / 4
        return y, self._logdet(x)

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Averages and details to pixels, without a factor."""
        _check_image(self, y, 4)
        corners = torch.stack(_butterfly(*y.chunk(4, 1)))
        x = rearrange(corners, "(i j) b c h w -> b c (h i) (w j)", i=2)
        return x, -self._logdet(x)

    @staticmethod
    def _logdet(x: Tensor) -> Tensor:
        return x.new_full((x.shape[0],), -math.log(2) * math.prod(x.shape[1:]))


class Patch(TensorMap):
    """A learned invertible matrix over the f² pixels of a patch, (B, C, f·H, f·W) to (B, f²·C, H, W).

    All channels share it; bands come before colours, as in `Haar`. It starts from pixels as they are, but for the
    first band, the mean of the patch: the image at 1/f of its size (the downscaling of IRN's ×3 model of 2022).

    Args:
        factor: f.
    """

    constant_logdet = True

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        check_whole("Patch", factor=factor)
        self.stride = factor
        self.shrink = Fraction(factor)
        weight = torch.eye(factor**2)
        weight[0] = 1 / factor**2
        self.weight = nn.Parameter(weight)

    def extra_repr(self) -> str:
        """The factor."""
        return str(self.stride)

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Pixels, row by row, to bands."""
        _check_image(self, x, 1)
        patches = rearrange(x, "b c (h i) (w j) -> (b c) (i j) h w", i=self.stride, j=self.stride)
        bands = mix_channels(patches, self.weight)
        return rearrange(bands, "(b c) k h w -> b (k c) h w", c=x.shape[1]), self._logdet(x)

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Bands to pixels, by the inverse matrix, which is solved in float64."""
        _check_image(self, y, self.stride**2)
        bands = rearrange(y, "b (k c) h w -> (b c) k h w", k=self.stride**2)
        patches = mix_channels(bands, inverted(self.weight, self))
        c = y.shape[1] // self.stride**2
        x = rearrange(patches, "(b c) (i j) h w -> b c (h i) (w j)", c=c, i=self.stride, j=self.stride)
        return x, -self._logdet(y)

    def _logdet(self, x: Tensor) -> Tensor:
        """There are as many patches, over all channels, as numbers over f²."""
        patches = math.prod(x.shape[1:]) // self.stride**2
        return (torch.linalg.slogdet(self.weight).logabsdet * patches).repeat(x.shape[0])


def _butterfly(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four sign patterns of a 2×2 block; up to the factor 4 it is its own inverse."""
    top, bottom, left, right = a + b, c + d, a - b, c - d
    return top + bottom, left + right, top - bottom, left - right


def _check_image(layer: Bijector, x: Tensor, multiple: int) -> None:
    if x.ndim != 4 or x.shape[1] % multiple:
        raise ValueError(
            f"{type(layer).__name__}: expected (B, C, H, W)"
            + (f" with C a multiple of {multiple}" if multiple > 1 else "")
            + f", got {tuple(x.shape)}"
        )


class Split(Bijector):
    """Splits the channels: x to the pair (kept, dropped) = (x[:, :keep], x[:, keep:]). It keeps volume.

    Args:
        keep: number of channels that go on.

    Example:
        >>> (kept, dropped), _ = Split(1)(torch.arange(3.0).view(1, 3))
        >>> kept, dropped
        (tensor([[0.]]), tensor([[1., 2.]]))
    """

    x_is_tensor = True
    constant_logdet = True

    def __init__(self, keep: int) -> None:
        super().__init__()
        check_whole("Split", keep=keep)
        self.keep = keep

    def extra_repr(self) -> str:
        """The channels that are kept."""
        return str(self.keep)

    def forward(self, x: Tensor, context: Value = None) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Splits."""
        if x.shape[1] <= self.keep:
            raise ValueError(f"Split({self.keep}): expected more than {self.keep} channels, got {tuple(x.shape)}")
        return (x[:, : self.keep], x[:, self.keep :]), no_logdet(x)

    def inverse(self, y: tuple[Tensor, Tensor], context: Value = None) -> tuple[Tensor, Tensor]:
        """Concatenates."""
        if not isinstance(y, tuple | list) or len(y) != 2:
            raise ValueError(f"Split({self.keep}): expected the pair (kept, dropped), got {describe(y)}")
        kept, dropped = y
        if kept.shape[1] != self.keep or kept.shape[2:] != dropped.shape[2:]:
            raise ValueError(
                f"Split({self.keep}): cannot join {tuple(kept.shape)} with {tuple(dropped.shape)}: "
                f"expected {self.keep} channels first, and equal spatial sizes"
            )
        return torch.cat([kept, dropped], 1), no_logdet(kept)
