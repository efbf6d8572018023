"""Bases of vectors: a box, learned normals, Student's t, and mixtures; a latent's features are along the channels."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowkit.arguments import as_tuple, check_whole
from flowkit.bases import draw, uniform
from flowkit.checks import unreadable
from flowkit.tree import Value, describe, leaves, map_leaves, sum_per_sample

LOG_2PI = math.log(2 * math.pi)


class Box(nn.Module):
    """Uniform in a box, the base of maps between bounded supports such as splines with `ends="box"`.

    Outside of the box the log-density is −inf; NaN stays NaN.

    Args:
        low, high: its edges: numbers, for latents of any shape, or tensors of the shape of one latent.

    Raises:
        ValueError: if low is not below high, or an edge is infinite or of another shape. From `sample`, if the
            temperature is not 1: a box has no scale to shrink by without leaving its support.

    Example:
        >>> import flowkit
        >>> Box(0.0, 2.0).log_prob(torch.tensor([[1.0, 1.0], [1.0, 3.0]]))
        tensor([-1.3863,    -inf])
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: float | Tensor, high: float | Tensor) -> None:
        super().__init__()
        dtype = _dtype(low, high)
        edges = [torch.as_tensor(edge, dtype=dtype) for edge in (low, high)]
        try:
            left, right = torch.broadcast_tensors(*edges)
        except RuntimeError:
            shapes = " and ".join(str(tuple(edge.shape)) for edge in edges)
            raise ValueError(f"Box: low and high must be of one shape, got {shapes}") from None
        if not bool((left < right).all()) or not bool((right - left).isfinite().all()):
            raise ValueError(f"Box: low must be below high, and finite, got {left.tolist()} and {right.tolist()}")
        self.register_buffer("low", left.clone())
        self.register_buffer("high", right.clone())
        self.shape = tuple(left.shape) or None

    def extra_repr(self) -> str:
        """The edges."""
        return f"{self.low.tolist()}, {self.high.tolist()}"

    def log_prob(self, value: Value, context: Value = None) -> Tensor:
        """Log-density in nats, shape (B,): minus the logarithm of the volume, or −inf."""
        terms = []
        for z in leaves(value):
            _check(self, z)
            log_density = torch.where((z >= self.low) & (z <= self.high), -(self.high - self.low).log(), -torch.inf)
            terms.append(sum_per_sample(torch.where(z.isnan(), z, log_density.to(z.dtype))))
        return sum(terms[1:], terms[0])

    def sample(
        self,
        like: Value,
        context: Value = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Value:
        """Draws a value of the shapes of `like`."""
        _only_one(self, temperature)
        return map_leaves(lambda leaf: self.low + (self.high - self.low) * uniform(leaf, generator), like)


class Normal(nn.Module):
    """Independent normals whose means and widths are learned. They start at N(0, 1).

    Args:
        features: D, or the sizes of a latent without the batch.

    Attributes:
        mean, log_std: of each number. A temperature scales about the mean.

    Example:
        >>> import flowkit
        >>> flow = flowkit.Flow(flowkit.ActNorm(3), flowkit.Normal(3))
        >>> flow.sample(4).shape, flow.log_prob(torch.zeros(5, 4, 3)).shape
        (torch.Size([4, 3]), torch.Size([5, 4]))
    """

    def __init__(self, features: int | Sequence[int]) -> None:
        super().__init__()
        self.shape = _sizes("Normal", features)
        self.mean = nn.Parameter(torch.zeros(self.shape))
        self.log_std = nn.Parameter(torch.zeros(self.shape))

    def extra_repr(self) -> str:
        """The sizes."""
        return ", ".join(map(str, self.shape))

    def log_prob(self, value: Value, context: Value = None) -> Tensor:
        """Log-density in nats, shape (B,)."""
        return sum_per_sample(_log_normal(_check(self, value), self.mean, self.log_std))

    def sample(
        self,
        like: Tensor,
        context: Value = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws as many as `like` has rows."""
        return self.mean + temperature * self.log_std.exp() * draw(like, generator)


class StudentT(nn.Module):
    """Independent Student's t of each feature: tails that a Lipschitz map can't make of normal ones (TAF, 2022).

    Args:
        features: D, or the sizes of a latent without the batch.
        df: degrees of freedom ν, a number or one for each feature. None learns them, 2 + exp(raw), from 30 on.

    Raises:
        ValueError: if a number of degrees of freedom is not positive, or they are of another shape.

    Example:
        >>> import flowkit
        >>> flow = flowkit.Flow(flowkit.ActNorm(2), flowkit.StudentT(2))
        >>> [round(df, 3) for df in flow.base.df.tolist()]
        [30.0, 30.0]
    """

    def __init__(self, features: int | Sequence[int], df: float | Tensor | None = None) -> None:
        super().__init__()
        self.shape = _sizes("StudentT", features)
        if df is None:
            self.raw = nn.Parameter(torch.full(self.shape, math.log(28.0)))
        else:
            given = torch.as_tensor(df, dtype=_dtype(df))
            if given.ndim and given.shape != self.shape:
                raise ValueError(f"StudentT: df must be a number or {self.shape}, got {describe(given)}")
            fixed = given.expand(self.shape).clone()
            if not bool((fixed > 0).all()):
                raise ValueError(f"StudentT: degrees of freedom must be positive, got {fixed.tolist()}")
            self.register_buffer("fixed", fixed)

    def extra_repr(self) -> str:
        """The sizes."""
        return ", ".join(map(str, self.shape)) + (", fixed" if "fixed" in self._buffers else "")

    @property
    def df(self) -> Tensor:
        """Degrees of freedom, one for each number."""
        return self._buffers["fixed"] if "fixed" in self._buffers else 2 + self.raw.exp()  # type: ignore[return-value]

    def log_prob(self, value: Value, context: Value = None) -> Tensor:
        """Log-density in nats, shape (B,)."""
        z, df = _check(self, value), self.df
        constant = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2) - 0.5 * (df.log() + math.log(math.pi))
        return sum_per_sample(constant - (df + 1) / 2 * torch.log1p(z.square() / df))

    def sample(
        self,
        like: Tensor,
        context: Value = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws as many as `like` has rows: normal numbers over the roots of χ²/ν."""
        device = like.device if generator is None else generator.device
        half = (self.df / 2).to(device).expand(like.shape)
        chi = torch._standard_gamma(half, generator=generator) / half
        z = draw(like, generator) * chi.clamp_min(torch.finfo(chi.dtype).tiny).rsqrt().to(like.device)
        return temperature * z


class Mixture(nn.Module):
    """A mixture of normals with diagonal covariances, all learned; with classes, one for each label.

    The means start at random: equal components would get equal gradients, and stay one for ever.

    Args:
        components: K.
        features: D, or the sizes of a latent without the batch.
        classes: number of classes, each with a mixture of its own. The flow's context, as it came (before `embed`), is
            then the labels, integers (B,).

    Attributes:
        logits, means, log_stds: (K,) and (K, D), with a leading dimension for the classes. A temperature scales each
            component about its mean. The draws carry no gradient to the logits.

    Raises:
        ValueError: without components; or from a call, if there are classes and no labels, or one out of range.

    Example:
        >>> import flowkit
        >>> flow = flowkit.Flow(flowkit.ActNorm(2), flowkit.Mixture(4, 2, classes=10))
        >>> flow.sample(5, torch.arange(10)).shape
        torch.Size([5, 10, 2])
    """

    has_rsample = False

    def __init__(self, components: int, features: int | Sequence[int], classes: int | None = None) -> None:
        super().__init__()
        check_whole("Mixture", components=components, classes=1 if classes is None else classes)
        self.shape = _sizes("Mixture", features)
        self.classes = classes
        kinds = () if classes is None else (classes,)
        self.logits = nn.Parameter(torch.zeros(*kinds, components))
        self.means = nn.Parameter(torch.randn(*kinds, components, *self.shape))
        self.log_stds = nn.Parameter(torch.zeros(*kinds, components, *self.shape))

    def extra_repr(self) -> str:
        """Numbers of components, features, and classes."""
        sizes = f"{self.logits.shape[-1]}, {', '.join(map(str, self.shape))}"
        return sizes + ("" if self.classes is None else f", classes={self.classes}")

    def log_prob(self, value: Value, context: Value = None) -> Tensor:
        """Log-density in nats, shape (B,)."""
        z = _check(self, value)
        logits, means, log_stds = self._of(context, z.shape[0])
        each = _log_normal(z.unsqueeze(1), means, log_stds).flatten(2).sum(2)
        return (logits.log_softmax(-1) + each).logsumexp(-1)

    def sample(
        self,
        like: Tensor,
        context: Value = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws as many as `like` has rows: a component first, then a normal."""
        rows = like.shape[0]
        logits, means, log_stds = self._of(context, rows)
        below = logits.softmax(-1).cumsum(-1)[..., :-1]
        chosen = (uniform(like.new_empty(rows, 1), generator) > below).sum(-1)
        row = torch.arange(rows, device=like.device)
        mean, log_std = (
            part.expand(rows, *part.shape[-1 - len(self.shape) :])[row, chosen] for part in (means, log_stds)
        )
        return mean + temperature * log_std.exp() * draw(like, generator)

    def _of(self, context: Value, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        if self.classes is None:
            return self.logits, self.means, self.log_stds
        if not isinstance(context, Tensor) or context.is_floating_point() or context.shape != (rows,):
            raise ValueError(
                f"Mixture: with classes the flow's context is labels, integers ({rows},), got {describe(context)}"
            )
        if context.device.type == "cpu" and not unreadable(context):  # elsewhere a look would wait for the device
            odd = context[(context < 0) | (context >= self.classes)]
            if len(odd):
                raise ValueError(f"Mixture: labels must be 0 to {self.classes - 1}, got {odd[0]}")
        return self.logits[context], self.means[context], self.log_stds[context]


def _log_normal(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    return -0.5 * ((z - mean) * (-log_std).exp()).square() - log_std - 0.5 * LOG_2PI


def _check(base: nn.Module, value: Value) -> Tensor:
    """A latent of the shape of the base."""
    shape = getattr(base, "shape", None)
    if not isinstance(value, Tensor) or (shape is not None and tuple(value.shape[1:]) != shape):
        sizes = "any shape" if shape is None else f"the shape {shape}"
        raise ValueError(f"{type(base).__name__}: the base has {sizes}, the latent is {describe(value)}")
    return value


def _only_one(base: nn.Module, temperature: float) -> None:
    if temperature != 1:
        raise ValueError(f"Flow.sample: the temperature of the base {type(base).__name__} must be 1, got {temperature}")


def _sizes(name: str, features: int | Sequence[int]) -> tuple[int, ...]:
    sizes = as_tuple(features)
    for size in sizes or (0,):
        check_whole(name, features=size)
    return sizes


def _dtype(*numbers: float | Tensor) -> torch.dtype:
    given = [n.dtype for n in numbers if isinstance(n, Tensor) and n.is_floating_point()]
    return given[0] if given else torch.get_default_dtype()
