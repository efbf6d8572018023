"""Flows of vectors in every library: they are densities of what they draw."""

import pytest
import torch
from benchmark.vector_flows import KINDS, LIBRARIES, Widths, is_there, vector_flow

pytestmark = [pytest.mark.bench, pytest.mark.filterwarnings("ignore")]  # what other libraries warn of

FLOWS = [
    (name, kind) for name in LIBRARIES for kind in KINDS if "compiled" not in name and is_there(name, kind, features=2)
]


@pytest.mark.parametrize(("name", "kind"), FLOWS)
def test_the_density_is_that_of_the_draws(name: str, kind: str) -> None:
    """It adds up to 1, and the draws have its mean: importance weights of draws of another density."""
    flow = vector_flow(name, 2, kind, Widths(steps=2, hidden=8))
    torch.manual_seed(0)
    with torch.no_grad():
        x = 6 * torch.randn(100_000, 2)
        other = torch.distributions.Normal(0, 6).log_prob(x).sum(1)
        weights = (flow.log_prob(x) - other).exp()
        drawn = flow.sample(20_000)
    assert abs(float(weights.mean()) - 1) < 0.05
    mean = (weights[:, None] * x).mean(0)
    assert float((drawn.mean(0) - mean).abs().max()) < 0.1 * float(drawn.std(0).max())


def test_every_library_has_affine_couplings_and_flowkit_all() -> None:
    assert all(is_there(name, "affine", 64) for name in LIBRARIES)
    assert all(is_there("flowkit", kind, 512) for kind in KINDS)
    assert not is_there("flowkit compiled", "ar", 64)
