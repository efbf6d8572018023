"""`flowkit upscale`: enlarges photographs."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from flowkit_models.cli.batch import Batch, Job
from flowkit_models.cli.errors import UsageError
from flowkit_models.cli.model import Opened, open_model, with_maker
from flowkit_models.cli.options import DrawOptions, Upscale
from flowkit_models.cli.paths import Naming, find_inputs
from flowkit_models.cli.workers import do_in_processes
from flowkit_models.devices import nth_device
from flowkit_models.diagnostics.lr_provenance import jpeg_warning, provenance_warning
from flowkit_models.images.formats import endings
from flowkit_models.images.photo_file import Picture
from flowkit_models.images.provenance import made_by, noted_maker, signed
from flowkit_models.inference.enlarging import enlarged_rows, seen, upscaled
from flowkit_models.inference.latent_field import LatentField
from flowkit_models.models.bundled import ANY_SCALE
from flowkit_models.models.linf.model import LINF


def upscale_files(options: Upscale) -> int:
    """Runs `flowkit upscale`; returns the exit code."""
    inputs = find_inputs([*options.files, *options.input], options.output, endings())
    options = with_maker(options, (noted_maker(path) for path, _ in inputs.files))
    opened = open_model(options)
    result_size(opened, options)  # a factor that the model lacks is an error of the line
    suffix = default_suffix(opened, options) if options.suffix is None else options.suffix
    numbers = [""] if options.draws == 1 else [f"_{draw}" for draw in range(1, options.draws + 1)]
    naming = Naming(suffix, options.extension, tuple(f"{{stem}}{number}{{extension}}" for number in numbers))
    temperature = chosen_temperature(opened, options)
    if options.draws > 1 and not temperature:
        why = "learned prior" if temperature is None else "recommended temperature, 0,"
        raise UsageError(
            f"--draws {options.draws}: this model's {why} has one result: give another --temperature or --style"
        )

    batch = Batch(options, inputs, naming)
    if options.workers > 1:
        do_in_processes(batch, partial(in_process, options, temperature), options.workers)
    else:
        for job in batch:
            with job.reported():
                upscale_file(job, opened, options, temperature)
    return batch.summary()


def upscale_file(job: Job, opened: Opened, options: Upscale, temperature: float | None) -> None:
    """Enlarges one picture."""
    result = result_size(opened, options)
    picture = job.read_picture(result)
    warning = foreign_warning(opened, picture)
    if warning:
        job.warn(warning)
    header = job.fit(signed(picture.header, None))
    pixels, under = seen(picture, own=made_by(picture.header) == opened.checksum)
    size = result(pixels.shape[1], pixels.shape[2])
    if isinstance(opened.model, LINF) and (doubt := opened.model.doubt(pixels.shape[1:], size)):
        job.warn(doubt)
    rows = None if under is None else enlarged_rows(under, size)
    for draw in range(options.draws):
        field = None if temperature is None else LatentField(options.seed, draw)
        progress = job.progress(draw, options.draws)
        array = upscaled(opened.model, pixels, options.tile, temperature, rows, header, field, progress, size)
        job.write_picture(array, header, options.quality, draw)


def in_process(options: Upscale, temperature: float | None, number: int) -> Callable[[Job], None]:
    """The work of process `number`: it opens the model for itself, on a device of its own where there are several."""
    own = replace(options, device=str(nth_device(options.device, number)))
    return partial(upscale_file, opened=open_model(own), options=own, temperature=temperature)


def result_size(opened: Opened, options: Upscale) -> Callable[[int, int], tuple[int, int]]:
    """Height and width of a result, of those of a picture, as --scale and --size ask.

    Raises:
        UsageError: for another factor than the model's, unless it is one of any scale.
    """
    scale, target = options.scale or opened.model.scale, options.target
    if not opened.model.any_scale and (target is not None or scale != opened.model.scale):
        asked = f"--size {options.size}" if target else f"--scale {scale:g}"
        raise UsageError(
            f"{asked}: {opened.path.name} is a model of ×{opened.model.scale} alone; leave it out, or take "
            f"-m {ANY_SCALE}, or another LINF model, which makes any size"
        )
    return lambda height, width: target or (max(1, round(height * scale)), max(1, round(width * scale)))


def default_suffix(opened: Opened, options: Upscale) -> str:
    """End of the results' names that says how large they are."""
    if options.target is not None:
        return f"_{options.target[1]}x{options.target[0]}"
    return f"_x{options.scale or opened.model.scale:g}"


def chosen_temperature(opened: Opened, options: DrawOptions) -> float | None:
    """The τ that the options name, or that suits the model, None for its learned prior; says so if it is above 1."""
    if options.temperature is None:
        return opened.temperature if opened.model.prior is None else None
    if options.temperature > 1:
        print(f"warning: --temperature {options.temperature:g}: above 1 noise prevails over detail", file=sys.stderr)
    return options.temperature


def foreign_warning(opened: Opened, picture: Picture) -> str | None:
    """Warning for a picture that a rescaling model is to upscale and did not make itself; None: it did, or may have."""
    if not opened.rescales:
        return None
    if jpeg := jpeg_warning(opened.model, picture.header):
        return jpeg
    maker = made_by(picture.header)
    if maker == opened.checksum:
        return None
    if maker is None and picture.header.format == "jpeg":  # what it hides is not there to be seen
        return None
    if maker is None and opened.own_lr is not None:
        return provenance_warning(opened.model, picture.pixels[None].to(opened.device), opened.own_lr)
    whose = "another model's downscaling made it" if maker else "nothing in it says that this model downscaled it"
    return f"{whose}, and a rescaling model restores only what it made itself: expect artefacts"
