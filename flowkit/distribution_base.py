"""A distribution of torch as the base of a flow."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import (
    Cauchy,
    Distribution,
    Gumbel,
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    StudentT,
)
from torch.distributions.constraints import Constraint

from flowkit.bases import draw, uniform
from flowkit.torch_objects import copied, deep_copy, first_tensor, keep_inside
from flowkit.tree import Value, describe, leaves, map_leaves, sum_per_sample

LOCATION_SCALE = (Cauchy, Gumbel, Laplace, LowRankMultivariateNormal, MultivariateNormal, Normal, StudentT)
"""Families that a temperature scales about their location."""


class DistributionBase(nn.Module):
    """A `torch.distributions` distribution as a base: what `Flow` makes of one.

    Its batch dimensions count as dimensions of a latent, and are summed. One without any shape, such as
    `Laplace(0.0, 1.0)`, is the density of every number of a latent of any shape. Outside of the support the
    log-density is −inf, without an error. It moves with the flow (`.to`, `.double`, `.cuda`), but its tensors are no
    parameters and are not in the state dict; bases that are learned are `flowkit.Normal` and its neighbours.

    Args:
        distribution: with a continuous support.

    Attributes:
        distribution: a copy that validates nothing.
        shape: of one latent, batch and event dimensions together; None for one without a shape.

    Raises:
        ValueError: if it is discrete. From `log_prob`, if a latent has another shape. From `sample`, for a temperature
            if it is no location-scale family, or a generator if it has no `icdf`.
    """

    place: Tensor
    __deepcopy__ = deep_copy

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        self.support = _support(distribution)
        if self.support is not None and self.support.is_discrete:
            raise ValueError(f"Flow: {type(distribution).__name__} is discrete and has no density to be a base")
        self.distribution = copied(distribution, lambda tensor: tensor)
        self.shape = tuple(distribution.batch_shape + distribution.event_shape) or None
        held = first_tensor(distribution)  # says where the distribution is, and of what dtype
        self.register_buffer("place", torch.empty(0) if held is None else held.new_empty(0), persistent=False)

    def extra_repr(self) -> str:
        """The distribution."""
        return repr(self.distribution)

    @property
    def has_rsample(self) -> bool:
        """Draws carry gradients to the distribution's parameters."""
        return self.distribution.has_rsample

    def log_prob(self, value: Value, context: Value = None) -> Tensor:
        """Log-density in nats, summed over the value, shape (B,)."""
        terms = [self._log_prob(z) for z in leaves(value)]
        return sum(terms[1:], terms[0])

    def sample(
        self,
        like: Value,
        context: Value = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Value:
        """Draws a value of the shapes of `like`; with a generator, by the inverse distribution function."""
        inner = _inner(self.distribution)
        if temperature != 1 and not isinstance(inner, LOCATION_SCALE):
            raise ValueError(
                f"Flow.sample: the base {type(inner).__name__} is no location-scale family, so its temperature must "
                f"be 1, got {temperature}"
            )

        def drawn(leaf: Tensor) -> Tensor:
            if not leaf.shape[0]:  # nor draws for no rows
                return leaf.new_empty(leaf.shape)
            z = self._draw(inner, leaf, generator).to(leaf)
            return z if temperature == 1 else inner.loc + temperature * (z - inner.loc)

        return map_leaves(drawn, like)

    def _log_prob(self, z: Tensor) -> Tensor:
        if self.shape is not None and tuple(z.shape[1:]) != self.shape:
            raise ValueError(f"Flow: the base {self.distribution} has the shape {self.shape}, the latent {describe(z)}")
        if not z.shape[0]:  # torch's own sums have no shape for no rows
            return sum_per_sample(z)
        odd = z
        z, outside = keep_inside(self.support, z)
        log_density = self.distribution.log_prob(z)
        if outside is not None:  # with bounds, NaN has a density in some of torch's
            log_density = torch.where(outside, -torch.inf, log_density)
            return torch.where(odd.isnan().flatten(1).any(1), torch.nan, sum_per_sample(log_density.unsqueeze(-1)))
        return log_density if log_density.ndim == 1 else sum_per_sample(log_density)

    def _draw(self, inner: Distribution, leaf: Tensor, generator: torch.Generator | None) -> Tensor:
        distribution: Any = self.distribution
        sizes = leaf.shape if self.shape is None else leaf.shape[:1]
        if generator is None:
            draws: Callable[[torch.Size], Tensor] = distribution.rsample if self.has_rsample else distribution.sample
            return draws(sizes)
        like = self.place.new_empty(()).expand(leaf.shape)
        if isinstance(inner, MultivariateNormal):
            return inner.loc + (inner.scale_tril @ draw(like, generator).unsqueeze(-1)).squeeze(-1)
        try:
            return inner.icdf(uniform(like, generator))
        except NotImplementedError:
            raise ValueError(
                f"Flow.sample: the base {type(inner).__name__} has no inverse distribution function (icdf), so its "
                "draws can't come from a generator; leave out generator=, and seed with torch.manual_seed"
            ) from None

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> "DistributionBase":
        self.distribution = copied(self.distribution, function)
        self.support = _support(self.distribution)
        super()._apply(function, recurse)
        return self


def _support(distribution: Distribution) -> Constraint | None:
    try:
        found: Constraint | None = distribution.support
    except NotImplementedError:  # not stated
        return None
    return found


def _inner(distribution: Any) -> Any:
    """What is drawn: `Independent` only says how densities are summed."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution
