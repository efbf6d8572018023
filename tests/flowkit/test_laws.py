"""Every law over every row of the registry, and over random compositions of rows."""

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from example import Example
from examples import EXAMPLES, Case, cases
from hypothesis import given, settings

import flowkit
from flowkit.testing import laws
from flowkit.tree import leaves, map_leaves

rows = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)


def double(case: Case) -> tuple[Any, Any, Any]:
    return case.b.double(), *(map_leaves(torch.Tensor.double, v) for v in (case.x, case.context))


def exact_laws(example: Example, data: st.DataObject) -> None:
    case = double(data.draw(cases(example)))
    for law in laws.EXACT:
        law(*case)


@rows
@given(data=st.data())
@settings(max_examples=3)  # the smallest case, and two at random
def test_exact_laws(example: Example, data: st.DataObject) -> None:
    exact_laws(example, data)


@pytest.mark.slow
@rows
@given(data=st.data())
@settings(max_examples=12)
def test_exact_laws_at_more_cases(example: Example, data: st.DataObject) -> None:
    exact_laws(example, data)


@rows
@given(data=st.data())
@settings(max_examples=1)
def test_laws_of_use(example: Example, data: st.DataObject) -> None:
    case = double(data.draw(cases(example)))
    for law in laws.REGIMES:
        law(*case)


@pytest.mark.parametrize("example", [e for e in EXAMPLES if any(e.dims)], ids=lambda example: example.name)
@given(data=st.data())
@settings(max_examples=3)
def test_other_image_sizes(example: Example, data: st.DataObject) -> None:
    case = data.draw(cases(example, [dims for dims in example.dims if dims]))
    reference = next(leaves(case.x)).shape[2:]
    step = 1 if isinstance(case.b, flowkit.Inverse) else example.multiple  # what an inverse takes is small already
    size = [s + step * (i + 1) for i, s in enumerate(reference)]
    torch.manual_seed(case.seed)
    laws.image_size(*double(case), size)


@rows
@given(data=st.data())
@settings(max_examples=3)
def test_policies(example: Example, data: st.DataObject) -> None:
    case = data.draw(cases(example))
    for law in laws.POLICIES:
        law(case.b, case.x, case.context)


def test_every_public_bijector_is_in_the_registry() -> None:
    public = {
        value
        for value in vars(flowkit).values()
        if isinstance(value, type)
        and issubclass(value, flowkit.Bijector | flowkit.kinds.Kind | flowkit.conditioning.Given)
    }
    exempt = {flowkit.Bijector, flowkit.NumericKind, flowkit.Given}  # base classes
    exempt |= {flowkit.Dequantize, flowkit.Augment, flowkit.Slice}  # the stochastic maps
    shown: set[type] = set()
    for example in EXAMPLES:
        for module in example.bijector(0).modules():
            shown |= {type(module), type(getattr(module, "kind", None))}
    assert public - exempt - shown == set()


SAME_SHAPE = [e for e in EXAMPLES if e.keeps_shape and 2 in e.dims]


@st.composite
def compositions(draw: st.DrawFn) -> Case:
    """Random chains of shape-preserving maps, some inverted, alone or as the parts of a random hierarchy."""
    seed = draw(st.integers(0, 2**16))
    torch.manual_seed(seed)

    def chain() -> flowkit.Bijector:
        parts = []
        for example in draw(st.lists(st.sampled_from(SAME_SHAPE), max_size=4)):
            b = example.bijector(draw(st.integers(0, 2**16)))
            parts.append(b.inv if draw(st.booleans()) else b)
        return flowkit.Chain(*parts)

    if draw(st.booleans()):
        x = torch.randn(2, 4, draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        return Case(chain(), x, torch.randn(2, 3, *x.shape[2:]), seed)
    # 4 channels in every body and 4 in every latent: a level squeezes c to 4c, mixes 4 of them at a time
    levels = [
        flowkit.Level(flowkit.Squeeze() >> chain(), keep=draw(st.integers(1, 3))),
        flowkit.Level(draw(st.sampled_from([flowkit.Squeeze, flowkit.Haar]))(), keep=None),
    ]
    x = torch.randn(2, 1, 4 * draw(st.integers(1, 2)), 4)
    context = (torch.randn(2, 3, x.shape[2] // 2, 2), None)
    return Case(flowkit.Hierarchy(levels), x, context, seed)


@given(case=compositions())
@settings(max_examples=40)
def test_random_compositions(case: Case) -> None:
    b, x, context = double(case)
    for law in laws.EXACT:
        law(b, x, context)
    laws.precision(b.float(), case.x, case.context)
