"""What a checkpoint under flowkit's own names is, from names and shapes alone: for programs that see nothing else.

Files hold the config, and `load` reads that. This is for what drops it. Not told, because no weight depends on it:
how latents and noise are counted in a likelihood (`quant`, `centred`, `noisy`, `lr_std`, `lr_rounded`), which is no
matter for upscaling; IRN's `clamp` and SRFlow's `floor`, taken as published; SRFlow's `taps`, taken as published or as
in the small preset; and whether an HCFlow with 1×1 convolutions has Haar levels or squeezes: both are returned.
"""

import re
from typing import Any

from flowkit_models.models.official_names import Shapes, count
from flowkit_models.models.presets import PRESETS
from flowkit_models.models.srflow.official import PUBLISHED_TAPS

LEVEL = "flow.levels.{}.body.parts."
BODY = re.compile(r"flow\.levels\.(\d+)\.body\.parts\.(\d+)\.(.+)")
LATENT = re.compile(r"flow\.levels\.(\d+)\.latent\.parts\.(\d+)\.(.+)")


def own_family(shapes: Shapes) -> str | None:
    """Which family a state dict under flowkit's names is of; None if it is under other names."""
    if not any(BODY.fullmatch(name) for name in shapes):
        return None
    if "encoder.first.weight" in shapes:
        return "SRFlow"
    return "HCFlow" if any(LATENT.fullmatch(name) for name in shapes) else "IRN"


def own_sizes(shapes: Shapes) -> tuple[str, list[dict[str, Any]]] | None:
    """Family, and the config fields that the weights allow, of a state dict under flowkit's names; None if it is none.

    `taps` is None for an SRFlow whose taps are neither the published ones' nor the small preset's.
    """
    family = own_family(shapes)
    if family is None:
        return None
    return family, {"SRFlow": _srflow, "HCFlow": _hcflow, "IRN": _irn}[family](shapes)


def _indices(shapes: Shapes, pattern: re.Pattern[str], level: int, rest: str) -> list[int]:
    """At which places of a level's chain there is a part with a parameter of this name."""
    found = (pattern.fullmatch(name) for name in shapes)
    return sorted({int(m[2]) for m in found if m and int(m[1]) == level and m[3] == rest})


def _levels(shapes: Shapes) -> int:
    return 1 + max(int(match[1]) for name in shapes if (match := BODY.fullmatch(name)))


def _growth(shapes: Shapes, default: int = 32) -> int:
    """Growth of the first residual dense block."""
    return next((s[0] for n, s in shapes.items() if n.endswith("blocks.0.dense.convs.0.weight")), default)


def _hcflow(shapes: Shapes) -> list[dict[str, Any]]:
    levels = _levels(shapes)
    glow = bool(_indices(shapes, BODY, 0, "weight"))  # 1×1 convolutions
    steps = len(_indices(shapes, BODY, 0, "log_scale"))
    nets = [f"flow.given.nets.{i}." for i in range(levels)]
    conditional = tuple(len(_indices(shapes, LATENT, i, "weight")) for i in range(levels))
    first = nets[0] + "first.weight"
    sizes: dict[str, Any] = {
        "scale": 2**levels,
        "steps": steps,
        "conditional_steps": conditional,
        "blocks": tuple(
            tuple(count(shapes, f"{net}trunk{t}.{{}}.blocks.0.dense.convs.0.weight") for t in (0, 1)) for net in nets
        ),
        "growth": _growth(shapes),
        "body": "glow" if glow else "bands",
    }
    sizes |= {"hidden": _width(shapes, "body"), "conditional_hidden": _width(shapes, "latent")}
    kept = _coarsest_channels(shapes, levels)
    sizes["keep_lr"] = kept == 3
    if first in shapes:
        features = shapes[first][0]
        prior = max(_indices(shapes, LATENT, 0, "net.bias"))
        width = shapes[f"flow.levels.0.latent.parts.{prior}.net.weight"][1]
        seen = shapes[first][1]
        own = 6 if levels > 1 else 3
        given = "single" if levels > 1 and seen == own else "coarse"
        # with the LR image in the latent, "lr" upscales as "coarse" does
        sizes |= {"features": features, "tap": width == 2 * features, "given": given if kept == 3 else "lr"}
    else:
        sizes["given"] = "independent"
    if not glow:
        return [{**sizes, "squeeze": "haar", "prior": "atan"}]
    return [{**sizes, "squeeze": squeeze} for squeeze in ("squeeze", "haar")]


def _width(shapes: Shapes, part: str) -> int:
    """Width of the couplings' networks in the bodies, or in the latents."""
    first = re.compile(rf"flow\.levels\.\d+\.{part}\.parts\.\d+\.net\.conv(1|s\.0)\.weight")
    return next((shape[0] for name, shape in shapes.items() if first.fullmatch(name)), 64)


def _coarsest_channels(shapes: Shapes, levels: int) -> int:
    """How many channels of the coarsest level are no details: 3 or 0."""
    last = levels - 1
    body = shapes[f"{LEVEL.format(last)}{_indices(shapes, BODY, last, 'log_scale')[0]}.log_scale"][0]
    latent = LATENT.pattern.replace(r"(\d+)", str(last), 1)
    details = [s[0] for n, s in shapes.items() if (m := re.fullmatch(latent, n)) and m[2] in ("log_scale", "weight")]
    if not details:  # no steps: the prior returns two numbers for each
        details = [s[0] // 2 for n, s in shapes.items() if (m := re.fullmatch(latent, n)) and m[2] == "net.bias"]
    return body - details[0]


def _srflow(shapes: Shapes) -> list[dict[str, Any]]:
    first = LEVEL.format(0)
    nets = _indices(shapes, BODY, 0, "net.conv1.weight")
    steps = len(nets) // 2  # an injector and a coupling each
    transitions = len(_indices(shapes, BODY, 0, "log_scale")) - steps
    features = shapes["encoder.first.weight"][0]
    hidden, context = shapes[f"{first}{nets[0]}.net.conv1.weight"][:2] if nets else (64, 5 * features)
    blocks = count(shapes, "encoder.trunk.{}.blocks.0.dense.convs.0.weight")
    scale = 2 ** count(shapes, "encoder.up.{}.weight")
    taps = context // features - 1
    small = PRESETS["srflow_x4_small"][1]
    if (scale, blocks, taps) == (4, small["blocks"], len(small["taps"])):
        stacked: tuple[int, ...] | None = small["taps"]
    else:
        stacked = PUBLISHED_TAPS.get((scale, blocks, taps)) if taps else ()
    found = {
        "scale": scale,
        "transitions": transitions,
        "steps": steps,
        "hidden": hidden,
        "blocks": blocks,
        "taps": stacked,
        "features": features,
        "growth": _growth(shapes),
        "unused": "unused.weight" in shapes,
    }
    return [found]


def _irn(shapes: Shapes) -> list[dict[str, Any]]:
    """Couplings stand two by two; a gap in their numbers is a Haar transform, which has no weights."""
    couplings = [m[2] for n in shapes if (m := BODY.fullmatch(n)) and m[3].startswith("net.")]
    places = sorted(set(map(int, couplings)))
    stages: list[int] = []
    for place, before in zip(places, [-1, *places], strict=False):
        stages += [0] * (place - before - 1)
        stages[-1] += 1
    patches = _indices(shapes, BODY, 0, "weight")
    factor = round(shapes[f"{LEVEL.format(0)}{patches[0]}.weight"][0] ** 0.5) if patches else 2
    found = {
        "scale": factor ** len(stages),
        "blocks": tuple(number // 2 for number in stages),
        "growth": next(s[0] for n, s in shapes.items() if n.endswith("net.convs.0.weight")),
        "downscaling": "learned" if patches else "haar",
    }
    return [found]
