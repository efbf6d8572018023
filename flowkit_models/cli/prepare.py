"""`flowkit prepare`: sub-images to train on, CelebA faces, LR files of a set."""

import warnings
from pathlib import Path

import torch
from rich.console import Console

from flowkit_models.cli.prepare_options import CelebA, LowResolution, Prepare, SubImages
from flowkit_models.data import prepare
from flowkit_models.data.layouts import hr_images, lr_place
from flowkit_models.data.pairs import images_in
from flowkit_models.data.prepare import CELEBA, Faces, Preparation, open_notes, prepare_all
from flowkit_models.images.image_file import ImageError, check_writable, list_images
from flowkit_models.terminal import first_few, progress_bar

Plan = list[tuple[Preparation, Path]]
"""A preparation for each source file."""


def prepare_dataset(options: Prepare) -> int:
    """Runs `flowkit prepare`; returns the exit code, 0.

    Raises:
        ImageError: if none of the images could be used, or a result can't be written.
        ValueError: if an option makes no sense.
    """
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    torch.set_num_threads(1)  # images are small: the threads go to the files
    console = Console(soft_wrap=True)
    plan = plan_of(options.what)
    for out in {make.out for make, _ in plan}:
        check_writable(out)
    notes = open_notes(plan, options.what.overwrite)
    for out, note in notes.items():
        if note.new and len(note.new) < len(note.sources):
            console.print(f"{out}: new: {first_few(note.new)}", markup=False, highlight=False)
    with progress_bar(console, len(plan), "images") as tick:

        def step(failed: str | None) -> None:
            if failed is not None:
                console.print(f"skipped {failed}", markup=False, highlight=False)
            tick()

        report = prepare_all(plan, options.what.workers, step, notes)
    console.print(f"{report.written} files written, {report.existing} were there, {len(report.failed)} images skipped")
    if len(report.failed) == len(plan):
        raise ImageError("none of the images could be used")
    return 0


def plan_of(options: SubImages | CelebA | LowResolution) -> Plan:
    """Plan of `flowkit prepare`: each source file, and what is made of it.

    Raises:
        ImageError, ValueError: as those of the three kinds.
    """
    if isinstance(options, SubImages):
        return sub_images_plan(options)
    return celeba_plan(options) if isinstance(options, CelebA) else lr_plan(options)


def sub_images_plan(options: SubImages) -> Plan:
    """Plan of `flowkit prepare sub-images`: each photograph.

    Raises:
        ValueError: without folders, for two photographs of one name, or an `out` within a folder.
    """
    if not options.folders:
        raise ValueError("no folders of photographs given: name at least one")
    plan: Plan = []
    count = options.count if options.mode == "random" else None
    taken: dict[Path, Path] = {}
    for folder in options.folders:
        check_apart(options.out, folder)
        make = prepare.SubImages(options.out, folder, options.size, count, options.step, options.seed)
        for file in hr_images(folder):
            name = file.relative_to(folder).with_suffix("")
            if name in taken:
                raise ValueError(f"{taken[name]} and {file} have one name: prepare them with different --out")
            taken[name] = file
            plan.append((make, file))
    return plan


def celeba_plan(options: CelebA) -> Plan:
    """Plan of `flowkit prepare celeba`: each face, in the order of the numbers.

    Raises:
        ImageError: if no file has a number of these parts.
        ValueError: for no test images, two files of one number, or an `out` within the folder.
    """
    if options.test_images < 1:
        raise ValueError(f"--test-images must be at least 1, got {options.test_images}")
    check_apart(options.out, options.folder)
    numbered: dict[int, Path] = {}
    for file in list_images(options.folder):
        if file.stem.isascii() and file.stem.isdecimal():
            other = numbered.setdefault(int(file.stem), file)
            if other != file:
                raise ValueError(f"{other} and {file} have one number: keep one of them")
    plan: Plan = []
    for part in dict.fromkeys(options.parts):
        make = Faces(options.out / part, options.size, options.scale, options.face_factor)
        found = [(make, numbered[number]) for number in sorted(numbered) if number in CELEBA[part]]
        plan += found[: options.test_images] if part == "test" else found
    if not plan:
        raise ImageError(f"{options.folder}: no images named by CelebA's numbers (000001.jpg …) of {options.parts}")
    return plan


def lr_plan(options: LowResolution) -> Plan:
    """Plan of `flowkit prepare lr`: each HR image.

    Raises:
        ImageError: if there is no such folder.
        ValueError: if none is named as HR folders are, and no `out` is given; or if that is the folder itself.
    """
    if not options.folder.is_dir():
        raise ImageError(f"{options.folder}: no such folder")
    folders = [options.folder]
    if options.out is None and lr_place(options.folder.absolute(), options.scale) is None:
        folders = [f for f in sorted(options.folder.iterdir()) if f.is_dir() and lr_place(f, options.scale)]
    if not folders:
        raise ValueError(f"{options.folder}: no folder HR, GTmod… or NAME_HR in it: say --out for any other folder")
    plan: Plan = []
    for folder in folders:
        out = options.out or lr_place(folder.absolute(), options.scale)
        assert out is not None
        if out.resolve() == folder.resolve():
            raise ValueError(f"--out {out} holds the images to prepare: name another --out")
        suffix = not out.name.startswith("LRbicx")
        make = prepare.LowResolution(out, options.scale, options.edges, options.ties, suffix)
        plan += [(make, file) for file in images_in(folder).values()]
    return plan


def check_apart(out: Path, folder: Path) -> None:
    """Raises ValueError if results would become sources of the next run."""
    if out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"--out {out} lies in {folder}, which is searched for images: name a folder outside it")
