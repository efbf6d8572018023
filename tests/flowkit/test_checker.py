"""The checker itself: bijectors that break one law on purpose stay here, so that it goes on seeing them."""

import copy
from typing import Any

import pytest
import torch
from nflows import transforms
from torch import Tensor, nn

import flowkit
from flowkit.testing import check_bijector

LOG2 = 0.6931471805599453


class Double(nn.Module):
    """y = 2x by duck typing, right in every respect: the broken ones below change one thing."""

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return 2 * x, self.logdet(x)

    def inverse(self, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return y / 2, -self.logdet(y)

    def logdet(self, x: Tensor) -> Tensor:
        return x.new_full((len(x),), LOG2 * x[0].numel())


class WrongSign(Double):
    def logdet(self, x: Tensor) -> Tensor:
        return -super().logdet(x)


class ForgetsThePixels(Double):
    def logdet(self, x: Tensor) -> Tensor:
        return x.new_full((len(x),), LOG2 * x.shape[1] * 16)  # right for 4×4 only


class InverseWithTheForwardsSign(Double):
    def inverse(self, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return y / 2, self.logdet(y)


class SlightlyWrongInverse(Double):
    def inverse(self, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return y * (0.5 + 1e-5), -self.logdet(y)


class VeryWrongInverse(Double):
    def inverse(self, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return y * 0.6, -self.logdet(y)


class Leaking(Double):
    """Invertible as a map of the whole batch, but no sample stands alone."""

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return x + x.mean(0), x.new_zeros(len(x))

    def inverse(self, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return y - y.mean(0) / 2, y.new_zeros(len(y))


class WritesInPlace(Double):
    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return x.mul_(2), self.logdet(x)


class InverseWritesInPlace(Double):
    def inverse(self, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return y.div_(2), -self.logdet(y)


class WritesIntoItsContext(Double):
    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        context.detach().add_(1)
        return 2 * x, self.logdet(x)


class HalfLogdet(Double):
    """A linear map whose log-det goes through a matrix product, which autocast rounds to bfloat16."""

    def logdet(self, x: Tensor) -> Tensor:
        return (torch.full_like(x.flatten(1), LOG2) @ x.new_ones(x[0].numel(), 1))[:, 0]


class Scaled(Double):
    """y = exp(log_scale)·x, with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor([0.3]))

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp(), self.logdet(x)

    def inverse(self, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return y * (-self.log_scale).exp(), -self.logdet(y)

    def logdet(self, x: Tensor) -> Tensor:
        return self.log_scale * x[0].numel() * x.new_ones(len(x))


class DetachedInverse(Scaled):
    def inverse(self, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return y * (-self.log_scale).exp().detach(), -self.logdet(y)


class ForgetsToSave(Scaled):
    """Leaves its parameter out of the state dict, and does not miss it when loading."""

    def _save_to_state_dict(self, *args: Any) -> None:
        pass

    def _load_from_state_dict(self, *args: Any) -> None:
        pass


class StaleCache(Scaled):
    """Computes the scale once, behind the caller's back; a loaded state dict does not reach it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale: Tensor | None = None

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        if self.scale is None:
            self.scale = self.log_scale.detach().exp()
        return x * self.scale, self.logdet(x)


class InventsZeros(Double):
    """Drops the last channel; the inverse puts zeros there."""

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return x[:, :-1], x.new_zeros(len(x))

    def inverse(self, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return torch.cat([y, torch.zeros_like(y[:, :1])], 1), y.new_zeros(len(y))


class Embeds(Double):
    """Appends zeros: it comes back, yet its image is thin."""

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return torch.cat([x, torch.zeros_like(x[:, :1])], 1), x.new_zeros(len(x))

    def inverse(self, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return y[:, :-1], y.new_zeros(len(y))


class ColumnLogdet(Double):
    def logdet(self, x: Tensor) -> Tensor:
        return super().logdet(x)[:, None]


class ScalarLogdet(Double):
    def logdet(self, x: Tensor) -> Tensor:
        return super().logdet(x)[0]


class RandomForward(Double):
    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return 2 * x + 0.01 * torch.randn_like(x), self.logdet(x)


class RandomLogdet(Double):
    """Each forward draws a scale, and its inverse remembers it: only a second call shows it."""

    scale = 1.0

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        self.scale = float(torch.rand(())) + 0.5
        return self.scale * x, self.logdet(x)

    def inverse(self, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return y / self.scale, -self.logdet(y)

    def logdet(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), self.scale, dtype=x.dtype).log() * x[0].numel()


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (WrongSign(), "log-det"),
        (InverseWithTheForwardsSign(), "inverse's sign"),
        (SlightlyWrongInverse(), "law: round trip"),
        (VeryWrongInverse(), "round trip"),
        (Leaking(), "per-sample independence"),
        (WritesInPlace(), "in-place"),
        (InverseWritesInPlace(), "in-place"),
        (HalfLogdet(), "precision under autocast"),
        (DetachedInverse(), "gradients"),
        (ForgetsToSave(), "state dict"),
        (StaleCache(), "round trip|gradients|log-det"),
        (InventsZeros(), "round trip"),
        (Embeds(), "not bijective"),
        (ColumnLogdet(), "log-det"),
        (ScalarLogdet(), "log-det"),
        (RandomForward(), "round trip|same call"),
        (RandomLogdet(), "round trip|same call"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_names_the_broken_law(broken: nn.Module, law: str) -> None:
    with pytest.raises(AssertionError, match=law) as error:
        check_bijector(broken, torch.randn(3, 2, 2, 2))
    assert type(broken).__name__ in str(error.value)


@pytest.mark.parametrize(
    ("broken", "law"), [(VeryWrongInverse(), "round trip"), (InverseWithTheForwardsSign(), "inverse's sign")]
)
def test_does_not_blame_precision_for_a_wrong_map(broken: nn.Module, law: str) -> None:
    with pytest.raises(AssertionError, match=f"law: {law}"):
        check_bijector(broken, torch.randn(3, 2))


def test_a_context_that_is_written_into() -> None:
    with pytest.raises(AssertionError, match="in-place"):
        check_bijector(WritesIntoItsContext(), torch.randn(3, 2), torch.randn(3, 2))


def test_a_logdet_that_is_right_at_one_image_size() -> None:
    x = torch.randn(2, 2, 4, 4)
    check_bijector(ForgetsThePixels(), x)
    with pytest.raises(AssertionError, match=r"log-det .*other image size \(2, 6\)"):
        check_bijector(ForgetsThePixels(), x, sizes=[(2, 6)])


def test_a_bijector_that_takes_integers() -> None:
    class Unchecked(flowkit.Bijector):
        pass

    Unchecked.forward = Double.forward  # set after the class is made, so that the checks are not wrapped around
    Unchecked.inverse = Double.inverse
    Unchecked.logdet = lambda self, x: torch.full((len(x),), LOG2 * x[0].numel(), dtype=x.dtype).to(
        x.dtype if x.is_floating_point() else torch.float32
    )
    with pytest.raises(AssertionError, match="rejected inputs: it took"):
        check_bijector(Unchecked(), torch.randn(3, 2))


def test_a_bijector_without_an_inverse() -> None:
    class OneWay(flowkit.Bijector):
        def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
            return x + 0, x.new_zeros(len(x))

    with pytest.raises((AssertionError, NotImplementedError), match="OneWay"):
        check_bijector(OneWay(), torch.randn(3, 2))


def test_good_ones_pass() -> None:
    check_bijector(Double(), torch.randn(2, 3, 2, 2), sizes=[(4, 1), (1, 3)])
    check_bijector(Scaled(), torch.randn(2, 3))
    net = flowkit.nets.FCN(1, 4, 4, context_channels=2)
    b = flowkit.Squeeze() >> flowkit.ActNorm(4) >> flowkit.Coupling(net, 2, flowkit.Affine("atan"))
    b[2].net = flowkit.nets.FCN(2, 4, 4, context_channels=2)
    check_bijector(b, torch.randn(2, 1, 4, 4), torch.randn(2, 2, 2, 2), sizes=[(2, 6)])


def test_a_class_label_is_a_context() -> None:
    class ByLabel(flowkit.Bijector):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Embedding(4, 2)

        def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
            return x + self.shift(context), x.new_zeros(len(x))

        def inverse(self, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
            return y - self.shift(context), y.new_zeros(len(y))

    check_bijector(ByLabel(), torch.randn(3, 2), torch.tensor([0, 2, 3]))


def test_nflows_transforms_pass_as_they_are() -> None:
    for transform in (
        transforms.ReversePermutation(3),
        transforms.PointwiseAffineTransform(shift=1.0, scale=2.0),
        transforms.CompositeTransform([transforms.LeakyReLU(), transforms.RandomPermutation(3)]),
    ):
        check_bijector(transform, torch.randn(3, 3))


def test_leaves_everything_as_it_was() -> None:
    b = flowkit.ActNorm(2) >> flowkit.InvertibleConv1x1(2)
    b.train()
    b[0].bias.grad = torch.ones(2)
    b[1].weight.requires_grad_(False)
    before = copy.deepcopy(b)
    x, context = torch.randn(2, 2, 2, 2), torch.randn(2, 3)
    copies = x.clone(), context.clone()
    state = torch.get_rng_state()
    check_bijector(b, x, context)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(b.parameters(), before.parameters(), strict=True))
    assert all(p.dtype == torch.float32 for p in b.parameters())
    assert torch.equal(b[0].bias.grad, torch.ones(2))
    assert b[0].log_scale.grad is None
    assert not b[1].weight.requires_grad
    assert b.training
    assert not any(module._forward_hooks for module in b.modules())
    assert torch.equal(x, copies[0])
    assert torch.equal(context, copies[1])
    assert not x.requires_grad


def test_leaves_the_rng_alone_after_a_failure_too() -> None:
    state = torch.get_rng_state()
    with pytest.raises(AssertionError):
        check_bijector(WrongSign(), torch.randn(3, 2).detach())
    torch.set_rng_state(state)
    torch.randn(3, 2)
    expected = torch.get_rng_state()
    torch.set_rng_state(state)
    with pytest.raises(AssertionError):
        check_bijector(WrongSign(), torch.randn(3, 2))
    assert torch.equal(torch.get_rng_state(), expected)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_perturb_moves_what_has_no_inputs() -> None:
    """A net of the context alone has a layer without inputs where there is none."""
    net = flowkit.testing.perturb(flowkit.nets.MLP(0, 2))
    assert net(torch.zeros(3, 0)).abs().min() > 0
