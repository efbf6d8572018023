"""Model families: one record each, which all that depends on the family asks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flowkit_models.models.base import ImageFlow
from flowkit_models.models.checkpoint_file import noted_number
from flowkit_models.models.hcflow.model import HCFlow, HCFlowConfig
from flowkit_models.models.hcflow.official import sizes as hcflow_sizes
from flowkit_models.models.irn.model import IRN, IRNConfig
from flowkit_models.models.irn.official import sizes as irn_sizes
from flowkit_models.models.linf.config import LINFConfig
from flowkit_models.models.linf.model import LINF
from flowkit_models.models.official_names import Shapes
from flowkit_models.models.sain.model import SAIN, SAINConfig
from flowkit_models.models.srflow.model import SRFlow, SRFlowConfig
from flowkit_models.models.srflow.official import sizes as srflow_sizes
from flowkit_models.models.tirn.model import TIRN, TIRNConfig
from flowkit_models.models.words import Purpose


@dataclass(frozen=True)
class Family:
    """Record of a model family.

    Attributes:
        model: the class; made of a config and `memory`. Its name is the family's, in checkpoints too.
        config: the class of the config.
        official_sizes: config fields of an official checkpoint, from its names and shapes; returns None if it is of
            another family. None: no official names are known.
        first_purpose: what a model is for whose config was stored before it had the field `purpose`.
    """

    model: type[ImageFlow]
    config: type[Any]
    official_sizes: Callable[[Shapes], dict[str, Any] | None] | None
    first_purpose: Callable[[Mapping[str, Any]], Purpose]


FAMILIES: dict[str, Family] = {
    "HCFlow": Family(
        HCFlow, HCFlowConfig, hcflow_sizes, lambda config: "rescaling" if config.get("body") == "bands" else "sr"
    ),
    "SRFlow": Family(SRFlow, SRFlowConfig, srflow_sizes, lambda _: "sr"),
    "IRN": Family(IRN, IRNConfig, irn_sizes, lambda _: "rescaling"),
    "TIRN": Family(TIRN, TIRNConfig, None, lambda _: "rescaling"),
    "LINF": Family(LINF, LINFConfig, None, lambda _: "sr"),
    "SAIN": Family(SAIN, SAINConfig, None, lambda _: "rescaling"),
}

TEMPERATURES: dict[Purpose, float] = {"sr": 0.8, "rescaling": 1.0}
"""τ of the draws by purpose, as the papers use it."""


def default_temperature(model: ImageFlow, notes: Mapping[str, str]) -> float:
    """τ that suits a model: what its checkpoint recommends in the note `temperature`, else the papers'."""
    noted = noted_number(notes, "temperature")
    usual = TEMPERATURES[model.config.purpose] if model.usual_temperature else 0.0
    return usual if noted is None else noted
