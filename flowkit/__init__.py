"""flowkit: composable normalizing flows for PyTorch.

One protocol, `y, logdet = b(x, context)` and `x, logdet = b.inverse(y, context)`; everything else is composition.
"""

import importlib
from types import ModuleType

from flowkit import elementwise, nets, objectives
from flowkit.augment import Augment, Slice
from flowkit.autoregressive import Autoregressive
from flowkit.bases import Near, StandardNormal
from flowkit.bernstein import Bernstein
from flowkit.bijector import Bijector, Inverse
from flowkit.chain import Chain
from flowkit.classics import Planar, Radial, Sylvester
from flowkit.columns import Columns
from flowkit.conditioning import CoarseToFine, External, Given, Independent, SingleScale
from flowkit.continuous import ODE, flow_matching
from flowkit.coupling import Coupling, Injector
from flowkit.dequantize import Dequantize
from flowkit.flow import Flow
from flowkit.gaussianization import Gaussianization
from flowkit.hierarchy import Hierarchy, Latents, Level
from flowkit.initialization import initialize
from flowkit.integrals import Monotonic, SumOfSquares
from flowkit.kinds import Additive, Affine
from flowkit.linear import ActNorm, InvertibleConv1x1, Permutation
from flowkit.masks import Checkerboard
from flowkit.mixture import MixtureLogistic
from flowkit.numeric import NumericKind
from flowkit.resampling import Resampled
from flowkit.residual import Residual
from flowkit.reversible import Reversible
from flowkit.shared_gaussianization import SharedGaussianization
from flowkit.sigmoidal import DeepDenseSigmoid, DeepSigmoid
from flowkit.spatial import Haar, Split, Squeeze
from flowkit.spline import RationalQuadratic
from flowkit.summaries import summary
from flowkit.supports import biject_to
from flowkit.tokens import TokenAutoregressive, TokenCoupling, jet, tarflow
from flowkit.training import History, fit
from flowkit.unconditional import Elementwise
from flowkit.vector_bases import Box, Mixture, Normal, StudentT

__version__ = "0.1.0"

__all__ = [
    "ODE",
    "ActNorm",
    "Additive",
    "Affine",
    "Augment",
    "Autoregressive",
    "Bernstein",
    "Bijector",
    "Box",
    "Chain",
    "Checkerboard",
    "CoarseToFine",
    "Columns",
    "Coupling",
    "DeepDenseSigmoid",
    "DeepSigmoid",
    "Dequantize",
    "Elementwise",
    "External",
    "Flow",
    "Gaussianization",
    "Given",
    "Haar",
    "Hierarchy",
    "History",
    "Independent",
    "Injector",
    "Inverse",
    "InvertibleConv1x1",
    "Latents",
    "Level",
    "Mixture",
    "MixtureLogistic",
    "Monotonic",
    "Near",
    "Normal",
    "NumericKind",
    "Permutation",
    "Planar",
    "Radial",
    "RationalQuadratic",
    "Resampled",
    "Residual",
    "Reversible",
    "SharedGaussianization",
    "SingleScale",
    "Slice",
    "Split",
    "Squeeze",
    "StandardNormal",
    "StudentT",
    "SumOfSquares",
    "Sylvester",
    "TokenAutoregressive",
    "TokenCoupling",
    "biject_to",
    "elementwise",
    "fit",
    "flow_matching",
    "initialize",
    "jet",
    "nets",
    "objectives",
    "summary",
    "tarflow",
]


def __getattr__(name: str) -> ModuleType:
    if name in ("distributions", "nflows", "sbi", "testing", "toys"):  # only for those who use them
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
