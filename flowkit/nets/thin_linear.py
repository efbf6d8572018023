"""A linear layer that is fast on a CPU where it has few inputs, or few outputs, as first and last layers do."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WORTH_IT = 131_072
"""Numbers on the wide side from which copies of the thin one are the lesser cost; in a graph they are nearly free."""


class Linear(nn.Linear):
    """A linear layer; `nn.Linear` in all but the order in which its products with thin matrices are made."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_features) to (…, out_features)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product x Wᵀ + b of (…, I), (O, I) and (O,), as `torch.nn.functional.linear` has it; contiguous, (…, O).

    A CPU's matrix products take up to four times as long where the result has few columns as where it has few rows. So
    those of few inputs have their gradients, and those of few outputs the result itself, transposed. In a graph every
    result narrower than x is: what follows takes its columns one by one, and reads them where they are.
    """
    outputs, inputs = weight.shape  # the widths below are those from which MKL was found slow
    compiling = torch.compiler.is_compiling()
    thin_result = 4 < outputs < inputs and (outputs <= 12 < inputs or compiling)
    thin_gradients = 1 < inputs <= 8 < outputs and torch.is_grad_enabled()
    if bias is None or x.ndim != 2 or not (thin_result or thin_gradients) or not _products_by_blas(x):
        return F.linear(x, weight, bias)
    if not compiling and x.shape[0] * max(inputs, outputs) < _WORTH_IT:
        return F.linear(x, weight, bias)
    if thin_result:
        return torch.addmm(bias[:, None], weight, x.t()).t().contiguous()
    return torch.addmm(bias, x.t().contiguous().t(), weight.t().contiguous())


def _products_by_blas(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
