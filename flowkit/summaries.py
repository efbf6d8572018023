"""A table of a flow: every layer, the shapes it makes, its parameters."""

import copy

import torch
from torch import Tensor, nn

from flowkit.bijector import Bijector
from flowkit.shapes import on_meta
from flowkit.tree import Value


def summary(flow: nn.Module, x: Tensor | tuple[int, ...] | None = None, context: Value = None) -> str:
    """Describes a flow layer by layer, as a text table.

    Args:
        flow: a bijector or a `Flow`.
        x: an input, or its shape with the batch, to show the shapes that each layer makes; None shows none.
        context: as for the flow's forward.

    Returns:
        One line per bijector, with its output shape, number of parameters (those of its nets included) and
        whether its log-det is constant; and the total.

    Example:
        >>> import flowkit
        >>> print(summary(flowkit.Squeeze() >> flowkit.ActNorm(12), (1, 3, 8, 8)))
        layer      module         output          parameters  log-det
        parts.0    Squeeze(2)     (1, 12, 4, 4)            0  constant
        parts.1    ActNorm(12)    (1, 12, 4, 4)           24  constant
        total      Chain                                  24  constant
    """
    outputs = {} if x is None else _outputs(flow, x, context)
    rows = [("layer", "module", "output", "parameters", "log-det")]
    for name, layer in flow.named_modules():
        if isinstance(layer, Bijector) and not any(isinstance(m, Bijector) for m in list(layer.modules())[1:]):
            rows.append(
                _row(
                    name or "flow",
                    f"{type(layer).__name__}({layer.extra_repr()})",
                    layer,
                    outputs.get(layer, ""),
                )
            )
    rows.append(_row("total", type(flow).__name__, flow, ""))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join(
        f"{a:<{widths[0]}}    {b:<{widths[1]}}    {c:<{widths[2]}}  {d:>{widths[3]}}  {e}".rstrip()
        for a, b, c, d, e in rows
    )


def _row(name: str, description: str, layer: nn.Module, output: str) -> tuple[str, str, str, str, str]:
    parameters = sum(p.numel() for p in layer.parameters())
    constant = getattr(layer, "constant_logdet", False)
    return name, description, output, f"{parameters:,}", "constant" if constant else "varies"


def _outputs(flow: nn.Module, x: Tensor | tuple[int, ...], context: Value) -> dict[nn.Module, str]:
    """The output shape of every bijector, from one forward pass of a copy: on the meta device, or else on numbers."""
    seen: dict[nn.Module, str] = {}

    def call(copied: nn.Module, x: Tensor, context: Value) -> None:
        for layer, its_copy in zip(flow.modules(), copied.modules(), strict=True):
            if isinstance(layer, Bijector):
                its_copy.register_forward_hook(lambda _, args, out, layer=layer: seen.update({layer: _shapes(out[0])}))
        copied(x, context)

    parameter = next(flow.parameters(), torch.empty(0))
    if not isinstance(x, Tensor):
        x = torch.zeros(x, dtype=parameter.dtype, device=parameter.device)
    try:
        on_meta(call, flow, x, context)
    except Exception:  # whatever a user's map does with what has no numbers
        with torch.no_grad():
            call(copy.deepcopy(flow), x, context)
    return seen


def _shapes(value: Value) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    return " + ".join(_shapes(part) for part in value if part is not None)
