"""Detection of official checkpoints: family and sizes from names and shapes alone."""

from typing import Any

from flowkit_models.models.official_names import Shapes
from flowkit_models.models.registry import FAMILIES

# a name that tells another network, and what that is
OTHERS = {
    "conv0_0.weight": "the discriminator of HCFlow++ or IRN+",
    "RRDB_trunk.0.RDB1.conv1.weight": "an RRDB network (ESRGAN, or SRFlow's encoder alone)",
    "body.0.rdb1.conv1.weight": "an RRDB network (Real-ESRGAN)",
    "features.0.weight": "a VGG or AlexNet",
}


def known_sizes(shapes: Shapes) -> tuple[str, dict[str, Any]] | None:
    """Family and config fields of an official checkpoint; None if it is none of them."""
    for name, family in FAMILIES.items():
        try:
            found = None if family.official_sizes is None else family.official_sizes(shapes)
        except (IndexError, ValueError, ArithmeticError):  # its names, and shapes that are nobody's
            continue
        if found is not None:
            return name, found
    return None


def looks_like(shapes: Shapes) -> str:
    """A guess at the network of a checkpoint that is none of ours, for an error message."""
    first = ", ".join(list(shapes)[:3])
    own = any(name.startswith("flow.levels.") for name in shapes)
    other = "a flowkit model whose config was taken away" if own else "another network"
    guess = next((what for name, what in OTHERS.items() if name in shapes), other)
    return f"{guess} ({len(shapes)} tensors: {first}{', …' if len(shapes) > 3 else ''})"
