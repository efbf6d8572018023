"""Enlarging of millions of photographs on a Ray cluster."""

import functools
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowkit_models.devices import find_device
from flowkit_models.images import photo_file
from flowkit_models.images.formats import endings, result_ending
from flowkit_models.images.provenance import marked, signed
from flowkit_models.inference.enlarging import enlarged_rows, seen, upscaled
from flowkit_models.inference.latent_field import LatentField
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.checkpoint_file import read_about
from flowkit_models.models.factory import find_checkpoint, load
from flowkit_models.models.registry import default_temperature
from flowkit_models.ray.storage import delivered, exists, fetched, from_root, joined
from flowkit_models.ray.tasks import Row, below, each, for_all, rows_of, settle, told


@dataclass(frozen=True)
class Upscaling:
    """What is the same for all pictures; arguments as for `upscale`."""

    root: str
    out: str
    model: str
    temperature: float | None
    seed: int
    tile: int | None
    suffix: str
    format: str | None
    quality: int
    overwrite: bool
    precision: str
    device: str
    cpus: float


def upscale(
    dataset: Any,
    out: str,
    model: str = "hcflow_x4",
    *,
    temperature: float | None = None,
    seed: int = 0,
    tile: int | None = None,
    suffix: str | None = None,
    format: str | None = None,
    quality: int = 95,
    overwrite: bool = False,
    precision: str = "float32",
    device: str = "auto",
    root: str | None = None,
    cpus: float = 1,
    gpus: float | None = None,
    at_once: int | None = None,
) -> Any:
    """Enlarges pictures on a Ray cluster, as `flowkit upscale` does.

    A result's name follows from its input: its path below `root`, with the suffix, in `out`. It is written whole or not
    at all. What is there is not done again, so that a call that was stopped, or lost a node, goes on where it was.

    Args:
        dataset: a Ray data set with the column `path`; or a folder, file or URL of any fsspec file system; or several.
        out: folder or URL of the results. All nodes have to see it, and the inputs. A path is one from the caller's
            folder, whichever the cluster was started in.
        model: checkpoint, seen by all nodes, or the name of a bundled model.
        temperature: τ; None: what the checkpoint recommends, or its learned prior.
        seed: of the draws.
        tile: side of the tiles in LR pixels; None: as large as suits.
        suffix: end of the results' names; None: _x4, or what the model's scale is.
        format: jpg, png, webp, tif; None: the input's.
        quality: of JPEG and WebP.
        overwrite: replace what is there.
        precision: "float32" or "bf16".
        device: of each task.
        root: what the inputs' paths have in common; None: the folder that was named.
        cpus: cores of a task.
        gpus: of a task; None: one where the cluster has any.
        at_once: tasks that run at the same time; None: as many as there is room for.

    Returns:
        A Ray data set, one row for each input: `path`, `output`, `state` ("done", "was there" or "failed"), `note`
        (what was odd about the picture), `error` (one line, or "").

    Raises:
        FileNotFoundError: if there is no such model, or a folder holds no pictures.
        ImportError: without Ray.
        ValueError: if the model is none.
    """
    out, model = from_root(out), for_all(model)
    rows, root = rows_of(dataset, root)
    flow, recommended = open_model(model, precision, "cpu", cpus)
    suffix = f"_x{flow.scale}" if suffix is None else suffix
    tau = recommended if temperature is None else temperature
    spec = Upscaling(root, out, model, tau, seed, tile, suffix, format, quality, overwrite, precision, device, cpus)
    return each(rows, upscale_row, spec, cpus, gpus, at_once)


def upscale_row(row: Row, spec: Upscaling) -> Row:
    """One picture of a data set: the row of its result."""
    path = row["path"]
    found = {"path": path, "output": result_name(path, spec), "state": "failed", "note": "", "error": ""}
    try:
        if not spec.overwrite and exists(found["output"]):
            return {**found, "state": "was there"}
        with fetched(path) as source, delivered(found["output"]) as target:
            found["note"] = enlarge(source, target, spec)
    except Exception as error:  # of any kind: the other pictures have nothing to do with it
        return {**found, "error": told(error)}
    return {**found, "state": "done"}


def enlarge(source: Path, target: Path, spec: Upscaling) -> str:
    """Enlarges one file to another; returns what is odd about it, "" as a rule."""
    model, _ = open_model(spec.model, spec.precision, spec.device, spec.cpus)
    picture = photo_file.read_photo(source)
    height, width = (side * model.scale for side in picture.pixels.shape[1:])
    photo_file.check_size(target, height, width)
    header, lost = signed(picture.header, None).fitted(photo_file.format_of(target).name)
    pixels, under = seen(picture)
    rows = None if under is None else enlarged_rows(under, (height, width))
    field = None if spec.temperature is None else LatentField(spec.seed, 0)
    array = upscaled(model, pixels, spec.tile, spec.temperature, rows, header, field, lambda done, total: None)
    photo_file.write_photo(target, array, marked(header), spec.quality)
    return "; ".join([*picture.warnings, *lost])


def result_name(path: str, spec: Upscaling) -> str:
    """The path of a result. No two inputs have one: where the ending does not tell them apart, the name keeps it.

    >>> spec = Upscaling("in", "out", "", 0, 0, None, "_x4", None, 95, False, "", "", 1)
    >>> [result_name(path, spec) for path in ("in/a/b.png", "in/b.gif", "in/b.gif.png")]
    ['out/a/b_x4.png', 'out/b.gif_x4.png', 'out/b.gif.png_x4.png']
    """
    name = below(path, spec.root)
    stem, ending = posixpath.splitext(name)
    result = f".{spec.format}" if spec.format else result_ending(name)
    if result != ending or posixpath.splitext(stem)[1].lower() in endings():
        stem = name
    return joined(spec.out, f"{stem}{spec.suffix}{result}")


@functools.lru_cache(maxsize=1)
def open_model(model: str, precision: str, device: str, cpus: float) -> tuple[ImageFlow, float | None]:
    """A model on its device and the τ that suits it, None for its learned prior; opened once in a process."""
    settle(cpus)
    with fetched(model if "://" in model else str(find_checkpoint(model))) as file:
        flow = load(file, precision=precision)
        tau = default_temperature(flow, read_about(file)) if flow.prior is None else None
    return flow.to(find_device(device)), tau
