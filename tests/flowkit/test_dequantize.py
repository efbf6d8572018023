"""Dequantisation: noise given and drawn, the way back to the grid, and the log-det."""

import math

import pytest
import torch

from flowkit import ActNorm, Dequantize, Flow, StandardNormal

GREYS = torch.arange(256.0)[None]


def test_adds_the_noise_that_it_is_given() -> None:
    x, u = torch.zeros(2, 3), torch.rand(2, 3)
    torch.testing.assert_close(Dequantize(64)(x, noise=u)[0], u / 64)
    torch.testing.assert_close(Dequantize(64, centred=True)(x, noise=u)[0], (u - 0.5) / 64)


def test_draws_uniform_noise() -> None:
    torch.manual_seed(0)
    u = 256 * Dequantize(256)(torch.zeros(1, 100_000))[0]
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    assert float(u.mean()) == pytest.approx(0.5, abs=5e-3)
    assert float(u.var()) == pytest.approx(1 / 12, abs=2e-3)
    assert not torch.equal(*Dequantize(256)(torch.zeros(2, 8))[0])


def test_centred_noise_keeps_the_mean() -> None:
    torch.manual_seed(0)
    u = 256 * Dequantize(256, centred=True)(torch.zeros(1, 100_000))[0]
    assert float(u.mean()) == pytest.approx(0, abs=5e-3)
    assert float(u.abs().max()) <= 0.5


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("bins", [256, 255, 64])
def test_the_inverse_returns_to_the_grid(bins: int, centred: bool) -> None:
    torch.manual_seed(0)
    b = Dequantize(bins, centred)
    x = (GREYS[:, : bins + 1] / bins).expand(4000, -1)
    assert torch.equal(b.inverse(b(x)[0])[0], x)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("u", [0.0, 1e-6, 0.25, 0.5, 0.75, 1 - 2**-10])
def test_the_inverse_returns_to_the_grid_from_the_edges_of_a_cell(u: float, centred: bool) -> None:
    b, x = Dequantize(256, centred), GREYS / 256
    assert torch.equal(b.inverse(b(x, noise=torch.full_like(x, u))[0])[0], x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("bins", [1, 255, 256, 65535, 65536])
def test_grey_levels_of_16_bits_stay_in_their_cells(bins: int, centred: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    b = Dequantize(bins, centred)
    levels = torch.arange(65536, dtype=dtype)
    x = levels[None] / bins
    for _ in range(20):
        y, _ = b(x)
        cell = y.double() * bins + 0.5 * centred - levels
        slack = 0 if bins & (bins - 1) == 0 else levels * torch.finfo(dtype).eps  # k/bins itself is rounded
        assert bool(((cell >= -slack) & (cell < 1 + slack)).all())
        assert torch.equal(b.inverse(y)[0], x)


def test_the_last_grey_level_of_images_that_nobody_divided_stays_in_its_cell() -> None:
    torch.manual_seed(0)
    x = torch.full((2_000_000, 1), 255.0)
    b = Dequantize(1)
    y, _ = b(x)
    assert float(y.max()) < 256
    assert torch.equal(b.inverse(y)[0], x)


def test_the_logdet_is_minus_log_bins_per_element() -> None:
    x = torch.zeros(2, 3, 4, 5)
    y, logdet = Dequantize(256)(x)
    torch.testing.assert_close(logdet, torch.full((2,), -60 * math.log(256)))
    torch.testing.assert_close(Dequantize(256).inverse(y)[1], -logdet)


def test_bits_of_uniform_grey_levels() -> None:
    """A density that is 1 on [0, 1] gives 8 bits per 8-bit number: the offset counts for every element."""

    class Uniform(StandardNormal):
        def log_prob(self, value: torch.Tensor, context: object = None) -> torch.Tensor:
            return value.new_zeros(len(value))

    flow = Flow(Dequantize(256), Uniform())
    torch.testing.assert_close(flow.bits_per_dim(GREYS / 256), torch.tensor([8.0]))


def test_stands_in_a_chain() -> None:
    y, logdet = (Dequantize(256) >> ActNorm(3))(torch.zeros(2, 3, 4, 4))
    assert logdet.shape == (2,)
    assert float(y.detach().max()) < 1 / 256


def test_errors() -> None:
    with pytest.raises(ValueError, match="bins must be positive, got 0"):
        Dequantize(0)
    with pytest.raises(ValueError, match=r"noise \(2, 1\) for x \(2, 3\)"):
        Dequantize(256)(torch.zeros(2, 3), noise=torch.zeros(2, 1))
    with pytest.raises(ValueError, match="uint8"):
        Dequantize(256)(torch.zeros(2, 3, dtype=torch.uint8))


@pytest.mark.parametrize("centred", [False, True])
def test_any_given_noise_is_kept_exactly_and_undone_in_float64(centred: bool) -> None:
    torch.manual_seed(0)
    x = torch.randint(256, (4, 30000)).double() / 256
    noise = torch.rand(x.shape).double()
    noise[:, :2] = torch.tensor([0.0, 1 - 2**-24])
    b = Dequantize(256, centred)
    y, _ = b(x, noise=noise)
    assert torch.equal(y, x + (noise - 0.5 * centred) / 256)
    assert torch.equal(b.inverse(y)[0], x)
