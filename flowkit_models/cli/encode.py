"""What `encode` and `decode` do with each file: the LR image as the model makes it, unrounded, and all latents."""

import base64
import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from flowkit_models.cli.batch import Reporter, Work, go
from flowkit_models.cli.model import Opened, open_model
from flowkit_models.cli.options import Decode, Encode
from flowkit_models.cli.paths import Job, Naming
from flowkit_models.cli.provenance import signed
from flowkit_models.cli.render import reduced
from flowkit_models.cli.upscale import extension, fitted, read
from flowkit_models.files import write_whole
from flowkit_models.images import photo_file as pictures
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.checkpoint_file import read_weights

FORMAT = "1"
_KEY = "flowkit_encoded"


def encode_files(options: Encode) -> int:
    """Runs `flowkit encode`; returns the exit code."""
    # -o photo.safetensors means both files, too
    naming = Naming(lambda stem, _: [f"{stem}.png", f"{stem}.safetensors"], options.suffix)

    def prepare() -> tuple[Naming, Work]:
        opened = open_model(options)
        return naming, lambda job, report: _encode(opened, job, report)

    return go(options, prepare)


def decode_files(options: Decode) -> int:
    """Runs `flowkit decode`; returns the exit code."""
    naming = Naming(lambda stem, end: [stem + end], options.suffix, extension(options) or ".png")

    def prepare() -> tuple[Naming, Work]:
        opened = open_model(options)
        lr = None if options.lr is None else pictures.read(options.lr).pixels
        return naming, lambda job, report: _decode(opened, lr, options.quality, job, report)

    return go(options, prepare, frozenset((".safetensors",)))


def _encode(opened: Opened, job: Job, report: Reporter) -> None:
    picture = read(job, report, 1)
    header = signed(picture.header, None)
    wanted = pictures.stored(picture.pixels, picture.alpha, header)
    own = next(opened.model.parameters()).dtype
    for dtype in dict.fromkeys((own, torch.float64)):
        parts = _take_apart(opened, picture.pixels.to(dtype))
        again = _put_together(opened, parts, *wanted.shape[:2])
        if np.array_equal(pictures.stored(again, picture.alpha, header), wanted):
            break
    else:
        raise ValueError("this model does not give every pixel back, not even with 64-bit numbers")
    lr = parts["lr"][0].float()
    if header.alpha:
        parts["alpha"] = torch.from_numpy(np.ascontiguousarray(wanted[..., -1]).astype(np.int32))
    lr = lr[:, : -(-wanted.shape[0] // opened.model.scale), : -(-wanted.shape[1] // opened.model.scale)]
    small = replace(signed(header, opened.checksum if opened.model.makes_lr else None), bits=8, format="png")
    about = {
        _KEY: FORMAT,
        "model": opened.checksum,
        "size": json.dumps(wanted.shape[:2]),
        "header": _header_text(header),
    }
    image, latents = job.targets
    pictures.write(image, pictures.stored(lr, reduced(picture.alpha, opened.model.scale), small), small)
    try:
        write_whole(latents, lambda file: file.write(save(parts, about)))
    except BaseException:  # both files, or none
        image.unlink(missing_ok=True)
        raise


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


def _decode(opened: Opened, lr: Tensor | None, quality: int, job: Job, report: Reporter) -> None:
    parts, about = read_weights(job.source)
    if about.get(_KEY) != FORMAT:
        raise ValueError(f"{job.source}: not made by flowkit encode")
    if about.get("model") != opened.checksum:
        raise ValueError(f"{job.source}: another model encoded it than {opened.path}: give that one with -m")
    try:
        height, width = json.loads(about["size"])
        header = _header(about["header"])
        alpha = parts.pop("alpha", None)
        pictures.check_size(job.targets[0], height, width)
        if lr is not None:
            parts["lr"] = _edited(lr, parts["lr"])
        pixels = _put_together(opened, parts, height, width)
        if alpha is not None:
            alpha = alpha[None] / (65535 if header.bits == 16 else 255)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{job.source}: damaged ({type(error).__name__}: {error})") from None
    header = fitted(header, job, report)
    if header.format == "jpeg" or (header.format == "webp" and quality < 100):
        report.warn_once("this format changes pixels: PNG and TIFF don't")
    pictures.write(job.targets[0], pictures.stored(pixels, alpha, header), header, quality)


def _edited(lr: Tensor, like: Tensor) -> Tensor:
    """Another LR image in the place of one, which was padded to multiples."""
    rows, columns = like.shape[2] - lr.shape[1], like.shape[3] - lr.shape[2]
    out = like.clone()
    if rows < 0 or columns < 0:
        raise ValueError(f"--lr is {lr.shape[1]} × {lr.shape[2]}, and at most {like.shape[2]} × {like.shape[3]} fits")
    out[0, :, : lr.shape[1], : lr.shape[2]] = lr.to(like)
    return out


def _header_text(header: pictures.Header) -> str:
    fields = dataclasses.asdict(header)
    fields["metadata"] = {
        name: value if isinstance(value, str) else {"base64": base64.b64encode(value).decode()}
        for name, value in header.metadata.items()
    }
    return json.dumps(fields)


def _header(text: str) -> pictures.Header:
    fields: dict[str, Any] = json.loads(text)
    metadata = {
        name: value if isinstance(value, str) else base64.b64decode(value["base64"])
        for name, value in fields.pop("metadata").items()
    }
    width, height = fields.pop("resolution")
    return pictures.Header(**fields, metadata=metadata, resolution=(width, height))
