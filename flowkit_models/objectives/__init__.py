"""What the three papers minimise, as modules whose forward is a whole training step."""

from .hcflow import Rescaling, RescalingWeights, SRWeights, SuperResolution
from .irn import IRNRescaling, IRNWeights
from .srflow import EncoderPretraining, SRFlowLikelihood

__all__ = [
    "EncoderPretraining",
    "IRNRescaling",
    "IRNWeights",
    "Rescaling",
    "RescalingWeights",
    "SRFlowLikelihood",
    "SRWeights",
    "SuperResolution",
]
