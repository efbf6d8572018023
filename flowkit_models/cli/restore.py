"""`flowkit restore`: downscales photographs and upscales them again."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowkit_models.cli.batch import Batch
from flowkit_models.cli.downscale import downscaled
from flowkit_models.cli.model import open_model
from flowkit_models.cli.options import Restore
from flowkit_models.cli.paths import Naming, find_inputs
from flowkit_models.cli.upscale import chosen_temperature
from flowkit_models.diagnostics.lr_provenance import jpeg_warning
from flowkit_models.images.formats import endings
from flowkit_models.images.photo_file import Header, stored
from flowkit_models.images.provenance import made_by, signed
from flowkit_models.images.transparency import over_white
from flowkit_models.inference.enlarging import seen, upscaled
from flowkit_models.inference.latent_field import LatentField
from flowkit_models.metrics.full_reference import psnr


def restore_files(options: Restore) -> int:
    """Runs `flowkit restore`; returns the exit code."""
    inputs = find_inputs([*options.files, *options.input], options.output, endings())
    opened = open_model(options)
    opened.require_lr()

    temperature = chosen_temperature(opened, options)

    batch = Batch(options, inputs, Naming(options.suffix, options.extension))
    for job in batch:
        with job.reported():
            picture = job.read_picture()
            if made_by(picture.header) and (warning := jpeg_warning(opened.model, picture.header)):
                job.warn(warning)
            header = job.fit(signed(picture.header, None))
            pixels, under = seen(picture)
            lr = downscaled(opened, pixels, options, job.progress(0, 2))
            rows = None if under is None else lambda top, bottom, under=under: under[:, top:bottom]
            size = (picture.pixels.shape[1], picture.pixels.shape[2])
            field = None if temperature is None else LatentField(options.seed)
            progress = job.progress(1, 2)
            array = upscaled(opened.model, lr, options.tile, temperature, rows, header, field, progress, size)
            job.write_picture(array, header, options.quality)
            job.report(f"PSNR {psnr_db(array, stored(picture.pixels, picture.alpha, header), header):.2f} dB")
    return batch.summary()


def psnr_db(array: NDArray[Any], wanted: NDArray[Any], header: Header) -> float:
    """PSNR of two pictures that are stored with one header, over all their colours; of cut-outs as they lie over white.

    What JPEG or WebP change on writing doesn't count.
    """
    a, b = (torch.from_numpy(x.astype(np.float64) / (2**header.bits - 1)).movedim(-1, 0) for x in (array, wanted))
    if header.alpha:
        a, b = (over_white(x[:-1], x[-1:]) for x in (a, b))
    return float(psnr(a[None], b[None]))
