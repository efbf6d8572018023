"""The checker names every flaw of the list, whatever mode it is handed over in, and none of what is right."""

import threading

import numpy as np
import pytest
import torch
from examples import EXAMPLES, case
from flaws import FLAWS, PlainAttribute, Scale
from nflows import transforms
from nflows.nn.nets import ResidualNet

from flowkit import ActNorm, Bijector, Chain
from flowkit.nflows import from_nflows
from flowkit.testing import check_bijector

SIZES = [(2, 6), (3, 5)]


def given() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(2, 3, 2, 4, 4, generator=generator)
    return x, context


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.__name__)
def test_every_flaw_is_named(flaw: type[Scale], training: bool) -> None:
    with pytest.raises(AssertionError, match=f"{flaw.__name__} breaks the law: .*({FLAWS[flaw]})"):
        check_bijector(flaw().train(training), *given(), sizes=SIZES)


def test_there_are_enough() -> None:
    assert len(FLAWS) >= 33


@pytest.mark.parametrize("right", [Scale, PlainAttribute])
def test_what_is_right_passes(right: type[Scale]) -> None:
    x, context = given()
    check_bijector(right(), x, context, sizes=SIZES)
    check_bijector(right(), x, sizes=SIZES)
    check_bijector(right(), x[:, :, 0, 0], context[:, :, 0, 0])


class Logit(Bijector):
    """(0, 1) to all reals; it refuses what lies outside."""

    domain = torch.distributions.constraints.unit_interval

    def forward(self, x, context=None):
        if not bool(((x > 0) & (x < 1)).all()):
            raise ValueError("Logit: x must lie in (0, 1)")
        return x.logit(), -(x.log() + (-x).log1p()).flatten(1).sum(1)

    def inverse(self, y, context=None):
        x = y.sigmoid()
        return x, (torch.nn.functional.logsigmoid(y) + torch.nn.functional.logsigmoid(-y)).flatten(1).sum(1)


class Log(Bijector):
    """Positive numbers to all reals."""

    domain = torch.distributions.constraints.positive

    def forward(self, x, context=None):
        if not bool((x > 0).all()):
            raise ValueError("Log: x must be positive")
        return x.log(), -x.log().flatten(1).sum(1)

    def inverse(self, y, context=None):
        return y.exp(), y.flatten(1).sum(1)


# each seed is some seconds of the same laws at other numbers: most of them in the slow run
SEEDS = [pytest.param(seed, marks=[pytest.mark.slow] if seed > 1 else []) for seed in range(5)]


@pytest.mark.parametrize("kind", [Logit, Log])
@pytest.mark.parametrize("says", [True, False], ids=["stated", "unstated"])
@pytest.mark.parametrize("seed", SEEDS)
def test_maps_of_a_bounded_domain_pass_with_sizes(seed: int, kind: type[Bijector], says: bool) -> None:
    b = kind()
    if not says:
        b.domain = Bijector.domain
    x = 0.01 + 0.98 * torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    check_bijector(b, x, sizes=SIZES)
    check_bijector(b >> ActNorm(2), x, sizes=SIZES)
    if says:
        check_bijector(b.inv, x.logit(), sizes=SIZES)
        check_bijector(ActNorm(2) >> b.inv, x.logit(), sizes=SIZES)
        check_bijector(b.inv >> ActNorm(2), x.logit(), sizes=SIZES)


class Steep(Scale):
    """Onto, but beyond some y its x is more than a float can say, and before that all digits of x are lost."""

    def log_scale(self, x, context):
        return super().log_scale(x, context).cumsum(1)

    def forward(self, x, context=None):
        y, logdet = super().forward(x, context)
        for _ in range(3):
            y, logdet = y.asinh(), logdet - 0.5 * (1 + y**2).log().flatten(1).sum(1)
        return y, logdet

    def inverse(self, y, context=None):
        steep = y.new_zeros(y.shape[0])
        for _ in range(3):
            y, steep = y.sinh(), steep + y.cosh().log().flatten(1).sum(1)
        x, logdet = super().inverse(y, context)
        return x, logdet + steep


@pytest.mark.parametrize("seed", SEEDS)
def test_floats_that_end_are_no_edge(seed: int) -> None:
    with torch.no_grad():
        assert not Steep().double().inverse(torch.full((1, 2), 9.0).double())[0].isfinite().all()
    torch.manual_seed(seed)
    check_bijector(Steep(), torch.randn(3, 2, 4, 4))


def test_adapted_transforms_state_no_codomain() -> None:
    for transform in (transforms.Tanh(), transforms.Logit()):
        check_bijector(from_nflows(transform), 0.1 + 0.8 * torch.rand(3, 2))


def test_an_image_that_nobody_states_is_asked_for() -> None:
    class Sigmoid(Bijector):
        forward, inverse = Logit.inverse, Logit.forward

    with pytest.raises(AssertionError, match=r"Sigmoid breaks the law: onto: .*states its codomain"):
        check_bijector(Sigmoid(), torch.randn(3, 2))


def test_the_random_streams_of_the_process_are_left_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    seen = []

    def draw() -> None:
        while not done.is_set():
            seen.append(float(torch.rand((), dtype=torch.float64)))

    done = threading.Event()
    thread = threading.Thread(target=draw)
    check_bijector(Scale(), *given(), sizes=SIZES)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    thread.start()
    check_bijector(Scale().eval(), given()[0])
    done.set()
    thread.join()
    assert len(set(seen)) == len(seen)  # nobody rewound the stream meanwhile


def theirs(seed: int) -> torch.nn.Module:
    """Transforms of vectors of 4 numbers, with a network of their own where they need one."""

    def net(inputs: int, outputs: int) -> torch.nn.Module:
        return ResidualNet(inputs, outputs, 8, num_blocks=1)

    mask = torch.tensor([1, 0, 1, 0])
    return (
        lambda: transforms.AffineCouplingTransform(mask, net),
        lambda: transforms.AdditiveCouplingTransform(mask, net),
        lambda: transforms.PiecewiseRationalQuadraticCouplingTransform(mask, net, 4, tails="linear", tail_bound=3.0),
        lambda: transforms.MaskedAffineAutoregressiveTransform(4, 8, num_blocks=1),
        lambda: transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
            4, 4, 8, num_blocks=1, tails="linear", tail_bound=3.0
        ),
        lambda: transforms.LULinear(4, identity_init=False),
        lambda: transforms.QRLinear(4, num_householder=2),
        lambda: transforms.SVDLinear(4, num_householder=2),
        lambda: transforms.RandomPermutation(4),
        lambda: transforms.HouseholderSequence(4, 2),
        lambda: transforms.PointwiseAffineTransform(0.5, 2.0),
        transforms.LeakyReLU,
        transforms.LogTanh,
        lambda: transforms.CompositeTransform([transforms.ReversePermutation(4), transforms.LULinear(4)]),
    )[seed % 14]()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.triangular_solve is deprecated")
@pytest.mark.parametrize("seed", range(200))
def test_no_false_alarm_about_nflows(seed: int) -> None:
    torch.manual_seed(seed)
    check_bijector(Chain(theirs(seed)), torch.randn(3, 4))  # alone they run in low precision under autocast


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_no_false_alarm_about_the_registry(seed: int) -> None:
    example = EXAMPLES[seed % len(EXAMPLES)]
    its = case(example, seed, 3, max(d for d in example.dims if d < 3), (2, 2))
    check_bijector(its.b, its.x, its.context)
