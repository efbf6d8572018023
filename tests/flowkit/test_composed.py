"""Optimisations change no number: runs made in batches, memory layouts, low precision where it is harmless."""

import copy
import time

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import flowkit
from flowkit import Affine, Chain, Coupling, Hierarchy, Level, Reversible
from flowkit.fusion import compose, runs_of
from flowkit.nets import FCN
from flowkit.testing import perturb


def steps(channels: int, count: int, parametrization: str = "dense") -> list[flowkit.Bijector]:
    return [
        part
        for _ in range(count)
        for part in (
            flowkit.ActNorm(channels),
            flowkit.InvertibleConv1x1(channels, parametrization),  # type: ignore[arg-type]
            Coupling(FCN(channels // 2, channels, 6), channels // 2, Affine("atan")),
        )
    ]


def mixed_chain() -> Chain:
    """Runs of several kinds: of two sizes, in two parametrisations, with a lone convolution, a permutation."""
    torch.manual_seed(3)
    lone = flowkit.InvertibleConv1x1(4)
    parts = [lone, Coupling(FCN(2, 4, 6), 2, Affine()), *steps(4, 3), *steps(4, 2, "plu")]
    ends = [flowkit.Permutation([3, 1, 0, 2]), flowkit.ActNorm(4), flowkit.Squeeze(), *steps(16, 2), lone_pair(16)]
    return perturb(Chain(*parts, *ends)).double()


def lone_pair(channels: int) -> Chain:
    return flowkit.ActNorm(channels) >> flowkit.Permutation(channels)  # type: ignore[return-value]


def one_by_one(chain: Chain, x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    logdet = x.new_zeros(len(x))
    for part in reversed(chain.parts) if inverse else chain.parts:
        x, term = part.inverse(x) if inverse else part(x)
        logdet = logdet + term
    return x, logdet


def with_gradients(call, chain: Chain, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y, logdet = call(x)
    grads = torch.autograd.grad((y.sin().sum() + (logdet * logdet).sum()), [x, *chain.parameters()], allow_unused=True)
    return [y, logdet, *(torch.zeros(()) if g is None else g for g in grads)]


@pytest.mark.parametrize("inverse", [False, True])
def test_runs_made_together_are_the_parts_one_by_one(inverse: bool) -> None:
    chain = mixed_chain()
    x = torch.randn(3, *((16, 3, 2) if inverse else (4, 6, 4)), dtype=torch.float64)
    method = chain.inverse if inverse else chain
    expected = with_gradients(lambda v: one_by_one(chain, v, inverse), chain, x)
    for got, want in zip(with_gradients(method, chain, x), expected, strict=True):
        assert torch.allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inverse", [False, True])
def test_the_reversible_walk_by_runs_has_the_same_gradients(inverse: bool) -> None:
    chain = mixed_chain()
    x = torch.randn(3, *((16, 3, 2) if inverse else (4, 6, 4)), dtype=torch.float64)
    reversible = Reversible(chain)
    expected = with_gradients(chain.inverse if inverse else chain, chain, x)
    got = with_gradients(reversible.inverse if inverse else reversible, chain, x)
    for g, want in zip(got, expected, strict=True):
        assert torch.allclose(g, want, rtol=1e-8, atol=1e-8)


def test_runs_of_one_kind_share_their_calls(monkeypatch) -> None:
    chain, calls = Chain(*steps(4, 5), *steps(6, 1)[:2]), []
    solve, slogdet = torch.linalg.lu_factor, torch.linalg.slogdet
    monkeypatch.setattr(torch.linalg, "lu_factor", lambda m: calls.append(tuple(m.shape)) or solve(m))
    monkeypatch.setattr(torch.linalg, "slogdet", lambda m: calls.append(tuple(m.shape)) or slogdet(m))
    x = torch.randn(2, 4, 3, 3)
    list(compose(runs_of(chain.parts), x))
    list(compose(runs_of(chain.parts), x, inverse=True))
    assert sorted(calls) == [(1, 6, 6)] * 2 + [(5, 4, 4)] * 2


def test_a_singular_convolution_is_an_error_not_a_picture() -> None:
    chain = Chain(*steps(4, 2))
    with torch.no_grad():
        chain.parts[1].weight.zero_()
    with pytest.raises(
        RuntimeError, match=r"part 1 of the chain, InvertibleConv1x1\(4, 'dense'\): its matrix is singular"
    ):
        chain.inverse(torch.randn(1, 4, 2, 2))
    with pytest.raises(RuntimeError, match=r"InvertibleConv1x1\(4, 'dense'\): its matrix is singular"):
        chain.parts[1].inverse(torch.randn(1, 4, 2, 2))


def linear_parts(names: list[str], channels: int) -> list[flowkit.Bijector]:
    kinds = {
        "shift and scale": lambda: flowkit.ActNorm(channels),
        "dense": lambda: flowkit.InvertibleConv1x1(channels),
        "plu": lambda: flowkit.InvertibleConv1x1(channels, "plu"),
        "permute": lambda: flowkit.Permutation(channels),
    }
    return [kinds[name]() for name in names]


@given(
    names=st.lists(st.sampled_from(["shift and scale", "dense", "plu", "permute"]), min_size=1, max_size=5),
    mean=st.sampled_from([0.0, 0.5, 300.0, 5000.0, -1e4, 1e6]),
    spread=st.sampled_from([0.05, 1.0, 300.0]),
    spatial=st.sampled_from([(), (8, 8)]),
    seed=st.integers(0, 2**16),
)
@example(names=["dense", "plu"], mean=0.0, spread=0.05, spatial=(8, 8), seed=183)  # errors of its parts cancel
@settings(max_examples=150)
def test_in_float32_a_run_is_as_exact_as_its_parts(names, mean, spread, spatial, seed) -> None:
    """Whatever the data: errors against float64 within four times those of the parts one by one, both ways."""
    torch.manual_seed(seed)
    x = mean * (1 + 0.1 * torch.randn(3, *(1 for _ in spatial))) + spread * torch.randn(64, 3, *spatial)
    chain = Chain(*linear_parts(names, 3))
    flowkit.initialize(chain, x)
    exact = copy.deepcopy(chain).double()
    with torch.no_grad():
        y = exact(x.double())[0].float()
        for inverse, start in ((False, x), (True, y)):
            right = one_by_one(exact, start.double(), inverse)
            apart = one_by_one(chain, start, inverse)
            fused = chain.inverse(start) if inverse else chain(start)
            for i in range(2):
                rounding = 2**-22 * float(right[i].abs().max() + 1)
                allowed = 4 * float((apart[i] - right[i]).abs().max()) + rounding
                assert float((fused[i] - right[i]).abs().max()) <= allowed, (i, inverse)
        base = flowkit.StandardNormal()
        right = base.log_prob(exact(x.double())[0]) + exact(x.double())[1]
        apart, fused = (base.log_prob(v) + logdet for v, logdet in (one_by_one(chain, x, False), chain(x)))
        allowed = 4 * float((apart - right).abs().max()) + 2**-22 * float(right.abs().max())
        assert float((fused - right).abs().max()) <= allowed


def test_long_vectors_without_a_matrix_stay_linear_in_their_length() -> None:
    chain = Chain(flowkit.ActNorm(20000), flowkit.Permutation(20000))  # as a matrix: 3.2 GB
    x = torch.randn(2, 20000)
    start = time.perf_counter()
    chain.inverse(chain(x)[0])
    assert time.perf_counter() - start < 1
    assert list(compose(chain.runs(), x)) == [None]
    assert list(compose(runs_of([flowkit.ActNorm(100), flowkit.InvertibleConv1x1(100)]), torch.randn(2, 100))) == [None]


def test_memory_layout_changes_no_number() -> None:
    chain = mixed_chain()
    x = torch.randn(2, 4, 6, 4, dtype=torch.float64)
    y, logdet = chain(x)
    other, same = chain(x.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(y, other, atol=1e-12)
    assert torch.allclose(logdet, same, atol=1e-12)
    assert torch.allclose(chain.inverse(y.contiguous(memory_format=torch.channels_last))[0], x, atol=1e-10)


def test_networks_see_images_channels_last() -> None:
    seen = []

    class Net(FCN):
        def forward(self, passive: Tensor, context: Tensor | None = None) -> Tensor:
            seen.extend([passive, context])
            return super().forward(passive, context)

    coupling = Coupling(Net(3, 6, 6, context_channels=5), 3, Affine())
    features = torch.nn.Conv2d(6, 5, 3, padding=1)
    hierarchy = Hierarchy([Level(flowkit.Squeeze(), 6, coupling)], flowkit.SingleScale([features]))
    hierarchy(torch.randn(2, 3, 8, 8))
    hierarchy.inverse(hierarchy(torch.randn(2, 3, 8, 8))[0])
    assert len(seen) == 6
    assert all(t is not None and t.is_contiguous(memory_format=torch.channels_last) for t in seen)


def test_the_layer_that_moves_the_image_is_exact_under_autocast() -> None:
    """Rounded to bf16, what moves the image would fall the other way in the inverse now and then, by 2⁻⁸ of itself."""
    for net in (flowkit.nets.CNN(6, 12, 8), FCN(6, 12, 8)):
        perturb(net, 0.2)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            parameters = net(torch.rand(2, 6, 5, 4))
        assert parameters.dtype == torch.float32
        assert float((parameters - parameters.bfloat16().float()).abs().max()) > 1e-5
