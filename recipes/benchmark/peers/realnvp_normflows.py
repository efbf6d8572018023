"""RealNVP on the plane, in normflows."""

from normflows import NormalizingFlow
from normflows.distributions import DiagGaussian
from normflows.flows import ActNorm, AffineCouplingBlock, Flow, Permute
from normflows.nets import MLP


def step() -> list[Flow]:
    """Written in the direction of sampling: a coupling, a swap of the two numbers, ActNorm."""
    coupling = AffineCouplingBlock(MLP([1, 64, 64, 2], init_zeros=True), scale_map="sigmoid")
    return [coupling, Permute(2, mode="swap"), ActNorm(2)]


def build() -> NormalizingFlow:
    """Six steps and a standard normal."""
    return NormalizingFlow(DiagGaussian(2, trainable=False), [layer for _ in range(6) for layer in step()])


if __name__ == "__main__":
    import torch

    x = torch.randn(256, 2)
    flow = build()
    flow.log_prob(x)  # the first batch sets ActNorm, whichever direction it goes
    print(flow.log_prob(x).mean(), flow.sample(5)[0].shape)
