"""torch.export with any batch, and the transforms of torch.func, over every row of the registry; empty batches."""

from typing import Any

import pytest
import torch
from example import Example
from examples import EXAMPLES, case, of_new_parts

from flowkit import ODE, ActNorm, Hierarchy, InvertibleConv1x1, NumericKind, Permutation, Residual, Reversible
from flowkit.nets import FCN
from flowkit.testing import laws

rows = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)


def small(example: Example) -> Any:
    return case(example, seed=0, batch=2, dims=max(d for d in example.dims if d < 3), size=(1, 2))


def quick(example: Example) -> bool:
    """A hierarchy and an unrolled root take seconds each: those in the slow run only."""
    nested = any(isinstance(module, Hierarchy) for module in example.make().modules())
    rooted = any(isinstance(getattr(module, "kind", None), NumericKind) for module in example.make().modules())
    return not nested and (not rooted or example.name == "mixture")


SLOW = [example for example in EXAMPLES if not quick(example)]
QUICK = of_new_parts([example for example in EXAMPLES if quick(example)])


@pytest.mark.parametrize("example", [*QUICK, *(pytest.param(e, id=e.name, marks=pytest.mark.slow) for e in SLOW)])
def test_exports_with_any_batch(example: Example) -> None:
    its = small(example)
    if any(isinstance(module, ODE | Residual) for module in its.b.modules()):  # it differentiates its net, see there
        with pytest.raises(AssertionError, match="breaks the law: exports"):
            laws.exported(its.b.eval(), its.x, its.context)
    else:
        laws.exported(its.b.eval(), its.x, its.context)


# torch's own rules of forward mode are made with it
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@rows
def test_transforms(example: Example) -> None:
    its = small(example)
    if isinstance(its.b, Reversible):  # its backward pass is its own, see there
        with pytest.raises(AssertionError, match=r"breaks the law: (vmap|jacrev|jacfwd)"):
            laws.transformed(its.b, its.x, its.context)
    else:
        laws.transformed(its.b, its.x, its.context)


@rows
@pytest.mark.parametrize("law", laws.OURS, ids=lambda law: law.__name__)
def test_laws_of_our_own(example: Example, law: Any) -> None:
    its = small(example)
    law(its.b, its.x, its.context)


def test_meta_device() -> None:
    with torch.device("meta"):
        made = Permutation(4) >> ActNorm(4), Permutation([1, 0]), FCN(2, 4)
    assert all(tensor.is_meta for b in made for tensor in (*b.parameters(), *b.buffers()))
    with torch.no_grad():
        y, logdet = (made[0] >> InvertibleConv1x1(4).to("meta"))(torch.empty(3, 4, 2, 2, device="meta"))
        assert (y.shape, logdet.shape) == ((3, 4, 2, 2), (3,))
        assert made[2](torch.empty(3, 2, 5, 5, device="meta")).shape == (3, 4, 5, 5)
    for b, twin in ((made[0], Permutation(4) >> ActNorm(4)), (made[2], FCN(2, 4))):
        b.load_state_dict(b.state_dict(), assign=True)
        b.load_state_dict(twin.state_dict(), assign=True)
        assert not any(tensor.is_meta for tensor in (*b.parameters(), *b.buffers()))
        assert all(torch.equal(p, q) for p, q in zip(b.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_a_permutation_of_another_dtype_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"{dtype}.* is not a permutation of 0 … 1"):
        Permutation(torch.tensor([1, 0]).to(dtype))
    assert Permutation(torch.tensor([1, 0], dtype=torch.int32)).order.dtype == torch.int64
