"""flowkit: composable normalizing flows for PyTorch.

One protocol, `y, logdet = b(x, context)` and `x, logdet = b.inverse(y, context)`; everything else is composition.
"""

import importlib
from types import ModuleType

from . import nets
from .base import Near, StandardNormal
from .bijector import Bijector, Inverse
from .chain import Chain
from .coupling import Coupling, Injector
from .dequantize import Dequantize
from .flow import Flow
from .given import CoarseToFine, External, Independent, SingleScale
from .given import Given as Given  # the base of designs of one's own
from .hierarchy import Hierarchy, Latents, Level
from .initialize import initialize
from .kinds import Additive, Affine, MixtureLogistic
from .linear import ActNorm, InvertibleConv1x1, Permutation
from .reversible import Reversible
from .spatial import Haar, Split, Squeeze
from .spline import RationalQuadratic
from .summary import summary

__version__ = "0.1.0"

__all__ = [
    "ActNorm",
    "Additive",
    "Affine",
    "Bijector",
    "Chain",
    "CoarseToFine",
    "Coupling",
    "Dequantize",
    "External",
    "Flow",
    "Haar",
    "Hierarchy",
    "Independent",
    "Injector",
    "Inverse",
    "InvertibleConv1x1",
    "Latents",
    "Level",
    "MixtureLogistic",
    "Near",
    "Permutation",
    "RationalQuadratic",
    "Reversible",
    "SingleScale",
    "Split",
    "Squeeze",
    "StandardNormal",
    "initialize",
    "nets",
    "summary",
]


def __getattr__(name: str) -> ModuleType:
    if name in ("nflows", "sbi", "testing"):  # only for those who use them
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
