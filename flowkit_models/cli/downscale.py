"""What `downscale` does with each file."""

from dataclasses import replace

from flowkit_models.cli.batch import Reporter, Work, go
from flowkit_models.cli.model import open_model
from flowkit_models.cli.options import Downscale
from flowkit_models.cli.paths import Job, Naming
from flowkit_models.cli.provenance import signed
from flowkit_models.cli.render import downscaled, require_lr
from flowkit_models.cli.upscale import check_tile, extension, fitted, read
from flowkit_models.images import photo_file as pictures


def downscale_files(options: Downscale) -> int:
    """Runs `flowkit downscale`; returns the exit code."""
    check_tile(options.tile)

    naming = Naming(lambda stem, end: [stem + end], options.suffix, extension(options) or ".png")

    def prepare() -> tuple[Naming, Work]:
        opened = open_model(options)
        require_lr(opened.model)

        def work(job: Job, report: Reporter) -> None:
            picture = read(job, report, 1)
            lr, alpha = downscaled(opened, picture.pixels, picture.alpha, options.tile, report.share(0, 1))
            header = replace(signed(picture.header, opened.checksum), bits=8)  # to which the model rounds
            header = fitted(header, job, report)
            if header.format == "jpeg":
                report.warn_once("JPEG changes the small picture, and what is restored from it: PNG doesn't")
            pictures.write(job.targets[0], pictures.stored(lr, alpha, header), header, options.quality)

        return naming, work

    return go(options, prepare)
