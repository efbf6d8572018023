"""HR and LR files of a set: finding the pairs in every layout in use, and reading one with its sizes checked."""

import glob
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from flowkit_models.images import formats
from flowkit_models.images.image_file import ImageError, read_image
from flowkit_models.images.resize import Edges, Ties, bicubic_resize


@dataclass(frozen=True)
class PairFiles:
    """The files of one image of a set.

    Attributes:
        name: the image's name, without an extension and without the scale.
        hr: its HR file.
        lr: its LR file; None where LR is to be made from HR.
    """

    name: str
    hr: Path
    lr: Path | None


def find_pairs(
    folder: str | os.PathLike[str], scale: int, lr_folder: str | os.PathLike[str] | None = None
) -> list[PairFiles]:
    """Finds the pairs of a set, in natural order of their names (2 before 10).

    Looked for in this order, in `folder` itself and not deeper, shown for scale 4:

    - with `lr_folder`: HR files in `folder`, LR files in `lr_folder`;
    - `HR/` and `LR_bicubic/X4/`; `GTmod12/` and `LRbicx4/`; `NAME_HR/` and `NAME_LR_bicubic/X4/` (DIV2K);
    - SelfExSR's `image_SRF_4/img_001_SRF_4_HR.png` and `…_LR.png`, in that folder or directly, with `_SRF_4` or
      without; other files beside them (results of methods) are left alone;
    - HR alone, directly in the folder or in one of the HR folders above: `lr` is None.

    An LR file has the name of its HR file, or that and `x4` or `_x4`; extensions may differ.

    Args:
        folder: the set.
        scale: HR size over LR size.
        lr_folder: LR files, if they lie elsewhere.

    Raises:
        ImageError: if there is no such folder, no layout of these, more than one of them, LR files at other scales
            only, or a file without its partner; the message names the files.
        ValueError: if `scale` is below 1.
    """
    folder = Path(folder)
    if scale < 1:
        raise ValueError(f"scale is a whole number from 1 on, got {scale}")
    if lr_folder is not None:
        return _match(images_in(folder), images_in(Path(lr_folder)), scale, f"{folder} and {lr_folder}")
    direct = images_in(folder, empty=True)
    places = {hr: lr for hr in sorted(folder.iterdir()) if (lr := lr_place(hr, scale)) and hr.is_dir()}
    complete = {hr: lr for hr, lr in places.items() if lr.is_dir()}
    if len(complete) > 1 or (not complete and not direct and len(places) > 1):
        several = " and ".join(hr.name for hr in complete or places)
        raise ImageError(f"{folder}: holds {several}: give one as the folder, and its LR files as the LR folder")
    for hr, lr in complete.items():
        return _match(images_in(hr), images_in(lr), scale, f"{hr} and {lr}")
    inside = folder / f"image_SRF_{scale}"
    if pairs := _selfexsr(inside if inside.is_dir() else folder, scale):
        return pairs
    if direct:
        return [PairFiles(name, direct[name], None) for name in direct]
    for hr in places:
        if others := _other_scales(hr):
            raise ImageError(f"{folder}: LR files in {', '.join(others)}, none for ×{scale}: make them, or name {hr}")
        return [PairFiles(name, file, None) for name, file in images_in(hr).items()]
    raise ImageError(
        f"{folder}: no images directly in it and none of HR + LR_bicubic/X{scale}, GTmod12 + LRbicx{scale}, "
        f"NAME_HR + NAME_LR_bicubic/X{scale}, image_SRF_{scale}"
    )


def images_in(folder: Path, *, empty: bool = False) -> dict[str, Path]:
    """The image files directly in a folder, by name without extension, in natural order (2 before 10).

    Raises:
        ImageError: if there is no such folder, two files have one name, or none is there and `empty` is False.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    found: dict[str, Path] = {}
    endings = formats.endings()
    for path in sorted((p for p in folder.iterdir() if p.suffix.lower() in endings), key=lambda p: natural(p.name)):
        if not path.is_file():
            continue
        if path.stem in found:
            raise ImageError(f"{folder}: {found[path.stem].name} and {path.name} have one name: keep one of them")
        found[path.stem] = path
    if not found and not empty:
        raise ImageError(f"{folder}: no images directly in it")
    return dict(sorted(found.items(), key=lambda item: natural(item[0])))


def lr_place(hr_folder: Path, scale: int | str) -> Path | None:
    """Folder of the LR files of an HR folder, there or not; None if its name (HR, GTmod…, …_HR) is none of those known.

    >>> lr_place(Path("DIV2K/DIV2K_valid_HR"), 4).as_posix()
    'DIV2K/DIV2K_valid_LR_bicubic/X4'
    """
    name, set_folder = hr_folder.name, hr_folder.parent
    if name == "HR" or name.endswith("_HR"):
        return set_folder / f"{name.removesuffix('HR')}LR_bicubic" / f"X{scale}"
    return set_folder / f"LRbicx{scale}" if name.startswith("GTmod") else None


def read_pair(files: PairFiles, scale: int, edges: Edges = "mirror", ties: Ties = "even") -> tuple[Tensor, Tensor]:
    """Reads a pair, or makes its LR image.

    An HR image that is up to scale - 1 pixels larger than LR × scale is cropped at the bottom and right, as the
    official testers do, with a UserWarning. Without an LR file, HR is cropped to multiples of `scale` in the same
    way, silently, and LR made from it by `bicubic_resize`.

    Args:
        files: from `find_pairs`.
        scale: HR size over LR size.
        edges: of the bicubic, where there is no LR file.
        ties: of the bicubic, where there is no LR file.

    Returns:
        hr (3, sH, sW) and lr (3, H, W), uint8, RGB.

    Raises:
        ImageError: if a file cannot be read, or the sizes do not belong together; the message names both.
    """
    hr = read_image(files.hr)
    if files.lr is None:
        height, width = (side // scale for side in hr.shape[1:])
        if 0 in (height, width):
            raise ImageError(f"{files.hr}: {hr.shape[1]} × {hr.shape[2]} pixels are too few for ×{scale}")
        hr = hr[:, : height * scale, : width * scale].contiguous()
        return hr, bicubic_resize(hr, Fraction(1, scale), edges, ties)
    lr = read_image(files.lr)
    height, width = (side * scale for side in lr.shape[1:])
    if excess(files, hr.shape[1:], lr.shape[1:], scale):
        was = f"{hr.shape[1]} × {hr.shape[2]}"
        warnings.warn(f"{files.hr}: cropped from {was} to {height} × {width}, LR × {scale}", stacklevel=2)
    return hr[:, :height, :width].contiguous(), lr


def excess(files: PairFiles, hr: Iterable[int], lr: Iterable[int], scale: int) -> bool:
    """True if HR (height, width) is a few pixels larger than LR × scale.

    Raises:
        ImageError: if it is smaller, or larger by `scale` or more.
    """
    (height, width), (low_height, low_width) = hr, lr
    over = (height - low_height * scale, width - low_width * scale)
    if not all(0 <= side < scale for side in over):
        raise ImageError(
            f"{files.hr}: {height} × {width} is not ×{scale} of {files.lr}: {low_height} × {low_width}, "
            f"which makes {low_height * scale} × {low_width * scale}"
        )
    return any(over)


def natural(name: str) -> list[tuple[int, str]]:
    """Sorting key by which 2 comes before 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _match(hr: Mapping[str, Path], lr: Mapping[str, Path], scale: int, where: str) -> list[PairFiles]:
    """Pairs by name, or an error that names what has no partner."""
    partner: dict[str, Path] = {}
    strangers = []
    for stem, file in lr.items():
        name = stem if stem in hr else re.sub(rf"_?[xX]{scale}$", "", stem)
        if name not in hr:
            strangers.append(stem)
        elif name in partner:
            raise ImageError(f"{where}: {partner[name].name} and {file.name} are both LR of {hr[name].name}: keep one")
        else:
            partner[name] = file
    lonely = [name for name in hr if name not in partner]
    if lonely or strangers:
        said = [f"no LR for {_some(lonely)}"] * bool(lonely) + [f"no HR for {_some(strangers)}"] * bool(strangers)
        raise ImageError(f"{where} do not match: {'; '.join(said)}")
    return [PairFiles(name, file, partner[name]) for name, file in hr.items()]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _selfexsr(folder: Path, scale: int) -> list[PairFiles]:
    """Pairs that lie in one folder and are told apart by their endings; none if there are no such names."""
    kinds: dict[str, dict[str, Path]] = {"HR": {}, "LR": {}}
    elsewhere, tagged = set(), False
    for stem, file in images_in(folder, empty=True).items():
        if found := re.fullmatch(r"(.+?)(?:_SRF_(\d+))?_(HR|LR)", stem):
            name, at, kind = found.groups()
            if at in (None, str(scale)):
                kinds[kind][name] = file
                tagged |= at is not None
            else:
                elsewhere.add(int(at))
    if tagged or (kinds["HR"] and kinds["LR"]):
        return _match(kinds["HR"], kinds["LR"], scale, f"{folder}: _HR and _LR files")
    if elsewhere:
        raise ImageError(f"{folder}: pairs for × {', '.join(map(str, sorted(elsewhere)))}, none for ×{scale}")
    return []


def _other_scales(hr_folder: Path) -> list[str]:
    """LR folders beside an HR folder, whatever their scale."""
    parent, pattern = hr_folder.parent, lr_place(Path(glob.escape(hr_folder.name)), "*")
    return sorted(p.relative_to(parent).as_posix() for p in parent.glob(str(pattern)))
