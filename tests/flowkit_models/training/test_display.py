"""Display of a training run, on a terminal and elsewhere."""

import io

import pytest
import torch
from rich.console import Console

from flowkit_models.training import display
from flowkit_models.training.display import Display


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test lets pass."""
    now = [1000.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


def shown(terminal, clock):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=200, color_system=None)
    with Display(console, 100, 40, torch.device("cpu")) as show:
        for step, bits in ((41, 5.0), (42, 4.0)):
            clock[0] += 2
            show.step(step, {"nll_loss": 10 * bits, "loss_of_weight": 1.0, "bits_per_dim": bits})
        show.validation(42, {"score": 27.5, "psnr": 27.5, "lpips": 0.25}, best=True)
        for step in range(43, 100):
            clock[0] += 2
            show.step(step, {})
    return file.getvalue()


def test_a_log_file_gets_a_line_at_the_first_step_each_minute_and_at_each_validation(clock) -> None:
    first, tested, *minutes, last = shown(terminal=False, clock=clock).splitlines()
    assert first.startswith("step 41 of 100: nll loss 50, 5.00 bits/dim, ")
    assert first.endswith(" GiB, 0:01:58 left")  # 59 steps of 2 seconds
    assert tested.startswith("step 42: 4.50 bits/dim, 27.50 dB held out, ")
    assert tested.endswith(", 0:01:56 left; score 27.5000, psnr 27.5000, lpips 0.2500, the best so far")
    assert [line.split(",")[0] for line in minutes] == ["step 72 of 100: nll loss 40"]
    assert "99/100" in last  # the bar, once, at the end


def test_a_terminal_gets_a_table_and_no_lines(clock) -> None:
    text = shown(terminal=True, clock=clock)
    assert "step 42, the best so far" in text
    assert "27.5000" in text
    assert "lpips" in text
    assert "of 100:" not in text
