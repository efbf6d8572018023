"""Objectives of the papers, as modules whose forward is a whole training step."""

from flowkit_models.training.objectives.hcflow import Rescaling, RescalingWeights, SRWeights, SuperResolution
from flowkit_models.training.objectives.irn import IRNRescaling, IRNWeights
from flowkit_models.training.objectives.latents import LearnedLatents
from flowkit_models.training.objectives.linf import AnyScale, AnyScaleWeights
from flowkit_models.training.objectives.sain import SAINRescaling, SAINWeights
from flowkit_models.training.objectives.srflow import EncoderPretraining, SRFlowLikelihood

__all__ = [
    "AnyScale",
    "AnyScaleWeights",
    "EncoderPretraining",
    "IRNRescaling",
    "IRNWeights",
    "LearnedLatents",
    "Rescaling",
    "RescalingWeights",
    "SAINRescaling",
    "SAINWeights",
    "SRFlowLikelihood",
    "SRWeights",
    "SuperResolution",
]
