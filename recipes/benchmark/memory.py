"""Memory of a piece of work: the most that it holds at once, and what autograd keeps for the backward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile


def peak_bytes(work: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """The most memory that a piece of work holds at any moment, beyond what was there before it.

    On a GPU it is the caching allocator's own count. On a CPU the profiler records every block that torch's allocator
    hands out and takes back, with its time, and this is the maximum of their running sum. It covers the tensors and
    what kernels ask torch for, among it the reordered copies and scratch memory of oneDNN's convolutions, but not what
    the mathematics libraries allocate by themselves (packed panels of a matrix product, a megabyte or so per thread).
    A block from before, freed by the work, does not count as a saving.

    Run the work once before: what is only made the first time (gradients, the optimiser's state) then is there.

    Args:
        work: is called once. What it returns is kept until the end.
        device: where it runs.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = work()
    del kept
    recorder: Any = profiler.profiler
    events = [(e.start_ns(), e.nbytes()) for e in recorder.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for _, size in sorted(events, key=lambda event: event[0]):  # stable: blocks of one nanosecond stay in order
        held += size
        peak = max(peak, held)
    return peak


def saved_bytes(forward: Callable[[], Tensor], module: nn.Module, *inputs: Tensor) -> int:
    """Bytes that autograd keeps of a forward pass for the backward pass, beside parameters, buffers and inputs.

    A storage that several operations keep counts once. Tensors that a `torch.autograd.Function` keeps by
    `save_for_backward` count like all others.

    Args:
        forward: returns the loss.
        module: whose parameters and buffers don't count.
        inputs: these neither.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers(), *inputs)}
    kept: dict[int, Tensor] = {}  # held until the end, so that no address is given to two of them

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.detach()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    del loss
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in known)


def training_bytes(step: Callable[[], object], module: nn.Module, device: torch.device | str = "cpu") -> int:
    """The most that a training step holds beside parameters, gradients and the optimiser's state.

    The gradients are there from the start and are added to, as with `zero_grad(set_to_none=False)`: so whatever a
    step holds besides, also copies of gradients, counts. `step` must leave the gradients where they are.

    Args:
        step: forward, backward and the optimiser's step.
        module: whose gradients these are.
        device: where it runs.

    Raises:
        ValueError: if the step sets gradients to None.
    """
    step()
    if all(p.grad is None for p in module.parameters()):
        raise ValueError("training_bytes: the step leaves no gradients; zero them in place, set_to_none=False")
    return peak_bytes(step, device)
