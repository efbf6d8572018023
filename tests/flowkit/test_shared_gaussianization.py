"""SharedGaussianization against the exact map of its mixture, and where components leave a gap."""

import pytest
import torch

from flowkit import Gaussianization, SharedGaussianization


def mixture(means, log_vars, logits) -> SharedGaussianization:
    b = SharedGaussianization(len(means)).double()
    with torch.no_grad():
        for parameter, values in zip((b.logits, b.means, b.log_vars), (logits, means, log_vars), strict=True):
            parameter.copy_(torch.tensor(values))
    return b


@pytest.mark.parametrize(
    ("b", "error"),
    [
        (SharedGaussianization(5).double(), 1e-8),
        (mixture([-2.0, 0.0, 1.0, 3.0], [-1.0, 0.0, 1.0, -1.0], [0.0, 1.0, 0.5, -1.0]), 2e-5),
    ],
)
def test_it_is_the_mixture_s(b, error) -> None:
    z = torch.linspace(-6, 6, 200, dtype=torch.float64)
    row = torch.cat([b.logits, b.means, b.log_vars / 2]).detach()
    exact = Gaussianization(len(b.logits), offset=0.0, bound=100.0, bisections=40)
    with torch.no_grad():
        x, _ = exact.inverse(z[:, None], row.expand(200, 1, -1))
        assert (b.inverse(z[:, None])[0] - x).abs().max() < error
        assert (b(x)[0] - z[:, None]).abs().max() < 10 * error


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_a_bijection_whatever_the_components(dtype) -> None:
    b = mixture([-20.0, 0.0, 20.0], [-18.0, -4.0, 3.0], [0.0, -15.0, 1.0]).to(dtype)
    z = torch.linspace(-30, 30, 4001, dtype=dtype)[:, None]
    x, back = b.inverse(z)
    again, there = b(x)
    assert x.isfinite().all()
    assert (x.diff(dim=0) >= 0).all()
    if dtype == torch.float64:
        assert (again - z).abs().max() < 1e-6
        assert (there + back).abs().max() < 1e-4
    assert b.inverse(torch.full((1, 1), torch.nan, dtype=dtype))[0].isnan().all()


def test_it_needs_components() -> None:
    with pytest.raises(ValueError, match="components must be at least 1, got 0"):
        SharedGaussianization(0)
