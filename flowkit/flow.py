"""A flow: a bijector and a base density make a distribution with exact likelihood."""

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from flowkit.bijector import Inverse, facts, undone
from flowkit.checks import any_parameter
from flowkit.compiling import compiled
from flowkit.distribution_base import DistributionBase
from flowkit.hub import SharedFlow
from flowkit.shapes import blank, outline, runs
from flowkit.tree import Value, as_rows, leaves, map_leaves, repeat_rows


class Flow(SharedFlow):
    """The distribution of x when b(x) has the base density (eq. (2), change of variables).

    `log_prob(x) = base.log_prob(b(x)) + log|det ∂b/∂x|`. The context goes to the bijector and to the base.

    Args:
        bijector: x to latents; any object of the protocol.
        base: `StandardNormal()`, `Normal(D)` or another of flowkit's; `Near(std)` for a hierarchy whose y is held to
            the context; or a distribution of `torch.distributions`, see `flowkit.distribution_base`. One that states
            `shape`, that of a latent without the batch, tells `sample` what to draw.
        shape: shape of one x without the batch. `sample` needs it where it can't be told from the bijector's
            channels (and, for images, from the size of a context y*).
        embed: a module or function; the bijector gets `embed(context)`, made once per call and before rows are
            repeated, and the base the context as it came. Labels (B,), images and sets become vectors here.

    Where the shape of one x is stated, here or by the base, `log_prob`, `encode` and `decode` take any leading sizes:
    x of (*sizes, *shape) has log-densities (*sizes). The context then has the same sizes in front, or B rows where the
    last of the sizes is B: what `sample(n, context)` returns goes in as it is. One that fits both ways is refused.

    Raises:
        TypeError: if the bijector has no inverse, or the base is neither a module nor a distribution.
        ValueError: for a distribution without a density; from a call, without the context that `embed` needs.

    Example:
        >>> import flowkit
        >>> flow = flowkit.Flow(flowkit.ActNorm(2), flowkit.StandardNormal())
        >>> flow.log_prob(torch.zeros(3, 2)).shape, flow.sample(5).shape
        (torch.Size([3]), torch.Size([5, 2]))
        >>> tails = torch.distributions.Laplace(torch.zeros(2), torch.ones(2))
        >>> flowkit.Flow(flowkit.ActNorm(2), tails).log_prob(torch.zeros(4, 3, 2)).shape
        torch.Size([4, 3])
    """

    bijector: Any
    base: Any

    def __init__(
        self,
        bijector: nn.Module,
        base: nn.Module | Distribution,
        shape: tuple[int, ...] | None = None,
        embed: Callable[[Any], Value] | None = None,
    ) -> None:
        super().__init__()
        if not callable(bijector) or not hasattr(bijector, "inverse"):
            hint = "; flowkit.distributions.from_transform makes one of it" if isinstance(bijector, Transform) else ""
            raise TypeError(f"Flow: the bijector must have forward and inverse, got {type(bijector).__name__}{hint}")
        if isinstance(base, Distribution):
            base = DistributionBase(base)
        elif not isinstance(base, nn.Module):
            raise TypeError(f"Flow: the base must be a module or a torch distribution, got {type(base).__name__}")
        self.bijector = bijector
        self.base = base
        self.shape = None if shape is None else tuple(shape)
        self.embed = embed

    def forward(self, x: Tensor, context: Value = None) -> Tensor:
        """`log_prob`, so that hooks, compile and DDP see it."""
        return self.log_prob(x, context)

    def log_prob(self, x: Tensor, context: Value = None) -> Tensor:
        """Log-density of x in nats, shape (B,); −inf outside of the support."""
        x, context, sizes = as_rows(x, context, self._event())
        log_prob: Tensor = self._density(x, context)
        return log_prob if sizes is None else log_prob.reshape(sizes)

    def bits_per_dim(self, x: Tensor, context: Value = None, k: int = 1) -> Tensor:
        """−log₂ density per number of x, shape (B,); lower is better.

        The true one: divided by C·H·W, and with a `Dequantize` in front its offset counts for every element, so
        that it bounds the bits that a lossless code of the grey levels needs. With `Near` it is conditional on
        y*, whose own bits are not in it.

        With a stochastic map inside (`Dequantize`, `Augment`) it is an upper bound on average, by a draw. k draws are
        averaged as importance weights: the bound falls with k, towards the true value (Burda et al., 2016).

        Raises:
            ValueError: if k is below 1; if it is above 1 and a log-det is an estimate (`Residual`, `ODE`), whose noise
                the average would count as likelihood.
        """
        if k < 1:
            raise ValueError(f"Flow.bits_per_dim: k must be at least 1, got {k}")
        event = self._event()
        numbers = math.prod(x.shape[1:] if event is None else x.shape[x.ndim - event :])
        estimating: Any = (part for part in self.modules() if hasattr(part, "_estimates"))
        if k > 1 and any(part._estimates(numbers) for part in estimating):
            raise ValueError(
                "Flow.bits_per_dim: a log-det is an estimate, and the mean of k densities would count its noise as "
                "likelihood; take k=1, and the mean of several calls"
            )
        draws = torch.stack([self.log_prob(x, context) for _ in range(k)])
        return (math.log(k) - draws.logsumexp(0)) / (math.log(2) * numbers)

    def encode(self, x: Tensor, context: Value = None) -> Value:
        """The latents of x."""
        x, context, sizes = as_rows(x, context, self._event())
        latents = self._encoded(x, context)
        return latents if sizes is None else map_leaves(lambda z: z.reshape(*sizes, *z.shape[1:]), latents)

    def decode(self, latents: Value, context: Value = None) -> Tensor:
        """The x of latents."""
        latents, context, sizes = as_rows(latents, context, self._event())
        x = self._decoded_alone(latents, self._given(context))
        return x if sizes is None else x.reshape(*sizes, *x.shape[1:])

    def distribution(self, context: Value = None) -> Distribution:
        """The flow as a distribution of torch, on the same parameters.

        Args:
            context: None, or a context with B rows: the batch shape is then (B,).

        Returns:
            One whose event shape is that of x, by torch's rules for shapes, `expand` and `validate_args`.

        Raises:
            ValueError: if the shape of x is not known.
        """
        from flowkit.distributions import FlowDistribution  # noqa: PLC0415 - only for those who use it

        return FlowDistribution(self, context)

    def sample(
        self,
        n: int | Sequence[int],
        context: Value = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws n samples per context.

        The latents' shapes come from what the bijector states, or from a run on fake tensors: nothing is encoded.

        Args:
            n: number of samples, or several sizes, (4, 5) for 20.
            context: None, or a context with B rows.
            temperature: standard deviation of the latents, 0 for the mode of the base; learned bases and location-scale
                families of torch are scaled about their means, others take 1 alone.
            generator: source of the draws, which are made on its device. None: torch's global one.

        Returns:
            (n, *shape), or (n, B, *shape) with a context; (4, 5, …) for several sizes.

        Raises:
            TypeError: if n is not a whole number or several.
            ValueError: if n or the temperature is negative or infinite, or the shape of x is not known (see `shape`);
                if the base has no temperature, or can't be drawn from a generator, as what a `Slice` restores can't.
        """
        drawn = self._drawn(n, context, temperature, generator)
        return self._shaped(self._decoded_alone(drawn.latents, drawn.given), drawn)

    def sample_and_log_prob(
        self,
        n: int | Sequence[int],
        context: Value = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws as `sample` does, and returns their log-density under this flow (at temperature 1) as well."""
        drawn = self._drawn(n, context, temperature, generator)
        x, logdet = self._decoded(drawn.latents, drawn.given)
        log_prob = self.base.log_prob(drawn.latents, drawn.context) - logdet
        return self._shaped(x, drawn), log_prob.reshape(drawn.sizes)

    @compiled
    def _density(self, x: Tensor, context: Value) -> Tensor:
        """Log-densities of rows."""
        latents, logdet = self.bijector(x, self._given(context))
        log_prob: Tensor = self.base.log_prob(latents, _fitting(context, x.shape[0])) + logdet
        return log_prob

    @compiled
    def _encoded(self, x: Tensor, context: Value) -> Value:
        return self.bijector(x, self._given(context))[0]

    @compiled
    def _decoded(self, latents: Value, given: Value) -> tuple[Tensor, Tensor]:
        x, logdet = self.bijector.inverse(latents, given)
        return x, logdet

    @compiled
    def _decoded_alone(self, latents: Value, given: Value) -> Tensor:
        """Without the log-det, which a graph then has no part of."""
        x: Tensor = undone(self.bijector, latents, given)
        return x

    def _drawn(
        self, n: int | Sequence[int], context: Value, temperature: float, generator: torch.Generator | None
    ) -> "_Drawn":
        """Latents, and beside them what the base and the bijector are conditioned on."""
        sizes = _sizes(n)
        if not 0 <= temperature < math.inf:
            raise ValueError(f"Flow.sample: temperature must be at least 0 and finite, got {temperature}")
        if generator is not None and any(getattr(part, "_draws_back", False) for part in self.modules()):
            raise ValueError(
                "Flow.sample: a Slice draws what it restores from torch's global generator; leave out generator=, and "
                "seed with torch.manual_seed"
            )
        count, first = math.prod(sizes), next(leaves(context), None)
        if first is not None:
            sizes = (*sizes, first.shape[0])
        given = self._given(context)
        shape, like = self._latents_like(math.prod(sizes), context, given)
        its = _repeated(context, count)
        latents = self.base.sample(like, its, temperature, generator)
        return _Drawn(latents, its, its if given is context else _repeated(given, count), sizes, shape)

    @staticmethod
    def _shaped(x: Tensor, drawn: "_Drawn") -> Tensor:
        if drawn.shape is not None and tuple(x.shape[1:]) != drawn.shape:
            raise ValueError(
                f"Flow.sample: expected x of shape {drawn.shape}, the bijector made {tuple(x.shape[1:])}: `shape` is "
                "wrong, or a part changes sizes and does not state it (`shrink`)"
            )
        return x.reshape(*drawn.sizes, *x.shape[1:])

    def sample_like(self, like: Tensor, context: Value = None, latents: Value = None) -> tuple[Tensor, Tensor]:
        """Draws one x for every row of `like`, of its shape, with gradients: what stochastic maps add.

        Args:
            like: (B, *shape), for its shape, dtype and device.
            context: None, or a context with B rows.
            latents: taken in place of draws of the base.

        Returns:
            x, and its log-density, shape (B,).
        """
        given = self._given(context)
        if latents is None:
            made = outline(self.bijector, blank(tuple(like.shape[1:]), like.dtype), given)
            empty = map_leaves(lambda leaf: like.new_zeros(()).expand(like.shape[0], *leaf.shape[1:]), made)
            latents = self.base.sample(empty, context)
        x, logdet = self.bijector.inverse(latents, given)
        return x, self.base.log_prob(latents, context) - logdet

    def _given(self, context: Value) -> Value:
        """What the bijector is conditioned on."""
        if self.embed is None:
            return context
        if context is None:
            raise ValueError("Flow: embed= needs a context, and none was given")
        return self._embedded(context)

    @compiled
    def _embedded(self, context: Value) -> Value:
        assert self.embed is not None, "looked at before"
        return self.embed(context)

    def _event(self) -> int | None:
        """Number of dimensions of one x, where its shape is stated; a bijector keeps them."""
        shape = getattr(self.base, "shape", None) if self.shape is None else self.shape
        return None if shape is None else len(shape)

    def _latents_like(self, rows: int, context: Value, given: Value) -> tuple[tuple[int, ...] | None, Value]:
        """Shape of x, if known, and tensors of the latents' shapes."""
        like = self._like(given)
        latent = getattr(self.base, "shape", None)
        if latent is not None:
            return self.shape, like.new_zeros(()).expand(rows, *latent)
        shape = self._shape_of_x(context, given, like.dtype)
        latents = outline(self.bijector, blank(shape, like.dtype), given)
        return shape, map_leaves(lambda leaf: like.new_zeros(()).expand(rows, *leaf.shape[1:]), latents)

    def _like(self, given: Value) -> Tensor:
        """A tensor of the dtype of the draws, where they are."""
        first = any_parameter(self)
        if first is not None and first.is_floating_point():
            return first
        # a constant of one number is kept in float64, whatever is drawn: it says where, but not in which dtype
        own = list(self.base.buffers())
        constants = [b for b in self.buffers() if not b.ndim and not any(b is one for one in own)]
        known = itertools.chain(self.parameters(), leaves(given), own, (b for b in self.buffers() if b.ndim))
        where = constants[0].device if constants else None
        return next((t for t in known if t.is_floating_point()), torch.empty(0, device=where))

    @property
    def has_rsample(self) -> bool:
        """Draws carry gradients to all parameters, those of the base too."""
        return getattr(self.base, "has_rsample", True)

    def event_shape(self, context: Value = None) -> tuple[int, ...]:
        """Shape of one x that `sample(n, context)` makes.

        Raises:
            ValueError: if it is neither stated nor can be told.
        """
        given = self._given(context)
        dtype = self._like(given).dtype
        latent = getattr(self.base, "shape", None)
        if self.shape is None and latent is not None:
            return tuple(outline(Inverse(self.bijector), blank(latent, dtype), given).shape[1:])
        return self._shape_of_x(context, given, dtype)

    def _shape_of_x(self, context: Value, given: Value, dtype: torch.dtype) -> tuple[int, ...]:
        """As stated; or channels and, if the flow is one of images, the sizes of the context times `shrink`."""
        if self.shape is not None:
            return self.shape
        stated = facts(self.bijector)
        channels, shrink = stated.in_channels, stated.shrink
        sized = isinstance(given, Tensor) and given.ndim > 2
        if channels is not None and shrink is not None:
            if shrink == 1 and (not sized or self._takes((channels,), context, given, dtype)):
                return (channels,)
            if sized:
                sizes = [size * shrink for size in given.shape[2:]]
                if any(size.denominator > 1 for size in sizes):
                    raise ValueError(
                        f"Flow.sample: a context of {tuple(given.shape[2:])} is no output of the bijector, which "
                        f"divides sizes by {shrink}"
                    )
                return (channels, *map(int, sizes))
        raise ValueError(
            "Flow.sample: the shape of x is not known; pass it once, Flow(bijector, base, shape=(C, H, W))"
        )

    def _takes(self, shape: tuple[int, ...], context: Value, given: Value, dtype: torch.dtype) -> bool:
        """Whether latents of this shape can be decoded beside the context: x may be a vector, the context an image."""

        def decode(flow: Flow, latents: Value, context: Value, given: Value) -> None:
            flow.base.log_prob(latents, context)
            flow.bijector.inverse(latents, given)

        return runs(decode, self, outline(self.bijector, blank(shape, dtype), given), context, given)


class _Drawn(NamedTuple):
    """Latents of n·B rows, the contexts of base and bijector in as many, the sizes (*n, B), the shape of x if known."""

    latents: Value
    context: Value
    given: Value
    sizes: tuple[int, ...]
    shape: tuple[int, ...] | None


def _repeated(context: Value, count: int) -> Value:
    """B rows for each of `count` draws, all B of the first draw first."""
    return map_leaves(lambda c: c.repeat(count, *(1 for _ in c.shape[1:])), context)


def _fitting(context: Value, rows: int) -> Value:
    """A context of B rows beside n·B latents, for a base, which compares them row by row."""
    return map_leaves(lambda c: repeat_rows(c, rows) if c.shape[0] and rows % c.shape[0] == 0 else c, context)


def _sizes(n: int | Sequence[int]) -> tuple[int, ...]:
    try:
        sizes = tuple(map(operator.index, n if isinstance(n, Sequence) else (n,)))
    except TypeError:
        raise TypeError(f"Flow.sample: n must be a number of samples, or a tuple of sizes, got {n!r}") from None
    if any(size < 0 for size in sizes):
        raise ValueError(f"Flow.sample: n must not be negative, got {n!r}")
    return sizes
