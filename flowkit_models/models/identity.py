"""Identity of models: the checksum of the weights, and the model of the package that has a given one."""

import hashlib
from pathlib import Path

from flowkit_models.models.base import ImageFlow
from flowkit_models.models.bundled import list_bundled
from flowkit_models.models.factory import load


def checksum(model: ImageFlow) -> str:
    """SHA-256 over names and values of the flow's weights, without a learned prior's: the same for all its files."""
    digest = hashlib.sha256()
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("prior.")}
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def bundled_of(checksum_of_weights: str) -> Path | None:
    """The file of the model that comes with the package and has these weights, or None."""
    paths = (model.path for model in list_bundled().values())
    return next((path for path in paths if checksum(load(path)) == checksum_of_weights), None)
