"""What the four Glows beside this file do under autocast, torch.compile and at another size: measured, as a table.

    python recipes/benchmark/peers/facts.py           # a minute on one core; without torch.compile: --quick

All four get networks of one kind with weights from one distribution, so that the numbers can be compared.
"""

import functools
import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LIBRARIES = {"flowkit": "flowkit", "nflows": "nflows", "normflows": "normflows", "freia": "FrEIA"}
Direction = Callable[..., Any]
# what each library calls the network of a coupling
NETWORK = {"flowkit": "net", "nflows": "transform_net", "normflows": "param_map", "freia": "subnet"}


class Net(nn.Module):
    """3×3, ReLU, 1×1, ReLU, 3×3, on normal weights: 0.05 in the last layer, so that scales are not all alike."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first, self.middle = nn.Conv2d(inputs, 64, 3, padding=1), nn.Conv2d(64, 64, 1)
        self.last = nn.Conv2d(64, outputs, 3, padding=1)
        for conv, gain in ((self.first, 1.0), (self.middle, 1.0), (self.last, 0.05)):
            fan = conv.weight[0].numel()
            conv.weight.data = torch.randn(conv.weight.shape, generator=generator) * gain * (2 / fan) ** 0.5

    def forward(self, passive: Tensor, context: Tensor | None = None) -> Tensor:
        """Parameters of the active channels."""
        return self.last(self.middle(self.first(passive).relu()).relu())


def directions(library: str, flow: Any) -> tuple[Direction, Direction]:
    """The two directions of a flow, whatever its library calls them: x to latents, and back."""
    if library == "flowkit":
        return flow.bijector, flow.bijector.inverse
    if library == "nflows":
        return flow._transform, flow._transform.inverse
    if library == "normflows":
        return flow.inverse_and_log_det, flow.forward_and_log_det
    return flow, functools.partial(flow, rev=True)


def glow(library: str) -> tuple[Direction, Direction, Tensor]:
    """The library's Glow for 16×16 images, both directions, ActNorms set and networks replaced; and a batch."""
    torch.manual_seed(0)
    np.random.seed(0)  # FrEIA's permutations
    x = torch.rand(8, 3, 16, 16)
    flow = importlib.import_module(f"glow_{library}").build(16)
    generator = torch.Generator().manual_seed(0)
    name = NETWORK[library]
    for coupling in [module for module in flow.modules() if name in dict(module.named_children())]:
        channels = next(p.shape[1] for p in getattr(coupling, name).parameters() if p.ndim == 4)
        setattr(coupling, name, Net(channels, 2 * channels, generator))
    encode, decode = directions(library, flow)
    with torch.no_grad():
        if library == "flowkit":
            importlib.import_module("flowkit").initialize(flow, x)
        encode(x)  # the others' ActNorms set themselves
    flow.eval()
    return encode, decode, x


def leaves(value: Any) -> list[Tensor]:
    """The tensors of nested tuples and lists."""
    if isinstance(value, Tensor):
        return [value]
    return [leaf for part in value or () for leaf in leaves(part)]


def dtype(x: Tensor) -> str:
    """The dtype's short name."""
    return str(x.dtype).removeprefix("torch.")


@torch.no_grad()
def autocast_facts(library: str) -> dict[str, str]:
    """Precision under bf16 autocast, on the CPU."""
    encode, decode, x = glow(library)
    z, logdet = encode(x)
    facts = {"largest error of the inverse, float32": f"{(decode(z)[0] - x).abs().max():.0e}"}
    with torch.autocast("cpu", torch.bfloat16):
        z, low = encode(x)
        back, low_inverse = decode(z)
    facts["the same under bf16 autocast"] = f"{(back - x).abs().max():.0e}"
    facts["error of the log-det there, nats of 768 numbers"] = f"{(low - logdet).abs().max():.0e}"
    facts["dtype of the latents there"] = dtype(leaves(z)[-1])
    facts["dtype of the log-det there, forward"] = dtype(low)
    facts["dtype of the log-det there, inverse"] = dtype(low_inverse)
    return facts


@torch.no_grad()
def size_facts(library: str) -> dict[str, str]:
    """Whether a flow that was built for 16×16 encodes and decodes 24×40."""
    encode, decode, _ = glow(library)
    x = torch.rand(2, 3, 24, 40)
    try:
        same = (decode(encode(x)[0])[0] - x).abs().max() < 1e-4
    except (AssertionError, RuntimeError, ValueError):
        same = False
    return {"maps another image size than it was built for": "yes" if same else "no"}


def compile_facts(library: str) -> dict[str, str]:
    """Whether Dynamo takes each direction as one graph; what is made of the graph is not looked at."""
    encode, decode, x = glow(library)
    facts = {}
    for name, direction, value in (("forward", encode, x), ("inverse", decode, encode(x)[0])):
        torch._dynamo.reset()
        try:
            torch.compile(direction, fullgraph=True, backend="eager")(value)
            facts[f"`torch.compile(fullgraph=True)`, {name}"] = "yes"
        except torch._dynamo.exc.TorchDynamoException:
            facts[f"`torch.compile(fullgraph=True)`, {name}"] = "no"
    return facts


def table(*kinds: Callable[[str], dict[str, str]]) -> list[str]:
    """Rows in Markdown."""
    columns = [{name: value for kind in kinds for name, value in kind(library).items()} for library in LIBRARIES]
    return [f"| {name} | " + " | ".join(column[name] for column in columns) + " |" for name in columns[0]]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    quick = [] if "--quick" in sys.argv else [compile_facts]
    print("\n".join(table(autocast_facts, size_facts, *quick)))
