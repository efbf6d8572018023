"""Data-dependent initialisation: what it sets, once, and alike on all ranks."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from examples import extractor, step, two_levels
from torch import Tensor, nn

import flowkit
from flowkit import (
    ActNorm,
    Affine,
    Chain,
    Coupling,
    Flow,
    InvertibleConv1x1,
    Near,
    Permutation,
    StandardNormal,
    initialize,
)
from flowkit.nets import FCN, ActNormConv2d
from flowkit.testing import perturb

QUANT = 64  # of the official x4 configuration: u/64 is its dequantisation noise


def outputs_of_actnorms(flow: nn.Module, *args: Any) -> dict[str, Tensor]:
    """What every ActNorm returns in one forward pass, those of the nets included, in calling order."""
    seen: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(
            lambda module, args, out, name=name: seen.update({name: out[0] if isinstance(out, tuple) else out})
        )
        for name, module in flow.named_modules()
        if isinstance(module, ActNorm | ActNormConv2d)
    ]
    with torch.no_grad():
        flow(*args)
    for hook in hooks:
        hook.remove()
    return seen


def glow(channels: int = 4) -> Chain:
    torch.manual_seed(0)
    return flowkit.Squeeze() >> step(channels) >> step(channels)


def batch(n: int = 6) -> Tensor:
    torch.manual_seed(1)
    return 3 + 2 * torch.randn(n, 1, 8, 8)


def flags(flow: nn.Module) -> list[bool]:
    return [bool(value) for name, value in flow.named_buffers() if name.endswith("initialized")]


def test_standardises_every_actnorm_in_forward_order() -> None:
    flow = glow()
    initialize(flow, batch())
    outputs = outputs_of_actnorms(flow, batch())
    assert len(outputs) == 6  # one per step and two per net
    for name, out in outputs.items():
        channels = out.transpose(0, 1).flatten(1)
        torch.testing.assert_close(channels.mean(1), torch.zeros(len(channels)), atol=1e-4, rtol=0, msg=name)
        torch.testing.assert_close(channels.std(1, correction=0), torch.ones(len(channels)), atol=1e-3, rtol=0)
    assert flags(flow) == [True] * 6


def test_the_formula_is_the_published_one() -> None:
    layer, x = ActNorm(4), torch.randn(5, 4, 3, 2)
    initialize(layer, x)
    mean = x.mean((0, 2, 3))
    std = x.var((0, 2, 3), correction=0).sqrt()
    torch.testing.assert_close(layer.bias.detach(), -mean)
    torch.testing.assert_close(layer.log_scale.detach(), -(std + 1e-6).log())


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -5000.3, 1e8])
@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_a_constant_channel_is_only_shifted_and_named(value: float, rows: int) -> None:
    flow = Chain(Permutation([0, 1]), ActNorm(2))
    x = torch.stack([value * torch.ones(rows), value * (1 + 0.01 * torch.randn(rows)) + torch.randn(rows)], 1)
    channels = r"\[0\]" if rows > 1 else r"\[0, 1\]"
    with pytest.warns(UserWarning, match=rf"initialize: channels constant .* shifted, not scaled: parts\.1 {channels}"):
        initialize(flow, x)
    assert float(flow[1].log_scale[0].detach()) == 0
    assert float(flow(x)[0][:, 0].detach().abs().max()) <= 1e-7 * abs(value)


@pytest.mark.parametrize(("mean", "spread"), [(1e4, 0.01), (5000, 0.05), (1e20, 1e19), (0, 1e-3)])
def test_data_of_any_scale_is_not_constant(mean: float, spread: float) -> None:
    layer = ActNorm(2)
    x = mean + spread * torch.randn(500, 2)
    initialize(layer, x)
    torch.testing.assert_close(layer(x)[0].std(0, correction=0).detach(), torch.ones(2), rtol=2e-3, atol=0)


def spoiled(how: str) -> Tensor:
    x = batch()
    if how == "empty":
        return x[:0]
    x[2, 0, 3, 3] = float(how)
    return x


@pytest.mark.parametrize("how", ["empty", "nan", "inf", "-inf"])
def test_a_batch_that_is_empty_or_not_finite_is_refused_before_anything_is_written(how: str) -> None:
    flow = ActNorm(1) >> glow()
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"initialize: the input of parts\.0, ActNorm\(1\) (is empty|has NaN or infinity in channels)"
    ):
        initialize(flow, spoiled(how))
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())
    initialize(flow, batch())  # no layer is marked
    assert all(flags(flow))


def test_what_fails_in_a_later_layer_leaves_nothing_half_written() -> None:
    class Overflows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(2)

        def forward(self, passive: Tensor, context: Any = None) -> Tensor:
            return self.norm(torch.cat([passive, passive], 1)) * float("inf")

    flow = Chain(ActNorm(2), Coupling(Overflows(), 1, Affine("exp")), ActNorm(2))
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    with pytest.raises(ValueError, match=r"the input of parts\.2, ActNorm\(2\) has NaN or infinity in channels \[1\]"):
        initialize(flow, torch.randn(4, 2, 3, 3))
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


def test_a_context_that_is_not_finite_is_refused_by_the_layer_that_sees_it() -> None:
    flow = perturb(step(4, 3))
    with pytest.raises(ValueError, match=r"initialize: the input of parts\.2\.net\.\w+, ActNormConv2d"):
        initialize(flow, torch.randn(2, 4, 3, 3), torch.full((2, 3, 3, 3), torch.nan))
    assert not any(flags(flow))


@pytest.mark.parametrize("shape", [(), (2,), (3, 0), (3, 4)])
def test_what_a_layer_does_not_take_it_refuses_itself(shape: tuple[int, ...]) -> None:
    layer = ActNorm(2)
    with pytest.raises(ValueError, match=r"ActNorm\(2\): expected "):
        initialize(layer, torch.ones(shape))
    assert not layer.initialized


def test_a_parametrized_layer_is_set_through_its_parametrization() -> None:
    class Tripled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * x

        def right_inverse(self, x: Tensor) -> Tensor:
            return x / 3

    layer = ActNorm(1)
    for name in ("bias", "log_scale"):
        nn.utils.parametrize.register_parametrization(layer, name, Tripled())
    initialize(layer, batch())
    y = layer(batch())[0].detach()
    assert abs(float(y.mean())) < 1e-5
    assert abs(float(y.std(correction=0)) - 1) < 1e-5


def test_a_flow_with_a_call_of_its_own_is_called() -> None:
    class Embedding(Flow):
        def log_prob(self, x: Tensor, context: Any = None) -> Tensor:
            return super().log_prob(2 * x, context)

    flow, x = Embedding(ActNorm(2), StandardNormal()), torch.randn(50, 2)
    initialize(flow, x)
    torch.testing.assert_close(flow.bijector.bias.detach(), -2 * x.mean(0))


def test_vectors_too() -> None:
    layer = ActNorm(3)
    x = 2 + torch.randn(50, 3)
    initialize(layer, x)
    torch.testing.assert_close(layer(x)[0].mean(0).detach(), torch.zeros(3), atol=1e-5, rtol=0)


def test_is_the_official_one_in_two_steps_of_a_level(golden: Any) -> None:
    g = golden("hcflow_actnorm_init_sr_x4")

    def official(prefix: str, step: str) -> dict[str, Tensor]:
        theirs = {"permute.weight": "1.weight", "actnorm.bias": "0.bias", "actnorm.logs": "0.log_scale"}
        renamed = {}
        for key, value in g.part(f"{prefix}.flow.layers.{step}.").items():
            name = key.replace("affine.f.", "2.net.").replace(".actnorm.bias", ".bias")
            name = theirs.get(key, name.replace(".actnorm.logs", ".log_scale").replace(".logs", ".log_scale"))
            renamed[f"parts.{name}"] = value if name.endswith("weight") else value.flatten()
        return renamed

    steps = []
    for name in ("1", "2"):
        net = FCN(6, 12, 12)
        steps.append(ActNorm(12) >> InvertibleConv1x1(12) >> Coupling(net, 6, Affine("atan")))
        steps[-1].load_state_dict(official("sd_before", name), strict=False)
    noisy = g["hr"] + g["noise"] / QUANT
    initialize(flowkit.Squeeze() >> steps[0] >> steps[1], noisy)
    for name, ours in zip(("1", "2"), steps, strict=True):
        state = ours.state_dict()
        for key, value in official("after", name).items():
            torch.testing.assert_close(state[key], value, atol=1e-4, rtol=1e-4, msg=f"{name} {key}")


def test_a_second_call_changes_nothing_and_says_so() -> None:
    flow = glow()
    initialize(flow, batch())
    before = [p.clone() for p in flow.parameters()]
    with pytest.warns(
        UserWarning, match="initialize: every ActNorm was initialised before, nothing was done; again=True"
    ):
        initialize(flow, 100 * batch())
    assert all(torch.equal(p, q) for p, q in zip(flow.parameters(), before, strict=True))


def test_again_sets_all_layers_anew() -> None:
    flow, other = glow(), glow()
    initialize(flow, batch())
    initialize(flow, 100 * batch() + 7, again=True)
    initialize(other, 100 * batch() + 7)
    for p, q in zip(flow.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)


def test_a_loaded_checkpoint_counts_as_initialised() -> None:
    flow, other = glow(), glow()
    initialize(flow, batch())
    other.load_state_dict({k: v for k, v in flow.state_dict().items() if not k.endswith("initialized")})
    assert flags(other) == [True] * 6
    with pytest.warns(UserWarning, match="nothing was done"):
        initialize(other, 100 * batch())
    torch.testing.assert_close(other(batch()), flow(batch()))


def test_an_all_zero_checkpoint_does_not() -> None:
    flow = glow()
    flow.load_state_dict({k: v for k, v in glow().state_dict().items() if not k.endswith("initialized")})
    assert flags(flow) == [False] * 6
    initialize(flow, batch())
    assert flags(flow) == [True] * 6


def test_only_the_uninitialised_layers_are_set() -> None:
    flow = ActNorm(1) >> ActNorm(1)
    flow[0].load_state_dict({"bias": torch.ones(1), "log_scale": torch.zeros(1)})
    initialize(flow, batch())
    assert float(flow[0].bias.detach()) == 1
    assert float(flow[1].bias.detach()) == pytest.approx(-float((batch() + 1).mean()), rel=1e-5)


def test_a_flow_with_its_base_and_context() -> None:
    flow = Flow(perturb(two_levels("coarse"), 0.01), Near())
    for module in flow.modules():
        if isinstance(module, ActNorm | ActNormConv2d):
            nn.init.zeros_(module.bias)
            nn.init.zeros_(module.log_scale)
    initialize(flow, batch(), torch.rand(6, 3, 2, 2))
    assert all(flags(flow))
    assert len(flags(flow)) >= 14


def test_nothing_is_recorded_for_gradients_and_no_hook_stays() -> None:
    flow = glow()
    initialize(flow, batch().requires_grad_())
    assert all(p.is_leaf and p.grad is None and p.requires_grad for p in flow.parameters())
    assert not any(module._forward_pre_hooks for module in flow.modules())


def test_hooks_go_when_the_pass_fails() -> None:
    flow = glow()
    with pytest.raises(ValueError, match="expected 1 channels"):
        initialize(flow, torch.zeros(2, 3, 4, 4))
    assert not any(module._forward_pre_hooks for module in flow.modules())


def test_names_the_layers_that_were_not_reached() -> None:
    flow = ActNorm(1) >> ActNorm(1).inv
    with pytest.warns(UserWarning, match=r"initialize: the forward pass did not reach parts\.1\.bijector"):
        initialize(flow, batch())
    assert flow[0].initialized
    assert not flow[1].bijector.initialized


def test_a_layer_that_is_used_twice_is_set_the_first_time() -> None:
    layer = ActNorm(1)
    initialize(layer >> layer, batch())
    assert float(layer.bias.detach()) == pytest.approx(-float(batch().mean()), rel=1e-5)


def test_half_precision_batches_are_summed_in_the_parameters_precision() -> None:
    layer = ActNorm(1)
    x = (1000 + torch.randn(64, 1, 32, 32)).half()  # their sum overflows float16
    initialize(layer, x)
    assert float(layer.bias.detach()) == pytest.approx(-float(x.float().mean()), rel=1e-6)


def test_under_autocast() -> None:
    flow = glow()
    with torch.autocast("cpu", torch.bfloat16):
        initialize(flow, batch())
    assert all(flags(flow))
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in flow.parameters())


def ddp_flow() -> Flow:
    torch.manual_seed(0)
    b = ActNorm(2) >> InvertibleConv1x1(2) >> Coupling(FCN(1, 2, 4), 1, Affine()) >> ActNorm(2)
    return Flow(b, StandardNormal())


def worker(rank: int, port: int, data: Tensor, folder: str) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    flow = ddp_flow()
    initialize(flow, data[: len(data) // 4] if rank == 0 else data[len(data) // 4 :])  # unequal shares
    torch.save(flow.state_dict(), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_agree_and_equal_one_process_with_the_joint_batch(tmp_path: Path) -> None:
    data = 3 + 2 * torch.randn(8, 2, 4, 4)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port, data, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    alone = ddp_flow()
    initialize(alone, data)
    for name, value in alone.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, msg=name)


def test_feature_extractors_without_actnorm_are_left_alone() -> None:
    net = extractor(1)
    before = net.weight.clone()
    initialize(flowkit.Hierarchy([flowkit.Level(ActNorm(2), 1)], flowkit.SingleScale([net])), torch.randn(3, 2, 4, 4))
    assert torch.equal(net.weight, before)


def test_a_flow_is_initialised_without_a_context_for_its_base() -> None:
    flow = Flow(ActNorm(3), Near())
    initialize(flow, torch.randn(8, 3))
    assert bool(flow.bijector.initialized)
