"""`flowkit restore`: downscales photographs and upscales them again."""

from flowkit_models.cli.batch import Batch
from flowkit_models.cli.downscale import downscaled
from flowkit_models.cli.model import open_model
from flowkit_models.cli.options import Restore
from flowkit_models.cli.paths import Naming, find_inputs
from flowkit_models.cli.provenance import signed
from flowkit_models.cli.upscale import upscaled
from flowkit_models.images.formats import endings
from flowkit_models.inference.latent_field import LatentField


def restore_files(options: Restore) -> int:
    """Runs `flowkit restore`; returns the exit code."""
    inputs = find_inputs([*options.files, *options.input], options.output, endings())
    opened = open_model(options)
    opened.require_lr()

    batch = Batch(options, inputs, Naming(options.suffix, options.extension))
    for job in batch:
        with job.reported():
            picture = job.read_picture()
            header = job.fit(signed(picture.header, None))
            lr = downscaled(opened, picture.pixels, options.tile, job.progress(0, 2))
            alpha = picture.alpha
            rows = None if alpha is None else lambda top, bottom, alpha=alpha: alpha[:, top:bottom]
            size = (picture.pixels.shape[1], picture.pixels.shape[2])
            field = LatentField(options.seed)
            array = upscaled(opened, options, lr, rows, header, field, job.progress(1, 2), size)
            job.write_picture(array, header, options.quality)
    return batch.summary()
