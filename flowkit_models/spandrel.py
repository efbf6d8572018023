"""flowkit's models in spandrel's registry, so that programs built on it open our checkpoints and the published ones.

spandrel hands a state dict to its architectures and drops everything else in a file. A published checkpoint tells all
by its names and shapes, one of ours by its tensor `flowkit.config`. Files of ours from before that tensor need
`Loader`, which reads the notes in a file as well.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowkit_models.models.base import ImageFlow
from flowkit_models.models.checkpoint_file import noted_number, split_config
from flowkit_models.models.detect import known_sizes
from flowkit_models.models.factory import choose_state, from_weights, read_weights
from flowkit_models.models.registry import FAMILIES
from flowkit_models.models.words import PURPOSES

try:
    from spandrel import (  # type: ignore[import-untyped]
        MAIN_REGISTRY,
        Architecture,
        ArchRegistry,
        ArchSupport,
        ImageModelDescriptor,
        ModelLoader,
        ModelTiling,
        SizeRequirements,
    )
except ImportError as error:
    raise ImportError('flowkit_models.spandrel needs spandrel: pip install "flowkit-torch[spandrel]"') from error
except RuntimeError as error:  # torchvision's operators were built for another torch
    raise ImportError(
        f"spandrel needs a torchvision that fits torch {torch.__version__} ({error}): install both from one index"
    ) from error


class FlowArchitecture(Architecture[ImageFlow]):
    """One of the families HCFlow, SRFlow, IRN, T-IRN, LINF and SAIN, under flowkit's names or the published ones.

    Args:
        family: "HCFlow", "SRFlow", "IRN", "TIRN", "SAIN", or "LINF", which is of its largest factor here.
        temperature: of the draws. None: the learned prior of a model that has one, else 0.
        seed: of the draws: an image is always enlarged to the same one.
    """

    def __init__(self, family: str, temperature: float | None = None, seed: int = 0) -> None:
        super().__init__(id=family, name=family, detect=lambda state: _family(state) == family)
        self.temperature = temperature
        self.seed = seed

    def load(self, state_dict: Mapping[str, Any]) -> ImageModelDescriptor[ImageFlow]:
        """Makes the model of a state dict.

        Raises:
            ValueError: if the weights don't fit, or can't tell what the model is (files of ours without their config).
        """
        weights, notes = split_config(choose_state(state_dict, "checkpoint"), "checkpoint")
        if _is_own(weights) and not notes:
            raise ValueError(
                "a checkpoint of flowkit without the tensor flowkit.config: re-save the file with flowkit convert, or "
                "open it with flowkit_models.spandrel.Loader().load_from_file(path)"
            )
        return self.describe(from_weights(weights, notes, "checkpoint"))

    def describe(self, model: ImageFlow) -> ImageModelDescriptor[ImageFlow]:
        """Descriptor of a model for spandrel. It makes one draw, of a fixed seed, at a fixed temperature."""
        temperature = 0.0 if self.temperature is None and model.prior is None else self.temperature

        def call(model: ImageFlow, lr: Tensor) -> Tensor:
            generator = torch.Generator().manual_seed(self.seed)
            return model.upscale(lr, temperature=temperature, generator=generator)[0]

        return ImageModelDescriptor(
            model,
            model.state_dict(),
            architecture=self,
            purpose="SR",
            tags=[PURPOSES[model.config.purpose], "learned prior" if temperature is None else f"τ={temperature:g}"],
            supports_half=False,  # the invertible maps need float32
            supports_bfloat16=False,
            scale=model.scale,
            input_channels=3,
            output_channels=3,
            size_requirements=SizeRequirements(multiple_of=model.lr_multiple),
            # draws of neighbouring tiles don't match, and a learned prior sees far
            tiling=ModelTiling.SUPPORTED if temperature == 0 else ModelTiling.DISCOURAGED,
            call_fn=call,
        )


class Loader(ModelLoader):
    """Loader of spandrel that reads the notes in flowkit's own files, the recommended temperature among them.

    It knows all that spandrel knows and the flows, and leaves spandrel's registry as it is.

    Args:
        device: where to put models.
        temperature: of the draws; None: the learned prior of a model that has one, else what the file recommends in
            its note `temperature`, else 0.
        seed: of the draws.
    """

    def __init__(
        self, device: str | torch.device | None = None, temperature: float | None = None, seed: int = 0
    ) -> None:
        registry = MAIN_REGISTRY.copy()
        register(registry, temperature, seed)
        super().__init__(device, registry)
        self.temperature = temperature
        self.seed = seed

    def load_from_file(self, path: str | Path) -> Any:
        """Loads a model from a file that `flowkit_models.load` reads; raises and warns as that or spandrel."""
        weights, notes = read_weights(path)
        if "flowkit" not in notes and _family(weights) is None:
            return self.load_from_state_dict(weights)
        model = from_weights(weights, notes, str(path))
        noted = noted_number(notes, "temperature") if model.prior is None else None
        temperature = noted if self.temperature is None else self.temperature
        return FlowArchitecture(type(model).__name__, temperature, self.seed).describe(model).to(self.device)


def register(
    registry: ArchRegistry = MAIN_REGISTRY, temperature: float | None = None, seed: int = 0
) -> list[ArchSupport]:
    """Adds HCFlow, SRFlow, IRN, T-IRN, LINF and SAIN to a registry of spandrel; those that are there already stay.

    They come last, and their names are in no other architecture, so what spandrel knew before it still knows.

    Args:
        registry: spandrel's own one, which all its loaders use, or another.
        temperature: of the draws. A state dict carries no recommendation, so by default it is 0: the flow's sharpest
            single guess, the same in every tile and on every call; or the one picture of a model's learned prior.
            Around 0.8 gives more texture and less fidelity.
        seed: of the draws, where the temperature is not 0.

    Returns:
        What was added.

    Example:
        >>> from spandrel import ArchRegistry
        >>> [support.architecture.name for support in register(ArchRegistry())]
        ['HCFlow', 'SRFlow', 'IRN', 'TIRN', 'LINF', 'SAIN']
    """
    families = [FlowArchitecture(family, temperature, seed) for family in FAMILIES]
    return registry.add(*map(ArchSupport.from_architecture, families), ignore_duplicates=True)


def _family(state: Mapping[str, Any]) -> str | None:
    """Name of the family of a state dict; None if it is of none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `load` says it
        weights, notes = split_config(choose_state(state, "checkpoint"), "checkpoint")
    known = known_sizes({name: tuple(tensor.shape) for name, tensor in weights.items()})
    if known is not None:
        return known[0]
    if notes or not _is_own(weights):
        return notes.get("model")
    return next(iter(FAMILIES))  # one must take it, to say what is missing


def _is_own(state: Mapping[str, Any]) -> bool:
    """The weights are under flowkit's own names."""
    return any(name.startswith("flow.levels.") for name in state)
