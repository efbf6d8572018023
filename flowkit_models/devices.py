"""Devices: which one a name stands for."""

import torch


def find_device(name: str = "auto") -> torch.device:
    """The device of a name; "auto" is the accelerator (CUDA, ROCm, MPS, XPU …) where there is one, else the CPU.

    Raises:
        ValueError: if there is no such device; it names those that there are.
    """
    found = ["cpu"]
    if torch.accelerator.is_available():
        kind = str(torch.accelerator.current_accelerator())
        found = [kind, *(f"{kind}:{i}" for i in range(torch.accelerator.device_count())), "cpu"]
    if name == "auto":
        return torch.device(found[0])
    if name not in found:
        raise ValueError(f"--device {name}: not on this machine; there is {', '.join(found)}, and auto")
    return torch.device(name)
