"""Conditioner networks: what steers couplings and injectors. Any module with `net(passive, context)` fits as well."""

from flowkit.nets.causal import CausalViT
from flowkit.nets.contexts import fitting_context, with_context
from flowkit.nets.contractions import lipschitz
from flowkit.nets.images import CNN, FCN, ActNormConv2d, DenseBlock, ExactConv2d, ZeroConv2d, lowered, small_xavier
from flowkit.nets.local_fourier import LocalFourier
from flowkit.nets.masked import MADE, MaskedLinear
from flowkit.nets.resnets import ConvResNet, ResidualMLP
from flowkit.nets.time import WithTime
from flowkit.nets.transformers import ViT
from flowkit.nets.unet import UNet
from flowkit.nets.vectors import MLP, Interleave

__all__ = [
    "CNN",
    "FCN",
    "MADE",
    "MLP",
    "ActNormConv2d",
    "CausalViT",
    "ConvResNet",
    "DenseBlock",
    "ExactConv2d",
    "Interleave",
    "LocalFourier",
    "MaskedLinear",
    "ResidualMLP",
    "UNet",
    "ViT",
    "WithTime",
    "ZeroConv2d",
    "fitting_context",
    "lipschitz",
    "lowered",
    "small_xavier",
    "with_context",
]
