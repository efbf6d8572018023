"""A new design of the latents, y* at every level, in nflows."""

import torch
import torch.nn.functional as F
from hcflow_nflows import Hierarchy, near
from nflows.distributions import ConditionalDiagonalNormal
from nflows.flows import Flow
from torch import Tensor


class Everywhere(Hierarchy):
    """c_l = net_l(concat[y_l, y*]): the given LR image beside what the level keeps, and no coarser features."""

    def features(self, i: int, y: Tensor, coarser: list[Tensor], context: Tensor) -> Tensor:
        """The features of a level."""
        return self.nets[i](torch.cat([y, F.interpolate(context, y.shape[2:])], 1))


def build(size: int = 32) -> Flow:
    """The hierarchy written by hand in the other file, with other features."""
    return Flow(Everywhere((6 + 3, 3 + 3)), ConditionalDiagonalNormal([3 * size * size], near))


if __name__ == "__main__":
    hr, lr = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 8, 8)
    flow = build()
    flow.log_prob(hr, lr)  # in train mode the first batch sets ActNorm
    print(flow.log_prob(hr, lr).mean(), flow.sample(2, lr).shape)  # no temperature
