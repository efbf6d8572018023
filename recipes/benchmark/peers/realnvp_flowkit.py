"""RealNVP on the plane, in flowkit."""

from flowkit import ActNorm, Affine, Bijector, Chain, Coupling, Flow, StandardNormal
from flowkit.nets import MLP


def step(k: int) -> Bijector:
    """ActNorm and a coupling; which of the two numbers steers the other alternates."""
    kind = Affine("sigmoid", "scale_first", floor=1e-3)
    return ActNorm(2) >> Coupling(MLP(1, 2, hidden=64), keep=1, kind=kind, flip=k % 2 == 1)


def build() -> Flow:
    """Six steps and a standard normal."""
    return Flow(Chain(*(step(k) for k in range(6))), StandardNormal())


if __name__ == "__main__":
    import torch

    import flowkit

    x = torch.randn(256, 2)
    flow = build()
    flowkit.initialize(flow, x)  # ActNorm
    print(flow.log_prob(x).mean(), flow.sample(5).shape)
