"""Options that every subcommand has."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from flowkit_models.devices import find_device
from flowkit_models.images.image_file import check_writable


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every subcommand."""

    out: Path = Path("runs/benchmark")
    """Folder of the results."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU, if there is one."""
    threads: int = 2
    """Of the CPU."""
    rounds: int = 5
    """How often everything has its turn."""
    calls: int = 1
    """Calls in a turn."""
    seed: int = 0
    """Of weights and data."""
    tf32: bool = False
    """Let a GPU compute float32 products in TF32."""
    quick: bool = False
    """Toy sizes, small models and one round: to see that it runs."""

    def prepare(self) -> None:
        """Sets threads and TF32.

        Raises:
            ValueError: for numbers below 1, or a GPU that is not there.
        """
        for name, value in vars(self).items():
            numbers = value if isinstance(value, tuple) else (value,)
            if name != "seed" and any(type(number) is int and number < 1 for number in numbers):
                raise ValueError(f"{name} must be at least 1")
        find_device(self.device)
        check_writable(self.out)
        torch.set_num_threads(self.threads)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.tf32
