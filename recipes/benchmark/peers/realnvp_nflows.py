"""RealNVP on the plane, in nflows."""

import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.nn.nets import MLP
from nflows.transforms import ActNorm, AffineCouplingTransform, CompositeTransform, Transform
from torch import Tensor
from torch.nn.functional import silu


class Net(MLP):
    """The MLP of nflows, with the second argument that its couplings pass."""

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Ignores the context."""
        return super().forward(inputs)


def step(k: int) -> Transform:
    """ActNorm and a coupling; which of the two numbers steers the other alternates."""
    mask = torch.tensor([k % 2, 1 - k % 2])
    coupling = AffineCouplingTransform(mask, lambda i, o: Net([i], [o], [64, 64], activation=silu))
    return CompositeTransform([ActNorm(2), coupling])


def build() -> Flow:
    """Six steps and a standard normal."""
    return Flow(CompositeTransform([step(k) for k in range(6)]), StandardNormal([2]))


if __name__ == "__main__":
    x = torch.randn(256, 2)
    flow = build()
    flow.log_prob(x)  # in train mode the first batch sets ActNorm
    print(flow.log_prob(x).mean(), flow.sample(5).shape)
