"""The laws, one function each: `law(b, x, context)` raises AssertionError that names the bijector and the law."""

from flowkit.testing.exact import (
    EXACT,
    derivatives,
    gradients,
    image_size,
    inverse_sign,
    logdet,
    memory,
    per_sample,
    protocol,
    round_trip,
    untouched,
)
from flowkit.testing.policies import OURS, POLICIES, agreement, precision, rejected_inputs, state_dict
from flowkit.testing.regimes import REGIMES, facts
from flowkit.testing.tracing import compiled, exported, transformed

__all__ = [
    "EXACT",
    "OURS",
    "POLICIES",
    "REGIMES",
    "agreement",
    "compiled",
    "derivatives",
    "exported",
    "facts",
    "gradients",
    "image_size",
    "inverse_sign",
    "logdet",
    "memory",
    "per_sample",
    "precision",
    "protocol",
    "rejected_inputs",
    "round_trip",
    "state_dict",
    "transformed",
    "untouched",
]
