"""The table of a flow."""

import copy
from typing import Any

import torch
from examples import two_levels
from torch import Tensor, nn

import flowkit
from flowkit import ActNorm, Affine, Coupling, Dequantize, Flow, Squeeze, StandardNormal, summary


def rows(text: str) -> list[str]:
    return text.splitlines()


def test_one_line_per_bijector_and_the_total() -> None:
    b = Squeeze() >> ActNorm(4) >> Coupling(flowkit.nets.FCN(2, 4, 6), 2, Affine())
    lines = rows(summary(b, (2, 1, 4, 6)))
    assert len(lines) == 5
    assert "Squeeze(2)" in lines[1]
    assert "(2, 4, 2, 3)" in lines[1]
    assert lines[2].split()[-2:] == ["8", "constant"]
    assert lines[3].split()[-2:] == [str(sum(p.numel() for p in b[2].parameters())), "varies"]
    assert lines[4].split() == ["total", "Chain", str(sum(p.numel() for p in b.parameters())), "varies"]


def test_shapes_are_shown_only_for_an_input() -> None:
    b = Squeeze() >> ActNorm(4)
    assert "(2, 4, 2, 2)" not in summary(b)
    assert summary(b, torch.zeros(2, 1, 4, 4)) == summary(b, (2, 1, 4, 4))


def test_trees_show_every_leaf() -> None:
    assert "(1, 1, 4, 4) + (1, 2, 4, 4)" in summary(flowkit.Split(1), (1, 3, 4, 4))


def test_a_hierarchy_lists_bodies_and_latents_by_name() -> None:
    text = summary(two_levels("coarse"), (2, 1, 8, 8))
    for name in ("levels.0.body.parts.0", "levels.1.latent.parts.3", "Haar()", "total"):
        assert name in text


def test_a_flow_and_its_context() -> None:
    flow = Flow(two_levels("lr"), StandardNormal())
    text = summary(flow, (2, 1, 8, 8), torch.zeros(2, 3, 2, 2))
    assert rows(text)[-1].startswith("total")
    assert "Flow" in rows(text)[-1]


def test_the_dtype_of_the_flow_is_used() -> None:
    assert "(1, 2)" in summary(ActNorm(2).double(), (1, 2))


def test_it_leaves_no_hooks() -> None:
    b = Squeeze() >> ActNorm(4)
    summary(b, (2, 1, 4, 4))
    assert not any(module._forward_hooks for module in b.modules())


def test_nothing_is_computed_drawn_or_written() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4))
    coupling = Coupling(WithoutContext(net), 2, Affine())
    before, state = torch.get_rng_state(), copy.deepcopy(coupling.state_dict())
    text = summary(Dequantize(256) >> Squeeze() >> coupling, (3, 1, 4, 4))
    assert "(3, 4, 2, 2)" in text
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in coupling.state_dict().items())


class WithoutContext(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, passive: Tensor, context: Any = None) -> Any:
        return self.net(passive)


def test_a_map_that_looks_at_its_numbers_is_shown_from_a_copy() -> None:
    class Counts(ActNorm):
        def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
            assert not bool((x < 0).any())
            self.initialized.fill_(True)
            return super().forward(x)

    b = Squeeze() >> Counts(4)
    assert "(2, 4, 2, 2)" in summary(b, (2, 1, 4, 4))
    assert not b[1].initialized
    assert not b[1]._forward_hooks
