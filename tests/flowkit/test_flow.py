"""Flows as distributions: log-densities by their parts, and samples that agree with them."""

import math
import threading
from typing import Any

import pytest
import torch
from examples import extractor, lr_only, per_level, srflow_like, two_levels
from torch import Tensor, nn

from flowkit import (
    ActNorm,
    Affine,
    Bijector,
    Box,
    Chain,
    CoarseToFine,
    Coupling,
    Dequantize,
    Flow,
    Haar,
    Hierarchy,
    Injector,
    InvertibleConv1x1,
    Latents,
    Level,
    MixtureLogistic,
    Near,
    Permutation,
    RationalQuadratic,
    Squeeze,
    StandardNormal,
    StudentT,
    elementwise,
)
from flowkit.nets import FCN, MLP
from flowkit.testing import perturb


def plane(context: int = 0) -> Flow:
    def coupling(kind: Any, flip: bool) -> Coupling:
        return Coupling(MLP(1, kind.parameters, 8, context_features=context), 1, kind, flip)

    torch.manual_seed(0)
    b = Chain(
        coupling(Affine("tanh"), False),
        InvertibleConv1x1(2),
        coupling(RationalQuadratic(4, 3.0), True),
        coupling(MixtureLogistic(2), False),
        ActNorm(2),
    )
    return Flow(perturb(b), StandardNormal())


def images() -> Flow:
    torch.manual_seed(0)
    return Flow(perturb(two_levels("coarse"), 0.05), Near(0.1))


def test_log_prob_is_base_plus_logdet() -> None:
    flow, x, y = images(), torch.randn(2, 1, 8, 8), torch.randn(2, 3, 2, 2)
    latents, logdet = flow.bijector(x, y)
    torch.testing.assert_close(flow.log_prob(x, y), Near(0.1).log_prob(latents, y) + logdet)
    torch.testing.assert_close(flow(x, y), flow.log_prob(x, y))


def test_bits_per_dim_by_hand() -> None:
    flow = Flow(Chain(), StandardNormal())
    x = torch.zeros(2, 3, 4, 4)
    torch.testing.assert_close(flow.bits_per_dim(x), torch.full((2,), 0.5 * math.log2(2 * math.pi)))
    halved = Flow(ActNorm(3), StandardNormal())
    nn.init.constant_(halved.bijector.log_scale, math.log(2))
    torch.testing.assert_close(halved.bits_per_dim(x), flow.bits_per_dim(x) - 1)


def test_encode_and_decode_are_the_bijector() -> None:
    flow, x = images(), torch.randn(2, 1, 8, 8)
    latents = flow.encode(x)
    assert isinstance(latents, Latents)
    torch.testing.assert_close(flow.decode(latents), x, atol=1e-4, rtol=1e-4)


def test_sample_shapes() -> None:
    assert plane().sample(5).shape == (5, 2)
    assert plane(3).sample(5, torch.randn(4, 3)).shape == (5, 4, 2)
    assert images().sample(5, torch.randn(4, 3, 2, 3)).shape == (5, 4, 1, 8, 12)
    assert Flow(Squeeze(), StandardNormal(), shape=(1, 4, 6)).sample(3).shape == (3, 1, 4, 6)
    assert Flow(ActNorm(2), StandardNormal()).sample(1).shape == (1, 2)


def test_sample_shapes_of_every_design() -> None:
    lr = torch.randn(2, 3, 2, 2)
    assert Flow(lr_only(), StandardNormal()).sample(3, lr).shape == (3, 2, 1, 8, 8)
    assert Flow(two_levels("lr"), Near()).sample(3, lr).shape == (3, 2, 1, 8, 8)
    context = per_level(torch.zeros(2, 1, 8, 8), 3)
    assert Flow(srflow_like(), StandardNormal(), (1, 8, 8)).sample(3, context).shape == (3, 2, 1, 8, 8)
    coloured = Hierarchy([Level(Haar() >> ActNorm(12), 3)], CoarseToFine([extractor(3)]))
    assert Flow(coloured, Near()).sample(2, torch.rand(1, 3, 5, 7)).shape == (2, 1, 3, 10, 14)


def test_each_sample_belongs_to_its_context() -> None:
    flow = images()
    lr = torch.stack([torch.zeros(3, 2, 2), torch.full((3, 2, 2), 5.0)])
    x = flow.sample(4, lr)
    for i in range(2):
        y = flow.encode(x[:, i]).y
        assert bool(((y - lr[i]).abs() < 0.7).all())


def test_at_temperature_zero_all_samples_are_the_mode() -> None:
    flow, lr = images(), torch.rand(2, 3, 2, 2)
    x = flow.sample(3, lr, temperature=0.0)
    assert torch.equal(x[0], x[1])
    latents = flow.encode(x[0])
    torch.testing.assert_close(latents.y, lr, atol=1e-5, rtol=1e-5)
    assert all(float(z.detach().abs().max()) < 1e-4 for z in latents.z)


def test_a_generator_makes_the_draws_repeatable() -> None:
    flow, lr = images(), torch.rand(2, 3, 2, 2)
    state = torch.get_rng_state()
    first, second, other = (flow.sample(2, lr, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is not touched


def test_the_global_generator_serves_without_one() -> None:
    flow = plane()
    torch.manual_seed(5)
    first = flow.sample(3)
    torch.manual_seed(5)
    assert torch.equal(flow.sample(3), first)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sample_and_log_prob_agree_with_log_prob(temperature: float) -> None:
    for flow, context in ((plane(), None), (plane(3), torch.randn(4, 3)), (images(), torch.rand(4, 3, 2, 2))):
        x, log_prob = flow.double().sample_and_log_prob(3, None if context is None else context.double(), temperature)
        if context is None:
            assert log_prob.shape == (3,)
            torch.testing.assert_close(flow.log_prob(x), log_prob)
            continue
        assert log_prob.shape == (3, 4)
        for row, its in zip(x, log_prob, strict=True):
            torch.testing.assert_close(flow.log_prob(row, context.double()), its, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("bijector", "context"),
    [
        (Squeeze(), None),
        (Coupling(FCN(1, 2), 1, Affine()), None),
        (two_levels("independent"), None),
        (two_levels("external"), per_level(torch.zeros(2, 1, 8, 8), 2)),
    ],
    ids=["no channels", "no channels either", "no size", "contexts per level"],
)
def test_an_unknown_shape_is_asked_for(bijector: Any, context: Any) -> None:
    message = r"Flow.sample: the shape of x is not known; pass it once, Flow\(bijector, base, shape=\(C, H, W\)\)"
    with pytest.raises(ValueError, match=message):
        Flow(bijector, StandardNormal()).sample(2, context)


@pytest.mark.parametrize("context", [0, 3, 4])
@pytest.mark.parametrize(
    ("n", "sizes"), [(4, (4,)), ((4,), (4,)), ((4, 5), (4, 5)), (0, (0,)), ((), ()), (torch.tensor(2), (2,))]
)
def test_the_sizes_of_n_come_first(n: Any, sizes: tuple[int, ...], context: int) -> None:
    if not context:
        x, log_prob = plane().sample_and_log_prob(n)
        assert (x.shape, log_prob.shape) == ((*sizes, 2), sizes)
    for rows in (0, 2):
        x, log_prob = plane(3).sample_and_log_prob(n, torch.randn(rows, 3))
        assert (x.shape, log_prob.shape) == ((*sizes, rows, 2), (*sizes, rows))


@pytest.mark.parametrize("n", [2.0, "a", None, (2, 1.5), torch.tensor(2.0)])
def test_n_is_a_whole_number_or_several(n: Any) -> None:
    with pytest.raises(TypeError, match=r"Flow\.sample: n must be a number of samples, or a tuple of sizes, got"):
        plane().sample(n)


@pytest.mark.parametrize(
    "options", [{"n": -1}, {"n": (2, -1)}, *({"n": 1, "temperature": t} for t in (-1, math.nan, math.inf))]
)
def test_nothing_negative_or_infinite(options: Any) -> None:
    text = r"Flow.sample: (n must not be negative|temperature must be at least 0 and finite), got"
    with pytest.raises(ValueError, match=text):
        plane().sample(**options)


class Log(Bijector):
    """Looks at its numbers."""

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        if (x <= 0).any():
            raise ValueError("Log: x must be positive")
        return x.log(), -x.log().flatten(1).sum(1)

    def inverse(self, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return y.exp(), y.flatten(1).sum(1)


class Observed(Log):
    """Notices every call of its forward, in more than one way, and is not pleased."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        self.calls += 1
        self.norm(x)
        torch.rand(3)
        return x.log(), -x.log().flatten(1).sum(1)


class OnlyBack(Bijector):
    """As an inverse autoregressive flow: no forward."""

    def inverse(self, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return 2 * y, y.new_full((len(y),), math.log(2) * math.prod(y.shape[1:]))


class Halves(Observed):
    """Makes a tree, and says nothing about it."""

    def forward(self, x: Tensor, context: Any = None) -> tuple[Any, Tensor]:
        super().forward(x.exp())
        return (x[:, :1], x[:, 1:]), x.new_zeros(len(x))

    def inverse(self, y: Any, context: Any = None) -> tuple[Tensor, Tensor]:
        return torch.cat(y, 1), y[0].new_zeros(len(y[0]))


@pytest.mark.parametrize(
    "make",
    [
        Log,
        OnlyBack,
        Observed,
        Halves,
        *(lambda c=c: ActNorm(2) >> c() for c in (Log, OnlyBack, Halves)),
        lambda: Log() >> ActNorm(2),
    ],
)
def test_no_map_is_called_forward_to_sample(make: Any) -> None:
    flow = Flow(make(), StandardNormal(), shape=(2,)).train()
    hooked: list[int] = []
    state, before = torch.get_rng_state(), {k: v.clone() for k, v in flow.state_dict().items()}
    for module in flow.modules():
        module.register_forward_hook(lambda *_: hooked.append(1))
    x, log_prob = flow.sample_and_log_prob(5, generator=torch.Generator())
    assert x.shape == (5, 2)
    assert log_prob.shape == (5,)
    assert not hooked
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in flow.state_dict().items())
    assert all(module.calls == 0 for module in flow.modules() if isinstance(module, Observed))


def test_no_pass_is_made_where_the_parts_state_what_they_do() -> None:
    flow = Flow(two_levels("coarse"), Near(0.1))
    seen: list[str] = []
    for module in flow.bijector.modules():
        module.register_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    flow.sample(2, torch.rand(1, 3, 2, 2))
    assert seen.count("Squeeze") == seen.count("Haar") == 0


def test_the_base_may_state_the_shape_of_a_latent() -> None:
    class Shaped(StandardNormal):
        shape = (3, 4)

    assert Flow(OnlyBack(), Shaped()).sample(5).shape == (5, 3, 4)


class Embeds(nn.Module):
    """The net of a flow of vectors given images, in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
        self.net = MLP(1, 2, 8, context_features=3)

    def forward(self, passive: Tensor, context: Tensor) -> Tensor:
        return self.net(passive, self.embed(context))


def test_vectors_given_images_and_images_given_images() -> None:
    c = torch.rand(3, 1, 4, 4)
    vectors = Flow(ActNorm(2) >> Coupling(Embeds(), 1, Affine()), StandardNormal()).train()
    assert vectors.sample(5, c).shape == (5, 3, 2)
    assert vectors.bijector[1].net.embed[1].num_batches_tracked == 1  # the call that draws
    assert Flow(ActNorm(2) >> InvertibleConv1x1(2), StandardNormal()).sample(5, c).shape == (5, 3, 2)
    images = Flow(Coupling(FCN(1, 2, 4, context_channels=1), 1, Affine()), StandardNormal())
    assert Flow(ActNorm(2) >> images.bijector, StandardNormal()).sample(5, c).shape == (5, 3, 2, 4, 4)
    assert Flow(ActNorm(1), Near()).sample(5, c).shape == (5, 3, 1, 4, 4)


def test_sizes_that_do_not_divide() -> None:
    with pytest.raises(
        ValueError, match=r"a context of \(5, 5\) is no output of the bijector, which divides sizes by 1/2"
    ):
        Flow(Squeeze().inv >> ActNorm(3), StandardNormal()).sample(2, torch.rand(1, 3, 5, 5))
    with pytest.raises(ValueError, match=r"Squeeze\(2\): spatial sizes must be multiples of 2, got \(5, 4\)"):
        Flow(Squeeze(), StandardNormal(), shape=(1, 5, 4)).sample(2)


def test_a_part_that_does_not_state_what_it_does_to_sizes_is_found_out() -> None:
    class Silent(Log):
        def inverse(self, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
            return y.repeat_interleave(2, 1), y.new_zeros(len(y))

    with pytest.raises(ValueError, match=r"Flow.sample: expected x of shape \(2,\), the bijector made \(4,\)"):
        Flow(Silent(), StandardNormal(), shape=(2,)).sample(3)


def test_eight_threads_draw_no_sample_twice() -> None:
    flow, drawn = plane().double(), [[] for _ in range(8)]

    def work(mine: list[Tensor]) -> None:
        with torch.no_grad():
            mine.extend(flow.sample(125) for _ in range(100))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in drawn]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    x = torch.cat([part for mine in drawn for part in mine])
    assert len(x) == 100_000
    assert len(x.unique(dim=0)) == len(x)


def test_samples_of_a_flow_without_parameters_have_the_contexts_dtype() -> None:
    flow = Flow(Hierarchy([Level(Squeeze(), 3)]), Near(), shape=(3, 4, 4))
    assert flow.sample(2, torch.rand(1, 3, 2, 2).double()).dtype == torch.float64
    assert flow.bijector.in_channels is None
    assert Flow(Permutation(2), StandardNormal()).double().sample(2).shape == (2, 2)


def test_sampling_carries_gradients_to_the_parameters() -> None:
    flow = Flow(Injector(MLP(1, 4), Affine("exp")), StandardNormal(), shape=(2,))
    flow.sample(3, torch.randn(2, 1)).sum().backward()
    assert flow.bijector.net.layers[-1].bias.grad.abs().sum() > 0


def test_sampling_leaves_the_global_generator_alone() -> None:
    flow = Flow(Dequantize(256) >> ActNorm(3), StandardNormal())
    torch.manual_seed(0)
    before = torch.get_rng_state()
    flow.sample(2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "base",
    [
        StandardNormal(),
        torch.distributions.Normal(torch.zeros(2), torch.ones(2)),
        StudentT(2, df=3.0),
        Box(-torch.ones(2), torch.ones(2)),
    ],
    ids=lambda base: type(base).__name__,
)
def test_fixed_maps_alone_draw_what_they_score(base: Any) -> None:
    """A constant is kept in float64, and says nothing of the draws."""
    flow = Flow(elementwise.Sigmoid().inv >> elementwise.Scale(0.5), base, shape=(2,))
    x = flow.sample(4)
    assert x.dtype == flow.log_prob(x).dtype == torch.float32
    doubled = Flow(flow.bijector, torch.distributions.Normal(torch.zeros(2).double(), torch.ones(2).double()))
    assert doubled.sample(4).dtype == torch.float64
