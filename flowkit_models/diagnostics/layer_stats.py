"""Per-layer statistics of a forward and an inverse pass."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flowkit import Affine, Bijector, Chain, Coupling, Injector, Latents, Split
from flowkit.nets import FCN
from flowkit_models.models.base import ImageFlow


class Layer(NamedTuple):
    """Statistics of one layer on one batch.

    Attributes:
        name: in the model.
        kind: its class.
        bits: what its log-det adds to the log-density, in bits per number of the image, the batch's mean.
        own_error: of its own round trip b⁻¹(b(x)) in float32: the largest error of a channel in units of its root mean
            square.
        error: of x when the whole flow has been inverted down to here in float32: max |x̂ − x|.
        error64: the same in float64.
        scale: least and largest factor by which it multiplies a number; None if it does not scale.
        constant: channels of its output that are the same at every pixel of the batch.
    """

    name: str
    kind: str
    bits: float
    own_error: float
    error: float
    error64: float
    scale: tuple[float, float] | None
    constant: tuple[int, ...]


@dataclass
class Trace:
    """Statistics of all layers in the order of the forward pass, and what came out.

    Attributes:
        layers: the leaves among the flow's bijectors.
        lr, latents: what the flow makes of the batch, in float32.
        image_error, image_error64: of the image, after the way there and back.
        level_errors: for each level, finest first, the errors of what enters it, in float32 and float64.
        dead: by the name of a conditioner network's layer, which of its units are zero at every pixel.
    """

    layers: list[Layer]
    lr: Tensor | None
    latents: tuple[Tensor, ...]
    image_error: float
    image_error64: float
    level_errors: list[tuple[float, float]]
    dead: dict[str, tuple[int, ...]]


@dataclass
class _Pass:
    """Tensors that hooks saw in one pass there and back."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    contexts: dict[str, Any] = field(default_factory=dict)
    logdets: dict[str, Tensor] = field(default_factory=dict)
    recovered: dict[str, Tensor] = field(default_factory=dict)
    scales: dict[str, tuple[float, float]] = field(default_factory=dict)
    dead: dict[str, tuple[int, ...]] = field(default_factory=dict)
    latents: Any = None
    image: Tensor | None = None


@torch.no_grad()
def trace(model: ImageFlow, hr: Tensor, lr: Tensor) -> Trace:
    """Per-layer statistics of a batch that goes through a model and back, in float32 and in float64.

    Args:
        model: left as it is.
        hr: (B, 3, H, W), sides multiples of the model's stride.
        lr: the LR images.

    Raises:
        ValueError, LinAlgError: what the flow raises.
    """
    narrow, wide = (_there_and_back(copy.deepcopy(model).to(dtype), hr.to(dtype), lr.to(dtype)) for dtype in _DTYPES)
    single = copy.deepcopy(model).float()
    modules = dict(single.named_modules())
    numbers = math.log(2) * hr[0].numel()
    layers = []
    for name, x in narrow.inputs.items():
        module: Any = modules[name]
        again = module.inverse(narrow.outputs[name], narrow.contexts[name])[0]
        layers.append(
            Layer(
                name,
                type(module).__name__,
                float(narrow.logdets[name].mean()) / numbers,
                _relative(again, x),
                _distance(narrow.recovered[name], x),
                _distance(wide.recovered[name], wide.inputs[name]),
                narrow.scales.get(name),
                constant_channels(narrow.outputs[name]),
            )
        )
    assert narrow.image is not None, "there and back"
    assert wide.image is not None, "there and back"
    return Trace(
        layers,
        narrow.latents.y,
        narrow.latents.z,
        _distance(narrow.image, hr.float()),
        _distance(wide.image, hr.double()),
        _level_errors(model, layers),
        narrow.dead,
    )


_DTYPES = (torch.float32, torch.float64)


def leaf_bijectors(model: nn.Module) -> dict[str, Any]:
    """Leaves among a flow's bijectors, by name: those that hold no other one and map a tensor to a tensor."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Bijector)
        and not isinstance(module, Split | Chain)
        and not any(isinstance(part, Bijector) for part in list(module.modules())[1:])
    }


def constant_channels(x: Tensor) -> tuple[int, ...]:
    """Channels of (B, C, *spatial) that hold one value, to float32's precision; none of a single pixel."""
    flat = x.transpose(0, 1).flatten(1).double()
    if flat.shape[1] < 2:
        return ()
    spread = flat.amax(1) - flat.amin(1)
    return tuple((spread <= 1e-6 * flat.abs().amax(1)).nonzero().flatten().tolist())


def _there_and_back(model: ImageFlow, hr: Tensor, lr: Tensor) -> _Pass:
    """Tensors that the layers of a copy get and give.

    Hooks also keep a chain from composing neighbours, so that each layer is seen alone. A bijector's `inverse` is no
    module call: it is shadowed.
    """
    seen = _Pass()

    def passed(name: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        seen.inputs[name], (seen.outputs[name], seen.logdets[name]) = args[0], out
        seen.contexts[name] = args[1] if len(args) > 1 else kwargs.get("context")

    def inverted(name: str, inverse: Callable[..., Any], y: Any, context: Any = None) -> Any:
        out = inverse(y, context)
        seen.recovered[name] = out[0]
        return out

    def scaled(name: str, kind: Affine, module: nn.Module, args: Any, out: Tensor) -> None:
        _, log_scale = kind._scale(out[:, 1::2])  # interleaved: shift, raw scale
        seen.scales[name] = _span(-log_scale if kind.inverted else log_scale)

    def rectified(name: str, module: nn.Module, args: Any, out: Tensor) -> None:
        seen.dead[name] = tuple((out.transpose(0, 1).flatten(1).amax(1) <= 0).nonzero().flatten().tolist())

    for name, module in leaf_bijectors(model.eval()).items():
        module.register_forward_hook(partial(passed, name), with_kwargs=True)
        module.inverse = partial(inverted, name, module.inverse)
        if isinstance(module, Coupling | Injector) and isinstance(module.kind, Affine):
            module.net.register_forward_hook(partial(scaled, name, module.kind))
        elif hasattr(module, "log_scale"):
            seen.scales[name] = _span(module.log_scale)
    for name, module in model.named_modules():
        if isinstance(module, FCN):
            for part in ("conv1", "conv2"):
                getattr(module, part).register_forward_hook(partial(rectified, f"{name}.{part}"))
    context = model.context(lr)
    seen.latents = model.flow(hr, context)[0]
    seen.image = model.flow.inverse(Latents(*seen.latents), context)[0]
    return seen


def _span(log_scale: Tensor) -> tuple[float, float]:
    """Least and largest factor; a factor that overflows is infinite."""
    return float(log_scale.double().min().exp()), float(log_scale.double().max().exp())


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def _relative(a: Tensor, b: Tensor) -> float:
    """Largest error of a channel, in units of its root mean square."""
    error, size = ((x.transpose(0, 1).flatten(1)) for x in ((a - b).abs(), b.square()))
    return float((error.amax(1) / (size.mean(1).sqrt() + 1e-30)).max())


def _level_errors(model: ImageFlow, layers: list[Layer]) -> list[tuple[float, float]]:
    errors = []
    for i in range(len(model.flow.levels)):
        first = next((layer for layer in layers if layer.name.startswith(f"flow.levels.{i}.body")), None)
        errors.append((first.error, first.error64) if first else (0.0, 0.0))
    return errors
