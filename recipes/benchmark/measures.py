"""Facts about a piece of work that need no clock: operations, graph breaks, and the machine's rate of them."""

import contextlib
import platform
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmark.stopwatch import interleave


def parameters(module: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def flops(work: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products in a piece of work, two per multiply-add.

    Those of a backward pass, and of a forward pass that it repeats, are among them. Elementwise operations are not.
    The formulas are those of torch's `FlopCounterMode`, which itself can't follow modules that run in a backward pass.
    """
    with _Counter() as counter:
        work()
    return counter.total


class _Counter(TorchDispatchMode):
    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket not in flop_registry:
            with self:  # an operation that is made of others
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if func._overloadpacket in flop_registry:
            self.total += int(flop_registry[func._overloadpacket](*args, **kwargs, out_val=out))
        return out


class MatrixProduct:
    """A large float32 matrix product, to time beside other work: the rate that the machine can reach.

    Args:
        device: where.
        sizes: of square matrices; the one with the highest rate is taken.
    """

    def __init__(self, device: torch.device | str = "cpu", sizes: tuple[int, ...] = (1024, 2048, 3072)) -> None:
        self.device = device
        seconds = {size: self._seconds(size) for size in sizes}
        self.size = min(sizes, key=lambda size: seconds[size] / size**3)
        self._set(self.size)

    @property
    def flops(self) -> int:
        """Two per multiply-add."""
        return 2 * self.size**3

    def __call__(self) -> None:
        """Multiplies."""
        torch.mm(self.a, self.b, out=self.out)

    def _set(self, size: int) -> None:
        self.a, self.b, self.out = (torch.ones(size, size, device=self.device) for _ in range(3))

    def _seconds(self, size: int) -> float:
        self._set(size)
        return min(interleave({"": self}, 3, device=self.device)[""])


def graph_breaks(call: Callable[..., Any], *arguments: Any) -> str:
    """How often `torch.compile` has to leave the graph of a call.

    Returns:
        "0" where `fullgraph=True` takes it; else the number of breaks, or that it fails.
    """
    torch._dynamo.reset()
    with warnings.catch_warnings(), _without_grad_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.compile(call, backend="eager", fullgraph=True)(*arguments)
            return "0"
        except Exception:  # whatever dynamo raises: it is what is asked here
            torch._dynamo.reset()
        try:
            breaks: int = torch._dynamo.explain(call)(*arguments).graph_break_count
            return str(breaks) if breaks else "fails with fullgraph=True"
        except Exception as error:
            return f"fails ({type(error).__name__})"
        finally:
            torch._dynamo.reset()


@contextlib.contextmanager
def _without_grad_warnings() -> Any:
    """Dynamo writes to a log what it says in its exception."""
    import logging  # noqa: PLC0415

    logger = logging.getLogger("torch._dynamo")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def largest_error(a: Tensor, b: Tensor) -> float:
    """The largest |a − b|."""
    return float((a.double() - b.double()).abs().max())


def processor() -> str:
    """The name of the processor, as far as the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def has_bf16(device: torch.device | str = "cpu") -> bool:
    """Whether the processor multiplies in bf16 by itself."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(capabilities()) if callable(capabilities) else False
