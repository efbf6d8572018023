"""The protocol: what every bijector refuses, what it promises, and how its inverse is a module."""

from typing import Any

import pytest
import torch
from torch import Tensor

import flowkit
from flowkit import ActNorm, Bijector, Chain, Coupling, Haar, InvertibleConv1x1, Permutation, Split, Squeeze


class Fixed(Bijector):
    """Returns what it is told to."""

    def __init__(self, out: Any) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Tensor, context: Any = None) -> Any:
        return self.out


@pytest.mark.parametrize(
    ("b", "x", "message"),
    [
        (
            ActNorm(3),
            torch.zeros(2, 4, 5, 5),
            r"ActNorm\(3\): expected 3 channels, got \(2, 4, 5, 5\) float32",
        ),
        (Permutation(3), torch.zeros(2, 4), r"Permutation\(3\): expected 3 channels, got \(2, 4\)"),
        (InvertibleConv1x1(3), torch.zeros(2, 2), r"InvertibleConv1x1\(3, 'dense'\): expected 3 channels"),
        (
            ActNorm(3),
            torch.zeros(3),
            r"ActNorm\(3\): expected floating-point \(B, C, \*spatial\), got \(3,\)",
        ),
        (ActNorm(3), torch.zeros(2, 3, dtype=torch.uint8), r"got \(2, 3\) uint8, convert it with .float\(\)"),
        (ActNorm(3), torch.zeros(2, 3).double(), r"parameters are float32, got \(2, 3\) float64; convert"),
        (ActNorm(3).double(), torch.zeros(2, 3), r"parameters are float64, got \(2, 3\) float32"),
        (ActNorm(3), None, r"ActNorm\(3\): expected a tensor or a tuple of tensors, got None"),
        (ActNorm(3), "x", r"ActNorm\(3\): expected floating-point .* got str"),
        (Squeeze(), torch.zeros(2, 3, 4, 5), r"Squeeze\(2\): spatial sizes must be multiples of 2, got"),
        (
            Haar(),
            torch.zeros(2, 3, 3, 4),
            r"Haar\(\): spatial sizes must be multiples of 2, got \(2, 3, 3, 4\)",
        ),
        (
            Squeeze() >> Squeeze(),
            torch.zeros(2, 3, 4, 6),
            r"Chain\(\): spatial sizes must be multiples of 4, got \(2, 3, 4, 6\)",
        ),
        (
            Squeeze() >> ActNorm(12),
            torch.zeros(2, 4, 2, 2),
            r"Chain\(\): expected 3 channels, got \(2, 4, 2, 2\)",
        ),
    ],
)
def test_wrong_input_names_the_layer_what_came_and_what_was_expected(b: Bijector, x: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        b(x)


@pytest.mark.parametrize(
    "b",
    [ActNorm(2), Squeeze(), Haar(), Permutation(2), Coupling(flowkit.nets.MLP(1, 2), 1, flowkit.Affine())],
    ids=lambda b: type(b).__name__,
)
def test_a_pair_where_one_tensor_is_expected(b: Bijector) -> None:
    pair = (torch.zeros(2, 2, 2, 2), torch.zeros(2, 2, 2, 2))  # what a Split returns
    with pytest.raises(ValueError, match=type(b).__name__):
        b(pair)


def test_the_inverse_checks_the_channels_of_y() -> None:
    with pytest.raises(ValueError, match=r"ActNorm\(3\): expected 3 channels, got \(2, 2\)"):
        ActNorm(3).inverse(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"Chain\(\): expected 12 channels"):
        (Squeeze() >> ActNorm(12)).inverse(torch.zeros(2, 3, 4, 4))


def test_context_of_another_batch() -> None:
    with pytest.raises(ValueError, match=r"batch sizes differ: \(2, 3\) float32 with context \(4, 1\) float32"):
        ActNorm(3)(torch.zeros(2, 3), torch.zeros(4, 1))
    with pytest.raises(ValueError, match="batch sizes differ"):
        Chain()(torch.zeros(2, 3), (None, torch.zeros(3, 1)))
    with pytest.raises(ValueError, match="batch sizes differ"):
        Split(1).inverse((torch.zeros(2, 1), torch.zeros(3, 1)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input_is_computed_in_float32(dtype: torch.dtype) -> None:
    b = InvertibleConv1x1(3) >> ActNorm(3)
    x = torch.randn(2, 3, 4, 4).to(dtype)
    y, logdet = b(x)
    assert y.dtype == logdet.dtype == torch.float32
    assert torch.equal(y, b(x.float())[0])
    assert b.inverse(x)[0].dtype == torch.float32


def test_half_precision_trees_are_widened_leaf_by_leaf() -> None:
    (kept, dropped), _ = Split(1)(torch.zeros(2, 3).half())
    assert kept.dtype == dropped.dtype == torch.float32
    assert Split(1).inverse((kept, dropped.half()))[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (torch.zeros(2, 1), r"must return \(value, logdet\), got \(2, 1\) float32"),
        ((torch.zeros(2, 1), 0.0), r"must return \(value, logdet\)"),
        ((torch.zeros(2, 1), torch.zeros(2, 1)), r"logdet must be \(2,\) float32 or wider, got \(2, 1\)"),
        ((torch.zeros(2, 1), torch.zeros(())), r"logdet must be \(2,\)"),
        ((torch.zeros(2, 1), torch.zeros(2).bfloat16()), r"float32 or wider, got \(2,\) bfloat16"),
    ],
)
def test_wrong_output_is_a_type_error(out: Any, message: str) -> None:
    with pytest.raises(TypeError, match=r"Fixed\(\): .*" + message):
        Fixed(out)(torch.zeros(2, 1))


def test_a_map_without_an_inverse_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Fixed defines no inverse"):
        Fixed(None).inverse(torch.zeros(2, 1))


def test_inv_runs_the_other_way_on_the_same_parameters() -> None:
    b = ActNorm(2)
    torch.nn.init.normal_(b.bias)
    y = torch.randn(3, 2)
    assert torch.equal(b.inv(y)[0], b.inverse(y)[0])
    assert torch.equal(b.inv.inverse(y)[0], b(y)[0])
    assert b.inv.inv is b
    assert next(b.inv.parameters()) is b.bias


def test_hooks_see_the_inverse() -> None:
    inverse, seen = ActNorm(2).inv, []
    inverse.register_forward_hook(lambda module, args, out: seen.append(args[0].shape))
    (Chain() >> inverse)(torch.zeros(3, 2))
    assert seen == [(3, 2)]


def test_inv_knows_its_channels() -> None:
    b = Squeeze() >> ActNorm(12)
    assert (b.in_channels, b.out_channels) == (3, 12)
    assert (b.inv.in_channels, b.inv.out_channels) == (12, 3)


def test_checks_apply_once_more_in_a_subclass_that_calls_its_parent() -> None:
    class Louder(ActNorm):
        def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
            return super().forward(2 * x, context)

    assert Louder(2)(torch.ones(1, 2).half())[0].dtype == torch.float32
    with pytest.raises(ValueError, match=r"Louder\(2\)"):
        Louder(2)(torch.ones(1, 3))


def test_arguments_keep_their_names() -> None:
    x = torch.randn(2, 4)
    b = ActNorm(4)
    assert torch.equal(b(x=x, context=None)[0], b(x)[0])
    assert torch.equal(b.inverse(y=x, context=None)[0], b.inverse(x)[0])


@pytest.mark.parametrize("context", [3, {"a": 1}, torch.tensor(1.0)])
def test_a_context_that_is_no_batch_of_tensors(context: Any) -> None:
    with pytest.raises(ValueError, match=r"ActNorm\(4\): a context is made of tensors"):
        ActNorm(4)(torch.zeros(2, 4), context)


def test_half_precision_parameters_are_refused_by_name() -> None:
    for x in (torch.randn(3, 2).half(), torch.randn(3, 2)):
        with pytest.raises(ValueError, match=r"ActNorm\(2\): parameters are float16, .*torch\.autocast"):
            ActNorm(2).half()(x)
