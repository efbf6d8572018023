"""Work on millions of images by Ray Data: enlarging, scoring, preparing, on as many machines as a cluster has."""

from flowkit_models.ray.preparing import prepare
from flowkit_models.ray.scoring import score
from flowkit_models.ray.upscaling import upscale

__all__ = ["prepare", "score", "upscale"]
