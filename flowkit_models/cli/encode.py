"""`flowkit encode` and `decode`: the LR image as the model makes it, unrounded, and all latents, in one file."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from flowkit_models.cli.batch import Batch
from flowkit_models.cli.downscale import reduced_alpha
from flowkit_models.cli.latents_file import Latents, gets_lr, noted_encoder, read_latents, written_latents
from flowkit_models.cli.model import Opened, open_model, with_maker
from flowkit_models.cli.options import Decode, Encode
from flowkit_models.cli.paths import Naming, find_inputs
from flowkit_models.images.formats import endings, labels, named_format, written_formats
from flowkit_models.images.photo_file import Header, Picture, check_size, format_of, read_photo, stored
from flowkit_models.images.provenance import signed
from flowkit_models.images.resize import bicubic_resize


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
            alpha = np.ascontiguousarray(wanted[..., -1]).astype(np.int32) if header.alpha else None
            size = (wanted.shape[0], wanted.shape[1])
            latents = Latents(parts, size, header, None if alpha is None else torch.from_numpy(alpha))
            scale = opened.model.scale
            lr = parts["lr"][0, :, : -(-wanted.shape[0] // scale), : -(-wanted.shape[1] // scale)].float()
            small = replace(signed(header, opened.checksum if opened.model.makes_lr else None), bits=8, format="png")
            with written_latents(job.targets[1], latents, opened):  # both files are new, or neither
                job.write_picture(stored(lr, reduced_alpha(picture.alpha, scale), small), small)
    return batch.summary()


def decode_files(options: Decode) -> int:
    """Runs `flowkit decode`; returns the exit code."""
    inputs = find_inputs([*options.files, *options.input], options.output, (".safetensors",), ())
    options = with_maker(options, (noted_encoder(path) for path, _ in inputs.files))
    opened = open_model(options)
    lr = None if options.lr is None else read_photo(options.lr).pixels

    batch = Batch(options, inputs, Naming(options.suffix, options.extension or ".png"))
    for job in batch:
        with job.reported():
            format_of(job.targets[0])
            latents = read_latents(job.source, opened)
            check_size(job.targets[0], *latents.size)
            pixels, alpha = _decoded(opened, latents, lr)
            header = job.fit(latents.header)
            if not named_format(header.format).keeps_pixels(options.quality):
                exact = labels((form for form in written_formats() if not form.lossy), "and")
                job.warn_once(f"this format changes pixels: {exact} don't")
            job.write_picture(stored(pixels, alpha, header), header, options.quality)
    return batch.summary()


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
    given = bicubic_resize(hr, Fraction(1, model.scale)) if gets_lr(model) else None
    with torch.inference_mode():
        lr, latents, _ = opened.in_dtype(hr.dtype).encode(hr, given)
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
    with torch.inference_mode():
        model = opened.in_dtype(parts["lr"].dtype)
        return model.decode(parts["lr"].to(device), latents, given)[0, :, :height, :width].cpu()


def _decoded(opened: Opened, latents: Latents, lr: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The picture in a file of `encode`: pixels (3, H, W) and alpha (1, H, W)."""
    parts = latents.parts
    if lr is not None:
        size = tuple(-(-side // opened.model.scale) for side in latents.size)
        parts = {**parts, "lr": _edited(lr, parts["lr"], size)}
    pixels = _put_together(opened, parts, *latents.size)
    if not bool(pixels.isfinite().all()):
        raise ValueError("damaged (what it decodes to is not finite)")
    top = 65535 if latents.header.bits == 16 else 255
    return pixels, None if latents.alpha is None else latents.alpha[None] / top


def _edited(lr: Tensor, like: Tensor, size: tuple[int, ...]) -> Tensor:
    """Another LR image in the place of one of that size, which was padded to multiples."""
    if lr.shape[1:] != size:
        raise ValueError(f"--lr is {lr.shape[1]} × {lr.shape[2]}, and {size[0]} × {size[1]} is what was encoded")
    out = like.clone()
    out[0, :, : lr.shape[1], : lr.shape[2]] = lr.to(like)
    return out
