"""Monotonic rational-quadratic splines, without a data-dependent branch (Durkan et al., Neural Spline Flows)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flowkit.kinds import Kind
from flowkit.tree import sum_per_sample


@dataclass(frozen=True)
class RationalQuadratic(Kind):
    """A spline of `bins` rational-quadratic pieces on [−tail_bound, tail_bound], the identity outside.

    Parameters per channel, as in nflows: `bins` widths, `bins` heights, `bins` − 1 inner slopes, all unnormalised.

    Args:
        bins: number of pieces.
        tail_bound: half the width of the square in which the spline acts.
        min_width, min_height, min_slope: lower bounds; widths and heights in units of the square's side.

    Raises:
        ValueError: if the bounds leave no room for the bins.
    """

    bins: int
    tail_bound: float = 1.0
    min_width: float = 1e-3
    min_height: float = 1e-3
    min_slope: float = 1e-3

    def __post_init__(self) -> None:
        if self.bins < 1 or max(self.min_width, self.min_height) * self.bins > 1:
            raise ValueError(f"RationalQuadratic: {self.bins} bins of the least size do not fit in [0, 1]")
        if self.tail_bound <= 0 or not 0 < self.min_slope < 1:
            raise ValueError(
                "RationalQuadratic: needs tail_bound > 0 and 0 < min_slope < 1, "
                f"got {self.tail_bound} and {self.min_slope}"
            )

    @property
    def parameters(self) -> int:
        """3 · bins − 1."""
        return 3 * self.bins - 1

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates the spline."""
        inside, safe = self._inside(x)
        piece = self._piece(safe, parameters, given_y=False)
        theta = (safe - piece.x) / piece.width
        y = piece.y + piece.height * piece.rise(theta)
        log_slope = piece.log_slope(theta)
        return torch.where(inside, y, x), sum_per_sample(torch.where(inside, log_slope, 0.0))

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Solves the quadratic of the piece that y lies in."""
        inside, safe = self._inside(y)
        piece = self._piece(safe, parameters, given_y=True)
        theta = piece.solve(safe)
        x = piece.x + piece.width * theta
        log_slope = piece.log_slope(theta)
        return torch.where(inside, x, y), -sum_per_sample(torch.where(inside, log_slope, 0.0))

    def _inside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inside = x.abs() <= self.tail_bound
        return inside, torch.where(inside, x, 0.0)  # a clamp would have no gradient at the bounds

    def _piece(self, value: Tensor, parameters: Tensor, given_y: bool) -> "_Piece":
        """Finds the piece of every number, and its corners."""
        widths, heights, slopes = parameters.movedim(2, -1).split([self.bins, self.bins, self.bins - 1], -1)
        edge = math.log(math.expm1(1 - self.min_slope))  # softplus makes it slope 1, where the identity begins
        slopes = self.min_slope + F.softplus(F.pad(slopes, (1, 1), value=edge))
        x = self._knots(widths, self.min_width)
        y = self._knots(heights, self.min_height)
        inner = (y if given_y else x)[..., 1:-1]
        index = (value.unsqueeze(-1) >= inner).sum(-1, keepdim=True)

        def at(table: Tensor, offset: int) -> Tensor:
            return table.gather(-1, index + offset).squeeze(-1)

        width, height = at(x, 1) - at(x, 0), at(y, 1) - at(y, 0)
        return _Piece(at(x, 0), at(y, 0), width, height, at(slopes, 0), at(slopes, 1))

    def _knots(self, unnormalised: Tensor, least: float) -> Tensor:
        sizes = least + (1 - least * self.bins) * unnormalised.softmax(-1)
        inner = (2 * sizes.cumsum(-1)[..., :-1] - 1) * self.tail_bound
        ends = F.pad(inner, (1, 0), value=-self.tail_bound)
        return F.pad(ends, (0, 1), value=self.tail_bound)


@dataclass(frozen=True)
class _Piece:
    """One rational-quadratic piece per number: lower corner, size, and the slopes at both ends."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor
    left: Tensor
    right: Tensor

    @property
    def secant(self) -> Tensor:
        return self.height / self.width

    def _denominator(self, theta: Tensor) -> Tensor:
        return self.secant + (self.left + self.right - 2 * self.secant) * theta * (1 - theta)

    def rise(self, theta: Tensor) -> Tensor:
        """Height in units of the piece, at theta in [0, 1] of its width."""
        return (self.secant * theta**2 + self.left * theta * (1 - theta)) / self._denominator(theta)

    def log_slope(self, theta: Tensor) -> Tensor:
        top = self.right * theta**2 + 2 * self.secant * theta * (1 - theta) + self.left * (1 - theta) ** 2
        return 2 * self.secant.log() + top.log() - 2 * self._denominator(theta).log()

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
        return theta + (theta.clamp(0, 1) - theta).detach()  # beyond a flat end by rounding, there is no slope
