"""Local Fourier features: a network that returns parameters at any position of a feature map."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.arguments import check_whole
from flowkit.bijector import full_precision
from flowkit.nets.images import ExactConv2d

NEIGHBOURS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""The four pixels around a position: rows and columns from the one above and to the left."""

AT_ONCE = 2**24
"""Numbers of the Fourier features that are made together: more positions go in several parts."""


class LocalFourier(nn.Module):
    """Parameters at any positions of an image, from Fourier features of the pixels around them (LTE, LINF).

    Each pixel has amplitudes, `coef`, and frequencies, `freq`. A position at the offset δ from a pixel's centre sees
    [cos πf, sin πf]·coef there, with f = freq_y·δ_y + freq_x·δ_x + phase(cell). The four pixels around it are
    weighted by the area of the rectangle to the opposite pixel, concatenated, and go through a perceptron, whose last
    layer starts at zero. At the image's edge the nearest pixels stand for those that are missing.

    Args:
        features: channels of the feature map.
        out_channels: parameters to return at each position.
        width: amplitudes of a pixel; half as many frequencies for each axis.
        hidden: width of the perceptron.
        depth: number of its hidden layers.

    Raises:
        ValueError: for a width that is odd.

    Source: Lee & Jin, Local texture estimator for implicit representation function, CVPR 2022; Yao, Tsao, Lo, Tseng,
    Chang & Lee, Local implicit normalizing flow for arbitrary-scale image super-resolution, CVPR 2023.

    Example:
        >>> net = LocalFourier(8, 6, width=16, hidden=16)
        >>> middle_of_four_pixels = torch.full((1, 2, 5), 1.5)
        >>> net(torch.rand(2, 8, 4, 4), middle_of_four_pixels, (0.5, 0.5)).shape
        torch.Size([2, 6, 5])
    """

    def __init__(self, features: int, out_channels: int, width: int = 256, hidden: int = 256, depth: int = 3) -> None:
        super().__init__()
        check_whole("LocalFourier", features=features, out_channels=out_channels, width=width, hidden=hidden)
        check_whole("LocalFourier", 0, depth=depth)
        if width % 2:
            raise ValueError(f"LocalFourier: width must be even, half of it for each axis, got {width}")
        self.width, self.out_channels = width, out_channels
        self.coef = nn.Conv2d(features, width, 3, padding=1)
        self.freq = nn.Conv2d(features, width, 3, padding=1)
        self.phase = nn.Linear(2, width // 2, bias=False)
        widths = [4 * width, *[hidden] * depth]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))
        self.last = ExactConv2d(widths[-1], out_channels, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, where: Tensor, cell: tuple[float, float]) -> Tensor:
        """Parameters at positions of a feature map: `at`, of its `maps`.

        Args:
            features: (B, features, h, w).
            where: (B, 2, *spatial), or one row for all: rows and columns in pixels, 0 at the first pixel's centre.
            cell: height and width, in pixels, of what a position stands for.

        Returns:
            (B, out_channels, *spatial).
        """
        return self.at(self.maps(features), where, cell)

    def maps(self, features: Tensor) -> Tensor:
        """Amplitudes and frequencies of all pixels, (B, h, w, 2·width): made once, however many positions ask."""
        both = torch.cat([self.coef(features), self.freq(features)], 1)
        return both.permute(0, 2, 3, 1).to(self.phase.weight.dtype).contiguous()

    def at(self, maps: Tensor, where: Tensor, cell: tuple[float, float]) -> Tensor:
        """Parameters at positions; arguments as for `forward`, with the result of `maps`."""
        batch, spatial = maps.shape[0], where.shape[2:]
        positions = where.expand(batch, *where.shape[1:]).flatten(2)
        each = max(1, AT_ONCE // (4 * self.width * max(1, batch)))
        parts = [self._at(maps, part, cell) for part in positions.split(each, 2)]
        return torch.cat(parts, 2).unflatten(2, spatial)

    def _at(self, maps: Tensor, where: Tensor, cell: tuple[float, float]) -> Tensor:
        """(B, h, w, 2·width) at (B, 2, N): (B, out_channels, N)."""
        batch, height, width, _ = maps.shape
        table = maps.flatten(0, 2)
        first = torch.arange(batch, device=maps.device)[:, None] * (height * width)
        corner = where.floor()
        with full_precision(maps):
            of_height, of_width = self.phase.weight.unbind(1)
            phase = 2 * (cell[0] * of_height + cell[1] * of_width)  # numbers: no copy to the device
            index, offset = [], []
            for down, right in NEIGHBOURS:
                row, column = (corner[:, 0] + down).clamp(0, height - 1), (corner[:, 1] + right).clamp(0, width - 1)
                index.append((first + row.long() * width + column.long()).flatten())
                away = 2 * (where - torch.stack([row, column], 1))  # in units of half a pixel, as of [-1, 1] an image
                offset.append(away.to(maps.dtype).movedim(1, 2).flatten(0, 1))
            areas = [(away.abs() + 1e-9).prod(1) for away in offset]  # of a corner that a pixel sits on: 0 by 0
            total = sum(areas)
            seen = []
            for i, away, opposite in zip(index, offset, reversed(areas), strict=True):
                coef, down, right = table[i].split([self.width, self.width // 2, self.width // 2], 1)
                angle = math.pi * torch.addcmul(torch.addcmul(phase, down, away[:, :1]), right, away[:, 1:])
                seen.append(torch.cat([angle.cos(), angle.sin()], 1) * coef * (opposite / total)[:, None])
        h = torch.cat(seen, 1)
        for layer in self.layers:
            h = F.relu(layer(h))
        out: Tensor = self.last(h.unflatten(0, (batch, -1)).mT[..., None])[..., 0]
        return out
