"""flowkit's models in spandrel's registry, so that programs built on it open our checkpoints and the published ones.

spandrel hands a state dict to its architectures and drops everything else in a file. A published checkpoint tells all
by its names and shapes. One of ours tells most (see `own_names`); `Loader` reads the config that the file holds.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowkit_models.diagnostics.profile import purpose
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.checkpoint_file import read_about
from flowkit_models.models.detect import known_sizes
from flowkit_models.models.factory import CONFIGS, build, load
from flowkit_models.models.official_weights import check_keys, load_official
from flowkit_models.own_names import own_family, own_sizes

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

SANE, AHEAD = 15.0, 6.0
"""PSNR in dB of the enlargement of a smooth picture, and its lead over the other way to assemble a model, from which on
it is taken to be assembled as it was trained. (Small models at hand: 16 to 44 dB, and 6 dB the wrong way.)"""


class FlowArchitecture(Architecture[ImageFlow]):
    """One of the families HCFlow, SRFlow and IRN, under flowkit's names or the published ones.

    Args:
        family: "HCFlow", "SRFlow" or "IRN".
        temperature: of the draws.
        seed: of the draws: an image is always enlarged to the same one.
    """

    def __init__(self, family: str, temperature: float = 0.0, seed: int = 0) -> None:
        super().__init__(id=family, name=family, detect=lambda state: _family(state) == family)
        self.temperature = temperature
        self.seed = seed

    def load(self, state_dict: Mapping[str, Any]) -> ImageModelDescriptor[ImageFlow]:
        """Makes the model of a state dict.

        Raises:
            ValueError: if the weights don't fit, or can't tell what the model is.
        """
        return self.describe(_model(state_dict))

    def describe(self, model: ImageFlow) -> ImageModelDescriptor[ImageFlow]:
        """What spandrel wants to know of a model. It makes one draw, of a fixed seed, at a fixed temperature."""

        def call(model: ImageFlow, lr: Tensor) -> Tensor:
            generator = torch.Generator().manual_seed(self.seed)
            return model.upscale(lr, temperature=self.temperature, generator=generator)[0]

        return ImageModelDescriptor(
            model,
            model.state_dict(),
            architecture=self,
            purpose="SR",
            tags=[purpose(model), f"τ={self.temperature:g}"],
            supports_half=False,  # the invertible maps need float32
            supports_bfloat16=False,
            scale=model.scale,
            input_channels=3,
            output_channels=3,
            size_requirements=SizeRequirements(multiple_of=model.lr_multiple),
            # draws of neighbouring tiles don't match
            tiling=ModelTiling.DISCOURAGED if self.temperature else ModelTiling.SUPPORTED,
            call_fn=call,
        )


class Loader(ModelLoader):
    """spandrel's loader, which of flowkit's own files reads the config and the recommended temperature as well.

    It knows all that spandrel knows and the flows, and leaves spandrel's registry as it is.

    Args:
        device: where to put models.
        temperature: of the draws; None: what the file recommends in its note `temperature`, else 0.
        seed: of the draws.
    """

    def __init__(
        self, device: str | torch.device | None = None, temperature: float | None = None, seed: int = 0
    ) -> None:
        registry = MAIN_REGISTRY.copy()
        register(registry, temperature or 0.0, seed)
        super().__init__(device, registry)
        self.temperature = temperature
        self.seed = seed

    def load_from_file(self, path: str | Path) -> Any:
        """Loads a model from a file; raises what `flowkit_models.load` or spandrel raises."""
        about = read_about(path)
        if "flowkit" not in about:
            return super().load_from_file(path)
        model = load(path)
        temperature = float(about.get("temperature", 0)) if self.temperature is None else self.temperature
        return FlowArchitecture(type(model).__name__, temperature, self.seed).describe(model).to(self.device)


def register(registry: ArchRegistry = MAIN_REGISTRY, temperature: float = 0.0, seed: int = 0) -> list[ArchSupport]:
    """Adds HCFlow, SRFlow and IRN to a registry of spandrel; those that are there already stay.

    They come last, and their names are in no other architecture, so what spandrel knew before it still knows.

    Args:
        registry: spandrel's own one, which all its loaders use, or another.
        temperature: of the draws. A state dict carries no recommendation, so by default it is 0: the flow's sharpest
            single guess, the same in every tile and on every call. Around 0.8 gives more texture and less fidelity.
        seed: of the draws, where the temperature is not 0.

    Returns:
        What was added.

    Example:
        >>> from spandrel import ArchRegistry
        >>> [support.architecture.name for support in register(ArchRegistry())]
        ['HCFlow', 'SRFlow', 'IRN']
    """
    families = [FlowArchitecture(family, temperature, seed) for family in CONFIGS]
    return registry.add(*map(ArchSupport.from_architecture, families), ignore_duplicates=True)


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _family(state: Mapping[str, Any]) -> str | None:
    shapes = _shapes(state)
    own = own_family(shapes)
    known = known_sizes(shapes) if own is None else None
    return own if known is None else known[0]


def _model(state: Mapping[str, Tensor]) -> ImageFlow:
    """The model of a state dict, with its weights."""
    shapes = _shapes(state)
    own = own_sizes(shapes)
    if own is None:
        known = known_sizes(shapes)
        assert known is not None, "it was detected"
        family, sizes = known
        model = _as_stored(build(family, sizes, "plain", "float32", {}), state)
        load_official(model, state, "checkpoint")
        return model.eval()
    family, choices = own
    candidates = []
    for sizes in choices:
        model = _as_stored(build(family, sizes, "plain", "float32", {}), state)
        check_keys({name: tuple(t.shape) for name, t in model.state_dict().items()}, state, "checkpoint")
        model.load_state_dict(state)
        candidates.append(model.eval())
    if len(candidates) == 1:
        return candidates[0]
    scores = [enlarges(model) for model in candidates]
    best, second = sorted(scores, reverse=True)[:2]
    if best < SANE or best - second < AHEAD:
        raise ValueError(
            f"{family}: the weights can't tell how it is assembled, and no way enlarges a smooth picture; "
            "flowkit_models.spandrel.Loader().load_from_file(path) reads the config that the file holds"
        )
    return candidates[scores.index(best)]


def _as_stored(model: ImageFlow, state: Mapping[str, Tensor]) -> ImageFlow:
    return model.double() if any(tensor.dtype == torch.float64 for tensor in state.values()) else model


@torch.no_grad()
def enlarges(model: ImageFlow) -> float:
    """PSNR in dB of a smooth picture that a model has enlarged at temperature 0 from its bicubic LR image."""
    side = 16 * model.scale
    y, x = torch.meshgrid(*(torch.linspace(0, 6, side, dtype=next(model.parameters()).dtype),) * 2, indexing="ij")
    hr = torch.stack([0.5 + 0.3 * (x + phase).sin() * (y - phase).cos() for phase in (0.0, 0.7, 1.9)])[None]
    sr = model.upscale(bicubic_resize(hr, Fraction(1, model.scale)), temperature=0.0)[0]
    error = float((sr - hr).square().mean())
    return -math.inf if math.isnan(error) else -10 * math.log10(max(error, 1e-12))
