"""Networks with a Lipschitz constant below a bound, for residual flows: `lipschitz`, which scales weights down."""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flowkit.arguments import check_net, check_numbers
from flowkit.bijector import full_precision, widest
from flowkit.nets.images import CNN
from flowkit.nets.vectors import MLP

N = TypeVar("N", bound=nn.Module)

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_STEEPEST = {nn.SiLU: 1.1, nn.GELU: 1.13}
"""Activations whose slope exceeds 1, and what it never reaches."""
_GENTLE = (nn.ReLU, nn.ReLU6, nn.CELU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Identity)
_SHAPES = (nn.Flatten, nn.Unflatten)


def lipschitz(net: N, bound: float = 0.97) -> N:
    """Makes a network a contraction in its first argument: ‖net(x) − net(x')‖₂ ≤ bound·‖x − x'‖₂, whatever it learns.

    Of L weight layers each is scaled down, whenever it is used, to a spectral norm of at most bound^(1/L); smaller
    ones stay as they are. Activations that are steeper than 1 are divided by their largest slope (SiLU / 1.1 is the
    "LipSwish" of Chen et al. 2019). The norms are certain, hold no state and do not hang on the image size: those of
    matrices are computed to rounding; that of a convolution is the largest over all frequencies, from above by at most
    8 % for two axes (Ehlich and Zeller 1964). Where a net is called many times with one set of weights,
    `torch.nn.utils.parametrize.cached()` computes them once.

    Args:
        net: layers one after the other: a `flowkit.nets.MLP` or `CNN`, a weight layer, or an `nn.Sequential` of such,
            of activations and flattening. It is changed in place. A context is no part of the bound.
        bound: the Lipschitz constant; below 1, x + net(x) is invertible.

    Returns:
        The same net.

    Raises:
        ValueError: for a bound that is not positive, a net without weights, or a layer that no bound is known for (with
            skip connections, normalisation, dropout, strides, groups).

    Example:
        >>> import flowkit
        >>> net = lipschitz(flowkit.nets.MLP(2, 2), 0.9)
        >>> _ = torch.nn.init.normal_(net.layers[0].parametrizations.weight.original, std=100)
        >>> bool(torch.linalg.matrix_norm(net.layers[0].weight, 2) <= 0.9 ** (1 / 3) + 1e-6)
        True
    """
    check_net("lipschitz", net)
    check_numbers("lipschitz", "(0, inf)", bound=bound)
    layers = _weight_layers(net)
    if not layers:
        raise ValueError(f"lipschitz: {type(net).__name__} has no weights")
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _Bounded(bound ** (1 / len(layers))))
    _flatten_activations(net)
    return net


def _weight_layers(net: nn.Module) -> list[nn.Module]:
    """The weight layers of a net in series.

    Raises:
        ValueError: for a layer that no bound is known for.
    """
    if isinstance(net, nn.Sequential):
        return [layer for part in net for layer in _weight_layers(part)]
    if isinstance(net, MLP):
        return _weight_layers(net.layers)
    if isinstance(net, CNN):
        return [net.conv1, net.conv2, net.conv3]
    if parametrize.is_parametrized(net):
        raise ValueError(f"lipschitz: {type(net).__name__} is parametrized already")
    if isinstance(net, nn.Linear):
        return [net]
    if isinstance(net, _CONVOLUTIONS):
        plain = net.groups == 1 and all(s == 1 for s in net.stride) and net.padding_mode in ("zeros", "circular")
        if plain:
            return [net]
    gentle = isinstance(net, _GENTLE + _SHAPES + tuple(_STEEPEST) + (_Flatter,))
    shallow = isinstance(net, nn.LeakyReLU) and abs(net.negative_slope) <= 1
    if gentle or shallow or (isinstance(net, nn.ELU) and net.alpha <= 1):
        return []
    raise ValueError(
        f"lipschitz: no bound is known for {net}; build the net of weight layers and activations in series"
    )


def _flatten_activations(net: nn.Module) -> None:
    for name, part in net.named_children():
        steepest = _STEEPEST.get(type(part))
        if steepest is None:
            _flatten_activations(part)
        elif not isinstance(net, _Flatter):
            setattr(net, name, _Flatter(part, steepest))


class _Flatter(nn.Module):
    """An activation divided by its largest slope."""

    def __init__(self, activation: nn.Module, steepest: float) -> None:
        super().__init__()
        self.activation = activation
        self.steepest = steepest

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(x) / self.steepest
        return out


class _Bounded(nn.Module):
    """A weight scaled down to a spectral norm, if it is above it."""

    def __init__(self, norm: float) -> None:
        super().__init__()
        self.norm = norm

    def extra_repr(self) -> str:
        return f"{self.norm:.4g}"

    def forward(self, weight: Tensor) -> Tensor:
        with full_precision(weight):
            return weight / (_norm(weight) / self.norm).clamp_min(1)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


_DENSITY = 12
"""Frequencies for each degree of a kernel: they bound the others to 1/cos(π/12) an axis, 7 % for two axes."""


def _norm(weight: Tensor) -> Tensor:
    """Spectral norm of a matrix, or a bound on that of a convolution, with the gradient of the norm.

    Between equidistant frequencies a trigonometric polynomial of degree d exceeds its largest value there at most by
    1/cos(πd/n) for n of them.
    """
    wide, excess = weight.to(widest(weight.device)), 1.0
    for axis in range(2, weight.ndim):
        size = weight.shape[axis]
        degree = size // 2
        count = max(1, _DENSITY * degree)
        excess /= math.cos(math.pi * degree / count)
        position = torch.arange(size, device=weight.device, dtype=wide.real.dtype)
        turn = 2 * math.pi / count * torch.arange(count, device=weight.device, dtype=wide.real.dtype)
        waves = torch.polar(torch.ones(count, size, dtype=turn.dtype, device=turn.device), turn[:, None] * position)
        wide = torch.tensordot(waves, wide.to(waves.dtype), ([1], [axis])).moveaxis(0, axis)
    matrices = wide.flatten(2).movedim(2, 0) if weight.ndim > 2 else wide[None]  # one for each frequency
    with torch.no_grad():
        rows, columns = matrices.shape[1:]
        gram = matrices @ matrices.mH if rows < columns else matrices.mH @ matrices
        largest = torch.linalg.eigvalsh(gram)[:, -1].argmax(0, True)  # which no host reads
        vector = torch.linalg.eigh(gram.index_select(0, largest)[0])[1][:, -1]
    steepest = matrices.index_select(0, largest)[0]
    reached = steepest.mH @ vector if rows < columns else steepest @ vector
    with torch.no_grad():
        other = nn.functional.normalize(reached, dim=0)
    return (excess * (other.conj() * reached).sum().real).to(weight.dtype)
