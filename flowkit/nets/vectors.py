"""Networks for vectors, and what joins several networks to one."""

import itertools

import torch
from torch import Tensor, nn

from flowkit.arguments import check_whole
from flowkit.nets.contexts import with_context
from flowkit.nets.thin_linear import Linear


class MLP(nn.Module):
    """A perceptron for vectors (B, in_features); its last layer starts at zero.

    So do those of all networks here. A coupling then starts as the identity with `Additive`, with `Affine` of "atan",
    "tanh", "exp" and "soft" (centre 0), and nearly so with `MixtureLogistic` (to 1e-3, see its offsets). It does not
    with `Affine` of "sigmoid" (s = 0.88) and "softplus" (0.69), nor with `RationalQuadratic`, whose inner slopes of
    raw value 0 are 0.69.

    Args:
        in_features: channels of the passive part (or of the context, for an injector).
        out_features: parameters to return.
        hidden: width.
        depth: number of hidden layers.
        context_features: channels of the context, which is concatenated; 0 ignores any context.
    """

    def __init__(
        self, in_features: int, out_features: int, hidden: int = 64, depth: int = 2, context_features: int = 0
    ) -> None:
        super().__init__()
        check_whole("MLP", 0, in_features=in_features, depth=depth, context_features=context_features)
        check_whole("MLP", out_features=out_features, hidden=hidden)
        self.context_features = context_features
        widths = [in_features + context_features, *[hidden] * depth]
        layers: list[nn.Module] = []
        for i, o in itertools.pairwise(widths):
            layers += [Linear(i, o), nn.SiLU()]
        last = Linear(widths[-1], out_features)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, passive: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, in_features) to (B, out_features)."""
        out: Tensor = self.layers(with_context(passive, context, self.context_features))
        return out


class Interleave(nn.Module):
    """A net for each parameter of a coupling, on the same input: IRN's shift and log-scale come from two networks.

    Args:
        nets: called `net(passive, context)`; each returns one parameter for every active channel.
    """

    def __init__(self, *nets: nn.Module) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, passive: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, in_channels, *spatial) to (B, nets · active, *spatial), the parameters of one channel side by side."""
        return torch.stack([net(passive, context) for net in self.nets], 2).flatten(1, 2)
