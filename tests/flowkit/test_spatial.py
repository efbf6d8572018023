"""Squeeze, Haar and Split."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from flowkit import Bijector, Haar, Split, Squeeze


def test_squeeze_is_the_official_one(golden: Any) -> None:
    g = golden("hcflow_components").part("squeeze.")
    assert torch.equal(Squeeze()(g["in"])[0], g["out"])
    assert torch.equal(Squeeze().inverse(g["out"])[0], g["in"])


def test_haar_is_the_official_one(golden: Any) -> None:
    g = golden("hcflow_components")
    y, logdet = Haar()(g["haar.in"])
    torch.testing.assert_close(y, g["haar.out"])
    torch.testing.assert_close(Haar().inverse(g["haar.inv_in"])[0], g["haar.inv_out"])
    torch.testing.assert_close(logdet, torch.full((2,), g.about["scalars"]["haar.last_jac_forward_attribute"]))


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_squeeze_orders_channels_as_pixel_unshuffle(factor: int) -> None:
    x = torch.randn(2, 3, 6, 12)
    y, logdet = Squeeze(factor)(x)
    assert torch.equal(y, F.pixel_unshuffle(x, factor))
    assert torch.equal(logdet, torch.zeros(2))


def test_haar_by_hand() -> None:
    block = torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]])
    y, logdet = Haar()(block)
    assert y.flatten().tolist() == [15 / 4, -5 / 4, -9 / 4, 3 / 4]
    assert float(logdet) == pytest.approx(-math.log(16))


def test_haar_puts_the_small_image_first() -> None:
    x = torch.randn(2, 3, 4, 6)
    torch.testing.assert_close(Haar()(x)[0][:, :3], F.avg_pool2d(x, 2))


@pytest.mark.parametrize("b", [Squeeze(), Haar()], ids=str)
def test_only_images(b: Bijector) -> None:
    name = type(b).__name__
    for shape in ((2, 4), (2, 4, 4), (2, 4, 4, 4, 4)):
        with pytest.raises(ValueError, match=rf"{name}: expected \(B, C, H, W\), got \(2, 4"):
            b(torch.zeros(shape))
    with pytest.raises(ValueError, match=f"{name}: expected .* with C a multiple of 4, got"):
        b.inverse(torch.zeros(2, 6, 2, 2))
    with pytest.raises(ValueError, match=rf"{name}\(.*\): spatial sizes must be multiples of 2"):
        b(torch.zeros(2, 3, 4, 3))


def test_split_takes_the_leading_channels() -> None:
    x = torch.randn(2, 5, 3)
    (kept, dropped), logdet = Split(2)(x)
    assert torch.equal(kept, x[:, :2])
    assert torch.equal(dropped, x[:, 2:])
    assert torch.equal(logdet, torch.zeros(2))
    assert torch.equal(Split(2).inverse((kept, dropped))[0], x)


def test_split_refuses_what_it_cannot_split() -> None:
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        Split(0)
    with pytest.raises(ValueError, match=r"Split\(3\): expected more than 3 channels"):
        Split(3)(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"Split\(1\): expected one tensor"):
        Split(1)((torch.zeros(2, 3), torch.zeros(2, 3)))


@pytest.mark.parametrize(
    "y",
    [
        (torch.zeros(2, 1, 3), torch.zeros(2, 2, 3)),  # another number of channels
        (torch.zeros(2, 2, 3), torch.zeros(2, 2, 4)),  # another size
        (torch.zeros(2, 2),),  # one alone
        torch.zeros(2, 2, 2, 3),  # a tensor, which unpacks to its two rows
    ],
)
def test_split_refuses_what_it_cannot_join(y: Any) -> None:
    with pytest.raises(ValueError, match=r"Split\(2\)"):
        Split(2).inverse(y)
