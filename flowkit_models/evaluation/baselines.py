"""Baseline networks from checkpoints of any published layout, told by names and shapes."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from flowkit_models.evaluation.baseline_networks import RDN, SRCNN, ResidualNet, ResidualSizes

State = Mapping[str, Tensor]
Baseline = SRCNN | ResidualNet | RDN
Rules = Mapping[str, str]

_DIV2K_MEAN = (0.4488, 0.4371, 0.4040)  # the colour that EDSR takes off its input

# how published checkpoints call the layers, and what they are called here
_EDSR = {
    r"head\.0": "first",
    r"body\.(\d+)\.body\.0": r"blocks.\1.conv1",
    r"body\.(\d+)\.body\.2": r"blocks.\1.conv2",
    r"body\.\d+": "trunk",
    r"tail\.0\.(\d+)": r"up.\1",
    r"tail\.1": "image",
}
_EDSR_BASICSR = {
    "conv_first": "first",
    r"body\.(\d+)\.(conv[12])": r"blocks.\1.\2",
    "conv_after_body": "trunk",
    r"upsample\.(\d+)": r"up.\1",
    "conv_last": "image",
}
_SRRESNET = {
    "conv_first": "first",
    r"(?:body|recon_trunk)\.(\d+)\.(conv[12])": r"blocks.\1.\2",
    r"upconv(\d)": r"up.\1",
    "HRconv|conv_hr": "hr",
    "conv_last": "image",
}
_SRRESNET_NUMBERED = {  # ×4 has one more upsampler, of three numbers, than ×2 and ×3
    r"model\.0": "first",
    r"model\.1\.sub\.(\d+)\.res\.0": r"blocks.\1.conv1",
    r"model\.1\.sub\.(\d+)\.res\.2": r"blocks.\1.conv2",
    r"model\.1\.sub\.\d+": "trunk",
    r"model\.2": "up.2",
}
_RDN = {
    "SFENet1": "first",
    "SFENet2": "second",
    r"RDBs\.(\d+)\.convs\.(\d+)\.conv\.0": r"blocks.\1.convs.\2",
    r"RDBs\.(\d+)\.LFF": r"blocks.\1.fuse",
    r"GFF\.0": "fuse",
    r"GFF\.1": "last",
    r"UPNet\.(\d+)": r"up.\1",
}
_RDN_OTHER = {
    "sfe1": "first",
    "sfe2": "second",
    r"rdbs\.(\d+)\.layers\.(\d+)\.conv": r"blocks.\1.convs.\2",
    r"rdbs\.(\d+)\.lff": r"blocks.\1.fuse",
    r"gff\.0": "fuse",
    r"gff\.1": "last",
    r"upscale\.(\d+)": r"up.\1",
    "output": "image",
}


def known_baseline(state: State, scale: int = 4) -> tuple[str, Baseline] | None:
    """Makes the network that a checkpoint holds, with its weights, if it is one of these.

    Known are the names of EDSR's own code (EDSR, RDN), of BasicSR (EDSR, MSRResNet, old and new), of RankSRGAN
    (old and new), and `sfe1`, … for RDN and `conv1` to `conv3` for SRCNN as in common ports. What weights
    can't tell: an EDSR of 256 features has residuals × 0.1, as published, any narrower one × 1; RDN with the names
    of EDSR's code sees images in 0…255, with the others in 0…1.

    Args:
        state: tensors by name.
        scale: of an SRCNN, whose weights don't tell it.

    Returns:
        Which it is, for a table, and the network in eval mode, float32; None if it is none of these.

    Raises:
        ValueError: if the names are those of one of these, but the shapes are not.
    """
    for name, make in _MAKERS.items():
        found = make(state, scale)
        if found is None:
            continue
        network, tensors = found
        try:
            network.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip()
            raise ValueError(f"named like {name}, of other shapes: {reason}") from None
        return name, network.eval()
    return None


Found = tuple[Baseline, State] | None


def _srcnn(state: State, scale: int) -> Found:
    if set(state) != {f"conv{i}.{part}" for i in (1, 2, 3) for part in ("weight", "bias")}:
        return None
    (one, channels, k1, _), (two, _, k2, _), (_, _, k3, _) = (state[f"conv{i}.weight"].shape for i in (1, 2, 3))
    return SRCNN(scale, channels, (one, two), (k1, k2, k3)), state


def _edsr(state: State, _: int) -> Found:
    shifts = {name: state[name] for name in state if name.startswith(("sub_mean.", "add_mean."))}
    tensors = _renamed({name: t for name, t in state.items() if name not in shifts}, _EDSR)
    tensors = tensors or _renamed(state, _EDSR_BASICSR)
    if tensors is None:
        return None
    mean: tuple[float, ...] = _DIV2K_MEAN
    if "sub_mean.bias" in shifts:
        mean = tuple((-shifts["sub_mean.bias"].double() / 255).tolist())
    features = len(tensors["first.weight"])
    scale = 0.1 if features >= 256 else 1.0
    return _residual(tensors, residual_scale=scale, mean=mean, levels=255.0), tensors


def _srresnet(state: State, _: int) -> Found:
    tensors = _renamed(state, _SRRESNET)
    if tensors is None or "hr.weight" not in tensors:
        return None
    return _residual(tensors, trunk=False, hr=True, slope=0.1, first_slope=0.1, base="bilinear"), tensors


def _ranksrgan(state: State, _: int) -> Found:
    end = {r"model\.5": "up.5", r"model\.8": "hr", r"model\.10": "image"}
    if "model.10.weight" not in state:
        end = {r"model\.5": "hr", r"model\.7": "image"}
    tensors = _renamed(state, _SRRESNET_NUMBERED | end) or _renamed(state, _SRRESNET | {"LRconv": "trunk"})
    if tensors is None or not {"hr.weight", "trunk.weight"} <= set(tensors):
        return None
    return _residual(tensors, hr=True, slope=0.0), tensors


def _rdn(state: State, _: int) -> Found:
    ups = [int(found[1]) for name in state if (found := re.fullmatch(r"UPNet\.(\d+)\.weight", name))]
    image = {rf"UPNet\.{max(ups, default=0)}": "image"}
    own = _renamed(state, image | _RDN)
    tensors = own or _renamed(state, _RDN_OTHER)
    if tensors is None:
        return None
    features = len(tensors["first.weight"])
    growth = len(tensors["blocks.0.convs.0.weight"])
    blocks, layers = _count(tensors, r"blocks\.(\d+)\.fuse"), _count(tensors, r"blocks\.0\.convs\.(\d+)")
    width = tensors["image.weight"].shape[1]
    levels = 1.0 if own is None else 255.0
    return RDN(features, growth, blocks, layers, _factors(tensors), width, levels), tensors


_MAKERS: dict[str, Callable[[State, int], Found]] = {
    "SRCNN": _srcnn,
    "EDSR": _edsr,
    "SRResNet": _srresnet,
    "SRResNet (RankSRGAN)": _ranksrgan,
    "RDN": _rdn,
}


def _renamed(state: State, rules: Rules) -> dict[str, Tensor] | None:
    """The tensors under this module's names; None if a name fits no rule, or a part of the network is missing."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer, _, part = name.rpartition(".")
        rule = next((rule for rule in rules if part in ("weight", "bias") and re.fullmatch(rule, layer)), None)
        if rule is None:
            return None
        out[re.sub(rule, rules[rule], layer, count=1) + f".{part}"] = tensor
    ups = sorted({int(found[1]) for name in out if (found := re.match(r"up\.(\d+)\.", name))})
    numbers = {str(up): str(i) for i, up in enumerate(ups)}  # the shuffles between them have numbers, too
    out = {re.sub(r"^up\.(\d+)", lambda found: f"up.{numbers[found[1]]}", name): t for name, t in out.items()}
    needed = {"first.weight", "image.weight", "up.0.weight"}
    return out if needed <= set(out) and any(name.startswith("blocks.0.") for name in out) else None


def _residual(tensors: State, **options: Any) -> ResidualNet:
    features, blocks = len(tensors["first.weight"]), _count(tensors, r"blocks\.(\d+)\.conv1")
    return ResidualNet(ResidualSizes(features, blocks, _factors(tensors), **options))


def _count(tensors: State, layer: str) -> int:
    return len({found[1] for name in tensors if (found := re.fullmatch(rf"{layer}\.weight", name))})


def _factors(tensors: State) -> tuple[int, ...]:
    """Of each upsampler, from its channels and those of the layer that it feeds."""
    ups = _count(tensors, r"up\.(\d+)")
    after = "hr.weight" if "hr.weight" in tensors else "image.weight"
    names = [*(f"up.{i}.weight" for i in range(ups)), after]
    return tuple(math.isqrt(len(tensors[names[i]]) // tensors[names[i + 1]].shape[1]) for i in range(ups))
