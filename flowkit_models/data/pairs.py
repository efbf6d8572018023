"""HR and LR files of a set: finding the pairs in every layout in use, and reading one with its sizes checked."""

import os
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from flowkit_models.data.image_pair import with_lr
from flowkit_models.data.layouts import Names, folders_in, hr_prefix, lr_place, lr_places, says_lr, told_apart
from flowkit_models.images import formats
from flowkit_models.images.image_file import ImageError, read_image
from flowkit_models.images.resize import Edges, Ties
from flowkit_models.terminal import first_few


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
    folder: str | os.PathLike[str], scale: float, lr_folder: str | os.PathLike[str] | None = None
) -> list[PairFiles]:
    """Finds the pairs of a set, in natural order of their names (2 before 10).

    LR files that are there are never passed over. Looked for in this order, shown for scale 4:

    - with `lr_folder`: HR files in `folder` (or in the one HR folder in it), LR files in `lr_folder` (or its X4);
    - an HR folder in `folder` (HR, GT, HQ, GTmod12, NAME_HR, …, in any case) and LR files beside or in it:
      `LR_bicubic/X4/`, `LRbicx4/`, `NAME_LR_bicubic/X4/` (DIV2K), else any folder whose name says LR or LQ or is a
      scale (LR, LRx4, LR/x4, LQ, X4, NAME_LR_mild, NAME_LR_unknown/X4, …);
    - one folder with both, told apart by their names: SelfExSR's `image_SRF_4/img_001_SRF_4_HR.png` and `…_LR.png`,
      RealSR's NAME_HR and NAME_LR4, NAME and NAMEx4; other files beside them (results of methods) are left alone;
    - HR directly in `folder`, LR in such a folder beside or in it;
    - HR alone, directly in the folder or in one of the HR folders above: `lr` is None.

    An LR file has the name of its HR file, or that with what says its scale and kind: x4, _x4, x4m, _LR4, _LRBI_x4, …
    Extensions and Unicode forms may differ.

    Of a scale that is no whole number there are no LR files: HR alone is looked for.

    Args:
        folder: the set, or its folder of HR files.
        scale: HR size over LR size.
        lr_folder: LR files, if they lie elsewhere.

    Raises:
        ImageError: if there is no such folder, no layout of these, more than one of them, LR files at other scales
            only, or a file without its partner; the message names the files.
        ValueError: if `scale` is below 1.
    """
    folder = Path(folder)
    if scale < 1:
        raise ValueError(f"scale is a number from 1 on, got {scale:g}")
    if scale != round(scale):
        if lr_folder is not None:
            raise ImageError(f"{lr_folder}: LR files of ×{scale:g} are made here, not read")
        return [PairFiles(pair.name, pair.hr, None) for pair in _of_any_scale(folder)]
    scale = round(scale)
    direct = images_in(folder, empty=True)
    inner = [below for below in folders_in(folder) if hr_prefix(below.name) is not None]
    if lr_folder is not None:
        return _given(folder, direct, inner, Path(lr_folder), scale)
    found = {hr: _beside(hr, images_in(hr, empty=True), scale) for hr in inner}
    complete = {hr: pairs for hr, (pairs, _) in found.items() if pairs}
    if len(complete) > 1 or (not complete and not direct and len(inner) > 1):
        several = " and ".join(hr.name for hr in complete or inner)
        raise ImageError(f"{folder}: holds {several}: give one as the folder, and its LR files as the LR folder")
    for pairs in complete.values():
        return pairs
    inside = folder / f"image_SRF_{scale}"
    if pairs := _mixed(inside if inside.is_dir() else folder, scale):
        return pairs
    if direct:
        pairs, others = _beside(folder, direct, scale)
        if others:
            warnings.warn(
                f"{folder}: LR files in {', '.join(others)}, none for ×{scale}: made of the HR files", stacklevel=2
            )
        return pairs or [PairFiles(name, direct[name], None) for name in direct]
    for hr, (_, others) in found.items():
        if others:
            raise ImageError(f"{folder}: LR files in {', '.join(others)}, none for ×{scale}: make them, or name {hr}")
        return [PairFiles(name, file, None) for name, file in images_in(hr).items()]
    raise ImageError(
        f"{folder}: no images directly in it and none of HR + LR_bicubic/X{scale}, GTmod12 + LRbicx{scale}, "
        f"NAME_HR + NAME_LR_bicubic/X{scale}, image_SRF_{scale}"
    )


def _of_any_scale(folder: Path) -> list[PairFiles]:
    """HR files of a set in any layout, with LR files of whatever scale, or without."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for scale in (4, 2, 3, 8):
            try:
                return find_pairs(folder, scale)
            except ImageError as error:
                found = error
    raise found


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
        if formats.left_out(path.name) or not path.is_file():  # macOS leaves ._x.png beside x.png
            continue
        if path.stem in found:
            raise ImageError(f"{folder}: {found[path.stem].name} and {path.name} have one name: keep one of them")
        found[path.stem] = path
    if not found and not empty:
        raise ImageError(f"{folder}: no images directly in it")
    return dict(sorted(found.items(), key=lambda item: natural(item[0])))


def read_pair(files: PairFiles, scale: float, edges: Edges = "mirror", ties: Ties = "even") -> tuple[Tensor, Tensor]:
    """Reads a pair, or makes its LR image.

    An HR image that is up to scale - 1 pixels larger than LR × scale is cropped at the bottom and right, as the
    official testers do, with a UserWarning. Without an LR file, HR is cropped in the same way, silently, and LR made
    from it (`image_pair.with_lr`).

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
        try:
            return with_lr(hr, scale, edges, ties)
        except ValueError as error:
            raise ImageError(f"{files.hr}: {error}") from None
    scale = round(scale)  # LR files of another one are not looked for
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


def _given(folder: Path, direct: Mapping[str, Path], inner: list[Path], lr_folder: Path, scale: int) -> list[PairFiles]:
    """Pairs of a set whose LR folder is given."""
    low = images_in(lr_folder, empty=True)
    if folder.resolve() == lr_folder.resolve() and (pairs := _mixed(folder, scale)):
        return pairs
    if not low:
        at_scale = [below for below in folders_in(lr_folder) if re.fullmatch(rf"(?i)x?{scale}|{scale}x", below.name)]
        lr_folder = at_scale[0] if len(at_scale) == 1 else lr_folder
        low = images_in(lr_folder)
    if not direct and len(inner) == 1:
        folder = inner[0]
    return _match(images_in(folder), low, scale, f"{folder} and {lr_folder}")


def _beside(hr: Path, images: Mapping[str, Path], scale: int) -> tuple[list[PairFiles], list[str]]:
    """Pairs of HR files with LR files that lie beside or in their folder, and LR folders of other scales."""
    usual = lr_place(hr.absolute(), scale)
    names = Names(images)
    fitting: list[tuple[Path, dict[str, Path]]] = []
    others = []
    for place in lr_places(hr):
        told = place.folder.relative_to(hr.parent).as_posix()
        if place.scale not in (None, scale):
            others.append(told)
            continue
        low = images_in(place.folder, empty=not (place.sure and place.scale))
        of = {stem: names.of_lr(stem) for stem in low}
        scales = {at for stem in low if (found := of[stem]) and (at := found[1])} if place.scale is None else set()
        if scales - {scale} and scale not in scales and all(found is None or found[1] for found in of.values()):
            others.append(f"{told} (×{', ×'.join(map(str, sorted(scales)))})")
        elif place.sure or any(of.values()):
            kept = {stem: low[stem] for stem in low if not scales or (of[stem] or ("", None))[1] in (None, scale)}
            fitting.append((place.folder, kept))
    if usual is not None:
        best = [fit for fit in fitting if str(fit[0].absolute()).lower() == str(usual).lower()]
        if best and len(fitting) > 1:
            rest = ", ".join(folder.relative_to(hr.parent).as_posix() for folder, _ in fitting if folder != best[0][0])
            warnings.warn(
                f"{best[0][0]}: taken as the LR files, though there is {rest}: --lr-set names another", stacklevel=3
            )
        fitting = best or fitting
    if len(fitting) > 1:
        several = " and ".join(folder.relative_to(hr.parent).as_posix() for folder, _ in fitting)
        raise ImageError(
            f"{hr}: several folders of LR files: {several}: name one with --lr-set, or move the others away"
        )
    for folder, low in fitting:
        return _match(images, low, scale, f"{hr} and {folder} (--lr-set names another)"), others
    return [], others


def _match(hr: Mapping[str, Path], lr: Mapping[str, Path], scale: int, where: str) -> list[PairFiles]:
    """Pairs by name, or an error that names what has no partner."""
    names = Names(hr)
    partner: dict[str, Path] = {}
    strangers = []
    for stem, file in lr.items():
        found = names.of_lr(stem)
        if found is None or found[1] not in (None, scale):
            strangers.append(stem)
        elif found[0] in partner:
            both = f"{partner[found[0]].name} and {file.name} are both LR of {hr[found[0]].name}"
            raise ImageError(f"{where}: {both}: keep one")
        else:
            partner[found[0]] = file
    lonely = [name for name in hr if name not in partner]
    if lonely or strangers:
        said = [f"no LR for {first_few(lonely)}"] * bool(lonely) + [f"no HR for {first_few(strangers)}"] * bool(
            strangers
        )
        raise ImageError(f"{where} do not match: {'; '.join(said)}")
    return [PairFiles(name, file, partner[name]) for name, file in hr.items()]


def _mixed(folder: Path, scale: int) -> list[PairFiles]:
    """Pairs that lie in one folder and are told apart by their names; none if there are no such names."""
    files = images_in(folder, empty=True)
    mixed = told_apart(files, scale)
    low = {stem: files[stem] for stem, at in mixed.lr.items() if at in (None, scale)}
    if low or scale in mixed.scales:
        names = {name: files[stem] for name, stem in mixed.hr.items()}
        return _match(
            dict(sorted(names.items(), key=lambda item: natural(item[0]))), low, scale, f"{folder}: HR and LR files"
        )
    if elsewhere := {at for at in mixed.lr.values() if at} | mixed.scales:
        raise ImageError(f"{folder}: pairs for × {', '.join(map(str, sorted(elsewhere)))}, none for ×{scale}")
    if files and all(says_lr(stem) for stem in files):
        raise ImageError(
            f"{folder}: holds LR files only ({first_few(list(files))}): give the folder of the HR files, or both"
        )
    return []
