"""`flowkit downscale`: makes the small pictures from which a rescaling model restores the large ones."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from torch import Tensor

from flowkit_models.cli.batch import Batch
from flowkit_models.cli.model import Opened, open_model
from flowkit_models.cli.options import Downscale, RefinementOptions
from flowkit_models.cli.paths import Naming, find_inputs
from flowkit_models.images.formats import endings, named_format
from flowkit_models.images.photo_file import stored
from flowkit_models.images.provenance import signed
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.inference.enlarging import in_tiles, seen
from flowkit_models.models.refinement import RADIUS, STEPS


def downscale_files(options: Downscale) -> int:
    """Runs `flowkit downscale`; returns the exit code."""
    inputs = find_inputs([*options.files, *options.input], options.output, endings())
    opened = open_model(options)
    opened.require_lr()

    batch = Batch(options, inputs, Naming(options.suffix, options.extension or ".png"))
    for job in batch:
        with job.reported():
            picture = job.read_picture()
            header = replace(signed(picture.header, opened.checksum), bits=8)  # to which the model rounds
            header = job.fit(header)
            pixels, _ = seen(picture)
            lr = downscaled(opened, pixels, options, job.progress())
            alpha = reduced_alpha(picture.alpha, opened.model.scale)
            form = named_format(header.format)
            if not form.keeps_pixels(quality=100) and not (form.name == "jpeg" and opened.model.survives_jpeg):
                job.warn_once(f"{form.label} changes the small picture, and what is restored from it: PNG doesn't")
            job.write_picture(stored(lr, alpha, header), header, options.quality)
    return batch.summary()


def downscaled(
    opened: Opened, pixels: Tensor, options: RefinementOptions, progress: Callable[[int, int], None]
) -> Tensor:
    """A picture (3, H, W) at low resolution: (3, ⌈H/scale⌉, ⌈W/scale⌉) in [0, 1], rounded to 8 bits.

    Raises:
        ValueError: if the model makes no LR images.
        MemoryError: if not even small tiles fit.
    """
    refine, radius = STEPS if options.refine else 0, RADIUS if options.radius is None else options.radius
    return in_tiles(opened.model, pixels, options.tile).downscale(pixels, progress, refine, radius) / 255


def reduced_alpha(alpha: Tensor | None, scale: int) -> Tensor | None:
    """An alpha channel (1, H, W) at low resolution, bicubic, clamped."""
    return None if alpha is None else bicubic_resize(alpha, Fraction(1, scale)).clamp(0, 1)
