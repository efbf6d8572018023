"""Distributed training: starts the processes of a run, and lets them agree."""

import os
import signal
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    broadcast_object_list,
)
from torch import nn

from flowkit_models.devices import find_device
from flowkit_models.training.settings import Settings

SHARDED = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")
"""Modes that `accelerate launch` asks for by ACCELERATE_USE_…: a state would hold a part of the weights only."""

KINDS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


def start_processes(settings: Settings) -> Accelerator:
    """Joins the processes that `torchrun` started, or is alone; takes a GPU if there is one.

    Raises:
        ValueError: if sharded training is asked for, or the batch can't be shared.
    """
    for name in SHARDED:
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() in ("1", "true", "yes"):
            raise ValueError(f"ACCELERATE_USE_{name} is set: sharded training is not supported; start with torchrun")
    warn_of_old_addresses()
    # accelerate keeps one state per process; but a process may train twice, and differently
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=settings.cpu or find_device().type == "cpu",  # without it, accelerate takes processes on CPUs for lone ones
        mixed_precision=settings.precision,
        kwargs_handlers=[
            # each phase uses some of the parameters
            DistributedDataParallelKwargs(find_unused_parameters=True),
            # the others wait while the first one validates
            InitProcessGroupKwargs(timeout=timedelta(hours=6)),
        ],
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.distributed_type not in KINDS or accelerator.num_processes != started:
        raise ValueError(
            f"{accelerator.distributed_type} with {accelerator.num_processes} of {started} processes is not "
            "supported: start with torchrun, for DistributedDataParallel"
        )
    settings.check_shares(accelerator.num_processes)
    return accelerator


def warn_of_old_addresses() -> None:
    """Warns, on the first process, where torchrun's store outlives a restart with the addresses of dead processes."""
    told = os.environ.get
    several, restarts = told("WORLD_SIZE", "1") != "1", told("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    if several and restarts and told("TORCHELASTIC_USE_AGENT_STORE") == "True" and told("RANK") == "0":
        warnings.warn(
            "torchrun --max-restarts: after a restart, processes may look for each other where they were before: "
            "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 on every machine",
            stacklevel=3,
        )


class Verdict(NamedTuple):
    """Agreement of all processes.

    Attributes:
        bad: something is wrong on one of them.
        stop: the signal that one of them received.
        loss: the mean of all.
    """

    bad: bool
    stop: signal.Signals | None
    loss: float


def agree(accelerator: Accelerator, bad: bool, received: signal.Signals | None, loss: float = 0.0) -> Verdict:
    """Tells all processes what each knows, in one small message."""
    told = [bad, received == signal.SIGTERM, received == signal.SIGINT, loss]
    flags = torch.tensor(told, dtype=torch.float32)
    total: torch.Tensor = accelerator.reduce(flags.to(accelerator.device), "sum")
    any_bad, terminated, interrupted = (total[:3] > 0).tolist()
    stop = signal.SIGTERM if terminated else signal.SIGINT if interrupted else None
    return Verdict(any_bad, stop, float(total[3]) / accelerator.num_processes)


def on_first(accelerator: Accelerator, act: Callable[[], object]) -> None:
    """Acts on the first process alone; all wait, and an error is raised on all."""
    error: list[Exception | None] = [None]
    if accelerator.is_main_process:
        try:
            act()
        except Exception as caught:
            error = [caught]
    broadcast_object_list(error)
    if error[0] is not None:
        raise error[0]


def copy_from_first(accelerator: Accelerator, module: nn.Module) -> None:
    """Gives all processes the first one's weights."""
    if accelerator.num_processes > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)
