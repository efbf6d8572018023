"""Options of `flowkit prepare`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class PreparationOptions:
    """Options of all preparations."""

    workers: int | None = None
    """Threads. Without it: some more than there are cores."""
    overwrite: bool = False
    """Remove what was made of these images before, with whatever settings, and make all anew."""


@dataclass(frozen=True, kw_only=True)
class SubImages(PreparationOptions):
    """Cuts HR photographs (DIV2K, Flickr2K) into small squares, which training decodes quickly."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(help_behavior_hint="(required)")]
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


@dataclass(frozen=True, kw_only=True)
class CelebA(PreparationOptions):
    """Makes 160 × 160 HR faces and their LR images of CelebA, in train, val and test folders.

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


@dataclass(frozen=True, kw_only=True)
class LowResolution(PreparationOptions):
    """Makes the LR files of a set by MATLAB-equivalent bicubic, where `find_pairs` looks for them."""

    folder: tyro.conf.Positional[Path]
    """A set with a folder HR, GTmod… or NAME_HR in it; or that folder; or, with --out, any folder of HR images."""
    scale: int = 4
    """HR size over LR size. LR is made of HR cropped at the bottom and right to multiples of it."""
    out: Path | None = None
    """Folder for the LR files. Without it: LR_bicubic/X4, LRbicx4 or NAME_LR_bicubic/X4, beside the HR folder."""
    edges: Literal["mirror", "clamp"] = "mirror"
    """What lies outside an image. mirror: as in HCFlow's data. clamp: as in the usual benchmark files."""
    ties: Literal["even", "up"] = "even"
    """Where halves are rounded. even: as in HCFlow's data. up: as in MATLAB and the usual benchmark files."""


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Prepares data as section 4.1 of HCFlow's paper has it: sub-images to train on, CelebA faces, LR files of a set.

    Files that are there already are left alone, so the same command goes on after a stop; other settings or exchanged
    images are an error, by the note in the folder (prepared.json). Files that cannot be read are named and skipped.
    """

    what: (
        Annotated[SubImages, tyro.conf.subcommand("sub-images", prefix_name=False)]
        | Annotated[CelebA, tyro.conf.subcommand("celeba", prefix_name=False)]
        | Annotated[LowResolution, tyro.conf.subcommand("lr", prefix_name=False)]
    )
