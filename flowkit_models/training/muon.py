"""Muon for the kernels of convolutions: momentum whose matrix is made orthogonal before each step."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_MOMENTUM = 0.95
_ITERATIONS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial a·s + b·s³ + c·s⁵: five of its steps take singular values from 0.01 to 1 close to 1."""
_SMALLEST_SIDE = 8


def is_kernel(parameter: Tensor) -> bool:
    """True for what Muon steps: a convolution's kernel that is, as a matrix, at least 8 on each side."""
    return parameter.ndim == 4 and min(parameter.shape[0], parameter[0].numel()) >= _SMALLEST_SIDE


class Muon(torch.optim.Optimizer):
    """Steps of Nesterov momentum, made orthogonal, for kernels (out, in, height, width) as out × (in·height·width).

    All singular values of a step are near 1, so directions that Adam hardly moves along are learned as fast as the
    large ones. A step is scaled to the size that Adam's has at the same rate, 0.2 for an entry (root mean square).
    torch's own Muon takes matrices alone, one at a time, in bfloat16.

    Args:
        kernels: for which `is_kernel` holds; others wouldn't be helped.
        lr: learning rate; `param_groups` hold it, as in any optimizer.
        weight_decay: of the classic kind, added to the gradient.

    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024; the scale of Liu et al.,
    Muon is scalable for LLM training, 2025.
    """

    def __init__(self, kernels: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__([{"params": list(kernels)}], {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Takes a step with the gradients that are there; kernels without one stay."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)  # the small products of many layers in one
            for kernel in group["params"]:
                if kernel.grad is not None:
                    alike[(kernel.shape[0], kernel[0].numel())].append(kernel)
            for (rows, columns), kernels in alike.items():
                steps = orthogonal(torch.stack([self._momentum(k, group["weight_decay"]) for k in kernels]))
                scale = 0.2 * math.sqrt(max(rows, columns))
                for kernel, step in zip(kernels, steps, strict=True):
                    kernel.add_(step.view(kernel.shape), alpha=-group["lr"] * scale)

    def _momentum(self, kernel: Tensor, decay: float) -> Tensor:
        assert kernel.grad is not None, "checked before"
        gradient = (kernel.grad + decay * kernel if decay else kernel.grad).flatten(1)
        state = self.state[kernel]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
        return gradient.lerp(state["momentum"], _MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (…, n, m) with the singular vectors of the given ones, and singular values of about 0.7 to 1.2.

    By Newton–Schulz iterations, which take products alone. Values below a hundredth of the matrix's norm stay smaller.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-12)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
