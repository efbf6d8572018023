"""What is asked of tracing: `torch.compile`, `torch.export` with any batch, and the transforms of `torch.func`."""

from typing import Any

import torch
from torch import nn

from flowkit.bijector import Bijector
from flowkit.testing.compare import close, name_of
from flowkit.tree import Value


def compiled(b: nn.Module, x: Value, context: Value = None, backend: str = "inductor") -> None:
    """`torch.compile(fullgraph=True)` takes both directions and changes nothing but rounding."""
    inverse = b.inv if isinstance(b, Bijector) else _InverseOf(b)
    with torch.no_grad():
        y, forward = b(x, context)
        for direction, module, argument, expected in (
            ("forward", b, x, (y, forward)),
            ("inverse", inverse, y, (x, -forward)),
        ):
            torch.compiler.reset()
            try:
                result = torch.compile(module, fullgraph=True, backend=backend)(argument, context)
            except Exception as error:
                raise AssertionError(f"{name_of(b)} breaks the law: compiles ({direction}): {error}") from error
            close(result, expected, b, f"compiles ({direction}, same values)", 1e-4)


class _InverseOf(nn.Module):
    b: Any

    def __init__(self, b: nn.Module) -> None:
        super().__init__()
        self.b = b

    def forward(self, y: Value, context: Value = None) -> Any:
        return self.b.inverse(y, context)
