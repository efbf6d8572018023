"""Monotonic rational-quadratic splines, without a data-dependent branch (Durkan et al., Neural Spline Flows)."""

import itertools
import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from flowkit.arguments import check_choice, check_numbers, check_whole
from flowkit.kinds import Kind
from flowkit.tree import sum_per_sample


@dataclass(frozen=True)
class RationalQuadratic(Kind):
    """A spline of `bins` rational-quadratic pieces on [−tail_bound, tail_bound].

    Parameters per channel, all unnormalised: `bins` widths, `bins` heights, then slopes at the knots. With "linear"
    ends, as in nflows, there are `bins` − 1 of them, P = 3·bins − 1.

    Args:
        bins: number of pieces.
        tail_bound: half the width of the square in which the spline acts.
        min_width: lower bound of widths, in units of the square's side.
        min_height: lower bound of heights, in the same units.
        min_slope: lower bound of slopes.
        ends: what is outside the square:
            "linear", the identity, which the spline meets with slope 1;
            "box", nothing: x and y live in [−tail_bound, tail_bound], and both end slopes are free, P = 3·bins + 1.
            Numbers outside get the log-det −inf and a placeholder. The base is a uniform one;
            "circular", the same again: x and y are angles in [−tail_bound, tail_bound), the slope at the seam is one
            parameter, and the last parameter turns y, P = 3·bins + 1. Angles outside are taken as those that they are
            equal to, but a network that such a number steers sees it as it is: bring columns of angles into the
            interval first. Behind it only permutations and other circular maps may follow (Rezende et al., Normalizing
            Flows on Tori and Spheres).
        identity: zero parameters are the identity; else, as in nflows, inner slopes then start at 0.69.

    Raises:
        ValueError: if the bounds leave no room for the bins, or for unknown ends.

    Example:
        >>> import math, flowkit
        >>> kind = RationalQuadratic(8, tail_bound=math.pi, ends="circular")
        >>> b = flowkit.Coupling(flowkit.nets.MLP(1, kind.parameters), keep=1, kind=kind)
        >>> y, logdet = b(torch.tensor([[0.0, 3.0]]))
        >>> b.inverse(y)[0].detach()
        tensor([[0., 3.]])
    """

    alike: ClassVar[bool] = True

    bins: int
    tail_bound: float = 1.0
    min_width: float = 1e-3
    min_height: float = 1e-3
    min_slope: float = 1e-3
    ends: Literal["linear", "box", "circular"] = "linear"
    identity: bool = False

    def __post_init__(self) -> None:
        check_whole("RationalQuadratic", bins=self.bins)
        check_numbers("RationalQuadratic", "(0, inf)", tail_bound=self.tail_bound)
        check_numbers("RationalQuadratic", "[0, 1]", min_width=self.min_width, min_height=self.min_height)
        check_numbers("RationalQuadratic", "(0, 1)", min_slope=self.min_slope)
        check_choice("RationalQuadratic", ("linear", "box", "circular"), ends=self.ends)
        if max(self.min_width, self.min_height) * self.bins > 1:
            raise ValueError(f"RationalQuadratic: {self.bins} bins of the least size do not fit in [0, 1]")

    @property
    def parameters(self) -> int:
        """3 · bins − 1, or 3 · bins + 1 where the ends are not linear."""
        return 3 * self.bins + (-1 if self.ends == "linear" else 1)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        """All reals, the box, or the circle."""
        if self.ends == "linear":
            return constraints.real
        if self.ends == "box":
            return constraints.interval(-self.tail_bound, self.tail_bound)
        return constraints.half_open_interval(-self.tail_bound, self.tail_bound)

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates the spline."""
        x, table = _along_memory(x, parameters)
        if self.ends == "circular":
            x = self._around(x)
        inside, safe = self._inside(x)
        piece = self._piece(safe, table, given_y=False)
        theta = _within((safe - piece.x) / piece.width)
        rise, log_slope = piece.at(theta)
        y = piece.y + piece.height * rise
        return _as_given(self._placed(y, x, inside, table[-1])), self._total(log_slope, inside)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Solves the quadratic of the piece that y lies in."""
        x, piece, theta, inside = self._solved(y, parameters)
        return x, self._total(-piece.at(theta)[1], inside)

    def solve(self, y: Tensor, parameters: Tensor) -> Tensor:
        """The same, without the slope there."""
        return self._solved(y, parameters)[0]

    def _solved(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, "_Piece", Tensor, Tensor]:
        """X, its piece, where in it x lies, and which numbers are inside."""
        y, table = _along_memory(y, parameters)
        if self.ends == "circular":
            y = self._around(y - table[-1])
        inside, safe = self._inside(y)
        piece = self._piece(safe, table, given_y=True)
        theta = piece.solve(safe)
        return _as_given(self._placed(piece.x + piece.width * theta, y, inside, None)), piece, theta, inside

    def _inside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inside = x.abs() <= self.tail_bound
        return inside, torch.where(inside, x, 0.0)  # a clamp would have no gradient at the bounds

    def _around(self, angle: Tensor) -> Tensor:
        """The equal angle in [−B, B)."""
        bound = self.tail_bound
        turned = torch.remainder(angle + bound, 2 * bound) - bound
        turned = torch.where(turned >= bound, turned - 2 * bound, turned)  # rounding makes a full turn of nearly one
        return torch.where((angle >= -bound) & (angle < bound), angle, turned)

    def _placed(self, image: Tensor, value: Tensor, inside: Tensor, turn: Tensor | None) -> Tensor:
        """The image where there is one, put into the support; else the number itself, in a box the end next to it."""
        bound = self.tail_bound
        if self.ends == "linear":
            return torch.where(inside, image, value)
        if self.ends == "box":
            image = image + (image.clamp(-bound, bound) - image).detach()  # rounding leaves the box, slopes stay
            return torch.where(inside, image, value.clamp(-bound, bound))
        return torch.where(inside, self._around(image if turn is None else image + turn), value)

    def _total(self, log_slope: Tensor, inside: Tensor) -> Tensor:
        outside = -math.inf if self.ends == "box" else 0.0
        return sum_per_sample(_as_given(torch.where(inside, log_slope, outside)))

    def _piece(self, value: Tensor, table: Tensor, given_y: bool) -> "_Piece":
        """Finds the piece of every number, and its corners.

        The table has the parameters first, so that every pass runs along memory; sums over those pieces that were
        passed take the place of knots, which would need a scan back in the gradient. In a graph with gradients the
        piece is such a sum too, of all pieces times 0 or 1: a gather's gradient goes number by number.
        """
        k = self.bins
        sizes, raw = self._sizes(table[: 2 * k].unflatten(0, (2, k))), self._slopes(table[2 * k :])
        place, given = value.detach() + self.tail_bound, sizes.detach()[1 if given_y else 0, :-1]
        if _in_loops(value):
            passed = [(place >= knot).to(place.dtype) for knot in itertools.accumulate(given.unbind(0))]
            before = torch.stack(passed) if k > 1 else given
            here = torch.stack([torch.ones_like(place), *passed]) - torch.stack([*passed, torch.zeros_like(place)])
            slopes = torch.stack([(raw[:-1] * here).sum(0), (raw[1:] * here).sum(0)])
            chosen = (sizes * here).sum(1)
        else:
            known = place >= given.cumsum(0)
            index, before = known.sum(0, keepdim=True), known.to(place.dtype)
            slopes = raw.gather(0, torch.cat([index, index + 1]))
            chosen = sizes.gather(1, index.expand(2, *index.shape)).squeeze(1)
        left, right = (self.min_slope + F.softplus(slopes)).unbind(0)
        x, y = ((sizes[:, :-1] * before).sum(1) - self.tail_bound).unbind(0)
        width, height = chosen.unbind(0)
        return _Piece(x, y, width, height, left, right)

    def _slopes(self, raw: Tensor) -> Tensor:
        """The raw slopes at all knots."""
        unit = math.log(math.expm1(1 - self.min_slope))  # softplus makes it slope 1
        if self.identity:
            raw = raw + unit
        if self.ends == "circular":
            raw = raw[: self.bins]
            return torch.cat([raw, raw[:1]])
        return _padded(raw, unit, unit) if self.ends == "linear" else raw

    def _sizes(self, raw: Tensor) -> Tensor:
        """Widths and heights, (2, bins, …)."""
        shares, side = raw.softmax(1), 2 * self.tail_bound
        if self.min_width == self.min_height:
            return side * self.min_width + side * (1 - self.min_width * self.bins) * shares
        leasts = zip(shares.unbind(0), (self.min_width, self.min_height), strict=True)
        return torch.stack([side * least + side * (1 - least * self.bins) * share for share, least in leasts])


def _in_loops(x: Tensor) -> bool:
    """Whether x is computed in loops that a compiler writes for a CPU, and a gradient will be, too."""
    return torch.compiler.is_compiling() and torch.is_grad_enabled() and x.device.type == "cpu"


def _along_memory(x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers, and the table of their parameters, these first; in loops vectors lie column by column.

    Numbers of a sample are too few for a loop, those of a batch are not. Strides are asked for so that the columns are
    copied once, and not read across memory wherever they are used.
    """
    table = parameters.movedim(2, 0)
    if x.ndim != 2 or not _in_loops(x):
        return x, table
    columns = x.t().contiguous()
    return columns.as_strided(columns.shape, (columns.shape[1], 1)), table.mT


def _as_given(x: Tensor) -> Tensor:
    """The inverse of `_along_memory`, for one tensor."""
    return x.t() if x.ndim == 2 and _in_loops(x) else x


def _padded(table: Tensor, first: float, last: float) -> Tensor:
    ends = table.new_ones(2, *table.shape[1:])
    return torch.cat([first * ends[:1], table, last * ends[1:]])


@dataclass
class _Piece:
    """One rational-quadratic piece per number: lower corner, size, the slopes at both ends, and of the secant."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor
    left: Tensor
    right: Tensor
    secant: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.secant = self.height / self.width

    def at(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Height in units of the piece, and the log-slope, at theta in [0, 1] of its width."""
        rest, square = 1 - theta, theta**2
        product = theta * rest
        middle = self.secant * product
        denominator = self.secant + (self.left + self.right) * product - 2 * middle
        rise = (self.secant * square + self.left * product) / denominator
        top = self.right * square + 2 * middle + self.left * rest**2
        return rise, 2 * (self.secant.log() - denominator.log()) + top.log()

    def solve(self, y: Tensor) -> Tensor:
        """The theta at which the piece reaches y, by the root formula that does not cancel, for either sign of b."""
        rise = y - self.y
        bend = rise * (self.left + self.right - 2 * self.secant)
        a = self.height * (self.secant - self.left) + bend
        b = self.height * self.left - bend
        c = -self.secant * rise
        tiny = torch.finfo(y.dtype).tiny  # rounding can make the discriminant negative, or its root's slope infinite
        root = (b**2 - 4 * a * c).clamp_min(tiny).sqrt()
        negative = b < 0  # where the right end is steep beside the secant; a is positive there, since a + b is
        q = -(b + torch.where(negative, -root, root))
        theta = torch.where(negative, q, 2 * c) / torch.where(negative, 2 * a, q)
        return _within(theta)


def _within(theta: Tensor) -> Tensor:
    """Rounding carries theta past the ends of a piece: past one that is flat, there is no slope."""
    return theta + (theta.clamp(0, 1) - theta).detach()
