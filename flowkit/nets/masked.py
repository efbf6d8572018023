"""Masked networks, whose outputs see the inputs before their own only."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.bijector import full_precision
from flowkit.nets.contexts import fitting_context

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
        counts = (parameters,) * features if isinstance(parameters, int) else tuple(parameters)
        if min(features, hidden, sum(counts)) < 1 or min(*counts, depth) < 0 or len(counts) != features:
            raise ValueError(
                f"MADE: sizes must be positive, and parameters one number or one for each feature, got "
                f"features={features}, parameters={parameters}, hidden={hidden}, depth={depth}"
            )
        lowest = 0 if context_features or features == 1 else 1
        if hidden < features - lowest:
            raise ValueError(
                f"MADE: hidden={hidden} is too narrow for every dependence among {features} features"
                f"{' and a context' if context_features else ''}; take at least {features - lowest}"
            )
        self.features = features
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


class MaskedLinear(nn.Linear):
    """A linear layer in which only some weights count.

    Args:
        mask: (out_features, in_features), True where a weight counts. It is in the state dict.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.to(self.weight.device, copy=True))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_features) to (B, out_features)."""
        return F.linear(x, self.weight * self.mask, self.bias)


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
