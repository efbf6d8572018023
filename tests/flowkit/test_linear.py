"""ActNorm, invertible 1×1 convolutions and permutations."""

import copy
from typing import Any

import pytest
import torch

from flowkit import ActNorm, InvertibleConv1x1, Permutation
from flowkit.fusion import runs_of
from flowkit.matrices import FORMS
from flowkit.testing import perturb


def test_actnorm_is_the_official_one(golden: Any) -> None:
    g = golden("hcflow_components").part("actnorm.")
    b = ActNorm(5)
    b.load_state_dict({"bias": g["bias"].flatten(), "log_scale": g["logs"].flatten()}, strict=False)
    y, logdet = b(g["in"])
    torch.testing.assert_close(y, g["out"])
    torch.testing.assert_close(logdet, g["logdet"])
    torch.testing.assert_close(b.inverse(g["in2"])[0], g["inv_out2"])


def test_conv1x1_is_the_official_one(golden: Any) -> None:
    g = golden("hcflow_components").part("inv1x1.")
    b = InvertibleConv1x1(7)
    b.load_state_dict({"weight": g["weight"]})
    y, logdet = b(g["in"])
    torch.testing.assert_close(y, g["out"])
    torch.testing.assert_close(logdet, g["logdet"])
    torch.testing.assert_close(b.inverse(g["in"])[0], g["inv_out"])


def test_actnorm_by_hand() -> None:
    b = ActNorm(2)
    b.load_state_dict({"bias": torch.tensor([1.0, 2.0]), "log_scale": torch.tensor([0.5, -1.5])}, strict=False)
    x = torch.randn(3, 2, 4, 5)
    y, logdet = b(x)
    torch.testing.assert_close(y[:, 1], (x[:, 1] + 2) * torch.tensor(-1.5).exp())
    torch.testing.assert_close(logdet, torch.full((3,), -20.0))


def test_actnorm_acts_as_it_is_until_it_is_initialised() -> None:
    b = ActNorm(2).train()
    x = 3 + 5 * torch.randn(8, 2)
    assert torch.equal(b(x)[0], x)
    assert not b.initialized
    torch.nn.init.constant_(b.bias, 1)
    assert torch.equal(b(x)[0], x + 1)


@pytest.mark.parametrize(
    ("bias", "log_scale", "flag", "expected"),
    [
        (1.0, 1.0, None, True),
        (0.0, 1.0, None, True),
        (1.0, 0.0, None, True),
        (0.0, 0.0, None, False),
        (0.0, 0.0, False, False),
        (0.0, 0.0, True, True),
        (1.0, 0.0, False, True),
    ],
)
def test_a_loaded_actnorm_counts_as_initialised_unless_it_is_all_zero(
    bias: float, log_scale: float, flag: bool | None, expected: bool
) -> None:
    state = {"bias": torch.tensor([0.0, bias]), "log_scale": torch.tensor([log_scale, 0.0])}
    if flag is not None:
        state["initialized"] = torch.tensor(flag)
    before = copy.deepcopy(state)
    b = ActNorm(2)
    b.load_state_dict(state)  # strict: the flag is derived where the checkpoint has none
    assert bool(b.initialized) is expected
    assert state.keys() == before.keys(), "the caller's state dict is his own"
    assert all(torch.equal(state[k], before[k]) for k in state)


def test_loading_an_all_zero_checkpoint_makes_it_uninitialised_again() -> None:
    b = ActNorm(2)
    b.load_state_dict({"bias": torch.ones(2), "log_scale": torch.ones(2)})
    b.load_state_dict({"bias": torch.zeros(2), "log_scale": torch.zeros(2)})
    assert not b.initialized


def test_the_flag_survives_a_state_dict() -> None:
    b = ActNorm(2)
    b.initialized.fill_(True)
    other = ActNorm(2)
    other.load_state_dict(b.state_dict())
    assert other.initialized


@pytest.mark.parametrize("parametrization", sorted(set(FORMS) - {"lu"}))
@pytest.mark.parametrize("channels", [1, 5, 6])
def test_the_random_start_is_a_rotation(parametrization: Any, channels: int) -> None:
    b = InvertibleConv1x1(channels, parametrization, init="orthogonal")
    w = b.matrix()
    torch.testing.assert_close(w @ w.T, torch.eye(channels), atol=1e-5, rtol=0)
    assert channels == 1 or (w - torch.eye(channels)).abs().max() > 1e-3
    torch.testing.assert_close(b.log_slope(), torch.zeros(()), atol=1e-6, rtol=0)


@pytest.mark.parametrize("parametrization", FORMS)
@pytest.mark.parametrize("channels", [1, 4, 5])
def test_the_identity_start(parametrization: Any, channels: int) -> None:
    x = torch.randn(2, channels, 3, 3)
    b = InvertibleConv1x1(channels, parametrization, init="identity")
    for y, logdet in (b(x), b.inverse(x)):
        torch.testing.assert_close(y, x)
        torch.testing.assert_close(logdet, torch.zeros(2))


def test_the_start_that_is_not_asked_for() -> None:
    for parametrization in FORMS:
        b = InvertibleConv1x1(3, parametrization)  # type: ignore[arg-type]
        is_eye = torch.allclose(b.matrix(), torch.eye(3), atol=1e-5)
        assert is_eye == (parametrization not in ("dense", "plu"))


@pytest.mark.parametrize("parametrization", FORMS)
@pytest.mark.parametrize("channels", [1, 2, 5, 12])
def test_log_slope_and_inverse_are_those_of_the_matrix(parametrization: Any, channels: int) -> None:
    torch.manual_seed(channels)
    b = perturb(InvertibleConv1x1(channels, parametrization), 0.5).double()
    w = b.matrix()
    torch.testing.assert_close(b.log_slope(), torch.linalg.slogdet(w).logabsdet)
    torch.testing.assert_close(b.inverse_matrix(), torch.linalg.inv(w))


@pytest.mark.parametrize("parametrization", FORMS)
def test_every_matrix_fuses_with_its_neighbours(parametrization: Any) -> None:
    chain = perturb(ActNorm(4) >> InvertibleConv1x1(4, parametrization) >> Permutation([1, 3, 0, 2]), 0.5).double()
    assert [len(run) for run in runs_of(chain.parts)] == [3]  # type: ignore[arg-type]
    x = torch.randn(2, 4, 3, 3).double()
    y, logdet = x, torch.zeros(2).double()
    for part in chain:
        y, term = part(y)
        logdet = logdet + term
    torch.testing.assert_close(chain(x), (y, logdet))
    torch.testing.assert_close(chain.inverse(y), (x, -logdet))


@pytest.mark.parametrize("parametrization", FORMS)
def test_every_parameter_of_a_matrix_gets_a_gradient(parametrization: Any) -> None:
    b = InvertibleConv1x1(5, parametrization, init="identity")
    sum(b(torch.randn(4, 5))[0].sin().sum() for _ in range(2)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in b.parameters())


def test_rotations_cannot_leave_the_rotations() -> None:
    for parametrization in ("householder", "cayley"):
        b = perturb(InvertibleConv1x1(5, parametrization).double(), 3.0)  # type: ignore[arg-type]
        torch.testing.assert_close(torch.linalg.det(b.matrix()), torch.ones(()).double())


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 3), (2, 4, 3, 2), (2, 4, 2, 2, 2)])
def test_plu_equals_dense(shape: tuple[int, ...]) -> None:
    plu = perturb(InvertibleConv1x1(4, "plu").double())
    dense = InvertibleConv1x1(4).double()
    dense.load_state_dict({"weight": plu.matrix().detach()})
    x = torch.randn(shape).double()
    torch.testing.assert_close(plu(x), dense(x))
    torch.testing.assert_close(plu.inverse(x), dense.inverse(x))


@pytest.mark.parametrize("parametrization", ["dense", "plu"])
def test_the_inverse_matrix_is_solved_in_float64(parametrization: Any) -> None:
    torch.manual_seed(0)
    b = perturb(InvertibleConv1x1(48, parametrization), 1.0)
    exact = torch.linalg.inv(b.matrix().detach().double())
    error = float((b.inverse_matrix().detach() - exact).abs().max() / exact.abs().max())
    assert b.inverse_matrix().dtype == torch.float32
    if parametrization == "dense":
        assert error < 1e-7  # one rounding
    else:
        assert error < 1e-4


def test_a_negative_determinant_is_fine() -> None:
    b = InvertibleConv1x1(2, init="identity")
    b.load_state_dict({"weight": torch.tensor([[0.0, 2.0], [1.0, 0.0]])})
    torch.testing.assert_close(b(torch.zeros(1, 2, 3, 1))[1], 3 * torch.tensor([2.0]).log())


def test_unknown_parametrisations_are_refused() -> None:
    with pytest.raises(ValueError, match="no parametrization 'lu' with init 'orthogonal'"):
        InvertibleConv1x1(3, "lu", init="orthogonal")
    with pytest.raises(ValueError, match="no parametrization 'ql'"):
        InvertibleConv1x1(3, "ql")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="init 'zeros'"):
        InvertibleConv1x1(3, init="zeros")


def test_permutation_gathers() -> None:
    b = Permutation([2, 0, 1])
    x = torch.tensor([[10.0, 11.0, 12.0]])
    assert b(x)[0].tolist() == [[12.0, 10.0, 11.0]]
    assert torch.equal(b.inverse(b(x)[0])[0], x)


def test_a_number_makes_a_random_permutation() -> None:
    torch.manual_seed(0)
    assert sorted(Permutation(9).order.tolist()) == list(range(9))
    assert Permutation(9).order.tolist() != Permutation(9).order.tolist()
    assert Permutation(torch.tensor([1, 0])).in_channels == 2


@pytest.mark.parametrize("order", [[0, 0], [1, 2], [0, 2, 1, 4], [-1, 0]])
def test_what_is_no_permutation(order: list[int]) -> None:
    with pytest.raises(ValueError, match="is not a permutation of 0 … "):
        Permutation(order)


def test_no_channels() -> None:
    for kind in (Permutation, ActNorm, InvertibleConv1x1):
        with pytest.raises(ValueError, match=f"{kind.__name__}: channels must be at least 1, got -1"):
            kind(-1)
