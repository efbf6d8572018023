"""Prepares data as section 4.1 of the paper has it: sub-images to train on, CelebA faces, LR files of a set.

What is there already is left alone, so an interrupted run can be started again. Files that cannot be read are named
and skipped.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console

from flowkit_models.data.pairs import images_in, lr_place
from flowkit_models.data.prepare import CELEBA, Faces, LowResolution, Preparation, SubImages, prepare_all
from flowkit_models.images.image_file import ImageError, check_writable, list_images
from flowkit_models.images.resize import Edges, Ties
from flowkit_models.progress import progress_bar

Job = tuple[Preparation, Path]


@dataclass(frozen=True)
class SubImagesConfig:
    """Cut HR photographs (DIV2K, Flickr2K) into small squares, which training decodes quickly."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of HR photographs, searched recursively, such as DIV2K_train_HR Flickr2K_HR."""
    out: Path
    """Folder for the squares, NAME_001.png and so on."""
    mode: Literal["random", "grid"] = "random"
    """random: `count` squares anywhere, as for HCFlow and SRFlow. grid: side by side, `step` pixels apart."""
    size: int = 160
    """Side of a square, in pixels. Photographs smaller than that are skipped."""
    count: int = 47
    """Squares per photograph (random)."""
    step: int = 80
    """Pixels between neighbours (grid); a last row and column end at the photograph's edge."""
    seed: int = 0
    """Seed of the positions (random); they also depend on the photograph's name, and on nothing else."""
    workers: int | None = None
    """Threads. None: some more than there are cores."""

    def jobs(self) -> list[Job]:
        """A job per photograph."""
        if not self.folders:
            raise ValueError("no folders of photographs given: name at least one")
        jobs: list[Job] = []
        count = self.count if self.mode == "random" else None
        taken: dict[Path, Path] = {}
        for folder in self.folders:
            check_apart(self.out, folder)
            make = SubImages(self.out, folder, self.size, count, self.step, self.seed)
            for file in list_images(folder):
                name = file.relative_to(folder).with_suffix("")
                if name in taken:
                    raise ValueError(f"{taken[name]} and {file} have one name: prepare them with different --out")
                taken[name] = file
                jobs.append((make, file))
        return jobs


@dataclass(frozen=True)
class CelebAConfig:
    """Make 160 × 160 HR faces and their LR images of CelebA, in train, val and test folders.

    Takes aligned CelebA images (178 × 218; a square in the middle), or square crops of the originals (whole), such as
    640 × 640 with face factor 0.6 for the published faces. See `flowkit_models.data.prepare.Faces`.
    """

    folder: tyro.conf.Positional[Path]
    """Folder of images named by CelebA's numbers, 000001.jpg to 202599.jpg (any extension), searched recursively."""
    out: Path
    """Folder for train, val and test, each with HR and LR_bicubic/X8."""
    parts: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")
    """Which parts of CelebA's standard partition: train to 162770, val to 182637, test from 182638 on."""
    test_images: int = 5000
    """How many test images: the first of those there."""
    size: int = 160
    """Side of HR, in pixels."""
    scale: int = 8
    """HR size over LR size."""
    face_factor: float = 0.6
    """How much of the side a face takes in aligned images; 0.6 is the whole width, more is closer."""
    workers: int | None = None
    """Threads. None: some more than there are cores."""

    def jobs(self) -> list[Job]:
        """A job per image, in the order of the numbers."""
        if self.test_images < 1:
            raise ValueError(f"--test-images must be at least 1, got {self.test_images}")
        check_apart(self.out, self.folder)
        numbered: dict[int, Path] = {}
        for file in list_images(self.folder):
            if file.stem.isascii() and file.stem.isdecimal():
                other = numbered.setdefault(int(file.stem), file)
                if other != file:
                    raise ValueError(f"{other} and {file} have one number: keep one of them")
        jobs: list[Job] = []
        for part in dict.fromkeys(self.parts):
            make = Faces(self.out / part, self.size, self.scale, self.face_factor)
            found = [(make, numbered[number]) for number in sorted(numbered) if number in CELEBA[part]]
            jobs += found[: self.test_images] if part == "test" else found
        if not jobs:
            raise ImageError(f"{self.folder}: no images named by CelebA's numbers (000001.jpg …) of {self.parts}")
        return jobs


@dataclass(frozen=True)
class LRConfig:
    """Make the LR files of a set by MATLAB-equivalent bicubic, where `find_pairs` looks for them."""

    folder: tyro.conf.Positional[Path]
    """A set with a folder HR, GTmod… or NAME_HR in it; or that folder; or, with --out, any folder of HR images."""
    scale: int = 4
    """HR size over LR size. LR is made of HR cropped at the bottom and right to multiples of it."""
    out: Path | None = None
    """Folder for the LR files. None: LR_bicubic/X4, LRbicx4 or NAME_LR_bicubic/X4, beside the HR folder."""
    edges: Edges = "mirror"
    """What lies outside an image. mirror: as in HCFlow's data. clamp: as in the usual benchmark files."""
    ties: Ties = "even"
    """Where halves are rounded. even: as in HCFlow's data. up: as in MATLAB and the usual benchmark files."""
    workers: int | None = None
    """Threads. None: some more than there are cores."""

    def jobs(self) -> list[Job]:
        """A job per HR image."""
        if not self.folder.is_dir():
            raise ImageError(f"{self.folder}: no such folder")
        folders = [self.folder]
        if self.out is None and lr_place(self.folder.absolute(), self.scale) is None:
            folders = [f for f in sorted(self.folder.iterdir()) if f.is_dir() and lr_place(f, self.scale)]
        if not folders:
            raise ValueError(f"{self.folder}: no folder HR, GTmod… or NAME_HR in it: say --out for any other folder")
        jobs: list[Job] = []
        for folder in folders:
            out = self.out or lr_place(folder.absolute(), self.scale)
            assert out is not None
            make = LowResolution(out, self.scale, self.edges, self.ties, suffix=not out.name.startswith("LRbicx"))
            jobs += [(make, file) for file in images_in(folder).values()]
        return jobs


def check_apart(out: Path, folder: Path) -> None:
    """Raises ValueError if results would become sources of the next run."""
    if out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"--out {out} lies in {folder}, which is searched for images: name a folder outside it")


def main(config: SubImagesConfig | CelebAConfig | LRConfig) -> None:
    """Plan, run, report."""
    torch.set_num_threads(1)  # images are small: the threads go to the files
    console = Console(soft_wrap=True)
    jobs = config.jobs()
    for out in {make.out for make, _ in jobs}:
        check_writable(out)
    with progress_bar(console, len(jobs), "images") as tick:

        def step(failed: str | None) -> None:
            if failed is not None:
                console.print(f"skipped {failed}", markup=False, highlight=False)
            tick()

        report = prepare_all(jobs, config.workers, step)
    console.print(f"{report.written} files written, {report.existing} were there, {len(report.failed)} images skipped")
    if len(report.failed) == len(jobs):
        raise ImageError("none of the images could be used")


def run(arguments: list[str]) -> int | str:
    """Runs the recipe; returns 0, or one line that says what was wrong."""
    commands: dict[str, Any] = {"sub-images": SubImagesConfig, "celeba": CelebAConfig, "lr": LRConfig}
    try:
        main(tyro.extras.subcommand_cli_from_dict(commands, args=arguments, description=__doc__))
    except KeyboardInterrupt:
        return "stopped: start it again to go on"
    except (ValueError, OSError) as error:
        return f"error: {error}"
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
