"""Names of HR and LR folders and files, in every spelling in use: which belong together, and at which scale."""

import re
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flowkit_models.images import formats
from flowkit_models.images.image_file import list_images
from flowkit_models.terminal import first_few

_HR_FOLDER = re.compile(
    r"(?P<prefix>(?:.*[_\-. ])?)(?:HR|GT|HQ|high[_\- ]?res(?:olution)?|ground[_\- ]?truth|originals?|targets?|high)"
    r"(?:mod\d+)?(?:[_\-. ]?x?\d{1,2})?(?:[_\-. ]sub)?",
    re.IGNORECASE,
)
_LR_FOLDER = re.compile(
    r"(?:(?P<prefix>(?:.*[_\-. ])?)(?:L[RQ](?=$|[^a-z]|bi|bd|dn|x\d|unk|mild|wild|diff)|low[_\- ]?res(?:olution)?)"
    r"|L[RQ]).*",
    re.IGNORECASE,
)
_SCALE_FOLDER = re.compile(r"x[_\-]?\d{1,2}(?!\d)(?:[^a-z].*)?|\d{1,2}x?(?:[_\-. ]sub)?", re.IGNORECASE)
_DOUBTFUL = re.compile(r"inputs?|low|small|downsampled|degraded|bic(?:ubic)?(?:[_\-]?x?\d{1,2})?", re.IGNORECASE)
_STATED = re.compile(r"(?:x[_\-]?|(?<![a-z0-9]))(\d{1,2})(?!\d)", re.IGNORECASE)

# what LR names end with: a scale (x4, x4m and x4w1 of DIV2K, 4x), a kind (_LR, _LR4, _LRBI, _bicLR), SelfExSR's _SRF_4
_LR_END = re.compile(
    r"[_\-. ]?x(?P<scale>\d{1,2})[mwd]?\d?$"
    r"|[_\-. ](?P<times>\d{1,2})x$"
    r"|[_\-. ]SRF_(?P<srf>\d{1,2})$"
    r"|(?:[_\-. ]|(?<=\d))(?:(?P<lr>(?:bic(?:ubic)?)?L[RQ])[_\-]?(?:BI|BD|DN|bic(?:ubic)?)?[_\-]?(?P<number>\d{1,2})?"
    r"|bic(?:ubic)?|BI|BD|DN|mild|wild|difficult|unknown)$",
    re.IGNORECASE,
)
_SCALE_END = re.compile(r"x\d{1,2}[mwd]?\d?$|[_\-. ]\d{1,2}x$", re.IGNORECASE)
_HR_NAME = re.compile(
    r"(?P<base>.+?)(?:_SRF_(?P<srf>\d{1,2}))?(?:[_\-. ]|(?<=\d))(?:(?:HR|GT|HQ)(?:[_\-. ]?x?(?P<scale>\d{1,2}))?|x1)",
    re.IGNORECASE,
)
_STARTS = {"HR": re.compile(r"(?:HR|GT|HQ)[_\-. ]", re.IGNORECASE), "LR": re.compile(r"L[RQ][_\-. ]", re.IGNORECASE)}


def hr_prefix(name: str) -> str | None:
    """Prefix of an HR folder's name, before the HR; None: no HR folder is called so.

    >>> hr_prefix("DIV2K_valid_HR"), hr_prefix("GTmod12"), hr_prefix("photos")
    ('DIV2K_valid_', '', None)
    """
    found = _HR_FOLDER.fullmatch(name)
    return found["prefix"] if found else None


def lr_prefix(name: str) -> str | None:
    """Prefix of an LR folder's name, before the LR; None: no LR folder is called so.

    >>> lr_prefix("DIV2K_valid_LR_mild"), lr_prefix("lrx4"), lr_prefix("X4"), lr_prefix("x100_camera")
    ('DIV2K_valid_', '', '', None)
    """
    found = _LR_FOLDER.fullmatch(name)
    if found:
        return found["prefix"] or ""
    return "" if _SCALE_FOLDER.fullmatch(name) and not name.isdecimal() else None


def lr_place(hr_folder: Path, scale: int | str) -> Path | None:
    """Folder of the LR files that `flowkit prepare lr` makes of an HR folder, there or not.

    None if the name of the HR folder (HR, GTmod…, NAME_HR) is none of those that papers use.

    >>> lr_place(Path("DIV2K/DIV2K_valid_HR"), 4).as_posix()
    'DIV2K/DIV2K_valid_LR_bicubic/X4'
    """
    name, set_folder = hr_folder.name, hr_folder.parent
    if name == "HR" or name.endswith("_HR"):
        return set_folder / f"{name.removesuffix('HR')}LR_bicubic" / f"X{scale}"
    return set_folder / f"LRbicx{scale}" if name.startswith("GTmod") else None


@dataclass(frozen=True)
class LRPlace:
    """A folder that may hold the LR files of an HR folder.

    Attributes:
        folder: where they lie.
        scale: that its name states; None: none.
        sure: the name leaves no doubt: if its files have other names, something is wrong.
    """

    folder: Path
    scale: int | None
    sure: bool


def lr_places(hr_folder: Path) -> Iterator[LRPlace]:
    """Folders that may hold the LR files of an HR folder, of any scale: beside it, or in it.

    A folder that is not called HR has neighbours of any kind: only LR, X4 and the like, and what bears its own name
    (Set5_LR beside Set5) count.
    """
    mine = hr_prefix(hr_folder.name)
    beside = [folder for folder in folders_in(hr_folder.absolute().parent) if folder.name != hr_folder.name]
    owned = {prefix.lower() for folder in beside if (prefix := hr_prefix(folder.name))}
    if _SCALE_FOLDER.fullmatch(hr_folder.name):  # HR at X4, beside HR at X2
        beside = [folder for folder in beside if not _SCALE_FOLDER.fullmatch(folder.name)]
    for folder in [*beside, *folders_in(hr_folder)]:
        prefix = lr_prefix(folder.name)
        if prefix is None and not _DOUBTFUL.fullmatch(folder.name):
            continue
        before = (prefix or "").lower()
        if before and (before in owned or (mine is None and before[:-1] != hr_folder.name.lower())):
            continue
        within = folder.parent == hr_folder
        sure = prefix is not None and (within or (mine is not None and before == mine.lower()))
        path = folder if within else hr_folder.parent / folder.name
        yield from _levels(path, _stated(folder.name[len(before) :]), sure)


def _levels(folder: Path, scale: int | None, sure: bool, depth: int = 0) -> Iterator[LRPlace]:
    """An LR folder, and those in it: LR/X4, LR/bicubic/x4."""
    found = False
    for below in folders_in(folder) if depth < 2 else []:
        for place in _levels(below, _stated(below.name) or scale, sure and _part_of_lr(below.name), depth + 1):
            found = True
            yield place
    if not found or any(path.is_file() and not formats.left_out(path.name) for path in folder.iterdir()):
        yield LRPlace(folder, scale, sure)


def _part_of_lr(name: str) -> bool:
    return lr_prefix(name) is not None or bool(_SCALE_FOLDER.fullmatch(name))


def _stated(name: str) -> int | None:
    found = _STATED.findall(name)
    return int(found[-1]) if found else None


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not formats.left_out(path.name))
    except OSError:  # one that may not be looked into
        return []


def same_name(name: str) -> str:
    """A name as it is compared: one Unicode form, for macOS writes another than Linux and Windows."""
    return unicodedata.normalize("NFC", name)


def hr_forms(stem: str) -> Iterator[str]:
    """An HR file's name, and what it is without its sign of being HR.

    >>> list(hr_forms("baby_HR_x4"))
    ['baby_HR_x4', 'baby']
    """
    yield stem
    if found := _HR_NAME.fullmatch(stem):
        yield found["base"]
    elif found := _STARTS["HR"].match(stem):
        yield stem[found.end() :]


def lr_forms(stem: str) -> Iterator[tuple[str, int | None]]:
    """An LR file's name with more and more of its signs of being LR taken off, and the scale that they state.

    >>> list(lr_forms("baby_LRBI_x4"))
    [('baby_LRBI_x4', None), ('baby_LRBI', 4), ('baby', 4)]
    """
    scale = None
    yield stem, scale
    if start := _STARTS["LR"].match(stem):
        stem = stem[start.end() :]
        yield stem, scale
    while (found := _LR_END.search(stem)) and found.start():
        number = found["scale"] or found["times"] or found["srf"] or found["number"]
        scale = int(number) if number else scale
        stem = stem[: found.start()]
        yield stem, scale


class Names:
    """HR images by every form of their names.

    Args:
        stems: names of HR files, without extension.
    """

    def __init__(self, stems: Iterable[str]) -> None:
        self._exact = set(stems)
        self._forms: dict[str, set[str]] = defaultdict(set)
        for stem in self._exact:
            for form in hr_forms(stem):
                self._forms[same_name(form)].add(stem)

    def of_lr(self, stem: str, itself: bool = True) -> tuple[str, int | None] | None:
        """The HR file's name that an LR file belongs to, and the scale that the LR name states; None: to none.

        Args:
            stem: the LR file's name.
            itself: it may be that of the HR file.
        """
        for form, scale in list(lr_forms(stem))[not itself :]:
            if form in self._exact:
                return form, scale
            if len(found := self._forms.get(same_name(form), ())) == 1:
                return next(iter(found)), scale
        return None


@dataclass(frozen=True)
class Mixed:
    """The names of a folder that holds HR and LR files side by side, told apart.

    Attributes:
        hr: stems by the image's name.
        lr: the scale that each LR stem states.
        signed: the HR names say HR.
        scales: of HR names that say one as SelfExSR's do.
    """

    hr: dict[str, str]
    lr: dict[str, int | None]
    signed: bool
    scales: frozenset[int]


def told_apart(stems: Iterable[str], scale: int | None = None) -> Mixed:
    """HR and LR among the names of one folder: NAME_HR and NAME_LR4, NAME and NAMEx4. Others are left out.

    Args:
        stems: names without extension.
        scale: HR files that state another are left out.
    """
    stems = list(stems)
    signs = {stem: sign for stem in stems if (sign := _hr_sign(stem))}
    wanted = {name: stem for stem, (name, at) in signs.items() if at is None or scale in (None, at)}
    names = Names(wanted if signs else stems)
    lr = {}
    for stem in stems:
        if stem in signs:
            continue
        partner, said = names.of_lr(stem, itself=False), says_lr(stem)
        if (partner and (said or _SCALE_END.search(stem))) or (signs and said):
            *_, (_, stated) = lr_forms(stem)
            lr[stem] = partner[1] if partner else stated
    scales = frozenset(int(found["srf"]) for stem in signs if (found := _HR_NAME.fullmatch(stem)) and found["srf"])
    return Mixed(wanted if signs else {stem: stem for stem in stems if stem not in lr}, lr, bool(signs), scales)


def _hr_sign(stem: str) -> tuple[str, int | None] | None:
    if found := _HR_NAME.fullmatch(stem):
        at = found["srf"] or found["scale"]
        return found["base"], int(at) if at else None
    start = _STARTS["HR"].match(stem)
    return (stem[start.end() :], None) if start else None


def says_lr(stem: str) -> bool:
    """True if a file's name says LR."""
    found = re.search(r"(?:^|[_\-. ]|(?<=\d))(?:bic(?:ubic)?)?L[RQ](?:BI|BD|DN)?(?:\d|[_\-. x]|$)", stem, re.IGNORECASE)
    return found is not None


def hr_images(folder: Path) -> list[Path]:
    """The HR images in a folder and below it, sorted: without LR files in folders of their own or beside HR files.

    An LR folder is known by its name, and by HR files: it lies beside a folder called HR, or its files are called as
    others. What is left out is said with a UserWarning.

    Raises:
        ImageError: if there is no such folder or no image in it.
    """
    groups: dict[Path, list[Path]] = defaultdict(list)
    for file in (files := list_images(folder)):
        groups[file.parent].append(file)
    doubtful = {parent: top for parent in groups if (top := _lr_folder_above(parent, folder)) is not None}
    names = Names(file.stem for parent in groups.keys() - doubtful.keys() for file in groups[parent])
    left: set[Path] = set()
    places: list[str] = []
    for parent, inside in groups.items():
        if parent in doubtful:
            beside = folders_in(doubtful[parent].parent)
            if any(hr_prefix(f.name) is not None for f in beside) or any(names.of_lr(file.stem) for file in inside):
                left.update(inside)
                places.append(f"{parent.relative_to(folder).as_posix()}/")
        elif low := told_apart({file.stem for file in inside}).lr:
            here = [file for file in inside if file.stem in low]
            left.update(here)
            places += [file.relative_to(folder).as_posix() for file in here]
    if not left or len(left) == len(files):
        return files
    warnings.warn(
        f"{folder}: {len(left)} LR images are left out of the HR photographs: {first_few(places)}",
        stacklevel=2,
    )
    return [file for file in files if file not in left]


def _lr_folder_above(folder: Path, root: Path) -> Path | None:
    """The uppermost folder below the root, on the way to this one, that has the name of an LR folder."""
    *above, _ = [folder, *folder.parents][: len(folder.relative_to(root).parts) + 1]
    return next((f for f in reversed(above) if lr_prefix(f.name) is not None), None)
