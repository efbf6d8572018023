"""The registry: one row per bijector. Every law runs over all of it, and over random compositions of its rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import rows_auto
import rows_bases
import rows_continuous
import rows_kinds
import rows_maps
import rows_tokens
import torch
from example import Example
from hypothesis import strategies as st

import flowkit
from flowkit import (
    ActNorm,
    Additive,
    Affine,
    Bijector,
    Chain,
    CoarseToFine,
    Coupling,
    External,
    Haar,
    Hierarchy,
    Independent,
    Injector,
    InvertibleConv1x1,
    Level,
    MixtureLogistic,
    Permutation,
    RationalQuadratic,
    Reversible,
    SingleScale,
    Split,
    Squeeze,
)
from flowkit.nets import FCN, MLP, DenseBlock, Interleave
from flowkit.spatial import Patch
from flowkit.testing.compare import placed, stated


@dataclass(frozen=True)
class Case:
    """A bijector with an input and a context, all float32."""

    b: Bijector
    x: Any
    context: Any
    seed: int


def case(example: Example, seed: int, batch: int, dims: int, size: tuple[int, ...]) -> Case:
    b = example.bijector(seed)
    inside = b.bijector if isinstance(b, flowkit.Inverse) else b
    numbers = torch.randn(batch, example.channels, *(s * example.multiple for s in size[:dims]))
    x = placed(stated(inside, "domain"), numbers)
    context = example.context(x)
    if b is not inside:  # its input is what the inside returns
        x = inside(x, context)[0]
    return Case(b, flowkit.tree.map_leaves(torch.Tensor.detach, x), context, seed)


@st.composite
def cases(draw: st.DrawFn, example: Example, numbers_of_dims: Sequence[int] | None = None) -> Case:
    """Random parameters, batch, spatial dimensions (of those that the row takes, or of these) and sizes."""
    dims = draw(st.sampled_from(numbers_of_dims or example.dims))
    largest = 3 if example.multiple < 4 else 2
    size = tuple(draw(st.integers(1, largest)) for _ in range(dims))
    return case(example, draw(st.integers(0, 2**16)), draw(st.integers(2, 3)), dims, size)


def of_new_parts(examples: list[Example]) -> list[Any]:
    """Rows for pytest: one made of classes that earlier rows have is for the slow run, since its code is theirs."""
    seen: set[type] = set()
    marked = []
    for example in examples:
        parts = {part for m in example.make().modules() for part in (type(m), type(getattr(m, "kind", None)))}
        marked.append(pytest.param(example, id=example.name, marks=[pytest.mark.slow] if parts <= seen else []))
        seen |= parts
    return marked


def spatial_context(x: torch.Tensor) -> torch.Tensor:
    return torch.randn(len(x), 3, *x.shape[2:])


def vector_net(channels: int, per_channel: int, context: int = 0, keep: int = 2) -> MLP:
    return MLP(keep, per_channel * (channels - keep), hidden=8, context_features=context)


def image_net(channels: int, per_channel: int, context: int = 0, keep: int = 2) -> FCN:
    return FCN(keep, per_channel * (channels - keep), hidden=6, context_channels=context)


def step(channels: int, context: int = 0, kind: Any = None) -> Chain:
    """A flow step of the paper: ActNorm, 1×1 convolution, affine coupling."""
    kind = Affine("atan") if kind is None else kind
    keep = channels // 2
    net = FCN(keep, kind.parameters * (channels - keep), hidden=6, context_channels=context)
    return ActNorm(channels) >> InvertibleConv1x1(channels) >> Coupling(net, keep, kind)


class Latent(Chain):
    """Conditional step and learned prior: the latent flow of an HCFlow level."""

    def __init__(self, channels: int, context: int) -> None:
        prior = Affine("exp", "scale_first", inverted=True)
        super().__init__(step(channels, context), Injector(FCN(context, 2 * channels, hidden=6, init_std=0.2), prior))


def extractor(channels: int, features: int = 2) -> torch.nn.Module:
    return torch.nn.Conv2d(channels, features, 3, padding=1)


def two_levels(given: str) -> Hierarchy:
    """The designs of Table 1 on two levels: 1 → 2 | 2 → 3 | 5 channels."""
    features = {"independent": 0, "single": 2, "coarse": 2, "lr": 2, "external": 3}[given]
    levels = [
        Level(Squeeze() >> step(4), keep=2, latent=Latent(2, features) if features else step(2)),
        Level(Haar() >> step(8), keep=3, latent=Latent(5, features) if features else step(5)),
    ]
    designs = {
        "independent": Independent,
        "single": lambda: SingleScale([extractor(2), extractor(3)]),
        "coarse": lambda: CoarseToFine([extractor(4), extractor(3)]),
        "lr": lambda: CoarseToFine([extractor(4), extractor(3)], start="lr"),
        "external": External,
    }
    return Hierarchy(levels, designs[given]())


def lr_only() -> Hierarchy:
    """Case 2: no y in the latent, the condition is the LR image."""
    levels = [
        Level(Squeeze() >> step(4), keep=2, latent=Latent(2, 2)),
        Level(Squeeze() >> step(8), keep=None, latent=Latent(8, 2)),
    ]
    return Hierarchy(levels, CoarseToFine([extractor(4), extractor(3)], start="lr"))


def srflow_like() -> Hierarchy:
    """Bodies conditioned from outside, a split prior that sees y, a level without a split."""
    prior = Injector(FCN(2, 4, hidden=6), Affine("exp", "scale_first", inverted=True))

    def body(channels: int) -> Chain:
        kind = Affine("sigmoid")
        return Squeeze() >> Injector(FCN(3, 2 * channels, hidden=6), kind) >> step(channels, 3, kind)

    levels = [Level(body(4), keep=2, latent=prior), Level(body(8)), Level(body(32))]
    return Hierarchy(levels, SingleScale([torch.nn.Identity(), None, None]))


def per_level(x: torch.Tensor, levels: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(len(x), 3, x.shape[2] // 2**i, x.shape[3] // 2**i) for i in range(1, levels + 1))


def lr_context(x: torch.Tensor) -> torch.Tensor:
    return torch.randn(len(x), 3, x.shape[2] // 4, x.shape[3] // 4)


IMAGE = (2,)
VECTOR = (0,)
EXAMPLES = [
    Example("identity", Chain),
    Example("actnorm", lambda: ActNorm(4)),
    Example("conv1x1", lambda: InvertibleConv1x1(4)),
    Example("conv1x1 plu", lambda: InvertibleConv1x1(4, "plu")),
    Example("conv1x1 from identity", lambda: InvertibleConv1x1(4, init="identity")),
    Example("permutation", lambda: Permutation([2, 0, 3, 1])),
    Example("squeeze", Squeeze, 2, IMAGE, 2),
    Example("squeeze 3", lambda: Squeeze(3), 1, IMAGE, 3),
    Example("haar", Haar, 2, IMAGE, 2),
    Example("patch", lambda: Patch(2), 2, IMAGE, 2),
    Example("patch 3", lambda: Patch(3), 1, IMAGE, 3),
    Example("split", lambda: Split(1)),
    Example("inverse of split", lambda: Split(1).inv),
    Example("inverse of haar", lambda: Haar().inv, 2, IMAGE, 2),
    Example("inverse of conv1x1", lambda: InvertibleConv1x1(4).inv),
    *(
        Example(
            f"affine {scale} {order}",
            lambda s=scale, o=order: Coupling(image_net(4, 2), 2, Affine(s, o)),
            4,
            IMAGE,
        )
        for scale in ("atan", "sigmoid", "tanh", "exp", "soft", "softplus")
        for order in ("shift_first", "scale_first")
    ),
    Example("affine on vectors", lambda: Coupling(vector_net(4, 2), 2, Affine("exp")), 4, VECTOR),
    Example("affine inverted", lambda: Coupling(image_net(4, 2), 2, Affine(inverted=True)), 4, IMAGE),
    Example("affine flip", lambda: Coupling(FCN(1, 6, 6), 3, Affine("tanh"), flip=True), 4, IMAGE),
    Example("two nets", lambda: Coupling(Interleave(DenseBlock(1, 3, 2), FCN(1, 3, 4)), 1, Affine("tanh")), 4, IMAGE),
    Example("additive", lambda: Coupling(DenseBlock(2, 2, 3), 2, Additive()), 4, IMAGE),
    Example("spline", lambda: Coupling(vector_net(4, 11), 2, RationalQuadratic(4)), 4, VECTOR),
    Example("spline wide", lambda: Coupling(image_net(4, 8), 2, RationalQuadratic(3, tail_bound=3.0)), 4, IMAGE),
    Example("mixture", lambda: Coupling(vector_net(4, 9), 2, MixtureLogistic(3)), 4, VECTOR),
    Example("mixture on images", lambda: Coupling(image_net(4, 6), 2, MixtureLogistic(2)), 4, IMAGE),
    Example(
        "conditional coupling",
        lambda: Coupling(image_net(4, 2, 3), 2, Affine("atan")),
        4,
        IMAGE,
        1,
        spatial_context,
    ),
    Example("injector", lambda: Injector(FCN(3, 8, 6), Affine("sigmoid")), 4, IMAGE, 1, spatial_context),
    Example(
        "injected spline",
        lambda: Injector(MLP(3, 32, 8), RationalQuadratic(3)),
        4,
        VECTOR,
        1,
        spatial_context,
    ),
    Example("learned prior", lambda: Latent(4, 3), 4, IMAGE, 1, spatial_context),
    Example("reversible", lambda: Reversible(step(4, 3) >> step(4)), 4, IMAGE, 1, spatial_context),
    Example("chain", lambda: step(4) >> step(4), 4, IMAGE),
    Example("glow", lambda: Hierarchy([Level(Squeeze() >> step(4), 2), Level(Squeeze() >> step(8))]), 1, IMAGE, 4),
    Example("inverse of glow", lambda: two_levels("independent").inv, 1, IMAGE, 4),
    Example("independent", lambda: two_levels("independent"), 1, IMAGE, 4),
    Example("single scale", lambda: two_levels("single"), 1, IMAGE, 4),
    Example("coarse to fine", lambda: two_levels("coarse"), 1, IMAGE, 4),
    Example("coarse to fine from lr", lambda: two_levels("lr"), 1, IMAGE, 4, lr_context),
    Example("external", lambda: two_levels("external"), 1, IMAGE, 4, lambda x: per_level(x, 2)),
    Example("no y, from lr", lr_only, 1, IMAGE, 4, lr_context),
    *rows_kinds.ROWS,
    Example("srflow-like", srflow_like, 1, IMAGE, 8, lambda x: per_level(x, 3)),
    *rows_continuous.ROWS,
    *rows_tokens.ROWS,
    *rows_auto.ROWS,
    *rows_bases.ROWS,
    *rows_maps.ROWS,
]
BY_NAME = {example.name: example for example in EXAMPLES}
