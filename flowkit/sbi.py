"""Simulation-based inference: a flowkit flow as a density estimator of the sbi library, p(θ | x) or p(x | θ)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from flowkit.bases import StandardNormal
from flowkit.chain import Chain
from flowkit.flow import Flow
from flowkit.initialization import initialize
from flowkit.linear import ActNorm
from flowkit.supports import biject_to

try:
    from sbi.neural_nets.estimators import ConditionalDensityEstimator  # type: ignore[import-untyped]
except ImportError as error:
    raise ImportError('flowkit.sbi needs sbi: pip install "flowkit-torch[sbi]"') from error


class FlowEstimator(ConditionalDensityEstimator):
    """A flow of vectors given vectors, in sbi's shapes: samples first, then conditions.

    Args:
        flow: a `Flow`; its context is the condition, standardised and embedded.
        input_shape: (D,), of what has the density.
        condition_shape: of one condition, without the batch.
        embedding: what is done to conditions before the flow sees them, (B, *condition_shape) to (B, features).
    """

    def __init__(
        self,
        flow: Flow,
        input_shape: tuple[int, ...],
        condition_shape: tuple[int, ...],
        embedding: nn.Module | None = None,
    ) -> None:
        super().__init__(flow, torch.Size(input_shape), torch.Size(condition_shape))
        self.embedding = nn.Identity() if embedding is None else embedding

    @property
    def embedding_net(self) -> nn.Module:
        """What embeds the conditions."""
        return self.embedding

    def log_prob(self, input: Tensor, condition: Tensor, **_: Any) -> Tensor:
        """Log-densities (S, B) of `input` (S, B, D) or (B, D), given `condition` (B, …) or (S, B, …)."""
        self._check_input_shape(input)
        self._check_condition_shape(condition)
        input, condition, batch = self._broadcast_and_align(input, condition)
        log_prob: Tensor = self.net.log_prob(input.flatten(0, 1), self.embedding(condition.flatten(0, 1)))
        return log_prob.view(-1, batch)

    def loss(self, input: Tensor, condition: Tensor, **_: Any) -> Tensor:
        """Minus the log-density, (B,)."""
        return -self.log_prob(input, condition)[0]

    def sample(self, sample_shape: Any, condition: Tensor, **_: Any) -> Tensor:
        """Draws of shape (*sample_shape, B, D) for conditions (B, …)."""
        return self.sample_and_log_prob(sample_shape, condition)[0]

    def sample_and_log_prob(self, sample_shape: Any, condition: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        """The draws, and their log-densities (*sample_shape, B)."""
        shape = torch.Size(sample_shape)
        self._check_condition_shape(condition)
        x, log_prob = self.net.sample_and_log_prob(shape.numel(), self.embedding(condition))
        return x.view(*shape, *x.shape[1:]), log_prob.view(*shape, *log_prob.shape[1:])


def estimator(
    build: Callable[[int, int], nn.Module],
    embedding: nn.Module | None = None,
    prior: Constraint | Distribution | None = None,
) -> Callable[[Tensor, Tensor], FlowEstimator]:
    """Makes what sbi's trainers take as `density_estimator`: a builder that sees the first batch of simulations.

    Both sides are standardised: θ by an ActNorm in front of the bijector, so its Jacobian counts; x by fixed constants.
    With a prior θ is first mapped from its support to the reals (`flowkit.biject_to`): no draw leaves it, and outside
    the log-density is −inf. Nothing leaks, so there is nothing to reject or to correct for.

    Args:
        build: called with the number of parameters and the number of features of a condition, returns a bijector of
            vectors that takes the features as its context.
        embedding: of the standardised conditions, if they are not vectors or are long ones.
        prior: of θ, or its support as a constraint. None: all reals. It must be of what this estimator has the density
            of: the prior for p(θ | x), and not for p(x | θ).

    Raises:
        ValueError: from the builder, for simulations outside of the support, which it names.

    Example:
        >>> import flowkit
        >>> def build(features, context):
        ...     net = flowkit.nets.MLP(1, 2 * (features - 1), context_features=context)
        ...     return flowkit.Coupling(net, 1, flowkit.Affine())
        >>> estimator(build)(torch.randn(50, 2), torch.randn(50, 3)).input_shape
        torch.Size([2])
    """

    def made(theta: Tensor, x: Tensor) -> FlowEstimator:
        network = nn.Identity() if embedding is None else embedding
        embed = nn.Sequential(Standardize(x), network)
        with torch.no_grad():
            features = embed(x[:1]).shape[1]
        free = (Chain() if prior is None else biject_to(prior).inv).to(theta)
        with torch.no_grad():
            reals, logdet = free(theta)
        if not bool(logdet.isfinite().all()):
            odd = (~logdet.isfinite()).nonzero().flatten().tolist()
            raise ValueError(f"estimator: simulations {odd[:5]} lie outside of the prior's support, or on its edge")
        norm = ActNorm(reals.shape[1])
        initialize(norm, reals)
        bijector = Chain(free, norm, build(reals.shape[1], features))
        flow = Flow(bijector, StandardNormal(), shape=tuple(theta.shape[1:]))
        return FlowEstimator(flow, tuple(theta.shape[1:]), tuple(x.shape[1:]), embed)

    return made


class Standardize(nn.Module):
    """Shifts and scales to mean 0 and variance 1 on a batch, number by number; constants are only shifted."""

    mean: Tensor
    std: Tensor

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        constant = (x == x[0]).all(0)  # of which the deviation is not 0, but rounding
        self.register_buffer("mean", torch.where(constant, x[0], x.mean(0)))
        self.register_buffer("std", x.std(0, correction=0).masked_fill(constant, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """(B, …) to the same."""
        out: Tensor = (x - self.mean) / self.std
        return out
