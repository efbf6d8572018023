"""Densities in the plane to try flows on: drawn from, and known in closed form, with Z = 1.

Each is called with a number of points, and has their `log_prob`:

    x = flowkit.toys.moons(1000)
    flowkit.toys.moons.log_prob(x)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussians:
    """A density in the plane: equally likely Gaussians, so close along curves that they can't be told apart.

    Args:
        centres: (K, 2).
        std: standard deviation of each.

    Example:
        >>> import flowkit
        >>> x = flowkit.toys.moons(5, generator=torch.Generator().manual_seed(0))
        >>> x.shape, flowkit.toys.moons.log_prob(x).shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    centres: Tensor
    std: float

    def __call__(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws n points (n, 2), on the generator's device; by torch's global one without."""
        device = None if generator is None else generator.device
        chosen = torch.randint(len(self.centres), (n,), generator=generator, device=device)
        noise = torch.randn(n, 2, generator=generator, device=device)
        return self.centres.to(noise)[chosen] + self.std * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of points (B, 2) in nats, (B,)."""
        distances = (x[:, None] - self.centres.to(x)).square().sum(2)
        log_each = -distances / (2 * self.std**2) - math.log(2 * math.pi * self.std**2)
        return log_each.logsumexp(1) - math.log(len(self.centres))


@dataclass(frozen=True)
class Squares:
    """A density in the plane: uniform on the black squares of a board on [−side, side)².

    Args:
        side: half the length of the board.
        squares: along a side of it, an even number.
    """

    side: float
    squares: int

    def __call__(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws n points (n, 2), on the generator's device; by torch's global one without."""
        device = None if generator is None else generator.device
        row = torch.randint(self.squares, (n,), generator=generator, device=device)
        column = 2 * torch.randint(self.squares // 2, (n,), generator=generator, device=device) + row % 2
        u = torch.rand(n, 2, generator=generator, device=device)
        return (torch.stack([row, column], 1) + u) * (2 * self.side / self.squares) - self.side

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of points (B, 2) in nats, (B,): −inf off the black squares."""
        cells = ((x + self.side) * (self.squares / (2 * self.side))).floor()
        inside = ((cells >= 0) & (cells < self.squares)).all(1) & (cells.sum(1) % 2 == 0)
        return torch.where(inside, x.new_tensor(-math.log(2 * self.side**2)), -math.inf)


def _curve(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([x, y], 1)


def _moons() -> Tensor:
    t = torch.linspace(0, math.pi, 64)
    upper = _curve(2 * t.cos() - 1, 2 * t.sin() - 0.5)
    return torch.cat([upper, -upper])


def _rings() -> Tensor:
    t = torch.arange(128) * (2 * math.pi / 128)
    return torch.cat([radius * _curve(t.cos(), t.sin()) for radius in (1, 2, 3)])


def _spirals() -> Tensor:
    t = 3 * math.pi * torch.linspace(0, 1, 160).sqrt()  # about equally far from each other
    arm = _curve(-t * t.cos(), t * t.sin()) / 3
    return torch.cat([arm, -arm])


def _swiss_roll() -> Tensor:
    t = 1.5 * math.pi * (1 + 2 * torch.linspace(0, 1, 320))
    return _curve(t * t.cos(), t * t.sin()) / 5


def _on_a_circle(count: int, radius: float) -> Tensor:
    t = torch.arange(count) * (2 * math.pi / count)
    return radius * _curve(t.cos(), t.sin())


moons = Gaussians(_moons(), 0.2)
"""Two half circles that reach into each other."""
rings = Gaussians(_rings(), 0.12)
"""Three circles, equally likely."""
spirals = Gaussians(_spirals(), 0.1)
"""Two arms."""
swiss_roll = Gaussians(_swiss_roll(), 0.1)
"""One arm of a turn and a half, thinner outside."""
eight_gaussians = Gaussians(_on_a_circle(8, 3), 0.3)
"""Eight modes on a circle."""
checkerboard = Squares(4, 4)
"""Uniform on eight squares of 2 by 2."""

TOYS = {
    "moons": moons,
    "rings": rings,
    "checkerboard": checkerboard,
    "spirals": spirals,
    "eight_gaussians": eight_gaussians,
    "swiss_roll": swiss_roll,
}
"""All of them, by name."""
