"""Channel-linear maps, y = W x + b at every pixel: ActNorm, the invertible 1×1 convolution, permutations."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.arguments import check_whole
from flowkit.bijector import TensorMap, full_precision, no_logdet, widest
from flowkit.matrices import FORMS, Named
from flowkit.tree import Value

LONG = 64
"""Vectors of more numbers than this are no matter of a chain's matrices: those would cost more than all the rest."""

LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]
"""What a matrix without an inverse raises."""


def pixels(x: Tensor) -> int:
    """Number of positions of (B, C, *spatial); 1 if spatial is empty."""
    return math.prod(x.shape[2:])


def per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    """Views a (C,) parameter so that it broadcasts over (B, C, *spatial)."""
    return parameter.view(-1, *(1 for _ in x.shape[2:]))


def mix_channels(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """Applies a (C, C) matrix to the channels of (B, C, *spatial), and adds a bias.

    As a batched matrix product, which is several times faster than the 1×1 convolution of so few channels.
    """
    with full_precision(x):
        if x.ndim == 2:
            return F.linear(x, matrix, bias)
        matrices, flat = matrix.expand(x.shape[0], -1, -1), x.flatten(2)
        y = torch.bmm(matrices, flat) if bias is None else torch.baddbmm(bias[:, None], matrices, flat)
        return y.view(x.shape)


def inverted(matrix: Tensor, layer: nn.Module) -> Tensor:
    """The inverse of a layer's matrix, solved in float64 and rounded to the matrix's dtype."""
    try:
        return torch.linalg.inv(matrix.double()).to(matrix.dtype)
    except LinAlgError as error:
        raise LinAlgError(singular(layer)) from error


def singular(layer: nn.Module) -> str:
    """What to say of a layer whose matrix has no inverse."""
    return f"{type(layer).__name__}({layer.extra_repr()}): its matrix is singular, so it has no inverse"


def on_all_pixels(slope: Tensor, x: Tensor) -> Tensor:
    """The log-det (B,) of a map whose log-det at one pixel is the scalar `slope`."""
    return (slope * pixels(x)).repeat(x.shape[0])


class ChannelLinear(TensorMap):
    """A map y = W x + b at every pixel. Neighbours in a chain are composed, and touch the pixels once.

    A chain composes only a part whose class defines `forward`, `inverse` and `after` together; a subclass that changes
    one of them, a patched or a hooked part is called.
    """

    constant_logdet = True

    @staticmethod
    def after(parts: Sequence[Any], matrix: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Several maps of this class, each after a map x → matrix·x + bias of its own.

        Args:
            parts: the n maps.
            matrix: (n, C, C).
            bias: (n, C).

        Returns:
            The matrices and biases of both together.
        """
        raise NotImplementedError(f"{type(parts[0]).__name__} defines no after(parts, matrix, bias)")


class ActNorm(ChannelLinear):
    """Shift and scale per channel, y = (x + bias)·exp(log_scale), set from data once (Glow, section 3.1).

    It acts with its current parameters, the identity at the start, until `flowkit.initialize` sets them; a
    buffer records that. A loaded state dict counts as initialised unless bias and log_scale are all zero.

    Args:
        channels: C of x.
    """

    initialized: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_whole("ActNorm", channels=channels)
        self.in_channels = self.out_channels = channels
        self.bias = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialized", torch.tensor(False))

    def extra_repr(self) -> str:
        """The channels, for repr and error messages."""
        return str(self.in_channels)

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Shifts, then scales."""
        y = (x + per_channel(self.bias, x)) * per_channel(self.log_scale.exp(), x)
        return y, self._logdet(x)

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Unscales, then shifts back."""
        x = y * per_channel((-self.log_scale).exp(), y) - per_channel(self.bias, y)
        return x, -self._logdet(y)

    @staticmethod
    def after(parts: Sequence[Any], matrix: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Shifts and scales the rows."""
        scale = torch.stack([part.log_scale for part in parts]).to(matrix.dtype).exp()
        shift = torch.stack([part.bias for part in parts])
        return matrix * scale[:, :, None], (bias + shift) * scale

    def _logdet(self, x: Tensor) -> Tensor:
        return on_all_pixels(self.log_scale.sum(), x)

    def statistics_input(self, x: Tensor, context: Value = None) -> Tensor:
        """What `initialize` standardises: the input itself."""
        return x

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        mark_initialized(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def mark_initialized(state_dict: dict[str, Tensor], prefix: str) -> None:
    """Derives the `initialized` flag of a layer that is being loaded from its values."""
    values = [state_dict[prefix + name] for name in ("bias", "log_scale") if prefix + name in state_dict]
    if values:
        loaded = any(not value.is_meta and bool(value.count_nonzero()) for value in values)
        flag = state_dict.get(prefix + "initialized", torch.tensor(False))
        state_dict[prefix + "initialized"] = flag | loaded


class InvertibleConv1x1(ChannelLinear):
    """A learned invertible matrix over the channels, log-det = pixels · log|det W| (Glow, section 3.2).

    Fewer vectors than channels, more than 64 of them, are moved by the factors of W, or by solves with these in
    float64, for all but "dense" and "expm": no matrix is made.

    Args:
        channels: C of x.
        parametrization: how W is written; L, U are triangular, Q, V products of reflections, d are C numbers.
            "dense", one free matrix as in the published models;
            "plu", P L (U + diag(±eᵈ)), whose determinant and inverse are cheap, and "lu", the same without P and signs;
            "qr", Q (U + diag(eᵈ)); "svd", Q diag(eᵈ) V, so that singular values are parameters;
            "expm", e^A: never singular, with log-det tr A and inverse e^−A;
            "householder", Q alone, and "cayley", (I − A)(I + A)⁻¹ with A skew: rotations, which keep volume.
        init: "orthogonal", a random rotation, or "identity". None is the rotation for "dense" and "plu", the identity
            for all others ("lu" starts there only).

    Raises:
        ValueError: for another parametrization or init, or no channels.

    Example:
        >>> b = InvertibleConv1x1(3, "expm")
        >>> b.matrix().tolist() == torch.eye(3).tolist()
        True
    """

    weight: Tensor
    permutation: Tensor
    sign: Tensor
    lower: Tensor
    upper: Tensor
    log_diagonal: Tensor

    def __init__(
        self,
        channels: int,
        parametrization: Literal["dense", "plu", "lu", "householder", "qr", "svd", "expm", "cayley"] = "dense",
        init: Literal["orthogonal", "identity"] | None = None,
    ) -> None:
        super().__init__()
        form = FORMS.get(parametrization)
        if init is None:
            init = "orthogonal" if parametrization in ("dense", "plu") else "identity"
        if form is None or init not in ("orthogonal", "identity") or (init == "orthogonal" and not form.rotates):
            raise ValueError(f"InvertibleConv1x1: no parametrization {parametrization!r} with init {init!r}")
        check_whole("InvertibleConv1x1", channels=channels)
        self.in_channels = self.out_channels = channels
        self.parametrization = parametrization
        start = form.start(channels, init == "identity")
        for name, values in start.buffers.items():
            self.register_buffer(name, values)
        for name, values in start.parameters.items():
            self.register_parameter(name, nn.Parameter(values))

    def extra_repr(self) -> str:
        """Channels and parametrisation."""
        return f"{self.in_channels}, {self.parametrization!r}"

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Multiplies every pixel by W."""
        if not self._by_factors(x, "matrix"):
            return mix_channels(x, self.matrix()), self._logdet(x)
        with full_precision(x):
            return FORMS[self.parametrization].times(self._at(None), x), self._logdet(x)

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Multiplies every pixel by W⁻¹, which is solved in float64."""
        if not self._by_factors(y, "inverse_matrix"):
            return mix_channels(y, self.inverse_matrix()), -self._logdet(y)
        wide = widest(y.device)
        with full_precision(y):
            x = FORMS[self.parametrization].solve(self._at(wide), y.to(wide)).to(y.dtype)
            return x, -self._logdet(y)

    def _by_factors(self, x: Tensor, method: str) -> bool:
        """Whether x is so few long vectors that moving them by the factors is less work than `method`.

        That is n·C² against C³. A program that is exported has the matrix among its constants.
        """
        if x.ndim > 2 or x.shape[1] <= LONG or torch.compiler.is_exporting() or not x.shape[0] < x.shape[1]:
            return False
        form = self.form()
        own = method not in self.__dict__ and getattr(type(self), method) is getattr(InvertibleConv1x1, method)
        return own and form is not None and FORMS[form].by_factors

    def matrix(self) -> Tensor:
        """W, shape (C, C)."""
        with full_precision(next(self.parameters())):
            return FORMS[self.parametrization].product(self._at(None))

    def inverse_matrix(self) -> Tensor:
        """W⁻¹, shape (C, C), solved in float64 and rounded to the parameters' dtype."""
        if not factored(self.form()):
            return inverted(self.matrix(), self)
        own = next(self.parameters())
        with full_precision(own):
            return FORMS[self.parametrization].inverse(self._at(widest(own.device))).to(own.dtype)

    @staticmethod
    def after(parts: Sequence[Any], matrix: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Multiplies by W."""
        own = _matrices(parts, matrix.dtype)
        return own @ matrix, (own @ bias[..., None])[..., 0]

    def form(self) -> str | None:
        """The parametrisation, if it says what `matrix` is: not where a subclass, or somebody else, has replaced it."""
        own = type(self).matrix is InvertibleConv1x1.matrix and "matrix" not in self.__dict__
        return self.parametrization if own else None

    def log_slope(self) -> Tensor:
        """log|det W|, a scalar: the log-det of one pixel."""
        if not factored(self.form()):
            return torch.linalg.slogdet(self.matrix()).logabsdet
        return FORMS[self.parametrization].log_slope(self._at(None))

    def _at(self, dtype: torch.dtype | None) -> Named:
        """Parameters and buffers by name, in a dtype or as they are."""
        return lambda name: getattr(self, name) if dtype is None else getattr(self, name).to(dtype)

    def _logdet(self, x: Tensor) -> Tensor:
        return on_all_pixels(self.log_slope(), x)


def _stack(parts: Sequence[Any], dtype: torch.dtype | None) -> Named:
    """Parameters and buffers of several layers by name, (n, …), in a dtype or as they are."""

    def at(name: str) -> Tensor:
        stacked = torch.stack([getattr(part, name) for part in parts])
        return stacked if dtype is None else stacked.to(dtype)

    return at


def _matrices(parts: Sequence[Any], dtype: torch.dtype) -> Tensor:
    """W of several convolutions, (n, C, C), computed in a dtype: of one form they share their calls."""
    forms = [part.form() for part in parts]
    if forms[0] is not None and forms.count(forms[0]) == len(forms):
        return FORMS[forms[0]].product(_stack(parts, dtype))
    each = zip(parts, forms, strict=True)
    return torch.stack([p.matrix().to(dtype) if f is None else FORMS[f].product(p._at(dtype)) for p, f in each])


def factored(form: str | None) -> bool:
    """Whether a form has a cheap inverse and log-det."""
    return form not in (None, "dense")


def alone(parts: Sequence[Any], inverse: bool) -> tuple[Tensor, Tensor]:
    """What several convolutions of one factored form, each for itself, do to a pixel, or what undoes them.

    Returns:
        W, or W⁻¹ solved in float64, (n, C, C), and the log-dets of one pixel, summed in float64, (n,).
    """
    own = next(parts[0].parameters())
    form, wide = FORMS[parts[0].form()], _stack(parts, widest(own.device))
    slope = form.log_slope(wide).to(own.dtype)
    if not inverse:
        return form.product(_stack(parts, None)), slope
    return form.inverse(wide).to(own.dtype), -slope


class Permutation(ChannelLinear):
    """A fixed permutation of the channels: y[:, i] = x[:, order[i]]. It keeps volume.

    Args:
        order: the indices, or a number of channels for a random order.

    Raises:
        ValueError: if order is not a permutation of 0 … C−1.

    Example:
        >>> Permutation([2, 0, 1])(torch.tensor([[10.0, 11.0, 12.0]]))[0]
        tensor([[12., 10., 11.]])
    """

    order: Tensor
    back: Tensor

    def __init__(self, order: int | Sequence[int] | Tensor) -> None:
        super().__init__()
        device = order.device if isinstance(order, Tensor) else torch.empty(0).device  # meta, say
        if isinstance(order, Integral):
            check_whole("Permutation", channels=order)
            indices = torch.randperm(int(order), device="cpu")
        else:
            indices = torch.as_tensor(order, device="cpu")
        listed = indices.tolist()
        if indices.dtype not in (torch.int64, torch.int32, torch.int16) or sorted(listed) != list(range(len(listed))):
            raise ValueError(f"Permutation: {listed} ({indices.dtype}) is not a permutation of 0 … {len(listed) - 1}")
        indices = indices.long()
        self.in_channels = self.out_channels = len(indices)
        self.register_buffer("order", indices.to(device))
        self.register_buffer("back", indices.argsort().to(device))

    def extra_repr(self) -> str:
        """The number of channels."""
        return str(self.in_channels)

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Reorders the channels."""
        return x.index_select(1, self.order), no_logdet(x)

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Puts the channels back."""
        return y.index_select(1, self.back), no_logdet(y)

    @staticmethod
    def after(parts: Sequence[Any], matrix: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Reorders the rows."""
        order = torch.stack([part.order for part in parts])
        return matrix.gather(1, order[:, :, None].expand(matrix.shape)), bias.gather(1, order)
