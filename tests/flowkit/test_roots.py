"""The root finder and `NumericKind`: to what a map is solved, its derivatives, and where it goes on along a tangent."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from flowkit import Affine, Coupling, NumericKind
from flowkit.kinds import Kind
from flowkit.nets import MLP
from flowkit.roots import root


@dataclass(frozen=True)
class Cubic(NumericKind):
    """y = x + a² x³, flat enough at 0 and steep far out."""

    bound: float = 3.0
    parameters: int = 1  # type: ignore[misc]

    def evaluate(self, x: Tensor, prepared: Tensor) -> tuple[Tensor, Tensor]:
        a = prepared[:, :, 0] ** 2
        return x + a * x**3, (1 + 3 * a * x**2).log()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_a_root_is_met_to_rounding(dtype: torch.dtype, tolerance: float) -> None:
    y = torch.linspace(-50, 50, 101, dtype=dtype)
    x, log_slope = root(
        lambda x: (x**3 + x, (3 * x**2 + 1).log()), y, torch.full_like(y, -100), torch.full_like(y, 100)
    )
    torch.testing.assert_close(x**3 + x, y, rtol=4 * tolerance, atol=tolerance)
    torch.testing.assert_close(log_slope, (3 * x**2 + 1).log())


def test_a_root_has_exact_derivatives_of_first_and_second_order() -> None:
    y = torch.tensor([-3.0, 0.2, 5.0]).double().requires_grad_()
    a = torch.tensor([0.5, 1.0, 2.0]).double().requires_grad_()

    def solved(y: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        ends = torch.full_like(y, 20.0).detach()
        return root(lambda x: (a * x**3 + x, (3 * a * x**2 + 1).log()), y, -ends, ends)

    assert torch.autograd.gradcheck(solved, (y, a))
    assert torch.autograd.gradgradcheck(solved, (y, a))


def test_a_root_outside_its_bracket_is_the_nearer_end() -> None:
    y = torch.tensor([-9.0, 9.0])
    x, _ = root(lambda x: (x, torch.zeros_like(x)), y, torch.full_like(y, -1.0), torch.full_like(y, 1.0))
    torch.testing.assert_close(x, torch.tensor([-1.0, 1.0]))


def test_a_numeric_kind_goes_on_along_its_tangent_and_comes_back() -> None:
    kind, p = Cubic(), torch.full((1, 1, 1), 0.5).double()
    x = torch.tensor([[3.5], [5.0], [-1e3], [1.0]]).double().requires_grad_()
    p = p.expand(4, 1, 1).clone().requires_grad_()
    y, logdet = kind.forward(x, p)
    slope = 1 + 0.75 * 9
    torch.testing.assert_close(y[1], torch.tensor([3 + 0.25 * 27 + 2 * slope]).double())
    torch.testing.assert_close(logdet[:3].exp(), torch.full((3,), slope).double())
    for method, argument in ((kind.forward, x), (kind.inverse, (y + 0.1).detach().requires_grad_())):
        assert torch.autograd.gradcheck(method, (argument, p), atol=1e-5)
    back, inverse = kind.inverse(y, p)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(inverse, -logdet)


@dataclass(frozen=True)
class Uneven(Kind):
    """A shift of the first channel, an affine map of the others: kinds may tell channels apart."""

    parameters: int = 2  # type: ignore[misc]

    def counts(self, channels: int) -> tuple[int, ...]:
        return (1,) + (2,) * (channels - 1)

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return Affine("exp").forward(x, parameters)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return Affine("exp").inverse(y, parameters)


@pytest.mark.parametrize("sizes", [(), (2, 3)])
def test_a_kind_may_need_another_number_of_parameters_in_every_channel(sizes: tuple[int, ...]) -> None:
    kind = Uneven()
    assert kind.parameters_of(3) == 5
    numbers = torch.randn(2, 5, *sizes)

    class Net(torch.nn.Module):
        def forward(self, passive: Tensor, context: None) -> Tensor:
            return numbers

    x = torch.randn(2, 4, *sizes)
    y, logdet = Coupling(Net(), 1, kind)(x)
    torch.testing.assert_close(y[:, 1], x[:, 1] + numbers[:, 0])
    torch.testing.assert_close(y[:, 3], (x[:, 3] + numbers[:, 3]) * numbers[:, 4].exp())
    torch.testing.assert_close(logdet, numbers[:, [2, 4]].flatten(1).sum(1))
    with pytest.raises(ValueError, match=r"needs \(2, 5\) \(\(1, 2, 2\) parameters of the channels\)"):
        Coupling(MLP(1, 6), 1, kind)(torch.randn(2, 4))
