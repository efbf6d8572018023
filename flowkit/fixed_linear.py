"""Fixed channel-linear maps: scale, shift, and a matrix with a bias."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.bijector import no_logdet
from flowkit.linear import ChannelLinear, inverted, mix_channels, on_all_pixels, per_channel
from flowkit.tree import Value, describe


class Scale(ChannelLinear):
    """A fixed scale, y = scale·x.

    Args:
        scale: not 0; a number, or one a channel, (C,).

    Raises:
        ValueError: for a scale of 0, one that is not finite, or of another shape.

    Example:
        >>> import flowkit
        >>> flowkit.elementwise.Scale(-2.0)(torch.ones(1, 2))
        (tensor([[-2., -2.]]), tensor([1.3863]))
    """

    scale: Tensor

    def __init__(self, scale: float | Tensor) -> None:
        super().__init__()
        values = _constant(self, "scale", scale)
        if not bool((values.isfinite() & (values != 0)).all()):
            raise ValueError(f"Scale: scale must be finite and not 0, got {scale}")
        self.register_buffer("scale", values)

    def extra_repr(self) -> str:
        """The scale."""
        return str(self.scale.tolist())

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Multiplies."""
        return x * _at(self.scale, x), self._logdet(x)

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Divides."""
        return y / _at(self.scale, y), -self._logdet(y)

    @staticmethod
    def after(parts: Sequence[Any], matrix: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Scales the rows."""
        scale = torch.stack([part.scale for part in parts]).to(matrix.dtype)
        return matrix * scale[:, :, None], bias * scale

    def _logdet(self, x: Tensor) -> Tensor:
        log_scale = self.scale.to(x.dtype).abs().log()
        return on_all_pixels(log_scale.sum() if log_scale.ndim else log_scale * x.shape[1], x)


class Shift(ChannelLinear):
    """A fixed shift, y = x + shift. It keeps volume.

    Args:
        shift: a number, or one a channel, (C,).

    Raises:
        ValueError: for a shift that is not finite, or of another shape.

    Example:
        >>> import flowkit
        >>> flowkit.elementwise.Shift(torch.tensor([1.0, -1.0]))(torch.zeros(1, 2))[0]
        tensor([[ 1., -1.]])
    """

    bias: Tensor

    def __init__(self, shift: float | Tensor) -> None:
        super().__init__()
        values = _constant(self, "shift", shift)
        if not bool(values.isfinite().all()):
            raise ValueError(f"Shift: shift must be finite, got {shift}")
        self.register_buffer("bias", values)

    def extra_repr(self) -> str:
        """The shift."""
        return str(self.bias.tolist())

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Adds."""
        return x + _at(self.bias, x), no_logdet(x)

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Subtracts."""
        return y - _at(self.bias, y), no_logdet(y)

    @staticmethod
    def after(parts: Sequence[Any], matrix: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Adds to the bias."""
        return matrix, bias + torch.stack([part.bias for part in parts]).to(bias.dtype)


class Matrix(ChannelLinear):
    """A fixed matrix over the channels, y = matrix·x + bias at every pixel: whitening, PCA, a colour space.

    Args:
        matrix: (C, C), invertible.
        bias: (C,), or None for 0.

    Raises:
        ValueError: for a matrix that is not square, not finite or singular, or a bias that does not fit.

    Example:
        >>> import flowkit
        >>> swap = flowkit.elementwise.Matrix(torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
        >>> swap(torch.tensor([[1.0, 5.0]]))
        (tensor([[10.,  1.]]), tensor([0.6931]))
    """

    matrix: Tensor
    bias: Tensor

    def __init__(self, matrix: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        matrix = matrix.detach().clone()
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.shape[0]:
            raise ValueError(f"Matrix: matrix must be (C, C), got {describe(matrix)}")
        if not math.isfinite(float(torch.linalg.slogdet(matrix.double()).logabsdet)):
            raise ValueError("Matrix: matrix is singular, or not finite")
        self.in_channels = self.out_channels = len(matrix)
        self.register_buffer("matrix", matrix)
        self.register_buffer("bias", _constant(self, "bias", matrix.new_zeros(len(matrix)) if bias is None else bias))

    def extra_repr(self) -> str:
        """The number of channels."""
        return str(self.in_channels)

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Multiplies every pixel, and adds the bias."""
        return mix_channels(x, self.matrix.to(x.dtype), self.bias.to(x.dtype)), self._logdet(x)

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Multiplies by the inverse matrix, which is solved in float64."""
        x = mix_channels(y - _at(self.bias, y), inverted(self.matrix, self).to(y.dtype))
        return x, -self._logdet(y)

    @staticmethod
    def after(parts: Sequence[Any], matrix: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Multiplies, and adds the bias."""
        own = torch.stack([part.matrix for part in parts]).to(matrix.dtype)
        shift = torch.stack([part.bias for part in parts]).to(matrix.dtype)
        return own @ matrix, (own @ bias[..., None])[..., 0] + shift

    def _logdet(self, x: Tensor) -> Tensor:
        return on_all_pixels(torch.linalg.slogdet(self.matrix.to(x.dtype)).logabsdet, x)


def _constant(layer: ChannelLinear, name: str, constant: float | Tensor) -> Tensor:
    """A constant as a tensor, () or (C,); one of (C,) says how many channels the layer takes."""
    values = torch.as_tensor(constant).detach().clone()
    values = values if values.is_floating_point() else values.float()
    if isinstance(constant, float | int):
        values = torch.tensor(float(constant), dtype=torch.float64)
    if values.ndim > 1 or (values.ndim and layer.in_channels not in (None, len(values))):
        raise ValueError(f"{type(layer).__name__}: {name} must be a number or (C,), got {describe(values)}")
    if values.ndim:
        layer.in_channels = layer.out_channels = len(values)
    return values


def _at(constant: Tensor, x: Tensor) -> Tensor:
    """A constant, in such a shape that it broadcasts with x."""
    values = constant.to(x.dtype)
    return per_channel(values, x) if values.ndim else values
