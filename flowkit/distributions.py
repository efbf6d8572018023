"""Flows and bijectors in torch.distributions, and its transforms in flowkit."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints
from torch.distributions.constraints import Constraint

from flowkit.bijector import Bijector, Inverse
from flowkit.columns import PerChannel
from flowkit.shapes import blank, outline
from flowkit.torch_objects import copied, deep_copy, first_tensor, keep_inside
from flowkit.tree import Value, as_rows, leaves, map_leaves, sum_per_sample

if TYPE_CHECKING:
    from flowkit.flow import Flow


def transform(b: Bijector, event_dim: int = 1, context: Value = None) -> Transform:
    """A bijector as a transform of torch: `transform(b)(x) == b(x)[0]`, for any leading sizes.

    `TransformedDistribution(base, [transform(b).inv])` is so the distribution of `Flow(b, base)`, for torch, Pyro and
    whoever takes transforms. Its parameters are those of b: they are trained through it. Each log-det is another pass
    of b; `transform(b).with_cache()` keeps that of the last x and y.

    Args:
        b: a bijector from one tensor to one tensor.
        event_dim: dimensions of one x, without leading ones: 1 for vectors, 3 for images.
        context: what b is conditioned on: B rows, where the last leading size is B.

    Example:
        >>> import flowkit
        >>> from torch.distributions import Laplace, TransformedDistribution
        >>> b = flowkit.ActNorm(2)
        >>> flow = TransformedDistribution(Laplace(torch.zeros(2), torch.ones(2)), [transform(b).inv])
        >>> flow.sample((5,)).shape, flow.log_prob(torch.zeros(4, 3, 2)).shape
        (torch.Size([5, 2]), torch.Size([4, 3]))
    """
    return FlowTransform(b, event_dim, context)


def from_transform(t: Transform) -> Bijector:
    """A transform of torch as a bijector.

    Args:
        t: bijective, of one number (its log-dets are summed), or of vectors along the last dimension of x. It acts
            on x (B, C, *spatial) as torch would have it. What its range does not hold comes back as a finite number
            with log-det −inf, so that the log-density of a whole flow is −inf there.

    Raises:
        TypeError: if it is no transform.
        ValueError: if it is not bijective.

    Example:
        >>> import flowkit
        >>> simplex = from_transform(torch.distributions.StickBreakingTransform())
        >>> y, logdet = simplex(torch.zeros(1, 3))
        >>> y
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    if isinstance(t, FlowTransform):
        return t.bijector if t.context is None else _FromTransform(t)
    return _FromTransform(t)


class FlowTransform(Transform):
    """What `transform` makes of a bijector.

    Raises:
        TypeError: for what is no bijector.
        ValueError: for an event_dim below 1, or from a call, if b does not map one tensor to one tensor.
    """

    bijective = True

    def __init__(self, bijector: Bijector, event_dim: int = 1, context: Value = None, cache_size: int = 0) -> None:
        if not isinstance(bijector, nn.Module) or not hasattr(bijector, "inverse"):
            raise TypeError(f"transform: expected a bijector, got {type(bijector).__name__}")
        if event_dim < 1:
            raise ValueError(f"transform: event_dim must be at least 1, got {event_dim}")
        super().__init__(cache_size)
        self.bijector = bijector
        self.events = event_dim
        self.context = context
        self._last: tuple[Tensor, Tensor, Tensor] | None = None
        self._weights: list[Any] = []

    @property
    def domain(self) -> Constraint:  # type: ignore[override]
        """That of the bijector."""
        return event_constraint(getattr(self.bijector, "domain", None), self.events)

    @property
    def codomain(self) -> Constraint:  # type: ignore[override]
        """That of the bijector."""
        return event_constraint(getattr(self.bijector, "codomain", None), self.events)

    def with_cache(self, cache_size: int = 1) -> Transform:
        """The same bijector; with a cache of 1 the log-det of the last x and y is kept, until a weight changes.

        What is written to a weight's `.data` goes unseen, as everywhere in torch: call `with_cache` again.
        """
        return FlowTransform(self.bijector, self.events, self.context, cache_size)

    def __repr__(self) -> str:
        return f"transform({type(self.bijector).__name__}, event_dim={self.events})"

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x to y; returns the last y again if nothing has changed."""
        self._forget_other_weights()
        y: Tensor = super().__call__(x)
        return y

    def _inv_call(self, y: Tensor) -> Tensor:
        self._forget_other_weights()
        x: Tensor = super()._inv_call(y)
        return x

    def _forget_other_weights(self) -> None:
        """Empties the cache if the bijector has been trained, or loaded, since it was filled."""
        if not self._cache_size:
            return
        held = (*self.bijector.parameters(), *self.bijector.buffers())
        weights: list[Any] = [(id(t), -1 if t.is_inference() else t._version, t.requires_grad) for t in held]
        weights.append(torch.is_grad_enabled())  # what was kept without a graph has no gradient
        if weights != self._weights:
            self._weights, self._last, self._cached_x_y = weights, None, (None, None)

    def _call(self, x: Tensor) -> Tensor:
        y, logdet = self._through(self.bijector, x)
        self._last = (x, y, logdet) if self._cache_size else None
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        x, logdet = self._through(self.bijector.inverse, y)
        self._last = (x, y, -logdet) if self._cache_size else None
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Log-dets of the leading sizes."""
        self._forget_other_weights()
        if self._last is not None and self._last[0] is x and self._last[1] is y:
            return self._last[2]
        return self._through(self.bijector, x)[1]

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of y for one of x."""
        return self._shape(self.bijector, shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of x for one of y."""
        return self._shape(Inverse(self.bijector), shape)

    def _through(self, direction: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        rows, context, sizes = as_rows(x, self.context, self.events, shared=True)
        y, logdet = direction(rows, context)
        if not isinstance(y, Tensor):
            raise ValueError(
                f"transform: {type(self.bijector).__name__} maps to a tree, torch's transforms to a tensor"
            )
        return (y, logdet) if sizes is None else (y.reshape(*sizes, *y.shape[1:]), logdet.reshape(sizes))

    def _shape(self, b: Bijector, shape: torch.Size) -> torch.Size:
        if len(shape) < self.events:
            raise ValueError(f"{self}: expected at least {self.events} dimensions, got {tuple(shape)}")
        cut = len(shape) - self.events
        return torch.Size((*shape[:cut], *outline(b, blank(tuple(shape[cut:])), self.context).shape[1:]))


class _FromTransform(Bijector):
    """What `from_transform` makes of a transform."""

    x_is_tensor = y_is_tensor = True
    place: Tensor
    __deepcopy__ = deep_copy

    def __init__(self, t: Transform) -> None:
        super().__init__()
        if not isinstance(t, Transform):
            raise TypeError(f"from_transform: expected a transform of torch.distributions, got {type(t).__name__}")
        if not t.bijective:
            raise ValueError(f"from_transform: {t} is not bijective, so it has no density")
        self.transform = copied(t, lambda tensor: tensor)
        self.domain, self.codomain = t.domain, t.codomain
        held = first_tensor(t)
        self.register_buffer("place", torch.empty(0) if held is None else held.new_empty(0), persistent=False)
        if _keeps_size(t):
            self.shrink = Fraction(1)

    def extra_repr(self) -> str:
        """The transform."""
        return str(self.transform)

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Applies it."""
        return _masked(self.transform, x)

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Undoes it."""
        return _masked(self.transform.inv, y)

    def _apply(self, function: Any, recurse: bool = True) -> _FromTransform:
        self.transform = copied(self.transform, function)
        self.domain, self.codomain = self.transform.domain, self.transform.codomain
        super()._apply(function, recurse)
        return self


def _masked(t: Transform, x: Tensor) -> tuple[Tensor, Tensor]:
    x, outside = keep_inside(t.domain, x, edges=True)
    y = t(x)
    if not x.shape[0]:  # torch's own sums have no shape for no rows
        return y, sum_per_sample(x)
    logdet = t.log_abs_det_jacobian(x, y)
    logdet = logdet if logdet.ndim == 1 else sum_per_sample(logdet)
    if outside is not None:
        logdet = torch.where(outside.view(len(x), -1).any(1), -torch.inf, logdet)
    return y, logdet


def _keeps_size(t: Transform) -> bool:
    if t.domain.event_dim == 0:
        return True
    try:
        return t.forward_shape(torch.Size((7,))) == torch.Size((7,))
    except (ValueError, RuntimeError):  # of matrices, or of vectors of its own size
        return False


class FlowDistribution(Distribution):
    """A flow as a distribution of torch: what `flow.distribution(context)` returns.

    Args:
        flow: on its parameters; nothing is copied.
        context: None, or one with B rows for the batch shape (B,).
        validate_args: as torch has it.

    Example:
        >>> import flowkit
        >>> p = flowkit.Flow(flowkit.ActNorm(2), flowkit.StandardNormal()).distribution()
        >>> p.event_shape, p.sample((3,)).shape, p.log_prob(torch.zeros(4, 2)).shape
        (torch.Size([2]), torch.Size([3, 2]), torch.Size([4]))
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, flow: Flow, context: Value = None, validate_args: bool | None = None) -> None:
        self.flow = flow
        self.context = context
        first = next(leaves(context), None)
        batch = torch.Size() if first is None else first.shape[:1]
        super().__init__(batch, torch.Size(flow.event_shape(context)), validate_args=validate_args)

    def __repr__(self) -> str:
        return f"FlowDistribution(batch_shape: {tuple(self.batch_shape)}, event_shape: {tuple(self.event_shape)})"

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Draws carry gradients to all parameters."""
        return self.flow.has_rsample

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> Constraint:
        """The domain of the bijector; the base may leave a part of it out, where log-densities are −inf."""
        return event_constraint(getattr(self.flow.bijector, "domain", None), len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowDistribution:
        """More rows, of one context or of none."""
        new: FlowDistribution = self._get_checked_instance(FlowDistribution, _instance)
        batch = torch.Size(batch_shape)
        self.batch_shape_fits(batch)
        new.flow = self.flow
        new.context = map_leaves(lambda c: c.expand(batch[-1], *c.shape[1:]), self.context)
        super(FlowDistribution, new).__init__(batch, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def batch_shape_fits(self, batch: torch.Size) -> None:
        """Checks that this distribution can be expanded to a batch shape.

        Raises:
            RuntimeError: if it can't, as `Tensor.expand` does.
        """
        torch.empty(self.batch_shape).expand(batch)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draws (*sample_shape, *batch_shape, *event_shape), without gradients."""
        with torch.no_grad():
            return self._drawn(sample_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """The same, with gradients to the parameters.

        Raises:
            NotImplementedError: if the base's draws carry none.
        """
        if not self.has_rsample:
            raise NotImplementedError(f"rsample: draws of the base {type(self.flow.base).__name__} carry no gradients")
        return self._drawn(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-densities (*sizes) of a value (*sizes, *event_shape), broadcast with the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        cut = value.ndim - len(self.event_shape)
        sizes = torch.broadcast_shapes(value.shape[:cut], self.batch_shape)
        rows, context, _ = as_rows(value.expand(*sizes, *self.event_shape), self.context, len(self.event_shape), True)
        return self.flow.log_prob(rows, context).reshape(sizes)

    def _drawn(self, sample_shape: Any) -> Tensor:
        sizes = torch.Size(sample_shape) + self.batch_shape
        n = sizes if self.context is None else sizes[:-1]
        return self.flow.sample(tuple(n), self.context)


def event_constraint(constraint: Constraint | None, event_dim: int) -> Constraint:
    """A constraint of numbers as one of events; all reals where nothing is stated."""
    constraint = constraints.real if constraint is None else constraint
    if isinstance(constraint, PerChannel):  # of channels behind any leading sizes
        constraint = constraint.along(-event_dim)
    missing = event_dim - constraint.event_dim
    return constraints.independent(constraint, missing) if missing > 0 else constraint
