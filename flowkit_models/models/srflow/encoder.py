"""Encoder weights for an SRFlow: an RRDB network's, trained on its own or in another SRFlow."""

import os

from flowkit.weights_file import check_keys
from flowkit_models.models.checkpoint_file import CONFIG_TENSOR, read_weights
from flowkit_models.models.official_weights import load_part
from flowkit_models.models.srflow.model import SRFlow


def load_encoder(model: SRFlow, path: str | os.PathLike[str]) -> None:
    """Copies an RRDB network's weights into an SRFlow's encoder: an official RRDB_*.pth, or those in any SRFlow.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no RRDB network of these sizes.
    """
    firsts = {CONFIG_TENSOR, "conv_first.weight", "RRDB.conv_first.weight"}
    state, notes = read_weights(path, lambda state: not firsts.isdisjoint(state))
    if "flowkit" in notes:
        own = {name.removeprefix("encoder."): t for name, t in state.items() if name.startswith("encoder.")}
        check_keys(model.encoder.state_dict(), own, str(path))
        model.encoder.load_state_dict(own)
        return
    whole = any(name.startswith("RRDB.") for name in state)
    alone = {name if whole else f"RRDB.{name}": tensor for name, tensor in state.items()}
    load_part(model, {name: t for name, t in alone.items() if name.startswith("RRDB.")}, "RRDB.", str(path))
