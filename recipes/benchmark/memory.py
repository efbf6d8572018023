"""Memory of a piece of work: the most that it holds at once, and what autograd keeps for the backward pass."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
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


@contextlib.contextmanager
def saved_tensors(known: Iterable[Tensor] = ()) -> Iterator[dict[int, int]]:
    """Collects what autograd keeps for the backward pass: bytes of each storage, by its address.

    A storage that several operations keep counts once, those of `known` (parameters, buffers, the input) not at all.
    Tensors that a `torch.autograd.Function` keeps by `save_for_backward` count like all others.

    Args:
        known: tensors that are there anyway.
    """
    there = {tensor.untyped_storage().data_ptr() for tensor in known}
    found: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address is given to two of them

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in there:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def saved_bytes(forward: Callable[[], Tensor], module: nn.Module, *inputs: Tensor) -> int:
    """Bytes that a forward pass keeps for its backward pass, beside parameters, buffers and inputs.

    Args:
        forward: returns the loss.
        module: whose parameters and buffers don't count.
        inputs: these neither.
    """
    with saved_tensors([*module.parameters(), *module.buffers(), *inputs]) as found:
        loss = forward()
    del loss
    return sum(found.values())


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
