"""The page that sets flowkit beside nflows, normflows and FrEIA: its sources run and invert, its tables are true."""

import contextlib
import functools
import importlib
import math
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import flowkit

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "recipes" / "benchmark" / "peers"
PAGE = (ROOT / "docs" / "peers.md").read_text()
SOURCES = sorted(p.stem for p in FOLDER.glob("[a-z]*_*.py"))

# the other libraries call functions of torch that are on their way out, and have unescaped strings
pytestmark = [
    pytest.mark.bench,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def sources() -> Iterator[Callable[[str], Any]]:
    """Imports a file of the folder by its name."""
    for needed in ("normflows", "FrEIA"):
        pytest.importorskip(needed)
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path.remove(str(FOLDER))
    for name in (*SOURCES, "count"):
        sys.modules.pop(name, None)


@contextlib.contextmanager
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


class Peer:
    """A flow of one source at a tiny size, in float64, ActNorms set and parameters perturbed."""

    def __init__(self, name: str, sources: Callable[[str], Any]) -> None:
        kind, self.library = name.split("_")
        torch.manual_seed(0)
        self.module: ModuleType = sources(name)
        self.conditional = kind in ("hcflow", "design")
        sized = kind != "realnvp" and not (self.library == "flowkit" and self.conditional)
        with float64_by_default():  # FrEIA keeps inverse matrices, in the precision they were made in
            self.flow: Any = (self.module.build(8) if sized else self.module.build()).double()
            self.x = torch.randn(4, 2) if kind == "realnvp" else torch.rand(4, 3, 8, 8)
            self.context = (torch.rand(4, 3, 2, 2),) if self.conditional else ()
        if self.library == "flowkit":
            flowkit.initialize(self.flow, self.x, *self.context)
        self.log_prob(self.x, *self.context)  # the others' ActNorms set themselves
        perturb(self.flow)
        self.flow.eval()
        if hasattr(self.flow, "encode") and self.library == "freia":
            self.encode, self.decode = lambda x, _: (self.flow.encode(x)[:2],), lambda z, _: (self.flow.decode(*z),)
        else:
            self.encode, self.decode = directions(self.library, self.flow)

    def log_prob(self, x: Tensor, *context: Tensor) -> Tensor:
        """The source's own, or that of the library."""
        if hasattr(self.module, "log_prob"):
            return self.module.log_prob(self.flow, x)
        multiscale = self.library == "normflows" and hasattr(self.flow, "merges")
        return self.flow.log_prob(x, *context, *((None,) if multiscale else ()))

    def latents(self, x: Tensor, *context: Tensor) -> Tensor:
        """All latents as one vector, y divided by its deviation, so that the base is a standard normal."""
        z = torch.cat([leaf.flatten(1) for leaf in leaves(self.encode(x, *context)[0])], 1)
        if context:
            y = context[0].flatten(1)
            z = torch.cat([(z[:, : y.shape[1]] - y) / 0.01, z[:, y.shape[1] :]], 1)
        return z


def directions(library: str, flow: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The two directions of a flow, whatever its library calls them: x to latents, and back."""
    if library == "flowkit":
        return flow.bijector, flow.bijector.inverse
    if library == "nflows":
        return flow._transform, flow._transform.inverse
    if library == "normflows":
        return flow.inverse_and_log_det, flow.forward_and_log_det
    return flow, functools.partial(flow, rev=True)


def perturb(flow: torch.nn.Module) -> None:
    """Moves every trained parameter off its start (FrEIA's permutations are parameters too, but not trained)."""
    for p in flow.parameters():
        p.data += 0.005 * torch.randn(p.shape, dtype=p.dtype) * p.requires_grad


def leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [leaf for part in value or () for leaf in leaves(part)]


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_runs(name: str, sources: Any, capsys: Any) -> None:
    torch.manual_seed(0)
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "nan" not in printed
    assert "32, 32])" in printed or "[5, 2])" in printed


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_inverts_and_its_density_is_that_of_the_jacobian(name: str, sources: Any) -> None:
    peer = Peer(name, sources)
    with torch.no_grad():
        value = peer.encode(peer.x, *peer.context)[0]
        assert (peer.decode(value, *peer.context)[0] - peer.x).abs().max() < 1e-8
    x, context = peer.x[:1], [c[:1] for c in peer.context]
    jacobian: Any = torch.autograd.functional.jacobian(lambda x: peer.latents(x, *context)[0], x)
    z = peer.latents(x, *context)
    size = z.shape[1]
    expected = -0.5 * (z**2 + math.log(2 * math.pi)).sum() + torch.linalg.slogdet(jacobian.reshape(size, size))[1]
    assert abs(peer.log_prob(x, *context) - expected) < 1e-8
    assert (peer.log_prob(peer.x, *peer.context) - peer.log_prob(peer.x.flip(0), *peer.context)).abs().max() > 1e-3


def test_realnvp_is_the_same_density_in_flowkit_and_nflows(sources: Any) -> None:
    torch.manual_seed(0)
    ours, theirs = (sources(f"realnvp_{library}").build().double() for library in ("flowkit", "nflows"))
    perturb(ours)
    for a, b in zip(
        ours.bijector.parts, [t for pair in theirs._transform._transforms for t in pair._transforms], strict=True
    ):
        if isinstance(a, flowkit.ActNorm):
            b.log_scale.data = a.log_scale.data
            b.shift.data = a.bias.data * a.log_scale.data.exp()
        else:
            for mine, other in zip(a.net.parameters(), b.transform_net.parameters(), strict=True):
                other.data = mine.data
    x = 2 * torch.randn(64, 2, dtype=torch.float64)
    assert (ours.log_prob(x) - theirs.eval().log_prob(x)).abs().max() < 1e-10


def test_the_page_shows_these_sources_and_their_count(sources: Any) -> None:
    count = sources("count")
    assert count.refreshed(PAGE) == PAGE
    assert set(re.findall(r"<!-- (\w+)\.py -->", PAGE)) == set(SOURCES)
    assert count.table() in PAGE
