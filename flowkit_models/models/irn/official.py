"""Official names of IRN's weights: one flat list of downscalings and coupling blocks."""

from collections.abc import Iterator
from typing import Any

from flowkit import Coupling, Haar
from flowkit.spatial import Patch
from flowkit_models.models.official_names import Placed, Shapes, haar_kernels


def layout(model: Any) -> Iterator[Placed]:
    """The official names of all modules, in the official order."""
    index, channels = -1, 3
    for part in model.flow.levels[0].body.parts:
        if isinstance(part, Haar | Patch):
            index += 1
            yield f"operations.{index}", haar_kernels(model, channels) if isinstance(part, Haar) else part
            channels *= part.stride**2
        elif isinstance(part, Coupling) and part.flip:
            index += 1
            yield f"operations.{index}.F", part.net
        elif isinstance(part, Coupling):
            yield f"operations.{index}.", part.net


def sizes(shapes: Shapes) -> dict[str, Any] | None:
    """The config of an official checkpoint, from its names and shapes; None if it is no IRN."""
    learned = "operations.0.conv_weights" in shapes
    if not learned and "operations.0.haar_weights" not in shapes:
        return None
    blocks: list[int] = []
    index = 0
    while True:
        if f"operations.{index}.conv_weights" in shapes or f"operations.{index}.haar_weights" in shapes:
            blocks.append(0)
        elif f"operations.{index}.F.conv1.weight" in shapes:
            blocks[-1] += 1
        else:
            break
        index += 1
    patch = shapes["operations.0.conv_weights"][0] if learned else 4  # pixels
    growth = next((shape[0] for name, shape in shapes.items() if name.endswith(".F.conv1.weight")), 32)
    return {
        "scale": round(patch**0.5) ** len(blocks),
        "blocks": tuple(blocks),
        "growth": growth,
        "downscaling": "learned" if learned else "haar",
    }
