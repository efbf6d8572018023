"""A new design of the latents, y* at every level, in flowkit."""

from collections.abc import Sequence

import torch
from hcflow_flowkit import features, level
from torch import Tensor, nn

from flowkit import Flow, Given, Hierarchy, Near


class Everywhere(Given):
    """c_l = net_l(concat[y_l, y*]): the given LR image beside what the level keeps, and no coarser features."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, level: int, y: Tensor, coarser: list[Tensor], context: Tensor) -> Tensor:
        """The features of a level."""
        return self.nets[level](self.beside(y, context))


def build() -> Flow:
    """The HCFlow of the other file, with another `given`."""
    given = Everywhere([features(6 + 3), features(3 + 3)])
    return Flow(Hierarchy([level(12, keep=6), level(24, keep=3)], given), Near(std=0.01))


if __name__ == "__main__":
    import flowkit

    hr, lr = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 8, 8)
    flow = build()
    flowkit.initialize(flow, hr, lr)  # ActNorm, also in the networks
    print(flow.log_prob(hr, lr).mean(), flow.sample(2, lr, temperature=0.8).shape)
