"""LocalFourier against the formulas, position by position, as the papers write them: an image is [-1, 1] a side."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from flowkit.nets import LocalFourier, local_fourier
from flowkit.testing import perturb


def at_one_position(net: LocalFourier, features: Tensor, y: float, x: float, cell: tuple[float, float]) -> Tensor:
    """Parameters of one image (C, h, w) at one position in [-1, 1]²; `cell` in the same unit."""
    _, h, w = features.shape
    coef, freq = net.coef(features[None])[0], net.freq(features[None])[0]
    phase = net.phase(torch.tensor([cell[0] * h, cell[1] * w], dtype=features.dtype))
    around, areas = [], []
    for down, right in itertools.product((-1, 1), (-1, 1)):
        i, j = (
            min(max(math.floor((at + way / n + 1) * n / 2 + 1e-9), 0), n - 1)
            for at, way, n in ((y, down, h), (x, right, w))
        )
        dy, dx = (y - ((2 * i + 1) / h - 1)) * h, (x - ((2 * j + 1) / w - 1)) * w
        half = net.width // 2
        f = freq[:half, i, j] * dy + freq[half:, i, j] * dx + phase
        around.append(torch.cat([(math.pi * f).cos(), (math.pi * f).sin()]) * coef[:, i, j])
        areas.append(abs(dy * dx) + 1e-12)
    weights = [area / sum(areas) for area in reversed(areas)]
    out = torch.cat([part * weight for part, weight in zip(around, weights, strict=True)])
    for layer in net.layers:
        out = layer(out).relu()
    return net.last.weight[:, :, 0, 0] @ out + net.last.bias


def test_it_is_the_formula() -> None:
    torch.manual_seed(0)
    net = perturb(LocalFourier(3, 5, width=4, hidden=6, depth=2).double())
    features = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    rows, columns = torch.tensor([-0.4, 0.3, 1.0, 2.9, 3.3]).double(), torch.tensor([-0.2, 2.5, 4.1, 5.4]).double()
    where = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
    out = net(features, where, (0.5, 0.25))
    assert out.shape == (2, 5, 5, 4)
    for b, i, j in itertools.product(range(2), range(5), range(4)):
        y, x = (2 * float(rows[i]) + 1) / 4 - 1, (2 * float(columns[j]) + 1) / 6 - 1
        expected = at_one_position(net, features[b], y, x, (0.5 * 2 / 4, 0.25 * 2 / 6))
        torch.testing.assert_close(out[b, :, i, j], expected, atol=1e-7, rtol=0)


def test_many_positions_go_in_parts(monkeypatch) -> None:
    net = perturb(LocalFourier(3, 5, width=4, hidden=6))
    features, where = torch.randn(2, 3, 4, 6), 3 * torch.rand(2, 2, 7, 3)  # of each image its own
    whole = net(features, where, (0.5, 0.5))
    monkeypatch.setattr(local_fourier, "AT_ONCE", 2 * 16 * 4)
    torch.testing.assert_close(net(features, where, (0.5, 0.5)), whole, atol=1e-6, rtol=0)


def test_it_starts_at_zero_and_an_odd_width_is_refused() -> None:
    assert not LocalFourier(3, 5, 4)(torch.randn(1, 3, 4, 4), torch.rand(1, 2, 3), (1.0, 1.0)).count_nonzero()
    with pytest.raises(ValueError, match="width must be even"):
        LocalFourier(3, 5, width=5)
