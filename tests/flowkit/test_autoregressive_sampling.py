"""Draws of a trained autoregressive flow in 64 dimensions: Jacobi's iteration and MADE's steps against D passes."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flowkit import Autoregressive, Chain, Flow, RationalQuadratic, StandardNormal
from flowkit.nets import MADE

STEPS, DRAWS, SIDE = 300, 256, 8


class Whole(RationalQuadratic):
    """Splines that say nothing of single channels: one after the other is then D passes that solve all of them."""

    alike = False


def patches(archive: Path) -> Tensor:
    """Patches of 8×8 pixels of MNIST that are not empty, dequantised, as standardised logits (N, 64)."""
    images = torch.from_numpy(np.load(archive)["train_images"][:5000]).float()
    cut = images.unfold(1, SIDE, 4).unfold(2, SIDE, 4).reshape(-1, SIDE * SIDE)
    cut = cut[cut.mean(1) > 20]
    logits = torch.logit(0.05 + 0.9 * (cut + torch.rand_like(cut)) / 256)
    return (logits - logits.mean(0)) / logits.std(0)


def trained(x: Tensor) -> Flow:
    """A neural spline flow of three autoregressive layers, in alternating orders."""
    features, kind = x.shape[1], Whole(8, 4.0)
    layers = [
        Autoregressive(MADE(features, kind.parameters, 256, 1), kind, range(features)[:: -1 if i % 2 else 1])
        for i in range(3)
    ]
    flow = Flow(Chain(*layers), StandardNormal())
    optimizer = torch.optim.Adam(flow.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (-flow.log_prob(x[torch.randint(len(x), (128,))]).mean()).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5)
        optimizer.step()
        schedule.step()
    return flow


@pytest.mark.slow
def test_jacobi_draws_the_same_at_least_three_times_as_fast(shared: Path) -> None:
    archive = shared / "data" / "density" / "mnist.npz"
    if not archive.is_file():
        pytest.skip(f"{archive} does not exist (set FLOWKIT_SHARED)")
    torch.manual_seed(0)
    x = patches(archive)
    flow = trained(x)
    with torch.no_grad():
        gained = float(flow.log_prob(x[:2000]).mean()) - float(StandardNormal().log_prob(x[:2000]).mean())
    assert gained > 100  # nats: what the numbers before say of the next
    z, calls = torch.randn(DRAWS, x.shape[1]), {}
    seconds: dict[bool, list[float]] = {False: [], True: []}
    drawn: dict[bool, Any] = {}
    for early in (False, True) * 3:
        count: list[int] = []
        for layer in flow.bijector:
            layer.early = early
        hooks = [layer.net.register_forward_hook(lambda *_, count=count: count.append(1)) for layer in flow.bijector]
        start = time.perf_counter()
        with torch.no_grad():
            drawn[early] = flow.decode(z)
        seconds[early].append(time.perf_counter() - start)
        calls[early] = len(count) / len(hooks)
        for hook in hooks:
            hook.remove()
    faster = min(seconds[False]) / min(seconds[True])
    for layer in flow.bijector:
        layer.early, layer.kind = False, RationalQuadratic(8, 4.0)
    steps = []
    for _ in range(3):
        start = time.perf_counter()
        with torch.no_grad():
            drawn_by_steps = flow.decode(z)
        steps.append(time.perf_counter() - start)
    by_steps = min(seconds[False]) / min(steps)
    print(f"passes a layer: {calls[False]:.0f} and {calls[True]:.1f}; {faster:.2f} times as fast; {gained:.0f} nats")
    print(f"steps of the network instead of passes: {by_steps:.2f} times as fast")
    assert calls[False] == 64
    assert calls[False] / calls[True] >= 3
    assert faster >= 3
    assert by_steps >= 3
    torch.testing.assert_close(drawn_by_steps, drawn[False], rtol=0, atol=2e-5)  # sums in another order
    torch.testing.assert_close(drawn[True], drawn[False], rtol=0, atol=1e-5)
    torch.testing.assert_close(flow.encode(drawn[True]).detach(), z, rtol=0, atol=1e-3)
