"""`flowkit encode` and `decode`: the LR image as the model makes it, unrounded, and all latents, in one file."""

import base64
import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from flowkit_models.cli.batch import Batch
from flowkit_models.cli.downscale import reduced_alpha
from flowkit_models.cli.model import Opened, open_model
from flowkit_models.cli.options import Decode, Encode
from flowkit_models.cli.paths import Naming, find_inputs
from flowkit_models.cli.provenance import LATENTS_NOTE, signed
from flowkit_models.files import write_whole
from flowkit_models.images import photo_file
from flowkit_models.images.formats import endings, labels, named_format, written_formats
from flowkit_models.images.photo_file import Header, Picture, stored
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.factory import read_weights

FORMAT = "1"


def encode_files(options: Encode) -> int:
    """Runs `flowkit encode`; returns the exit code."""
    inputs = find_inputs([*options.files, *options.input], options.output, endings())
    opened = open_model(options)
    # -o photo.safetensors means both files, too
    naming = Naming(options.suffix, names=("{stem}.png", "{stem}.safetensors"))

    batch = Batch(options, inputs, naming)
    for job in batch:
        with job.reported():
            picture = job.read_picture()
            header = signed(picture.header, None)
            wanted = stored(picture.pixels, picture.alpha, header)
            parts = _exact_parts(opened, picture, header, wanted)
            if header.alpha:
                parts["alpha"] = torch.from_numpy(np.ascontiguousarray(wanted[..., -1]).astype(np.int32))
            about = {
                LATENTS_NOTE: FORMAT,
                "model": opened.checksum,
                "size": json.dumps(wanted.shape[:2]),
                "header": _header_text(header),
            }
            scale = opened.model.scale
            lr = parts["lr"][0, :, : -(-wanted.shape[0] // scale), : -(-wanted.shape[1] // scale)].float()
            small = replace(signed(header, opened.checksum if opened.model.makes_lr else None), bits=8, format="png")
            job.write_picture(stored(lr, reduced_alpha(picture.alpha, scale), small), small)
            try:
                _write_latents(job.targets[1], parts, about)
            except BaseException:  # both files, or none
                job.targets[0].unlink(missing_ok=True)
                raise
    return batch.summary()


def decode_files(options: Decode) -> int:
    """Runs `flowkit decode`; returns the exit code."""
    inputs = find_inputs([*options.files, *options.input], options.output, (".safetensors",))
    opened = open_model(options)
    lr = None if options.lr is None else photo_file.read(options.lr).pixels

    batch = Batch(options, inputs, Naming(options.suffix, options.extension or ".png"))
    for job in batch:
        with job.reported():
            photo_file.format_of(job.targets[0])
            pixels, alpha, header = _decoded(opened, job.source, job.targets[0], lr)
            header = job.fit(header)
            if not named_format(header.format).keeps_pixels(options.quality):
                exact = labels((form for form in written_formats() if not form.lossy), "and")
                job.warn_once(f"this format changes pixels: {exact} don't")
            job.write_picture(stored(pixels, alpha, header), header, options.quality)
    return batch.summary()


def _write_latents(path: Path, parts: dict[str, Tensor], about: dict[str, str]) -> None:
    write_whole(path, lambda file: file.write(save(parts, about)))


def _exact_parts(opened: Opened, picture: Picture, header: Header, wanted: NDArray[Any]) -> dict[str, Tensor]:
    """LR image and latents by name, in the model's precision or in float64: one that gives back every pixel.

    Raises:
        ValueError: if neither does.
    """
    own = next(opened.model.parameters()).dtype
    for dtype in dict.fromkeys((own, torch.float64)):
        parts = _take_apart(opened, picture.pixels.to(dtype))
        again = _put_together(opened, parts, *wanted.shape[:2])
        if np.array_equal(stored(again, picture.alpha, header), wanted):
            return parts
    raise ValueError("the round trip is not exact, even in float64: take another checkpoint")


def _take_apart(opened: Opened, pixels: Tensor) -> dict[str, Tensor]:
    """LR image and latents by name, on the CPU, in the precision of the pixels."""
    model, stride = opened.model, opened.model.flow.stride
    pad = (0, -pixels.shape[2] % stride, 0, -pixels.shape[1] % stride)
    hr = F.pad(pixels[None], pad, mode="replicate").to(opened.device)
    given = bicubic_resize(hr, Fraction(1, model.scale)) if _needs_lr(model) else None
    with torch.inference_mode(), _in_dtype(model, hr.dtype):
        lr, latents, _ = model.encode(hr, given)
    parts = {f"latent.{i}": z for i, z in enumerate(latents)}
    lr = given if lr is None else lr
    assert lr is not None, "a model without an LR image of its own is given one"
    parts["lr"] = lr
    if given is not None and lr is not given:
        parts["given"] = given
    return {name: part.cpu().contiguous() for name, part in parts.items()}


def _put_together(opened: Opened, parts: dict[str, Tensor], height: int, width: int) -> Tensor:
    """The picture (3, height, width) of `_take_apart`'s parts."""
    device = opened.device
    count = sum(name.startswith("latent.") for name in parts)
    latents = tuple(parts[f"latent.{i}"].to(device) for i in range(count))
    given = parts["given"].to(device) if "given" in parts else None
    with torch.inference_mode(), _in_dtype(opened.model, parts["lr"].dtype):
        return opened.model.decode(parts["lr"].to(device), latents, given)[0, :, :height, :width].cpu()


@contextmanager
def _in_dtype(model: ImageFlow, dtype: torch.dtype) -> Iterator[None]:
    """Runs a model in a dtype, and takes it back to its own afterwards."""
    own = next(model.parameters()).dtype
    model.to(dtype)
    try:
        yield
    finally:
        model.to(own)


def _needs_lr(model: ImageFlow) -> bool:
    return not model.makes_lr or getattr(model.config, "given", None) == "lr"


def _decoded(opened: Opened, source: Path, target: Path, lr: Tensor | None) -> tuple[Tensor, Tensor | None, Header]:
    """The picture in a file of `encode`: pixels (3, H, W), alpha and header.

    Raises:
        ValueError: if the file is none of `encode`, damaged, or another model's.
        PictureError: if the target's format can't hold it.
    """
    parts, about = read_weights(source)
    if about.get(LATENTS_NOTE) != FORMAT:
        raise ValueError(f"{source}: not made by flowkit encode")
    if about.get("model") != opened.checksum:
        raise ValueError(f"{source}: another model encoded it than {opened.path}: give that one with -m")
    try:
        height, width = json.loads(about["size"])
        header = _header(about["header"])
        alpha = parts.pop("alpha", None)
        photo_file.check_size(target, height, width)
        if lr is not None:
            parts["lr"] = _edited(lr, parts["lr"])
        pixels = _put_together(opened, parts, height, width)
        if alpha is not None:
            alpha = alpha[None] / (65535 if header.bits == 16 else 255)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{source}: damaged ({type(error).__name__}: {error})") from None
    return pixels, alpha, header


def _edited(lr: Tensor, like: Tensor) -> Tensor:
    """Another LR image in the place of one, which was padded to multiples."""
    rows, columns = like.shape[2] - lr.shape[1], like.shape[3] - lr.shape[2]
    out = like.clone()
    if rows < 0 or columns < 0:
        raise ValueError(f"--lr is {lr.shape[1]} × {lr.shape[2]}, and at most {like.shape[2]} × {like.shape[3]} fits")
    out[0, :, : lr.shape[1], : lr.shape[2]] = lr.to(like)
    return out


def _header_text(header: Header) -> str:
    fields = dataclasses.asdict(header)
    fields["metadata"] = {
        name: value if isinstance(value, str) else {"base64": base64.b64encode(value).decode()}
        for name, value in header.metadata.items()
    }
    return json.dumps(fields)


def _header(text: str) -> Header:
    fields: dict[str, Any] = json.loads(text)
    metadata = {
        name: value if isinstance(value, str) else base64.b64decode(value["base64"])
        for name, value in fields.pop("metadata").items()
    }
    width, height = fields.pop("resolution")
    return Header(**fields, metadata=metadata, resolution=(width, height))
