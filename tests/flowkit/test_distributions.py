"""flowkit in torch.distributions and the other way round: transforms, flows as distributions."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.distributions as d
from torch import Tensor, nn

import flowkit
from flowkit import (
    ActNorm,
    Affine,
    Autoregressive,
    Chain,
    Columns,
    Coupling,
    Elementwise,
    Flow,
    InvertibleConv1x1,
    Mixture,
    Normal,
    RationalQuadratic,
    Split,
    Squeeze,
    StandardNormal,
)
from flowkit.distributions import from_transform, transform
from flowkit.nets import MADE, MLP
from flowkit.testing import check_bijector, perturb


def plane(context: int = 0, base: nn.Module | None = None) -> Flow:
    torch.manual_seed(0)
    parts = [Coupling(MLP(1, 2, 8, context_features=context), 1, Affine("tanh"), flip=flip) for flip in (False, True)]
    return perturb(Flow(Chain(ActNorm(2), *parts, InvertibleConv1x1(2)), base or StandardNormal())).double()


def torch_flow(flow: Flow, context: Tensor | None = None) -> d.TransformedDistribution:
    base = d.Normal(torch.zeros(2).double(), torch.ones(2).double())
    return d.TransformedDistribution(base, [transform(flow.bijector, context=context).inv])


def test_a_transform_is_the_map() -> None:
    b, x = plane().bijector, torch.randn(4, 5, 2).double()
    t = transform(b)
    y, logdet = b(x.flatten(0, 1))
    assert torch.equal(t(x), y.view(4, 5, 2))
    torch.testing.assert_close(t.inv(t(x)), x)
    torch.testing.assert_close(t.log_abs_det_jacobian(x, t(x)), logdet.view(4, 5))
    assert torch.equal(t(x[0]), b(x[0])[0])
    torch.testing.assert_close(t(x[0, 0]), b(x[0, :1])[0][0])
    assert (t.domain.event_dim, t.codomain.event_dim) == (1, 1)


def test_a_distribution_of_torch_takes_it() -> None:
    flow = plane()
    theirs, x = torch_flow(flow), torch.randn(4, 5, 2).double()
    torch.testing.assert_close(theirs.log_prob(x), flow.log_prob(x.flatten(0, 1)).view(4, 5))
    assert theirs.event_shape == (2,)
    assert theirs.sample((3, 4)).shape == (3, 4, 2)
    kept = d.TransformedDistribution(theirs.base_dist, [transform(flow.bijector).with_cache().inv])
    calls: list[int] = []
    flow.bijector.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(kept.log_prob(x), theirs.log_prob(x))
    assert len(calls) == 1 + 2  # the cached one goes through the map once


def test_a_conditional_one() -> None:
    flow, c, x = plane(3), torch.randn(5, 3).double(), torch.randn(4, 5, 2).double()
    theirs = torch_flow(flow, c)
    torch.testing.assert_close(theirs.log_prob(x), torch.stack([flow.log_prob(each, c) for each in x]))


def test_it_is_trained_through_torch() -> None:
    """As a user of torch.distributions or Pyro would: a guide fitted to a target by its samples' densities."""
    flow, target = plane(), d.MultivariateNormal(torch.tensor([1.0, -2.0]).double(), torch.eye(2).double() * 0.3)
    guide = torch_flow(flow)
    optimizer = torch.optim.Adam(flow.parameters(), 0.03)
    torch.manual_seed(0)
    losses = []
    for _ in range(150):
        x = guide.rsample((128,))
        loss = (guide.log_prob(x) - target.log_prob(x)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1
    assert sum(losses[-10:]) / 10 < 0.15
    composed = d.TransformedDistribution(guide, [d.ExpTransform()])  # torch's transforms go on from there
    assert composed.log_prob(torch.ones(3, 2).double()).shape == (3,)


def test_shapes_that_change() -> None:
    t = transform(Squeeze(), event_dim=3)
    assert t.forward_shape(torch.Size((7, 1, 4, 4))) == (7, 4, 2, 2)
    assert t.inverse_shape(torch.Size((4, 2, 2))) == (1, 4, 4)
    images = d.TransformedDistribution(d.Normal(torch.zeros(4, 2, 2), 1.0), [t.inv])
    assert images.event_shape == (1, 4, 4)
    assert images.log_prob(images.sample((3,))).shape == (3,)
    with pytest.raises(ValueError, match="maps to a tree, torch's transforms to a tensor"):
        transform(Split(1))(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="event_dim must be at least 1, got 0"):
        transform(Squeeze(), event_dim=0)


@pytest.mark.parametrize(
    "t",
    [
        d.SigmoidTransform(),
        d.ExpTransform().inv,
        d.AffineTransform(torch.tensor([1.0, 2.0]), torch.tensor([-2.0, 0.5])),
        d.ComposeTransform([d.AffineTransform(1.0, 3.0), d.ExpTransform()]),
        d.IndependentTransform(d.SoftplusTransform(), 1),
    ],
    ids=lambda t: type(t).__name__,
)
def test_a_transform_of_torch_is_a_bijector(t: Any) -> None:
    torch.manual_seed(0)
    b = from_transform(t)
    x = d.transform_to(t.domain)(torch.randn(5, 2))
    check_bijector(b, x)
    y, logdet = b(x)
    torch.testing.assert_close(y, t(x))
    slope = t.log_abs_det_jacobian(x, t(x))
    torch.testing.assert_close(logdet, slope if slope.ndim == 1 else slope.sum(1))
    assert (ActNorm(2) >> b).shrink == 1
    double = copy.deepcopy(b).double()
    assert double(x.double())[0].dtype == torch.float64


def test_there_and_back_again() -> None:
    b = ActNorm(2)
    assert from_transform(transform(b)) is b
    x = torch.randn(3, 2)
    torch.testing.assert_close(from_transform(transform(perturb(b)).inv)(x)[0], b.inverse(x)[0])


def test_outside_of_its_range_there_is_no_density() -> None:
    flow = Flow(from_transform(d.SigmoidTransform()).inv >> ActNorm(2), StandardNormal())
    x = torch.tensor([[0.3, 0.6], [-0.1, 0.5], [0.5, 7.0]], requires_grad=True)
    log_prob = flow.log_prob(x)
    assert log_prob.isfinite().tolist() == [True, False, False]
    assert bool((log_prob[1:] == -math.inf).all())
    assert torch.autograd.grad(log_prob.sum(), x)[0].isfinite().all()
    with pytest.raises(ValueError, match="is not bijective, so it has no density"):
        from_transform(d.AbsTransform())


def test_stick_breaking_makes_a_flow_on_the_simplex() -> None:
    flow = Flow(from_transform(d.StickBreakingTransform()).inv >> ActNorm(2), Normal(2))
    x = flow.sample(6)
    torch.testing.assert_close(x.sum(1), torch.ones(6))
    assert flow.event_shape() == (3,)
    p = flow.distribution(None)
    assert p.event_shape == (3,)
    assert p.log_prob(x).shape == (6,)


# a flow as a distribution


@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("sizes", [(), (4,), (4, 3)])
def test_shapes_are_torchs(context: int, sizes: tuple[int, ...]) -> None:
    flow = plane(context)
    c = torch.randn(5, 3).double() if context else None
    p = flow.distribution(c)
    batch = (5,) if context else ()
    assert (p.batch_shape, p.event_shape) == (batch, (2,))
    for draw in (p.sample, p.rsample):
        assert draw(sizes).shape == (*sizes, *batch, 2)
    x = p.sample(sizes)
    assert not x.requires_grad
    assert p.rsample(sizes).requires_grad
    assert p.log_prob(x).shape == (*sizes, *batch)
    wide = p.expand((6, *(batch or (7,))))
    assert wide.sample(sizes).shape == (*sizes, *wide.batch_shape, 2)
    broadcast = wide.log_prob(x.unsqueeze(-3) if context else x[..., None, None, :])
    torch.testing.assert_close(broadcast[..., 0, :] if context else broadcast[..., 0, 0], p.log_prob(x))
    one = torch.zeros(2).double()
    torch.testing.assert_close(
        p.log_prob(one).expand(batch), flow.log_prob(one.expand(*(batch or (1,)), 2), c).reshape(batch)
    )
    with pytest.raises(RuntimeError):
        wide.expand((4, 2))


@pytest.mark.parametrize(
    "make",
    [
        plane,
        lambda: Flow(ActNorm(2), d.Laplace(torch.zeros(2), torch.ones(2))),
        lambda: Flow(from_transform(d.ExpTransform()), Normal(2)),
    ],
)
def test_arguments_are_validated_by_torchs_rules(make: Any) -> None:
    p = flowkit.distributions.FlowDistribution(make(), validate_args=True)
    dtype = p.sample().dtype
    assert isinstance(p.support, d.constraints.Constraint)
    assert p.support.event_dim == len(p.event_shape)
    assert bool(p.support.check(p.sample((3,))).all())
    for value in (
        torch.zeros(3, 5, dtype=dtype),
        torch.full((2, 2), math.nan, dtype=dtype),
        torch.zeros((), dtype=dtype),
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - torch's own words
            p.log_prob(value)
    with pytest.raises(ValueError):  # noqa: PT011 - torch's own words
        p.log_prob([0.0, 0.0])
    independent = d.Independent(p.expand((3,)), 1)
    assert independent.log_prob(p.sample((3,))).shape == ()
    assert "event_shape: (2,)" in repr(p)


def test_a_support_is_that_of_the_bijector() -> None:
    p = Flow(from_transform(d.ExpTransform()).inv, StandardNormal(), shape=(2,)).distribution()
    assert p.support.check(torch.tensor([[1.0, 2.0], [-1.0, 1.0]])).tolist() == [True, False]
    normal = d.LogNormal(torch.zeros(2), torch.ones(2))
    x = torch.rand(5, 2)
    torch.testing.assert_close(p.log_prob(x), normal.log_prob(x).sum(1))


def test_draws_without_gradients_say_so() -> None:
    p = Flow(ActNorm(2), Mixture(2, 2)).distribution()
    assert not p.has_rsample
    with pytest.raises(NotImplementedError, match="draws of the base Mixture carry no gradients"):
        p.rsample()


def test_a_shape_that_is_not_known() -> None:
    with pytest.raises(ValueError, match="the shape of x is not known"):
        Flow(Squeeze(), StandardNormal()).distribution()


def columns() -> Columns:
    return Columns({0: RationalQuadratic(3, 2.0, ends="circular"), 1: RationalQuadratic(3, 2.0, ends="box")})


@pytest.mark.parametrize(
    "made",
    [
        lambda kind: Autoregressive(MADE(3, kind.counts(3)), kind),
        lambda kind: Coupling(MLP(1, kind.parameters_of(2)), 1, kind),
        lambda kind: Elementwise(kind, [2, 0]),
        lambda kind: Elementwise(kind.kinds[1], [0, 1]),
    ],
)
def test_supports_that_differ_by_column_hold_for_any_leading_sizes(made: Any) -> None:
    b = perturb(made(columns())).double()
    flow = Flow(b, Normal(3).double())
    p = flowkit.distributions.FlowDistribution(flow, validate_args=True)  # zuko's import turns torch's default off
    bounded = [i for i in range(3) if not p.support.check(torch.eye(3)[i].double() * 9)]
    assert len(bounded) == 2
    x = (torch.rand(2, 5, 3) * 2 - 1).double()
    torch.testing.assert_close(p.log_prob(x)[1, 2], p.log_prob(x[1, 2]))
    torch.testing.assert_close(transform(b)(x)[1, 2], transform(b)(x[1, 2]))
    with pytest.raises(ValueError, match="within the support"):
        p.log_prob(torch.full((2, 3, 3), 9.0).double())
    images = Flow(Elementwise(columns(), 2), StandardNormal(), shape=(2, 1, 3)).distribution()
    assert images.log_prob(torch.zeros(4, 5, 2, 1, 3)).shape == (4, 5)


@pytest.mark.parametrize(
    ("t", "edge"),
    [
        (d.SigmoidTransform(), 1.0),
        (d.TanhTransform(), -1.0),
        (d.TanhTransform(), 1.0),
        (d.ExpTransform(), 0.0),
        (d.IndependentTransform(d.SigmoidTransform(), 1), 0.0),
        (d.StackTransform([d.SigmoidTransform(), d.TanhTransform()], -1), 1.0),
        (d.CatTransform([d.SigmoidTransform(), d.TanhTransform()], -1, [1, 1]), 2.0),
    ],
)
def test_on_the_edge_of_a_transforms_range_there_is_no_density(t: Any, edge: float) -> None:
    flow = Flow(from_transform(t).inv >> ActNorm(2), StandardNormal(), shape=(2,))
    x = torch.tensor([[0.5, edge], [0.2, 0.3]], requires_grad=True)
    log_prob = flow.log_prob(x)
    assert log_prob[0] == -math.inf
    assert log_prob[1].isfinite()
    assert torch.autograd.grad(log_prob.sum(), x)[0].isfinite().all()
    assert flow.log_prob(x[:0]).shape == (0,)
    assert flow.log_prob(torch.tensor([[math.nan, 0.5]])).isnan()


def test_the_edge_of_the_simplex_has_no_density() -> None:
    b = from_transform(d.StickBreakingTransform())
    assert b.inverse(torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]))[1].isinf().tolist() == [True, False]


def test_transforms_of_vectors_of_a_size() -> None:
    b = from_transform(d.AffineTransform(torch.zeros(2), torch.full((2,), 3.0), event_dim=1))
    torch.testing.assert_close(b(torch.ones(4, 2))[1], torch.full((4,), 2 * math.log(3)))


def test_what_is_no_transform_and_no_map() -> None:
    with pytest.raises(TypeError, match="from_transform: expected a transform of torch"):
        from_transform(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="transform: expected a bijector, got Linear"):
        transform(nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"must have forward and inverse, got ExpTransform; flowkit\.distributions\.from_"
    ):
        Flow(d.ExpTransform(), StandardNormal())


def test_a_cache_is_not_kept_beyond_a_change_of_the_weights() -> None:
    """The same x is asked for after every epoch."""
    b, x = flowkit.ActNorm(2), torch.randn(4, 2)
    base = d.Independent(d.Normal(torch.zeros(2), torch.ones(2)), 1)
    for t in (transform(b).with_cache().inv, transform(b).inv.with_cache()):
        p = d.TransformedDistribution(base, [t])
        for _ in range(2):
            with torch.no_grad():
                b.bias.add_(1.0)
            expected = flowkit.Flow(b, base).log_prob(x)
            torch.testing.assert_close(p.log_prob(x), expected)
            torch.testing.assert_close(p.log_prob(x), expected)
        y, at_start = b(x)[0], t.inv.log_abs_det_jacobian(x, t.inv(x))
        with torch.no_grad():
            b.log_scale.add_(1.0)
        torch.testing.assert_close(t.inv.log_abs_det_jacobian(x, y), at_start + 2)


def test_what_was_kept_without_a_graph_has_none_later() -> None:
    flow, x = Flow(ActNorm(2), StandardNormal()), torch.randn(64, 2)
    kept = transform(flow.bijector).with_cache().inv
    q = d.TransformedDistribution(d.Independent(d.Normal(torch.zeros(2), torch.ones(2)), 1), [kept])
    with torch.no_grad():
        before = q.log_prob(x)
    after = q.log_prob(x)
    torch.testing.assert_close(after, before)
    after.sum().backward()
    assert flow.bijector.log_scale.grad is not None
