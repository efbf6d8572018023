"""Planar, radial and Sylvester flows against their definitions, at the edge of invertibility too."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import flowkit
from flowkit import Bijector, Flow, Planar, Radial, StandardNormal, Sylvester
from flowkit.testing import perturb

MAKERS: dict[str, Callable[[int], Bijector]] = {
    "planar": Planar,
    "radial": Radial,
    "sylvester": lambda features: Sylvester(features, max(1, features - 1)),
}


def points(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("features", [1, 2, 5])
def test_they_start_as_the_identity(make: Callable[[int], Bijector], features: int) -> None:
    x = points(6, features).float()
    for y, logdet in (make(features)(x), make(features).inverse(x)):
        torch.testing.assert_close(y, x, atol=1e-5, rtol=0)
        torch.testing.assert_close(logdet, torch.zeros(6), atol=1e-5, rtol=0)


def test_planar_is_its_formula() -> None:
    b = perturb(Planar(3), 1.0).double()
    w, u, x = b.weight, b.direction, points(7, 3)
    pushed = u + (F.softplus(w @ u) - 1 - w @ u) * w / (w @ w)
    y, logdet = b(x)
    bend = torch.tanh(x @ w + b.bias)
    torch.testing.assert_close(y, x + bend[:, None] * pushed)
    torch.testing.assert_close(logdet, torch.log1p((1 - bend**2) * (w @ pushed)))


def test_radial_is_its_formula() -> None:
    b = perturb(Radial(3), 1.0).double()
    alpha, x = F.softplus(b.raw_width), points(7, 3)
    beta = F.softplus(b.raw_slope) - alpha
    radius = (x - b.centre).norm(dim=1)
    h = 1 / (alpha + radius)
    y, logdet = b(x)
    torch.testing.assert_close(y, x + beta * h[:, None] * (x - b.centre))
    expected = 2 * torch.log1p(beta * h) + torch.log1p(beta * h - beta * h**2 * radius)
    torch.testing.assert_close(logdet, expected)


def test_sylvester_of_rank_one_is_planar() -> None:
    planar, b = perturb(Planar(3), 1.0).double(), Sylvester(3, 1).double()
    size = planar.weight.detach().norm()
    pushed, raw = (t.detach() for t in planar._push())
    along = planar.weight.detach() / size
    with torch.no_grad():  # Sylvester's push is along its own plane's normal: take a planar flow that does so
        planar.direction.copy_(raw / size**2 * planar.weight)
        b.vectors.copy_((torch.eye(3)[0].double() - along)[None])  # the reflection that takes e₁ to w
        b.inner.fill_(size.log())
        b.raw.fill_(raw)
        b.bias.fill_(planar.bias)
    assert not torch.allclose(pushed / pushed.norm(), along)
    x = points(7, 3)
    torch.testing.assert_close(b(x), planar(x))
    torch.testing.assert_close(b.inverse(x), planar.inverse(x))


@pytest.mark.parametrize("raw", [-30.0, -3.0, 30.0])
def test_the_inverse_is_found_at_the_edge_of_invertibility(raw: float) -> None:
    """There the slope all but vanishes at the plane, so y is met, and x only as well as the slope allows."""
    b = Planar(2).double()
    with torch.no_grad():
        b.direction.copy_(b.weight * raw / b.weight.dot(b.weight))
    sylvester = Sylvester(2, 2).double()
    with torch.no_grad():
        sylvester.raw.fill_(raw)
    for bijector in (b, sylvester):
        y = points(200, 2) * 3
        x, logdet = bijector.inverse(y)
        assert x.isfinite().all()
        assert logdet.isfinite().all()
        torch.testing.assert_close(bijector(x)[0], y, atol=1e-9, rtol=0)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="Planar: features must be at least 1, got 0"):
        Planar(0)
    with pytest.raises(ValueError, match="Sylvester: rank must be at least 1, got 0"):
        Sylvester(3, 0)
    with pytest.raises(ValueError, match="Sylvester: rank must be between 1 and 3, got 4"):
        Sylvester(3, 4)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_they_learn_a_density(make: Callable[[int], Bijector]) -> None:
    """Draws of two clusters: six maps get well above the best Gaussian's density."""
    torch.manual_seed(0)
    x = torch.randn(512, 2) * 0.3 + torch.where(torch.rand(512, 1) < 0.5, 1.0, -1.0) * torch.tensor([1.0, 0.0])
    flow = Flow(flowkit.ActNorm(2) >> flowkit.Chain(*(make(2) for _ in range(6))), StandardNormal())
    flowkit.initialize(flow, x)
    gaussian = flow.log_prob(x).mean().item()
    optimizer = torch.optim.Adam(flow.parameters(), 0.03)
    for _ in range(100):
        optimizer.zero_grad()
        loss = -flow.log_prob(x).mean()
        loss.backward()
        optimizer.step()
    assert -loss.item() > gaussian + 0.2
