"""What a flow is conditioned on: embeddings, labels, several leading sizes."""

from typing import Any

import pytest
import torch
from examples import two_levels
from torch import Tensor, nn

from flowkit import (
    ActNorm,
    Affine,
    Chain,
    Coupling,
    Flow,
    Hierarchy,
    Injector,
    Level,
    Mixture,
    Near,
    Normal,
    Squeeze,
    StandardNormal,
    initialize,
)
from flowkit.nets import FCN, MLP
from flowkit.testing import perturb


class Counted(nn.Module):
    """Embeds labels, and counts calls and rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.rows: list[int] = []

    def forward(self, labels: Tensor) -> Tensor:
        self.rows.append(len(labels))
        return self.table(labels)


def coupling(features: int = 3) -> Chain:
    parts = [Coupling(MLP(1, 2, 8, context_features=features), 1, Affine("tanh"), flip=flip) for flip in (False, True)]
    return Chain(ActNorm(2), *parts)


def labelled(base: nn.Module | None = None) -> Flow:
    torch.manual_seed(0)
    return perturb(Flow(coupling(), StandardNormal() if base is None else base, embed=Counted()), 0.3)


def test_labels_are_embedded_once_before_rows_are_repeated_and_with_gradients() -> None:
    flow, labels = labelled(), torch.tensor([0, 4, 2])
    for call in (
        lambda: flow.log_prob(torch.randn(3, 2), labels),
        lambda: flow.log_prob(torch.randn(6, 2), labels),
        lambda: flow.sample_and_log_prob(7, labels)[1],
        lambda: flow.sample((2, 2), labels),
        lambda: flow.encode(torch.randn(3, 2), labels),
        lambda: flow.decode(torch.randn(3, 2), labels),
        lambda: flow.bits_per_dim(torch.randn(3, 2), labels),
    ):
        flow.embed.rows.clear()
        flow.zero_grad()
        call().sum().backward()
        assert flow.embed.rows == [3]
        assert flow.embed.table.weight.grad[labels].abs().sum() > 0


def test_an_embedding_is_what_the_bijector_is_given() -> None:
    flow, labels, x = labelled(), torch.tensor([0, 4, 2]), torch.randn(3, 2)
    plain = Flow(flow.bijector, flow.base)
    vectors = flow.embed.table(labels)
    assert torch.equal(flow.log_prob(x, labels), plain.log_prob(x, vectors))
    drawn = [f.sample(4, c, generator=torch.Generator().manual_seed(0)) for f, c in ((flow, labels), (plain, vectors))]
    assert torch.equal(*drawn)
    torch.testing.assert_close(flow.decode(flow.encode(x, labels), labels), x)
    assert flow.state_dict().keys() - plain.state_dict().keys() == {"embed.table.weight"}
    with pytest.raises(ValueError, match="Flow: embed= needs a context, and none was given"):
        flow.log_prob(x)
    initialize(flow, 5 + 3 * torch.randn(500, 2), torch.zeros(500, dtype=torch.long))
    assert flow.bijector[0].initialized


def test_the_base_gets_the_context_as_it_came() -> None:
    flow, labels = labelled(Mixture(2, 2, classes=5)), torch.tensor([0, 4, 2])
    x, log_prob = flow.sample_and_log_prob(4, labels)
    assert x.shape == (4, 3, 2)
    torch.testing.assert_close(flow.log_prob(x, labels), log_prob)
    images = Flow(two_levels("independent"), Near(0.1), shape=(1, 8, 8), embed=lambda y: None)
    y = torch.rand(2, 3, 2, 2)
    assert images.sample(3, y).shape == (3, 2, 1, 8, 8)
    torch.testing.assert_close(images.encode(images.sample(1, y, temperature=0)[0], y).y, y, atol=1e-4, rtol=1e-4)


def test_an_image_becomes_a_vector() -> None:
    embed = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    flow = perturb(Flow(coupling(), StandardNormal(), embed=embed))
    assert flow.sample(5, torch.rand(3, 1, 4, 4)).shape == (5, 3, 2)


@pytest.mark.parametrize("base", [Normal(2), None, torch.distributions.Laplace(torch.zeros(2), torch.ones(2))])
def test_any_leading_sizes(base: Any) -> None:
    shape = (2,) if base is None else None
    flow = perturb(Flow(coupling(3), base or StandardNormal(), shape))
    x, c = torch.randn(4, 5, 2), torch.randn(5, 3)
    rows = torch.stack([flow.log_prob(each, c) for each in x])
    torch.testing.assert_close(flow.log_prob(x, c), rows)  # the last size is that of the context
    torch.testing.assert_close(flow.log_prob(x, c.expand(4, 5, 3)), rows)  # one context for each
    torch.testing.assert_close(flow.bits_per_dim(x, c), flow.bits_per_dim(x.flatten(0, 1), c).view(4, 5))
    torch.testing.assert_close(flow.log_prob(x[0, 0], c[0]), rows[0, 0])
    z = flow.encode(x, c)
    assert z.shape == x.shape
    torch.testing.assert_close(flow.decode(z, c), x)
    drawn, log_prob = flow.sample_and_log_prob((3, 4), c)
    torch.testing.assert_close(flow.log_prob(drawn, c), log_prob)
    assert flow.log_prob(torch.zeros(0, 5, 2), c).shape == (0, 5)


def test_labels_have_the_leading_sizes_too() -> None:
    flow, x = labelled(Normal(2)), torch.randn(4, 5, 2)
    labels = torch.randint(5, (4, 5))
    expected = torch.stack([flow.log_prob(each, row) for each, row in zip(x, labels, strict=True)])
    torch.testing.assert_close(flow.log_prob(x, labels), expected)


def test_leading_sizes_only_where_the_shape_is_stated() -> None:
    images = Flow(ActNorm(2), StandardNormal())
    assert images.log_prob(torch.zeros(3, 2, 4)).shape == (3,)
    stated = Flow(ActNorm(2), StandardNormal(), shape=(2, 4))
    assert stated.log_prob(torch.zeros(3, 2, 4)).shape == (3,)
    assert stated.log_prob(torch.zeros(3, 2, 6)).shape == (3,)  # any size, of as many dimensions
    assert stated.log_prob(torch.zeros(5, 3, 2, 4)).shape == (5, 3)


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 1, 1)])
def test_a_vector_is_seen_by_every_level_and_pixel(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    channels = 1 if len(shape) == 1 else 3

    def body(c: int) -> Chain:
        net = FCN(c // 2, c, 8, context_channels=channels)
        pixel = Injector(Rows(channels, 2 * c), Affine("tanh"))
        return Squeeze() >> Coupling(net, c // 2, Affine("tanh")) >> pixel

    flow = perturb(Flow(Hierarchy([Level(body(4), 2), Level(body(8))]), StandardNormal(), shape=(1, 8, 8)), 0.2)
    x, c = torch.randn(2, 1, 8, 8), torch.randn(shape)
    as_map = c.reshape(2, channels, 1, 1)
    maps = tuple(as_map.expand(2, channels, size, size) for size in (4, 2))
    torch.testing.assert_close(flow.log_prob(x, c), flow.log_prob(x, maps))
    assert not torch.allclose(flow.log_prob(x, c), flow.log_prob(x, c + 1))
    assert flow.sample(3, c).shape == (3, 2, 1, 8, 8)


class Rows(nn.Module):
    """A linear map of a context, pixel by pixel if it has some."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, context: Tensor) -> Tensor:
        context = context[:, None] if context.ndim == 1 else context
        return self.linear(context.movedim(1, -1)).movedim(-1, 1)


def test_contexts_that_fit_both_ways_are_refused() -> None:
    """Three draws of three rows, each of three channels: one context for each x, or three for all draws?"""
    net = nn.Sequential(nn.Flatten(-2), nn.Linear(12, 2))
    flow = Flow(Injector(nn.Sequential(net, nn.Linear(2, 4)), Affine("tanh")), Normal(2))
    context = torch.randn(3, 3, 4)
    x, log_prob = flow.sample_and_log_prob(3, context)
    for call in (flow.log_prob, flow.encode, flow.decode, flow.bits_per_dim):
        with pytest.raises(ValueError, match=r"context of \(3, 3, 4\) .* may be one for each x or 3 rows for all"):
            call(x, context)
    rows = flow.log_prob(x.flatten(0, 1), context.repeat(3, 1, 1)).view(3, 3)
    torch.testing.assert_close(rows, log_prob)
    torch.testing.assert_close(flow.distribution(context).log_prob(x), log_prob)  # of which the rows are known
    other, log_prob = flow.sample_and_log_prob(2, context)
    torch.testing.assert_close(flow.log_prob(other, context), log_prob)


def test_contexts_that_fit_no_leading_size_are_refused() -> None:
    """Their rows would go to the wrong x wherever the sizes happen to divide."""
    flow = Flow(Coupling(MLP(1, 2, 8, context_features=3), 1, Affine("tanh")), StandardNormal(), shape=(2,))
    x = torch.randn(5, 6, 4, 2)
    for rows in (4, 1):
        c = torch.randn(rows, 3)
        assert torch.equal(flow.log_prob(x, c)[2, 3], flow.log_prob(x[2, 3], c))
    for rows in (3, 24):
        with pytest.raises(ValueError, match=r"leading sizes \(5, 6, 4\) has the same in front, or 4 rows, or one"):
            flow.log_prob(x, torch.randn(rows, 3))
