"""Image formats: one row each, which readers, writers, folder searches, help texts and docs/command.md use.

A format more is a row more. The readers tell formats by content (`magic`), never by name; the writers by the ending.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """A row of the table.

    Attributes:
        name: key of the format, kept in the files of `flowkit encode`.
        label: for people.
        endings: of file names, lower case; the first is what `--format` calls it.
        read_endings: endings of files that are read like it, and never written.
        magic: what the first 16 bytes of a file match.
        pillow: Pillow's name; None: `image_file` doesn't read it.
        vips_loader: libvips' name, as in `jpegload`; None: `photo_file` doesn't read it.
        some_builds: not every build of libvips reads it.
        vips_saver: libvips' name, as in `jpegsave`; None: it is not written.
        save_options: of libvips' saver.
        lossy: pixels change on writing, in a `quality` from 1 to 100.
        lossless_at_100: but not at quality 100.
        max_side: longest side, in pixels.
        alpha: it holds transparency.
        wide: it holds 16 bits per channel.
        profile: an ICC profile is kept on writing.
        exif: EXIF is kept on writing.
    """

    name: str
    label: str
    endings: tuple[str, ...]
    magic: bytes
    read_endings: tuple[str, ...] = ()
    pillow: str | None = None
    vips_loader: str | None = None
    some_builds: bool = False
    vips_saver: str | None = None
    save_options: dict[str, Any] = field(default_factory=dict)
    lossy: bool = False
    lossless_at_100: bool = False
    max_side: int = 10**7
    alpha: bool = True
    wide: bool = False
    profile: bool = True
    exif: bool = True

    def keeps_pixels(self, quality: int) -> bool:
        """True if every pixel that is written at this quality is read again."""
        return not self.lossy or (self.lossless_at_100 and quality == 100)

    @property
    def short_name(self) -> str:
        """The first ending without its dot, as `--format` takes it."""
        return self.endings[0][1:]

    def options(self, quality: int) -> dict[str, Any]:
        """Options of libvips' saver."""
        if not self.lossy:
            return self.save_options
        return {**self.save_options, **({"lossless": True} if self.keeps_pixels(quality) else {"Q": quality})}


FORMATS = (
    ImageFormat(
        name="jpeg",
        label="JPEG",
        endings=(".jpg", ".jpeg", ".jpe", ".jfif"),
        read_endings=(".mpo", ".jif", ".pjpeg", ".pjp"),
        magic=rb"\xff\xd8\xff",
        pillow="JPEG",
        vips_loader="jpeg",
        vips_saver="jpeg",
        lossy=True,
        max_side=65500,
        alpha=False,
    ),
    ImageFormat(
        name="png",
        label="PNG",
        endings=(".png",),
        read_endings=(".apng",),
        magic=rb"\x89PNG\r\n\x1a\n",
        pillow="PNG",
        vips_loader="png",
        vips_saver="png",
        save_options={"compression": 4},  # twice as fast as libpng's own 6, and hardly larger
        max_side=2**31 - 1,
        wide=True,
    ),
    ImageFormat(
        name="webp",
        label="WebP",
        endings=(".webp",),
        magic=rb"RIFF....WEBP",
        pillow="WEBP",
        vips_loader="webp",
        vips_saver="webp",
        save_options={"exact": True},
        lossy=True,
        lossless_at_100=True,
        max_side=16383,
    ),
    ImageFormat(
        name="tiff",
        label="TIFF",
        endings=(".tif", ".tiff"),
        magic=rb"II[*+]\0|MM\0[*+]",
        pillow="TIFF",
        vips_loader="tiff",
        vips_saver="tiff",
        save_options={"compression": "deflate", "predictor": "horizontal"},
        wide=True,
        exif=False,
    ),
    ImageFormat(
        name="gif", label="GIF", endings=(".gif",), magic=rb"GIF8[79]a", pillow="GIF", vips_loader="gif", exif=False
    ),
    ImageFormat(
        name="avif",
        label="AVIF",
        endings=(".avif", ".avifs"),
        magic=rb"....ftypavi[fs]",
        pillow="AVIF",
        vips_loader="heif",
        wide=True,
    ),
    ImageFormat(
        name="heic",
        label="HEIC",
        endings=(".heic", ".heif", ".hif"),
        magic=rb"....ftyp(he[iv][cmsx]|mi[fa][f1]|msf1)",
        vips_loader="heif",
        some_builds=True,
        wide=True,
    ),
    ImageFormat(
        name="jp2",
        label="JPEG 2000",
        endings=(".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"),
        magic=rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
        pillow="JPEG2000",
        vips_loader="jp2k",
        some_builds=True,
        wide=True,
    ),
    ImageFormat(
        name="jxl",
        label="JPEG XL",
        endings=(".jxl",),
        magic=rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
        vips_loader="jxl",
        some_builds=True,
        wide=True,
    ),
    ImageFormat(name="bmp", label="BMP", endings=(".bmp", ".dib"), magic=rb"BM", pillow="BMP"),
    ImageFormat(name="pnm", label="PNM", endings=(".pgm", ".ppm", ".pbm", ".pnm"), magic=rb"P[1-7]\s", pillow="PPM"),
)
"""All formats. No other decoder meets what comes from strangers."""

FOREIGN_ENDINGS = (
    *(".psd", ".xcf", ".svg", ".eps", ".tga", ".exr", ".hdr", ".ico", ".dds", ".pcx", ".jxr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
)
"""Endings of pictures that are of no such format: a folder's are left out, and named."""


def endings() -> list[str]:
    """Endings of all formats, sorted: what folders are searched for. What can't be read of it fails by name."""
    return sorted(ending for row in FORMATS for ending in (*row.endings, *row.read_endings))


def read_formats(*, some_builds: bool = False) -> list[ImageFormat]:
    """The formats that `photo_file` reads with every build of libvips, or those that it reads with some."""
    return [row for row in FORMATS if row.vips_loader and row.some_builds == some_builds]


def written_formats() -> list[ImageFormat]:
    """The formats that `photo_file` writes."""
    return [row for row in FORMATS if row.vips_saver]


def result_ending(path: str | Path) -> str:
    """Ending of a result that is to have the format of this file, as far as its name tells and it can be written.

    >>> [result_ending(name) for name in ("a.JPE", "a.mpo", "a.gif", "a")]
    ['.JPE', '.jpg', '.png', '.png']
    """
    ending = Path(path).suffix
    if written_format(path):
        return ending
    return next((row.endings[0] for row in written_formats() if ending.lower() in row.read_endings), ".png")


def written_format(path: str | Path) -> ImageFormat | None:
    """The format that the end of a file's name asks for; None if it is none that is written."""
    ending = Path(path).suffix.lower()
    return next((row for row in written_formats() if ending in row.endings), None)


def named_format(name: str) -> ImageFormat:
    """The row with this key; ValueError if there is none."""
    for row in FORMATS:
        if row.name == name:
            return row
    raise ValueError(f"no image format {name!r}; there are {', '.join(row.name for row in FORMATS)}")


def recognised_format(start: bytes) -> ImageFormat | None:
    """The format of a file by its first 16 bytes; None: none of these."""
    return next((row for row in FORMATS if re.match(row.magic, start, re.DOTALL)), None)


def labels(rows: Iterable[ImageFormat], joint: str = "or") -> str:
    """Formats as a sentence names them.

    >>> labels(FORMATS[:3])
    'JPEG, PNG or WebP'
    """
    *first, last = (row.label for row in rows)
    return f"{', '.join(first)} {joint} {last}" if first else last


_NOT_PICTURES = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


def left_out(name: str) -> bool:
    """True for names of files and folders that no search looks at: hidden ones, and what systems put beside pictures.

    Such as macOS's `._x.png` and `__MACOSX`, `.ipynb_checkpoints`, `.thumbnails`, and the `@eaDir` of storage boxes.
    """
    return name.startswith(".") or name in _NOT_PICTURES


def find_files(folder: Path, wanted: Collection[str]) -> list[Path]:
    """Finds files in a folder and below it by their endings, in any case; sorted, without what is `left_out`.

    Linked folders are searched as well, and each folder once, however many links lead to it; links to a folder that
    this one lies in are loops, and not followed. Links that lead nowhere are among the files: who opens one hears it.

    Args:
        folder: is searched, whatever its own name.
        wanted: endings, lower case.
    """
    return sorted(path for path in _visible(folder) if path.suffix.lower() in wanted)


def _visible(folder: Path) -> Iterator[Path]:
    """The files in a folder and below it; those behind links to folders come last."""
    root = Path(os.path.realpath(folder))
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        linked: list[Path] = []
        for top in sorted(waiting):
            for name, folders, files in os.walk(top):
                real = os.path.realpath(name)
                if real in seen or (top != folder and root.is_relative_to(real)):
                    folders.clear()
                    continue
                seen.add(real)
                folders[:] = [below for below in folders if not left_out(below)]
                linked += [path for path in (Path(name, below) for below in folders) if path.is_symlink()]
                yield from (Path(name, file) for file in files if not left_out(file))
        waiting = linked
