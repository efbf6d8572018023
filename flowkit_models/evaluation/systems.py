"""Systems to score: flows, networks that make one image, the bicubic, and folders of anybody's results."""

import hashlib
import importlib
import importlib.util
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from flowkit_models.data.image_pair import Pair
from flowkit_models.data.layouts import same_name
from flowkit_models.data.pairs import images_in
from flowkit_models.evaluation.baselines import known_baseline
from flowkit_models.images.convert import to_float, to_uint8
from flowkit_models.images.image_file import ImageError, read_image
from flowkit_models.images.jpeg import jpeg_file
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.checkpoint_file import noted_number
from flowkit_models.models.detect import known_sizes, looks_like
from flowkit_models.models.factory import find_checkpoint, load, read_weights
from flowkit_models.terminal import first_few


class Drawn(NamedTuple):
    """Results of a system for one pair.

    Attributes:
        images: (n, 3, H, W) of the size of HR; floating point in [0, 1] where it was not rounded, else uint8.
        lr: the system's own LR image (1, 3, h, w) in [0, 1] that they were made from; None if that was the pair's.
    """

    images: Tensor
    lr: Tensor | None = None


class System(Protocol):
    """Anything that makes HR images of test pairs.

    Attributes:
        name: for the table.
        scale: HR size over LR size.
        temperatures: one row of the table for each; None where there is one result only.
        about: what it is, with the checksum of its weights, for the protocol.
        model: the flow behind it, if there is one, for likelihoods and LR images.
    """

    name: str
    scale: float
    temperatures: tuple[float | None, ...]
    about: dict[str, Any]
    model: ImageFlow | None

    def draw(
        self,
        image: str,
        pair: Pair,
        temperature: float | None,
        n: int,
        generator: torch.Generator | None,
        jpeg: int | None = None,
    ) -> Drawn:
        """Makes n images of a pair; one, where there is only one.

        Args:
            image: name of the pair.
            pair: the test pair.
            temperature: one of `temperatures`.
            n: how many.
            generator: source of the draws.
            jpeg: quality of the JPEG file that the LR image is read back from; None for the LR image as it is.

        Raises:
            ValueError: if it can't be made of another LR image.
        """
        ...


class Bicubic:
    """The bicubic upscale of the LR image, with 8 bits."""

    temperatures: tuple[float | None, ...] = (None,)
    model: ImageFlow | None = None

    def __init__(self, scale: float, name: str = "bicubic") -> None:
        self.scale, self.name = scale, name
        self.about: dict[str, Any] = {"kind": "bicubic as MATLAB's, of the 8-bit LR image, rounded once"}

    def draw(
        self,
        image: str,
        pair: Pair,
        temperature: float | None,
        n: int,
        generator: torch.Generator | None,
        jpeg: int | None = None,
    ) -> Drawn:
        """The upscale that the pair holds."""
        return Drawn((pair if jpeg is None else Pair.of(pair.hr[0], jpeg_file(pair.lr, jpeg)[0])).bicubic)


class Network:
    """A network that makes one image of an LR image.

    Args:
        call: maps LR images (B, 3, h, w) in [0, 1] to HR images.
        scale: HR size over LR size.
        name: for the table.
        about: for the protocol.
        device: where it works.
    """

    temperatures: tuple[float | None, ...] = (None,)
    model: ImageFlow | None = None

    def __init__(
        self,
        call: Callable[[Tensor], Tensor],
        scale: float,
        name: str,
        about: Mapping[str, Any],
        device: str | torch.device = "cpu",
    ) -> None:
        self.call, self.scale, self.name, self.about, self.device = call, scale, name, dict(about), device

    @torch.no_grad()
    def draw(
        self,
        image: str,
        pair: Pair,
        temperature: float | None,
        n: int,
        generator: torch.Generator | None,
        jpeg: int | None = None,
    ) -> Drawn:
        """Its one image, clamped."""
        lr = pair.lr if jpeg is None else jpeg_file(pair.lr, jpeg)
        return Drawn(self.call(to_float(lr).to(self.device)).clamp(0, 1).float().cpu())


class FlowSystem:
    """A flow model at one or several temperatures; τ = 0 gives one image, and so does None, its learned prior.

    Args:
        model: in eval mode, where it is to work.
        name: for the table.
        temperatures: one row for each.
        rescaling: it makes the LR image itself, from HR, if it can; else it takes the pair's.
        about: for the protocol.
        scale: of the pairs, for a model of any scale.
    """

    def __init__(
        self,
        model: ImageFlow,
        name: str,
        temperatures: Iterable[float | None],
        rescaling: bool = False,
        about: Mapping[str, Any] | None = None,
        scale: float | None = None,
    ) -> None:
        self.model: ImageFlow | None = model
        self.name = name
        self.scale: float = scale if scale is not None and model.any_scale else model.scale
        self.temperatures: tuple[float | None, ...] = tuple(temperatures)
        self.rescaling = rescaling and model.makes_lr
        lr = "its own, 8 bits" if self.rescaling else "the pair's"
        self.about = {**(about or {}), "LR": lr, "temperatures": list(self.temperatures)}
        self.recommended = noted_number(model.notes, "temperature") if model.prior is None else None
        self._flow = model

    @torch.no_grad()
    def draw(
        self,
        image: str,
        pair: Pair,
        temperature: float | None,
        n: int,
        generator: torch.Generator | None,
        jpeg: int | None = None,
    ) -> Drawn:
        """Samples at a temperature, clamped."""
        assert temperature is not None or self._flow.prior is not None, "a flow has temperatures, or a prior"
        device = next(self._flow.parameters()).device
        hr = to_float(pair.hr)
        lr = self._flow.downscale(hr.to(device)) if self.rescaling else to_float(pair.lr).to(device)
        if jpeg is not None:
            lr = to_float(jpeg_file(to_uint8(lr), jpeg))
        size = (hr.shape[2], hr.shape[3]) if self._flow.any_scale else None
        images = self._flow.upscale(lr, n if temperature else 1, temperature, generator, size=size)
        return Drawn(images[:, 0, :, : hr.shape[2], : hr.shape[3]].cpu(), lr.cpu() if self.rescaling else None)


class ResultsFolder:
    """A folder of somebody's output images, one for each image of a set.

    A file belongs to an image if its name is the image's, or that and more after `_`, `-`, `.`, a blank or the scale:
    baby.png, babyx4.png, baby_x4_SR.png, baby_out.png.

    Args:
        folder: the images lie directly in it.
        names: of the set's images.
        scale: HR size over LR size.
        name: for the table; the folder's name by default.

    Raises:
        ImageError: if an image of the set has none, or several.
    """

    temperatures: tuple[float | None, ...] = (None,)
    model: ImageFlow | None = None

    def __init__(self, folder: Path, names: Iterable[str], scale: float, name: str | None = None) -> None:
        self.name, self.scale = name or folder.name, scale
        self.files = _matching(folder, list(names))
        digest = hashlib.sha256()
        for file in self.files.values():
            digest.update(file.read_bytes())
        self.about: dict[str, Any] = {
            "kind": "images in a folder",
            "folder": str(folder),
            "sha256 of the files": digest.hexdigest(),
        }

    def draw(
        self,
        image: str,
        pair: Pair,
        temperature: float | None,
        n: int,
        generator: torch.Generator | None,
        jpeg: int | None = None,
    ) -> Drawn:
        """The image in the folder.

        Where it is up to scale - 1 pixels larger than the cropped HR image, it is cropped as that was, at the bottom
        and right, with a UserWarning.

        Raises:
            ImageError: if it can't be read, or is of another size.
            ValueError: for a JPEG quality.
        """
        if jpeg is not None:
            raise ValueError("images in a folder can't be made again from another LR image")
        file = self.files[image]
        found = read_image(file)
        height, width = pair.hr.shape[2:]
        over = (found.shape[1] - height, found.shape[2] - width)
        size = f"{found.shape[1]} × {found.shape[2]}"
        if not all(0 <= side < self.scale for side in over):
            raise ImageError(f"{file}: {size}, but the HR image {image} is {height} × {width}")
        if any(over):
            warnings.warn(f"{file}: cropped from {size} to {height} × {width}, the size of HR", stacklevel=2)
        return Drawn(found[None, :, :height, :width].contiguous())


def split_name(given: str) -> tuple[str | None, str]:
    """Splits NAME=PATH; a path that is there as it stands has no name."""
    name, equals, path = given.partition("=")
    return (name, path) if equals and name and not Path(given).exists() else (None, given)


def open_system(
    given: str,
    scale: float,
    temperatures: Iterable[float],
    rescaling: bool = False,
    device: str | torch.device = "cpu",
    usual: bool = False,
) -> System:
    """Opens a system: "bicubic", or a checkpoint, told by its content; NAME=… names it.

    Checkpoints are looked at in this order: flowkit's own and the published ones of its models; SRCNN, EDSR, RDN and
    SRResNet (`known_baseline`); whatever spandrel recognises, where it is installed. No code in them is run.

    Args:
        given: what to open.
        scale: of the table.
        temperatures: of a flow model; one with a learned prior has a row for that before them.
        rescaling: a flow model makes its LR images itself.
        device: where networks work.
        usual: the temperatures are those of a table, and a model whose own is 0 (T-IRN) has that alone.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is none of these, or of another scale.
    """
    name, where = split_name(given)
    if where == "bicubic":
        return Bicubic(scale, name or "bicubic")
    path = find_checkpoint(where)
    state, metadata = read_weights(path)
    with path.open("rb") as file:
        about = {"file": str(Path(where)), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    title = name or (f"{path.absolute().parent.name}/{path.stem}" if path.stem in ("best", "last") else path.stem)
    system: System
    if "flowkit" in metadata or known_sizes({key: tuple(tensor.shape) for key, tensor in state.items()}):
        model = load(path).to(device)
        own = [0.0] if usual and not model.usual_temperature else temperatures
        rows = [*([] if model.prior is None else [None]), *own]
        system = FlowSystem(model, title, rows, rescaling, about | _kind(type(model).__name__, model), scale)
    else:
        kind, call, network, own_scale = _network(state, path, round(scale))
        network.to(device)
        system = Network(call, own_scale, title, about | _kind(kind, network), device)
    if system.scale != scale:
        raise ValueError(
            f"{path}: {system.about['kind']} ×{system.scale:g}, and the table is of ×{scale:g}: see --scale"
        )
    return system


def _kind(kind: str, network: nn.Module) -> dict[str, Any]:
    return {"kind": kind, "parameters": sum(parameter.numel() for parameter in network.parameters())}


def _network(
    state: Mapping[str, Tensor], path: Path, scale: int
) -> tuple[str, Callable[[Tensor], Tensor], nn.Module, int]:
    """The network of a checkpoint that holds no flow: what it is, how it is called, itself, and its scale."""
    try:
        known = known_baseline(state, scale)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if known is not None:
        return known[0], known[1], known[1], known[1].scale
    what = looks_like({key: tuple(tensor.shape) for key, tensor in state.items()})
    if importlib.util.find_spec("spandrel") is None:
        raise ValueError(
            f"{path}: looks like {what}, no network that flowkit knows; spandrel knows many more: "
            'pip install "flowkit-torch[spandrel]"'
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spandrel: Any = importlib.import_module("spandrel")  # an extra
        try:
            found = spandrel.ModelLoader().load_from_state_dict(dict(state))
        except Exception:  # it goes by names alone, so that other shapes fail anywhere
            raise ValueError(f"{path}: looks like {what}, nothing that flowkit or spandrel knows") from None
    kind = f"{found.architecture.name} (by spandrel)"
    channels = (found.input_channels, found.output_channels)
    if not isinstance(found, spandrel.ImageModelDescriptor) or channels != (3, 3):
        raise ValueError(f"{path}: {kind} makes no RGB images of RGB images")
    return kind, found, found.eval().model, found.scale  # spandrel's call pads and clamps


def _matching(folder: Path, names: list[str]) -> dict[str, Path]:
    """The file of each image; a file with several images' names at its start is that of the longest."""
    files: dict[str, list[Path]] = {name: [] for name in names}
    by_length = sorted(names, key=len, reverse=True)
    for stem, file in images_in(folder).items():
        called = same_name(stem)
        fits = (n for n in by_length if re.fullmatch(re.escape(same_name(n)) + r"([_\-. ].*|[xX]\d.*)?", called))
        owner = next(fits, None)
        if owner is not None:
            files[owner].append(file)
    for name, found in files.items():
        if len(found) > 1:
            raise ImageError(f"{folder}: {found[0].name} and {found[1].name} are both {name}: one folder per system")
    missing = [name for name, found in files.items() if not found]
    if missing:
        raise ImageError(f"{folder}: no image for {first_few(missing)}")
    return {name: found[0] for name, found in files.items()}
