"""The benchmarks' tools: paired ratios, memory, operations, graph breaks; and every contender is a Glow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmark.contenders import BASE, CONTENDERS, Contender, Sizes, contender
from benchmark.glow import images
from benchmark.measure import Spread, Task, flops, interleave, measure, ratios
from benchmark.memory import peak_bytes, saved_bytes, training_bytes
from benchmark.options import Options
from rich.console import Console
from torch import nn

TINY = Sizes(levels=2, steps=2, hidden=6, side=4, batch=2)
pytestmark = [pytest.mark.bench, pytest.mark.filterwarnings("ignore")]  # what other libraries warn of


class Clock:
    """Time that passes only where a task says so; the machine gets slower from round to round."""

    def __init__(self) -> None:
        self.now, self.ran = 0.0, []

    def task(self, name: str, seconds: float):
        def run() -> None:
            self.ran.append(name)
            self.now += seconds * 8 ** ((len(self.ran) - 4) // 6)  # after the first three calls, 6 per round

        return run


def test_tasks_have_turns_and_ratios_are_of_one_round_whatever_the_machine_does_between_rounds() -> None:
    clock = Clock()
    works = {("a",): clock.task("a", 3.0), ("b",): clock.task("b", 2.0), ("c",): clock.task("c", 1.0)}
    ticks = []
    seconds = interleave(works, 3, calls=2, tick=lambda label: ticks.append(*label), clock=lambda: clock.now)
    assert list(seconds.values()) == [[3.0, 24.0, 192.0], [2.0, 16.0, 128.0], [1.0, 8.0, 64.0]]
    assert ratios(seconds["a",], seconds["b",]) == Spread(1.5, 1.5, 1.5)
    assert "".join(ticks) == "abc" + "abc" + "bca" + "cab"  # each begins once
    assert "".join(clock.ran) == "abc" + "aabbcc" + "bbccaa" + "ccaabb"


def test_a_task_is_compared_with_another_and_with_the_machine() -> None:
    a = torch.ones(64, 64)

    def three() -> None:
        for _ in range(3):
            a @ a

    tasks = {("one",): Task(lambda: a @ a), ("three",): Task(three, lambda: 7, to=("one",), times=3)}
    found = measure(tasks, Options(rounds=1, device="cpu", quick=True), Console(quiet=True))
    one, three = found["one",], found["three",]
    assert (one.flops, three.flops, three.bytes, three.to) == (2 * 64**3, 6 * 64**3, 7, "3 × one")
    assert three.ratio.median == pytest.approx(three.seconds[0] / one.seconds[0] / 3)
    rates = (3 / three.seconds[0], 1 / one.seconds[0])
    assert three.share.median / one.share.median == pytest.approx(rates[0] / rates[1])


def test_peak_memory_of_known_blocks() -> None:
    block = 4 * 10**6

    def work() -> None:
        a = torch.ones(10**6)
        b = a + 1  # two
        del a
        c = b * 2
        d = c + b  # three
        del b, c, d
        torch.ones(10**6)

    assert peak_bytes(work) == pytest.approx(3 * block, rel=0.01)
    assert peak_bytes(lambda: [torch.ones(10**6) for _ in range(5)]) == pytest.approx(5 * block, rel=0.01)
    there = torch.ones(10**6)
    assert peak_bytes(lambda: there.add_(1)) < 0.01 * block


def test_what_autograd_keeps_counts_once_and_without_parameters_and_input() -> None:
    conv = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Tanh())
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    one = 2 * 8 * 16 * 16 * 4
    assert saved_bytes(lambda: conv(x).sum(), conv, x) == 2 * one  # the outputs of ReLU and tanh

    def squares():
        y = x.exp()
        return (y * y + y.square()).sum()

    assert saved_bytes(squares, conv, x) == x.numel() * 4  # one storage, kept four times


def test_memory_of_a_training_step_is_beside_its_gradients() -> None:
    net = nn.Linear(1000, 1000, bias=False)
    x = torch.randn(1, 1000)

    def step(fresh: bool = False) -> None:
        net.zero_grad(set_to_none=fresh)
        net(x).sum().backward()

    assert training_bytes(step, net) == pytest.approx(4e6, rel=0.02)  # the new gradient, before it is added to the old
    with pytest.raises(ValueError, match="set_to_none=False"):
        training_bytes(net.zero_grad, net)


RESIDENT = """
import ctypes, re, sys, torch
from pathlib import Path
from torch import nn
from benchmark.memory import peak_bytes

torch.set_num_threads(1)
ctypes.CDLL("libc.so.6").mallopt(-3, 1 << 16)  # blocks from 64 kB on go back to the system when they are freed
net = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())))
x = torch.randn(4, 64, 64, 64)

def step():
    net.zero_grad(set_to_none=False)
    net(x).sum().backward()

def status(key):
    return 1024 * int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

for _ in range(2):
    step()
counted = peak_bytes(step)
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
step()
print(counted, status("VmHWM") - before)
"""


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the most memory a process had")
def test_the_count_is_what_the_system_sees_kernels_take() -> None:
    command = [sys.executable, "-c", RESIDENT]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    counted, resident = map(int, ran.stdout.split())
    assert counted > 4 * 4 * 64**3 * 4  # the activations alone
    assert counted == pytest.approx(resident, rel=0.05)


def test_operations_of_passes_forward_and_backward() -> None:
    a, b = torch.randn(5, 7, requires_grad=True), torch.randn(7, 11, requires_grad=True)
    assert flops(lambda: a @ b) == 2 * 5 * 7 * 11
    assert flops(lambda: (a @ b).sum().backward()) == 3 * 2 * 5 * 7 * 11
    conv = nn.Conv2d(3, 4, 3, padding=1)
    assert flops(lambda: conv(torch.ones(2, 3, 6, 6))) == 2 * 2 * 6 * 6 * 3 * 4 * 9


def shaken(name: str, sizes: Sizes = TINY) -> Contender:
    """A contender in float64 whose parameters are all away from where they start."""
    made = contender(name, sizes)
    made.module.double()
    x = images(sizes).double()
    made.encode(x)  # some set their ActNorms now
    with torch.no_grad():
        for p in made.module.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return made


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_inverts_itself_and_knows_its_log_det(name) -> None:
    made = shaken(name)
    x = images(TINY).double()
    with torch.no_grad():
        latents, logdet = made.encode(x)
        assert sum(z[0].numel() for z in latents) == x[0].numel()
        assert (made.decode(latents) - x).abs().max() < 1e-5  # FrEIA's rotation is stored in float32

        def flat(v):
            return torch.cat([z.flatten() for z in made.encode(v.view(1, *x.shape[1:]))[0]])

        jacobian = torch.autograd.functional.jacobian(flat, x[0].flatten())
    expected = torch.linalg.slogdet(jacobian).logabsdet
    assert logdet[0].item() == pytest.approx(expected.item(), abs=1e-5)
    assert abs(expected) > 0.1


def test_ours_is_the_hand_written_glow_with_other_words() -> None:
    by_hand, ours = shaken(BASE), contender("flowkit", TINY)
    ours.module.double()
    last = [p for name, p in by_hand.module.named_parameters() if ".net.4." in name]
    for mine, theirs in zip(ours.module.parameters(), by_hand.module.parameters(), strict=True):
        value = theirs.detach().reshape(mine.shape)
        if any(theirs is parameter for parameter in last):
            value = torch.stack(value.chunk(2), 1).flatten(0, 1)  # shift and scale of a channel side by side
        mine.data.copy_(value)
    x = images(TINY).double()
    with torch.no_grad():
        (coarse, fine), logdet = ours.encode(x)
        (other_fine, other_coarse), other = by_hand.encode(x)
    for a, b in ((coarse, other_coarse), (fine, other_fine), (logdet, other)):
        torch.testing.assert_close(a, b)
