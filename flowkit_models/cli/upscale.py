"""What `upscale` and `restore` do with each file."""

from collections.abc import Callable

from flowkit_models.cli.batch import Reporter, Work, go
from flowkit_models.cli.errors import UsageError
from flowkit_models.cli.model import Opened, open_model
from flowkit_models.cli.options import DrawOptions, PictureOptions, Restore, Upscale
from flowkit_models.cli.paths import Job, Naming
from flowkit_models.cli.provenance import foreign_warning, signed
from flowkit_models.cli.render import downscaled, enlarged, require_lr, upscaled
from flowkit_models.images import photo_file as pictures
from flowkit_models.inference.latent_field import LatentField


def upscale_files(options: Upscale) -> int:
    """Runs `flowkit upscale`; returns the exit code."""
    if options.draws < 1:
        raise UsageError(f"--draws {options.draws}: at least 1")
    if options.draws > 1 and options.temperature == 0:
        raise UsageError("--temperature 0 has one result: leave --draws out, or raise the temperature")

    def names(stem: str, extension: str) -> list[str]:
        if options.draws == 1:
            return [stem + extension]
        return [f"{stem}_{draw}{extension}" for draw in range(1, options.draws + 1)]

    def work(opened: Opened, job: Job, report: Reporter) -> None:
        picture = read(job, report, opened.model.scale)
        odd = foreign_warning(opened, picture)
        if odd:
            report.warn(odd)
        header = fitted(signed(picture.header, None), job, report)
        tau = opened.temperature if options.temperature is None else options.temperature
        for draw, target in enumerate(job.targets):
            array = upscaled(
                opened,
                picture.pixels,
                enlarged(picture.alpha, opened.model.scale),
                header,
                tau,
                LatentField(options.seed, draw),
                options.tile,
                report.share(draw, len(job.targets)),
            )
            pictures.write(target, array, header, options.quality)

    def naming(opened: Opened) -> Naming:
        suffix = f"_x{opened.model.scale}" if options.suffix is None else options.suffix
        return Naming(names, suffix, extension(options))

    return _go(options, naming, work)


def restore_files(options: Restore) -> int:
    """Runs `flowkit restore`; returns the exit code."""

    def work(opened: Opened, job: Job, report: Reporter) -> None:
        picture = read(job, report, 1)
        header = fitted(signed(picture.header, None), job, report)
        tau = opened.temperature if options.temperature is None else options.temperature
        size = (picture.pixels.shape[1], picture.pixels.shape[2])
        lr, _ = downscaled(opened, picture.pixels, None, options.tile, report.share(0, 2))
        alpha = picture.alpha
        rows = None if alpha is None else lambda top, bottom: alpha[:, top:bottom]
        array = upscaled(
            opened, lr, rows, header, tau, LatentField(options.seed), options.tile, report.share(1, 2), size
        )
        pictures.write(job.targets[0], array, header, options.quality)

    naming = Naming(lambda stem, end: [stem + end], options.suffix, extension(options))
    return _go(options, lambda _: naming, work, makes_lr=True)


def extension(options: PictureOptions) -> str | None:
    """The extension that --format asks for.

    Raises:
        UsageError: for a --quality out of range, while at it.
    """
    if not 1 <= options.quality <= 100:
        raise UsageError(f"--quality {options.quality}: from 1 to 100")
    return f".{options.format}" if options.format else None


def check_tile(tile: int | None) -> None:
    """Raises UsageError for a --tile that makes no sense."""
    if tile is not None and tile != 0 and tile < 16:
        raise UsageError(f"--tile {tile}: at least 16 pixels, or 0 for the whole picture at once")


def read(job: Job, report: Reporter, scale: int) -> pictures.Picture:
    """Reads a job's picture, says what is odd about it, and makes sure that the results' format can hold it."""
    pictures.format_of(job.targets[0])
    picture = pictures.read(job.source)
    for line in picture.warnings:
        report.warn(line)
    height, width = (side * scale for side in picture.pixels.shape[1:])
    pictures.check_size(job.targets[0], height, width)
    return picture


def fitted(header: pictures.Header, job: Job, report: Reporter) -> pictures.Header:
    """The header of a job's results; says what their format can't hold."""
    header, lost = header.fitted(pictures.format_of(job.targets[0]))
    for line in lost:
        report.warn(line)
    return header


def _go(
    options: DrawOptions,
    naming: Callable[[Opened], Naming],
    work: Callable[[Opened, Job, Reporter], None],
    makes_lr: bool = False,
) -> int:
    extension(options)
    if options.temperature is not None and not 0 <= options.temperature < 100:
        raise UsageError(f"--temperature {options.temperature}: at least 0, and about 1 at most")
    if not 0 <= options.seed < 2**64:
        raise UsageError(f"--seed {options.seed}: a whole number from 0 to 2⁶⁴ − 1")
    check_tile(options.tile)

    def prepare() -> tuple[Naming, Work]:
        opened = open_model(options)
        if makes_lr:
            require_lr(opened.model)
        return naming(opened), lambda job, report: work(opened, job, report)

    return go(options, prepare)
