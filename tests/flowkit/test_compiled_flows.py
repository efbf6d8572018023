"""`flow.compile`: what users call is one graph each, for any batch; copies compute with their own weights."""

import copy
import io

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter

from flowkit import (
    ActNorm,
    Affine,
    Chain,
    Coupling,
    Flow,
    InvertibleConv1x1,
    Reversible,
    StandardNormal,
    compiling,
    initialize,
)
from flowkit.nets import MLP
from flowkit.testing import perturb


def made(classes: int = 0, reversible: bool = False) -> Flow:
    torch.manual_seed(0)
    net = MLP(2, 4, 8, depth=1, context_features=3 if classes else 0)
    chain = Chain(ActNorm(4), InvertibleConv1x1(4, "plu"), Coupling(net, 2, Affine("tanh")))
    embed = nn.Embedding(classes, 3) if classes else None
    return perturb(Flow(Reversible(chain) if reversible else chain, StandardNormal(), embed=embed))


CALLS = {
    "log_prob": lambda flow, n: flow.log_prob(torch.randn(n, 4)),
    "encode": lambda flow, n: flow.encode(torch.randn(n, 4)),
    "decode": lambda flow, n: flow.decode(torch.randn(n, 4)),
    "sample_and_log_prob": lambda flow, n: torch.cat([part.flatten() for part in flow.sample_and_log_prob(n)]),
}


@pytest.mark.parametrize("name", list(CALLS))
def test_a_call_is_one_graph_for_every_batch_and_the_same(name: str) -> None:
    flow, plain, counter = made(), made(), CompileCounter()
    flow.compile(backend=counter, fullgraph=True)
    for n in (6, 3, 40):
        torch.manual_seed(n)
        expected = CALLS[name](plain, n)
        torch.manual_seed(n)
        torch.testing.assert_close(CALLS[name](flow, n), expected)
    assert counter.frame_count == 1
    assert flow.state_dict().keys() == plain.state_dict().keys()


def test_names_that_mean_the_same_share_a_graph() -> None:
    flow, counter, x = made(), CompileCounter(), torch.randn(5, 4)
    flow.compile(backend=counter, fullgraph=True)
    flow.log_prob(x), flow(x), flow.bits_per_dim(x), flow.distribution().log_prob(x)
    assert counter.frame_count == 1
    flow.sample(4), flow.sample((3, 2)), flow.decode(x)
    assert counter.frame_count == 2
    assert not hasattr(x, "_dynamo_weak_dynamic_indices")  # nothing is written on the user's tensor


# torch's own, where a graph begins at a tensor that another made
not_ours = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


@not_ours
def test_a_context_and_its_embedding() -> None:
    flow, plain, counter = made(5), made(5), CompileCounter()
    flow.compile(backend=counter, fullgraph=True)
    for n in (6, 3):
        x, labels = torch.randn(n, 4), torch.randint(5, (n,))
        torch.testing.assert_close(flow.log_prob(x, labels), plain.log_prob(x, labels))
    assert counter.frame_count == 1
    for n in (6, 3):
        drawn = [f.sample(n, labels, generator=torch.Generator().manual_seed(0)) for f in (flow, plain)]
        torch.testing.assert_close(*drawn)
    assert counter.frame_count == 3  # the embedding of B rows, and the way back of n·B


def test_training_and_loading_compile_nothing_anew() -> None:
    flow, plain, counter = made(), made(), CompileCounter()
    flow.compile(backend=counter, fullgraph=True)
    x = torch.randn(8, 4)
    losses = []
    for each in (flow, plain):
        optimizer = torch.optim.SGD(each.parameters(), 0.05)
        for _ in range(3):
            optimizer.zero_grad()
            loss = -each.log_prob(x).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    torch.testing.assert_close(torch.stack(losses[:3]), torch.stack(losses[3:]))
    assert losses[2] < losses[0]
    other = perturb(made())
    flow.load_state_dict(other.state_dict())
    torch.testing.assert_close(flow.log_prob(x), other.log_prob(x))
    assert counter.frame_count == 1


def test_a_copy_computes_with_its_own_weights() -> None:
    """An average of weights is a deepcopy; so is a best state."""
    flow, counter, x = made(), CompileCounter(), torch.randn(5, 4)
    flow.compile(backend=counter, fullgraph=True)
    before = flow.log_prob(x)
    average = copy.deepcopy(flow)
    with torch.no_grad():
        for p in average.parameters():
            p.mul_(0.5)
    expected = made()
    expected.load_state_dict(average.state_dict())
    torch.testing.assert_close(average.log_prob(x), expected.log_prob(x))
    assert not torch.allclose(average.log_prob(x), before)
    torch.testing.assert_close(flow.log_prob(x), before)
    assert average.compile_options is not None
    assert average.compile_options[1]["backend"].frame_count == 2  # a copy of the counter went on to the copy's graph
    assert counter.frame_count == 1


def test_flows_of_many_shapes_do_not_share_a_limit() -> None:
    with torch._dynamo.config.patch(recompile_limit=1):
        for hidden in (3, 4, 5):
            flow = Flow(Coupling(MLP(2, 4, hidden, depth=1), 2, Affine()), StandardNormal())
            flow.compile(backend="eager", fullgraph=True)
            assert flow.log_prob(torch.zeros(2, 4)).shape == (2,)


def test_pickles_and_changed_options() -> None:
    flow, x = made(), torch.randn(5, 4)
    flow.compile(backend="eager")
    expected = flow.log_prob(x)
    file = io.BytesIO()
    torch.save(flow, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    torch.testing.assert_close(again.log_prob(x), expected)
    counter = CompileCounter()
    flow.compile(backend=counter)
    flow.log_prob(x)
    assert counter.frame_count == 1


@not_ours
def test_a_reversible_chain_is_left_to_itself() -> None:
    flow, plain, x = made(reversible=True), made(reversible=True), torch.randn(5, 4)
    flow.compile(backend="eager")
    for each in (flow, plain):
        each.log_prob(x).sum().backward()
    for p, q in zip(flow.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_data_parallel(tmp_path) -> None:
    flow, plain, counter, x = made(), made(), CompileCounter(), torch.randn(5, 4)
    flow.compile(backend=counter)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(flow)
        torch.testing.assert_close(parallel(x), plain(x))
        parallel(x).sum().backward()
        plain(x).sum().backward()
        assert counter.frame_count == 1
        for p, q in zip(flow.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("wrapped", [False, True])
def test_statistics_of_data_are_taken_of_whole_graphs_too(wrapped: bool) -> None:
    x = 3 + 2 * torch.randn(64, 2)
    flows = [Flow(ActNorm(2) >> Coupling(MLP(1, 2), 1, Affine("tanh")), StandardNormal()) for _ in range(2)]
    flows[1].load_state_dict(flows[0].state_dict())
    compiled: nn.Module = flows[0]
    if wrapped:
        compiled = torch.compile(flows[0], backend="eager", fullgraph=True)
    else:
        flows[0].compile(backend="eager", fullgraph=True)
    for flow in (compiled, flows[1]):
        initialize(flow, x)
    torch.testing.assert_close(flows[0].state_dict(), flows[1].state_dict())
    assert all(bool(flow.bijector.parts[0].initialized) for flow in flows)


def test_checks_stay() -> None:
    flow = made()
    flow.compile(backend="eager", fullgraph=True)
    with pytest.raises(ValueError, match="n must not be negative"):
        flow.sample(-1)
    assert flow.sample(0).shape == (0, 4)
    assert flow.log_prob(torch.randn(1, 4)).shape == (1,)


@pytest.mark.slow
def test_inductor() -> None:
    flow, plain, x = made(), made(), torch.randn(64, 4)
    flow.compile(fullgraph=True)
    torch.testing.assert_close(flow.log_prob(x), plain.log_prob(x), atol=1e-4, rtol=1e-4)
    drawn = [f.sample(50, generator=torch.Generator().manual_seed(0)) for f in (flow, plain)]
    torch.testing.assert_close(*drawn, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("call", [lambda flow: flow.sample(4), lambda flow: flow.decode(torch.zeros(3, 2))])
def test_a_compiled_draw_computes_no_log_det(call) -> None:
    found: list[str] = []

    def record(graph, inputs):
        found.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    flow = Flow(Coupling(MLP(1, 2), 1, Affine("tanh")), StandardNormal(), shape=(2,))
    flow.compile(backend=aot_autograd(fw_compiler=record))
    with torch.no_grad():
        call(flow)
    assert any("addmm" in name for name in found)
    assert not [name for name in found if "sum" in name]  # of the logarithms of the slopes


def test_a_graph_for_each_batch_where_that_is_asked_for() -> None:
    sizes = []
    flow = made()
    flow.compile(backend=lambda graph, inputs: sizes.append(graph.graph) or graph, dynamic=False)
    for n in (6, 3, 6):
        assert flow.log_prob(torch.randn(n, 4)).shape == (n,)
    assert len(sizes) == 2
    shapes = [node.meta["example_value"].shape for graph in sizes for node in graph.nodes if node.name == "l_x_"]
    assert shapes == [(6, 4), (3, 4)]


# torch's tracer looks at .grad of what it meets, and can't hide the warning where warnings are errors
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_options_are_for_every_method() -> None:
    """torch.compile takes the filter of guards out of the options that it is given."""
    asked = []
    options = {"guard_filter_fn": lambda guards: asked.append(len(guards)) or [True] * len(guards)}
    flow = made()
    flow.compile(backend="eager", options=options)
    x = torch.randn(3, 4)
    for method in (flow.log_prob, flow.encode):
        asked.clear()
        method(x)
        assert asked
    assert list(options) == ["guard_filter_fn"]


def scaled(x: torch.Tensor) -> torch.Tensor:
    return SCALE * x


SCALE = 2.0


class Scaling(nn.Module):
    """A net of a user's, that reads a global of its module."""

    def forward(self, passive: torch.Tensor, context: None) -> torch.Tensor:
        return scaled(passive.repeat_interleave(2, 1))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_graph_is_asked_whether_users_changed_something_and_not_whether_libraries_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many guards are on functions and classes of torch, flowkit and Python, and looked at before every call."""
    flow = Flow(Chain(InvertibleConv1x1(4, "plu"), Coupling(Scaling(), 2, Affine("tanh"))), StandardNormal())
    x, asked, kept = torch.randn(5, 4), [], []
    chosen = compiling._of_users
    monkeypatch.setattr(compiling, "_of_users", lambda guards: asked.extend(guards) or chosen(guards))
    flow.compile(backend="eager")
    before = flow.log_prob(x)
    kept = [guard.name for guard, keep in zip(asked, chosen(asked), strict=True) if keep]
    assert len(kept) < 0.8 * len(asked)
    assert not [name for name in kept if "__import_flowkit_dot" in name and name.endswith((".__code__", ".torch"))]
    for name in ("_global_forward_hooks", "_parameters['lower']", "SCALE", "scaled"):
        assert any(name in guard for guard in kept), name
    monkeypatch.setattr(f"{__name__}.SCALE", 3.0)
    assert not torch.equal(flow.log_prob(x), before)
