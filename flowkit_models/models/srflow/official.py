"""Official names of SRFlow's weights: the encoder, a flat list of flow layers, a convolution that nothing uses."""

from collections.abc import Iterator
from typing import Any

from flowkit import ActNorm, Injector, InvertibleConv1x1
from flowkit_models.models.official_names import Placed, Shapes, count, growth, rrdb_trunk

LAYERS = "flowUpsamplerNet.layers."

# (scale, RRDB blocks, number of taps) of the published models: which blocks they stack
PUBLISHED_TAPS = {(4, 23, 4): (1, 8, 15, 22), (8, 8, 4): (1, 3, 5, 7), (8, 23, 4): (1, 3, 5, 7)}


def layout(model: Any) -> Iterator[Placed]:
    """The official names of all modules, in the official order.

    Raises:
        ValueError: if the model was made without the convolution that nothing uses, which official files have, or is
            an SRFlow-DA or an NCSR, whose official names are not known here.
    """
    config = model.config
    if config.depth or config.convs or config.soft or isinstance(config.steps, tuple):
        raise ValueError("official_state_dict: the official names of SRFlow-DA and NCSR are not known here")
    encoder = model.encoder
    yield "RRDB.conv_first", encoder.first
    yield from rrdb_trunk(encoder.trunk, "RRDB.RRDB_trunk.")
    yield "RRDB.trunk_conv", encoder.last
    for i, up in enumerate(encoder.up):
        yield f"RRDB.upconv{i + 1}", up
    yield "RRDB.HRconv", encoder.hr
    yield "RRDB.conv_last", encoder.image
    index = -1
    for level in model.flow.levels:
        index += 1  # the squeeze
        for part in level.body.parts[1:]:
            if isinstance(part, ActNorm):
                index += 1
                yield f"{LAYERS}{index}.actnorm", part
            elif isinstance(part, InvertibleConv1x1):
                yield f"{LAYERS}{index}.invconv", part
            elif isinstance(part, Injector):  # in the file it comes after the coupling, though it acts before
                injector = part
            else:
                yield from _net(part.net, f"{LAYERS}{index}.affine.fAffine.")
                yield from _net(injector.net, f"{LAYERS}{index}.affine.fFeatures.")
        if level.split is not None:
            index += 1
            yield f"{LAYERS}{index}.conv", level.latent.net
    if model.unused is None:
        raise ValueError("official_state_dict: made with unused=False, but official files have that convolution")
    yield "flowUpsamplerNet.f.0", model.unused


def _net(net: Any, prefix: str) -> Iterator[Placed]:
    for index, conv in (("0", net.conv1), ("2", net.conv2), ("4", net.conv3)):
        yield prefix + index, conv


def sizes(shapes: Shapes) -> dict[str, Any] | None:
    """The config of an official checkpoint, from its names and shapes; None if it is no SRFlow.

    `taps` is None where the weights can't tell it.
    """
    if "RRDB.conv_first.weight" not in shapes or LAYERS + "1.actnorm.bias" not in shapes:
        return None
    scale = 2 ** count(shapes, "RRDB.upconv{}.weight", start=1)
    inside = count(shapes, LAYERS + "{}.actnorm.bias", start=1)  # of the first level
    transitions = next((i for i in range(inside) if f"{LAYERS}{i + 1}.affine.fAffine.0.weight" in shapes), inside)
    steps = inside - transitions
    features = shapes["RRDB.conv_first.weight"][0]
    first = f"{LAYERS}{transitions + 1}.affine.fFeatures.0.weight"
    hidden, context = shapes[first][:2] if first in shapes else (64, 5 * features)
    blocks = count(shapes, "RRDB.RRDB_trunk.{}.RDB1.conv1.weight")
    return {
        "scale": scale,
        "transitions": transitions,
        "steps": steps,
        "hidden": hidden,
        "blocks": blocks,
        "taps": PUBLISHED_TAPS.get((scale, blocks, context // features - 1)),
        "features": features,
        "growth": growth(shapes, 32),
    }
