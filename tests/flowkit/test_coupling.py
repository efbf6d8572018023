"""Couplings and injectors: the official ones, interleaving, flipping, and wrong nets."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowkit import Additive, Affine, Coupling, Injector, Permutation, RationalQuadratic
from flowkit.nets import FCN, MLP, DenseBlock
from flowkit.testing import check_bijector, perturb


class Constant(nn.Module):
    """A net that always returns the same parameters."""

    def __init__(self, *parameters: float) -> None:
        super().__init__()
        self.values = torch.tensor([parameters])

    def forward(self, passive: Tensor, context: Any = None) -> Tensor:
        return self.values.expand(len(passive), -1)


def official_fcn(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"actnorm.": "", "logs": "log_scale"}
    renamed = {}
    for key, value in state.items():
        name = key
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        renamed[name] = value if name.endswith("weight") else value.flatten()
    return renamed


def official_dense(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {f"conv{i + 1}": f"convs.{i}" for i in range(4)} | {"conv5": "last"}
    return {f"{names[key[:5]]}{key[5:]}": value for key, value in state.items()}


def agrees(b: Coupling, g: dict[str, Tensor], context: Tensor | None = None) -> None:
    y, logdet = b(g["in"], context)
    torch.testing.assert_close(y, g["out"])
    torch.testing.assert_close(logdet, g["logdet"])
    torch.testing.assert_close(b.inverse(g["in"], context)[0], g["inv_out"])


@pytest.mark.parametrize(
    ("name", "b"),
    [
        ("affine_fcn_even", Coupling(FCN(3, 6, 6), 3, Affine("atan"))),
        ("affine_fcn_odd_cond", Coupling(FCN(3, 8, 6, context_channels=4), 3, Affine("atan"))),
    ],
)
def test_is_the_official_coupling_of_the_sr_models(golden: Any, name: str, b: Coupling) -> None:
    g = golden("hcflow_components").part(f"{name}.")
    weights = {k.removeprefix("sd.f."): v for k, v in g.items() if k.startswith("sd.")}
    b.net.load_state_dict(official_fcn(weights))
    agrees(b, g, g.get("u"))


@pytest.mark.parametrize(
    ("name", "b"),
    [
        ("affine3_dense_low_to_high", Coupling(DenseBlock(3, 10, 6), 3, Affine("atan"))),
        ("affine3_dense_high_to_low", Coupling(DenseBlock(5, 3, 6), 3, Additive(), flip=True)),
    ],
)
def test_is_the_official_coupling_of_the_rescaling_model(golden: Any, name: str, b: Coupling) -> None:
    g = golden("hcflow_components").part(f"{name}.")
    weights = {k.removeprefix("sd.f."): v for k, v in g.items() if k.startswith("sd.")}
    b.net.load_state_dict(official_dense(weights))
    agrees(b, g)


def test_parameters_are_interleaved_per_channel() -> None:
    b = Coupling(Constant(10, 0, 20, 1), 1, Affine("exp", "scale_first"))  # (t, r) of channel 1, then of 2
    y, logdet = b(torch.tensor([[5.0, 1.0, 1.0]]))
    torch.testing.assert_close(y, torch.tensor([[5.0, 11.0, 20 + 2.7182818]]))
    torch.testing.assert_close(logdet, torch.tensor([1.0]))


def test_keep_passes_and_steers() -> None:
    torch.manual_seed(0)
    net = MLP(2, 2, 8)
    nn.init.normal_(net.layers[-1].weight)
    b = Coupling(net, 2, Affine())
    x = torch.randn(3, 3)
    y = b(x)[0]
    assert torch.equal(y[:, :2], x[:, :2])
    moved = x + torch.tensor([0.0, 1.0, 0.0])
    assert not torch.equal(b(moved)[0][:, 2], y[:, 2])


def test_flip_is_the_coupling_between_two_permutations() -> None:
    torch.manual_seed(0)
    net = MLP(1, 4, 8)
    nn.init.normal_(net.layers[-1].weight)
    flipped, plain = Coupling(net, 2, Affine(), flip=True), Coupling(net, 1, Affine())
    last_first, back = Permutation([2, 0, 1]), Permutation([1, 2, 0])
    x = torch.randn(3, 3)
    torch.testing.assert_close(flipped(x), (last_first >> plain >> back)(x))
    assert torch.equal(flipped(x)[0][:, 2], x[:, 2])


def test_the_net_sees_the_context_as_it_comes() -> None:
    seen = []

    class Records(Constant):
        def forward(self, passive: Tensor, context: Any = None) -> Tensor:
            seen.append(context)
            return super().forward(passive)

    b = Coupling(Records(0.0), 1, Additive())
    x, pair = torch.zeros(2, 2), (torch.zeros(2, 1), None)
    b(x)
    b.inverse(x, pair)
    assert seen == [None, pair]


@pytest.mark.parametrize(
    ("b", "message"),
    [
        (
            Coupling(Constant(0, 0, 0), 1, Affine("tanh")),
            r"Coupling: the net returned \(2, 3\).*, but Affine\(scale='tanh'.* of 2 channels needs \(2, 4\) "
            r"\(2 parameters per channel\)",
        ),
        (
            Coupling(Constant(0), 1, Additive()),
            r"the net returned \(2, 1\).*, .* of 2 channels needs \(2, 2\)",
        ),
        (Coupling(Constant(0), 1, RationalQuadratic(4)), r"needs \(2, 22\) \(11 parameters per channel\)"),
        (Coupling(Constant(0), 3, Additive()), r"Coupling: keep=3 leaves nothing of \(2, 3\) float32"),
        (Coupling(Constant(0), 4, Additive(), flip=True), "keep=4 leaves nothing"),
        (Injector(Constant(0, 0), Affine()), r"Injector: the net returned \(2, 2\).*, .* needs \(2, 6\)"),
    ],
)
def test_a_net_or_an_input_of_the_wrong_width(b: nn.Module, message: str) -> None:
    context = torch.zeros(2, 1)
    for call in (b, b.inverse):
        with pytest.raises(ValueError, match=message):
            call(torch.zeros(2, 3), context)


def test_a_net_that_halves_the_image() -> None:
    b = Coupling(lambda_net(lambda passive: passive[..., ::2, ::2]), 1, Additive())
    with pytest.raises(ValueError, match=r"the net returned \(2, 1, 2, 2\).*, but .* needs \(2, 1, 4, 4\)"):
        b(torch.zeros(2, 2, 4, 4))


def test_a_net_that_returns_no_tensor() -> None:
    b = Coupling(lambda_net(lambda passive: (passive, passive)), 1, Affine())  # shift and scale as a pair
    with pytest.raises((ValueError, TypeError), match="Coupling: the net returned"):
        b(torch.zeros(2, 2))


def lambda_net(function: Any) -> nn.Module:
    class Net(nn.Module):
        def forward(self, passive: Tensor, context: Any = None) -> Any:
            return function(passive)

    return Net()


def test_keep_must_leave_something_to_steer_with() -> None:
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        Coupling(MLP(1, 1), 0, Additive())


def test_a_net_in_bfloat16_steers_a_map_in_float32() -> None:
    b = Coupling(lambda_net(lambda passive: passive.repeat(1, 2).bfloat16()), 1, Affine("exp"))
    y, logdet = b(torch.randn(4, 2))
    assert y.dtype == logdet.dtype == torch.float32
    torch.testing.assert_close(b.inverse(y)[1], -logdet)


def test_a_net_called_with_one_argument_serves_an_injector() -> None:
    check_bijector(Injector(nn.Linear(3, 4), Affine("sigmoid")), torch.randn(3, 2), torch.randn(3, 3))


def test_an_injector_needs_a_context() -> None:
    b = Injector(MLP(1, 2), Affine())
    for call in (b, b.inverse):
        with pytest.raises(ValueError, match="Injector: its parameters come from the context, and none was given"):
            call(torch.zeros(2, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_context_in_half_precision(dtype: torch.dtype) -> None:
    x, context = torch.randn(2, 2), torch.randn(2, 3).to(dtype)
    for b in (Coupling(MLP(1, 2, context_features=3), 1, Affine()), Injector(MLP(3, 4), Affine())):
        torch.testing.assert_close(b(x, context), b(x, context.float()))


def test_an_injected_prior_standardises() -> None:
    prior = Injector(Constant(3.0, 1.5), Affine("exp", "scale_first", inverted=True))  # mean 3, std exp(1.5)
    torch.manual_seed(0)
    x = 3 + torch.tensor(1.5).exp() * torch.randn(20000, 1)
    z, logdet = prior(x, torch.zeros(20000, 1))
    assert abs(float(z.mean())) < 0.03
    assert float(z.std()) == pytest.approx(1, abs=0.03)
    torch.testing.assert_close(logdet, torch.full((20000,), -1.5))


def test_what_is_constant_about_the_logdet() -> None:
    assert Coupling(MLP(1, 1), 1, Additive()).constant_logdet
    assert not Coupling(MLP(1, 2), 1, Affine()).constant_logdet
    assert Injector(MLP(1, 2), Affine()).constant_logdet
    assert not Injector(MLP(1, 8), RationalQuadratic(3)).constant_logdet


@pytest.mark.parametrize("net", [FCN(2, 4, 6, context_channels=3), DenseBlock(2, 4, 3, context_channels=3)])
def test_draws_share_a_context(net) -> None:
    """n·B rows of x with B rows of context: the same as with the context repeated."""
    torch.manual_seed(0)
    b = perturb(Coupling(net, 2, Affine("tanh")) >> Injector(FCN(3, 8, 6), Affine("exp"))).double()
    x, context = torch.randn(6, 4, 3, 2, dtype=torch.float64), torch.randn(2, 3, 3, 2, dtype=torch.float64)
    expected = b(x, context.repeat(3, 1, 1, 1))
    for got, whole in zip(b(x, context), expected, strict=True):
        assert torch.allclose(got, whole, atol=1e-12)
    for got, whole in zip(b.inverse(x, context), b.inverse(x, context.repeat(3, 1, 1, 1)), strict=True):
        assert torch.allclose(got, whole, atol=1e-12)
    with pytest.raises(ValueError, match="batch sizes differ"):
        b(x, context[:1].repeat(4, 1, 1, 1))
