"""Masked networks, whose outputs see the inputs before their own only."""

import functools
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.arguments import as_tuple, check_numbers, check_whole
from flowkit.bijector import full_precision
from flowkit.nets.contexts import fitting_context
from flowkit.nets.thin_linear import linear
from flowkit.shortcuts import hooked
from flowkit.tree import repeat_rows

Activation = Callable[[Tensor], Tensor]


class MADE(nn.Module):
    """Masked autoencoder (MADE), for `flowkit.Autoregressive`: the parameters of number d see numbers 1 … d−1 only.

    Every unit has a degree, the number of the last input that it may see. Hidden ones take 1 … D−1 in turns; 0 … D−1
    where there is a context, so that the first number and D = 1 are conditional too. A weight counts where the unit
    above has no lower degree, in the last layer where it has a higher one. The last layer starts at zero.

    The context joins at the first layer, through a layer of its own and the activation, and inside every residual
    block, linearly.

    Args:
        features: D, the numbers of x.
        parameters: P, what is returned for each of them, side by side; or one number for each, `kind.counts(D)`.
        hidden: width; at least D − 1, and D with a context, for every dependence to be there.
        depth: blocks behind the first layer.
        context_features: channels of the context; 0 ignores any context.
        residual: blocks of two layers, added to what comes in (ResMADE); else of one.
        activation: between layers.
        dropout: probability within blocks, in train mode, in which no inverse is exact then.

    Raises:
        ValueError: if hidden is too narrow, or a size is not positive.

    Source:
        Germain et al., MADE (2015); residual blocks as in Nash and Durkan, Autoregressive Energy Machines (2019).

    Example:
        >>> net = MADE(3, 2)
        >>> net(torch.randn(5, 3)).shape
        torch.Size([5, 6])
    """

    def __init__(
        self,
        features: int,
        parameters: int | Sequence[int],
        hidden: int = 64,
        depth: int = 2,
        context_features: int = 0,
        residual: bool = True,
        activation: Activation = F.relu,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_whole("MADE", features=features, hidden=hidden)
        check_whole("MADE", 0, depth=depth, context_features=context_features)
        check_numbers("MADE", "[0, 1)", dropout=dropout)
        counts = as_tuple(parameters, features)
        for count in counts:
            check_whole("MADE", 0, parameters=count)
        if sum(counts) < 1 or len(counts) != features:
            raise ValueError(f"MADE: parameters must be one number, or one for each of {features}, got {parameters}")
        lowest = 0 if context_features or features == 1 else 1
        if hidden < features - lowest:
            raise ValueError(
                f"MADE: hidden={hidden} is too narrow for every dependence among {features} features"
                f"{' and a context' if context_features else ''}; take at least {features - lowest}"
            )
        self.features = features
        self.counts = counts
        self.context_features = context_features
        self.activation = activation
        self.residual = residual
        inputs = torch.arange(1, features + 1)
        degrees = lowest + torch.arange(hidden) % (features - lowest)
        inner = degrees[:, None] >= degrees
        self.first = MaskedLinear(degrees[:, None] >= inputs)
        self.context = nn.Linear(context_features, hidden) if context_features else None
        block = (
            (lambda: _Residual(inner, context_features, activation, dropout))
            if residual
            else (lambda: _Plain(inner, activation, dropout))
        )
        self.blocks = nn.ModuleList(block() for _ in range(depth))
        self.last = MaskedLinear(inputs.repeat_interleave(torch.tensor(counts))[:, None] > degrees)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, D) to (B, P · D), or as many as `parameters` are in all."""
        h = self.first(x)
        if self.context is not None:
            context = fitting_context(x, context, self.context_features).to(x.dtype)
            h = h + self.activation(self.context(context))
        else:
            context = None
        h = h if self.residual else self.activation(h)
        for block in self.blocks:
            h = block(h, context)
        with full_precision(h):  # what it returns moves the numbers
            out: Tensor = self.last(h.to(self.last.weight.dtype))
        return out

    def decoder(self, like: Tensor, context: Tensor | None = None) -> Callable[[Tensor | None], Tensor] | None:
        """Parameters of one number after the other: all of them together take the work of one pass.

        Every unit is computed once, as soon as the last of the numbers that it sees is known. It is for draws, without
        gradients.

        Args:
            like: a tensor of x's shape.
            context: as for a call.

        Returns:
            A function of the number before, (B, 1) and None for the first, that returns the parameters of the next,
            (B, P). None where only passes say the same: of a net whose layers somebody hooks, patches or replaces, with
            dropout in train mode, an activation that is not torch's or has parameters, or masks that no degrees
            explain.
        """
        if not self._is_as_made():
            return None
        steps = _degrees(self)
        return None if steps is None else _Steps(self, *steps, like, self._of_context(like, context))

    def _of_context(self, like: Tensor, context: Tensor | None) -> Tensor | None:
        """The context, in the rows and the dtype of x."""
        if self.context is None:
            return None
        return repeat_rows(fitting_context(like, context, self.context_features), len(like)).to(like.dtype)

    def _is_as_made(self) -> bool:
        """Whether every layer is what the constructor put there, and nobody watches it."""
        act = self.activation
        own = {MADE, MaskedLinear, _Residual, _Plain, nn.Linear, nn.Dropout, nn.ModuleList}
        return _by_unit(act) and all(
            (type(part) in own or part is act)
            and not hooked(part)
            and "forward" not in vars(part)
            and not (isinstance(part, nn.Dropout) and part.training and part.p)
            for part in self.modules()
        )


class MaskedLinear(nn.Linear):
    """A linear layer in which only some weights count.

    Args:
        mask: (out_features, in_features), nonzero where a weight counts. It is in the state dict, as booleans.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.to(self.weight, copy=True))  # products with booleans take far longer

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_features) to (B, out_features)."""
        return linear(x, self.weight * self.mask, self.bias)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "mask"] = self.mask.bool()  # a quarter of the bytes, and what earlier files have


class _Residual(nn.Module):
    """h + linear(dropout(act(linear(act(h)) + context))); the last layer starts at ±1e-3."""

    def __init__(self, mask: Tensor, context_features: int, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.linear1 = MaskedLinear(mask)
        self.linear2 = MaskedLinear(mask)
        nn.init.uniform_(self.linear2.weight, -1e-3, 1e-3)
        nn.init.uniform_(self.linear2.bias, -1e-3, 1e-3)
        self.context = nn.Linear(context_features, len(mask)) if context_features else None
        self.activation = activation
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        inner = self.linear1(self.activation(h))
        if self.context is not None:
            inner = inner + self.context(context)
        out: Tensor = h + self.linear2(self.dropout(self.activation(inner)))
        return out


class _Plain(nn.Module):
    """dropout(act(linear(h)))."""

    def __init__(self, mask: Tensor, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.linear = MaskedLinear(mask)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        out: Tensor = self.dropout(self.activation(self.linear(h)))
        return out


class _Steps:
    """A MADE, number by number: what each unit that is computed adds to those above it is added at once.

    Units are rows, and sorted by degree. Weights that don't count are zeros, so sums go over all units, and all the
    steps together have the products of one pass.

    Args:
        net: the MADE.
        order: its hidden units by degree.
        units: how many of them have degree 0, 1, …
        like: a tensor of x's shape.
        context: (B, C), or None.
    """

    def __init__(self, net: MADE, order: Tensor, units: list[int], like: Tensor, context: Tensor | None) -> None:
        self.activation, self.residual, self.number = net.activation, net.residual, 0
        inner = [layer for block in net.blocks for layer in block.children() if isinstance(layer, MaskedLinear)]
        given: list[Tensor | None] = [None] * (1 + len(inner))
        if context is not None:
            given[0] = net.activation(net.context(context)).mT.index_select(0, order)  # type: ignore[misc]
            for i, block in enumerate(net.blocks if net.residual else ()):
                given[1 + 2 * i] = block.context(context).mT.index_select(0, order)  # type: ignore[operator]
        self.layers = [
            _Sums(layer, None if i == 0 else order, order, units, like, added)
            for i, (layer, added) in enumerate(zip([net.first, *inner], given, strict=True))
        ]
        weight, bias = _counting(net.last).index_select(1, order), net.last.bias[:, None]
        self.last = list(zip(weight.split(net.counts), bias.split(net.counts), strict=True))
        self.known = like.new_zeros(len(order), len(like))
        self.found = self.known.split(units)

    def __call__(self, before: Tensor | None) -> Tensor:
        """Parameters of the next number, (B, P), given the one before, (B, 1)."""
        if before is not None:
            self.layers[0].add(self.number, before.mT)
            self.number += 1
        number, act, layers = self.number, self.activation, self.layers
        h = layers[0].units[number]
        if self.residual:
            for inner, outer in zip(layers[1::2], layers[2::2], strict=True):
                inner.add(number, act(h))
                outer.add(number, act(inner.units[number]))
                h = h + outer.units[number]
        else:
            for layer in layers[1:]:
                layer.add(number, act(h))
                h = layer.units[number]
            h = act(h)
        self.found[number].copy_(h)
        weight, bias = self.last[number]
        return torch.addmm(bias, weight, self.known).mT


class _Sums:
    """What reaches the units of a layer, (hidden, B), as the units below it become known, group by group."""

    def __init__(
        self,
        layer: MaskedLinear,
        below: Tensor | None,
        order: Tensor,
        units: list[int],
        like: Tensor,
        given: Tensor | None,
    ) -> None:
        weight, bias = _counting(layer).index_select(0, order), layer.bias.index_select(0, order)[:, None]
        self.weights = weight.split(1, 1) if below is None else weight.index_select(1, below).split(units, 1)
        self.sums = bias.repeat(1, len(like)) if given is None else bias + given
        self.units = self.sums.split(units)

    def add(self, group: int, below: Tensor) -> None:
        """Adds what comes from a group of those below."""
        self.sums.addmm_(self.weights[group], below)


def _counting(layer: MaskedLinear) -> Tensor:
    return layer.weight * layer.mask


_Degrees = tuple[Tensor, list[int]]

# beside the nets, not in them: masks hardly ever change, and what is read of them takes longer than a step
_read: WeakKeyDictionary[MADE, tuple[list[tuple[Tensor, int]], _Degrees | None]] = WeakKeyDictionary()


def _degrees(net: MADE) -> _Degrees | None:
    """The hidden units by degree, and how many have degree 0, 1, …, D; None if no degrees explain the masks.

    The masks say, not the constructor: a state dict may bring others.
    """
    masks = [part.mask for part in net.modules() if isinstance(part, MaskedLinear)]
    if any(mask.is_inference() for mask in masks):  # nobody counts their changes
        return _degrees_of(net)
    known, found = _read.get(net, ([], None))
    same = len(known) == len(masks)
    if not same or any(a is not b or b._version != version for (a, version), b in zip(known, masks, strict=True)):
        found = _degrees_of(net)
        _read[net] = [(mask, mask._version) for mask in masks], found
    return found


def _degrees_of(net: MADE) -> _Degrees | None:
    first, features = net.first.mask != 0, len(net.counts)
    device = first.device
    degrees = (first * torch.arange(1, features + 1, device=device)).amax(1)
    numbers = torch.arange(features, device=device).repeat_interleave(torch.tensor(net.counts, device=device))
    above = [(part.mask, degrees) for part in net.blocks.modules() if isinstance(part, MaskedLinear)]
    above.append((net.last.mask, numbers))
    if any(bool(((mask != 0) & (own[:, None] < degrees)).any()) for mask, own in above):
        return None
    return degrees.argsort(), degrees.bincount(minlength=features + 1).tolist()


def _by_unit(activation: Any) -> bool:
    """Whether an activation is known to move all units alike: it comes from torch and has no parameters."""
    if isinstance(activation, functools.partial):
        given = (*activation.args, *activation.keywords.values())
        return not any(isinstance(one, Tensor) for one in given) and _by_unit(activation.func)
    if isinstance(activation, nn.Module):
        return type(activation).__module__.startswith("torch.nn.") and not [*activation.parameters()]
    return (getattr(activation, "__module__", None) or "torch").startswith("torch")
