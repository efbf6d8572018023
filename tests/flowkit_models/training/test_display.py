"""Display of a training run, on a terminal and elsewhere."""

import io

import torch
from rich.console import Console

from flowkit_models.training.display import Display


def shown(terminal):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=200, color_system=None)
    with Display(console, 100, 40, torch.device("cpu")) as show:
        show.step(41, {"bits_per_dim": 5.0})
        show.step(42, {"bits_per_dim": 4.0})
        show.validation(42, {"score": 27.5, "psnr": 27.5, "lpips": 0.25}, best=True)
        show.step(43, {})
    return file.getvalue()


def test_a_log_file_gets_a_line_at_each_validation() -> None:
    first, *rest = shown(terminal=False).splitlines()
    assert first.startswith("step 42: 4.50 bits/dim, 27.50 dB held out, ")
    assert first.endswith("; score 27.5000, psnr 27.5000, lpips 0.2500, the best so far")
    assert "GiB" in first
    assert len(rest) == 1  # the bar, once, at the end
    assert "43/100" in rest[0]


def test_a_terminal_gets_a_table() -> None:
    text = shown(terminal=True)
    assert "step 42, the best so far" in text
    assert "27.5000" in text
    assert "lpips" in text
