"""The product of vectors with a matrix, in the order that is quick on a CPU where one side is thin."""

import torch
import torch.nn.functional as F
from torch import Tensor

_WORTH_IT = 131_072
"""Numbers on the wide side from which copies of the thin one are the lesser cost; in a graph they are nearly free."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product x Wᵀ + b of (…, I), (O, I) and (O,), as `torch.nn.functional.linear` has it; contiguous, (…, O).

    A CPU's matrix products take up to four times as long where the result has few columns as where it has few rows. So
    those of few inputs have their gradients, and those of few outputs the result itself, transposed.

    In a graph every result that is narrower than x is, and small square ones are: what follows reads column by column.
    The bias is subtracted there, as −b: what is added becomes a part of the product, which on a CPU copies it into
    every row first, while a difference is computed with what follows.
    """
    outputs, inputs = weight.shape  # the widths below are those from which MKL was found slow
    in_graph = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    thin_result = 4 < outputs <= 12 < inputs or (in_graph and (4 < outputs < inputs or 1 < outputs == inputs <= 12))
    thin_gradients = 1 < inputs <= 8 < outputs and torch.is_grad_enabled()
    worth_it = in_graph or ((thin_result or thin_gradients) and x.shape[0] * max(inputs, outputs) >= _WORTH_IT)
    if x.ndim != 2 or not worth_it or not _products_by_blas(x) or (bias is None and not in_graph):
        return F.linear(x, weight, bias)
    if thin_result:
        return _product(weight, x.t(), None if bias is None else bias[:, None], in_graph).t().contiguous()
    if thin_gradients:
        return _product(x.t().contiguous().t(), weight.t().contiguous(), bias, in_graph)
    return _product(x, weight.t(), bias, in_graph)


def _product(left: Tensor, right: Tensor, bias: Tensor | None, in_graph: bool) -> Tensor:
    if bias is None:
        return left @ right
    return left @ right - -bias if in_graph else torch.addmm(bias, left, right)


def _products_by_blas(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
