"""Official names of HCFlow's weights: the main flow's running index, then a conditional flow for each level."""

from collections.abc import Iterable, Iterator
from typing import Any

from flowkit import ActNorm, Coupling, InvertibleConv1x1
from flowkit_models.models.official_names import Placed, Shapes, count, growth, haar_kernels, rrdb_trunk

CHOICES = ("squeeze", "body", "prior", "tap")
FORMS = {"glow": ("squeeze", "glow", "exp", True), "bands": ("haar", "bands", "atan", False)}
"""The `CHOICES` of the official networks by body, for SR and for rescaling: the official code has no others."""


def layout(model: Any) -> Iterator[Placed]:
    """The official names of all modules, in the official order.

    Raises:
        ValueError: if the model is neither the official one for SR nor that for rescaling.
    """
    config = model.config
    if config.given != "coarse" or not config.keep_lr:
        raise ValueError(
            f'official_state_dict: the official networks have given="coarse" and keep_lr=True, not '
            f'given="{config.given}" and keep_lr={config.keep_lr}; .safetensors files keep any design'
        )
    wanted = dict(zip(CHOICES, FORMS[config.body], strict=True))
    own = {name: getattr(config, name) for name in CHOICES}
    if other := [name for name in CHOICES if own[name] != wanted[name]]:
        there, here = (", ".join(f"{name}={values[name]!r}" for name in other) for values in (wanted, own))
        raise ValueError(
            f"official_state_dict: the official network has {there}, not {here}; .safetensors files keep any design"
        )
    index, channels = 0, 3
    for level in model.flow.levels:
        if config.squeeze == "haar":
            yield f"flow.layers.{index}", haar_kernels(model, channels)
        yield from _steps(level.body.parts[1:], "flow.layers.", index + 1)
        index += config.steps + 2  # the squeeze and the split have a number too
        channels = level.keep
    for i, (level, net) in enumerate(zip(model.flow.levels, model.flow.given.nets, strict=True)):
        prefix = f"flow.level{i}_condFlow."
        yield prefix + "conv_first", net.first
        yield from rrdb_trunk(net.trunk0, prefix + "RRDB_trunk0.")
        yield from rrdb_trunk(net.trunk1, prefix + "RRDB_trunk1.")
        yield prefix + "trunk_conv1", net.last
        yield from _steps(level.latent.parts[:-1], prefix + "additional_flow_steps.", 0)
        yield prefix + "f", level.latent.parts[-1].net


def _steps(parts: Iterable[Any], prefix: str, start: int) -> Iterator[Placed]:
    """Each step begins with an ActNorm."""
    index = start - 1
    for part in parts:
        if isinstance(part, ActNorm):
            index += 1
            yield f"{prefix}{index}.actnorm", part
        elif isinstance(part, InvertibleConv1x1):
            yield f"{prefix}{index}.permute", part
        elif isinstance(part, Coupling):
            yield f"{prefix}{index}.affine.f", part.net


def sizes(shapes: Shapes) -> dict[str, Any] | None:
    """The config of an official checkpoint, from its names and shapes; None if it is no HCFlow."""
    first = "flow.level0_condFlow."
    if first + "conv_first.weight" not in shapes:
        return None
    levels = count(shapes, "flow.level{}_condFlow.conv_first.weight")
    steps = count(shapes, "flow.layers.{}.actnorm.bias", start=1)
    extra = "flow.level{}_condFlow.additional_flow_steps.{}.actnorm.bias"
    conditional = tuple(count(shapes, extra.format(i, "{}")) for i in range(levels))
    rrdb = "flow.level{}_condFlow.RRDB_trunk{}.{}.RDB1.conv1.weight"
    blocks = tuple(tuple(count(shapes, rrdb.format(i, trunk, "{}")) for trunk in (0, 1)) for i in range(levels))
    haar = "flow.layers.0.haar_weights" in shapes
    squeeze, body, prior, tap = FORMS["bands" if haar else "glow"]
    inner = (shape[0] for name, shape in shapes.items() if name.endswith("steps.0.affine.f.conv1.weight"))
    return {
        "scale": 2**levels,
        "steps": steps,
        "conditional_steps": conditional[0] if len(set(conditional)) == 1 else conditional,
        "hidden": shapes.get("flow.layers.1.affine.f.conv1.weight", (64,))[0],
        "conditional_hidden": next(inner, 64),
        "blocks": blocks,
        "features": shapes[first + "conv_first.weight"][0],
        "growth": growth(shapes, 32),
        "squeeze": squeeze,
        "body": body,
        "prior": prior,
        "tap": tap,
        "quant": 256 if haar or levels > 2 else 64,
        "purpose": "rescaling" if haar else "sr",
    }
