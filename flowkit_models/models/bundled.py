"""Weights that come with the package: the list of them, and the lookup by name."""

import json
import os
from pathlib import Path
from typing import NamedTuple

from flowkit_models.models.checkpoint_file import noted_number, read_about
from flowkit_models.models.words import Purpose, factors

SHIPPED = Path(__file__).parents[1] / "data_files" / "hcflow_x4.safetensors"
"""An HCFlow ×4 that our own recipe trained; `flowkit upscale` uses it when it is told nothing else."""


ANY_SCALE = "linf_any"
"""Name of the model for factors that `SHIPPED` does not make."""


class Bundled(NamedTuple):
    """A model that comes with the package, as its file describes it; as a string, one line.

    Attributes:
        name: by which `load` and the command know it.
        path: of its file.
        purpose: "sr" or "rescaling".
        scale: HR size over LR size.
        temperature: recommended τ.
        use: what it is for, a phrase.
        license: of the weights.
        any_scale: it enlarges by any factor, and was trained for those from 1 to `scale`.
    """

    name: str
    path: Path
    purpose: Purpose
    scale: int
    temperature: float
    use: str
    license: str
    any_scale: bool = False

    @property
    def factors(self) -> str:
        """Factors that it enlarges by, for people."""
        return factors(self.scale, self.any_scale)

    def __str__(self) -> str:
        """The line on it."""
        return f"×{self.scale}, τ = {self.temperature:g}: {self.use}"


def folder() -> Path:
    """The folder where the weights lie."""
    return SHIPPED.parent


def list_bundled() -> dict[str, Bundled]:
    """The models that come with the package, by the names that `load` and the command take.

    Example:
        >>> print(list_bundled()["hcflow_x4"])
        ×4, τ = 0: ...
    """
    return {name: _described(name, path) for name, path in _files().items()}


def _files() -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder().glob("*.safetensors"))}


def _described(name: str, path: Path) -> Bundled:
    notes = read_about(path)
    config = json.loads(notes["config"])
    temperature = noted_number(notes, "temperature")
    assert temperature is not None, f"{path}: recommends no τ"
    any_scale = notes["model"] == "LINF"  # the class knows, but imports this file
    return Bundled(
        name, path, config["purpose"], config["scale"], temperature, notes["use"], notes["license"], any_scale
    )


def find_bundled(name: str | os.PathLike[str]) -> Path:
    """The file of a model that comes with the package.

    Args:
        name: of the model.

    Raises:
        FileNotFoundError: if there is none of that name; lists those that there are.
    """
    known, name = _files(), os.fspath(name)
    if name not in known:
        raise FileNotFoundError(
            f"{name}: no such file, and no model that comes with the package; these are {', '.join(known)}"
        )
    return known[name]


def rescaling_model(scale: int) -> Path:
    """The file of the model that comes with the package for going down and up again.

    That is one for rescaling, and where there is none of the scale, one for super-resolution that makes LR images too.

    Raises:
        FileNotFoundError: if there is none of the scale.
    """
    found = [model for model in list_bundled().values() if model.scale == scale]
    if not found:
        raise FileNotFoundError(f"no ×{scale} model comes with this package: name a checkpoint with -m")
    return min(found, key=lambda model: model.purpose != "rescaling").path
