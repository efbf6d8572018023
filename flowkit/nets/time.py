"""Time beside x: what makes a conditioner network the velocity of a continuous flow."""

import torch
from torch import Tensor, nn

from flowkit.tree import Value


class WithTime(nn.Module):
    """A conditioner network that sees the time t as one more channel of x: the net of `flowkit.ODE`.

    Args:
        net: called `net(passive, context)`, with one channel more than x has; returns as many as x has.

    Example:
        >>> import flowkit
        >>> WithTime(flowkit.nets.FCN(4, 3))(torch.zeros(2, 3, 8, 8), torch.rand(2)).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.shares_context = getattr(net, "shares_context", False)

    def forward(self, x: Tensor, t: Tensor, context: Value = None) -> Tensor:
        """(B, C, *spatial) and times (B,) to (B, C, *spatial)."""
        times = t.to(x.dtype).view(-1, *(1 for _ in x.shape[1:])).expand(-1, 1, *x.shape[2:])
        velocity: Tensor = self.net(torch.cat([x, times], 1), context)
        return velocity
