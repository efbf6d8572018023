"""The note that a prepared folder keeps of its settings and sources, so that no two kinds of files get mixed in it."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowkit_models.files import write_text
from flowkit_models.images.formats import endings, find_files
from flowkit_models.images.image_file import ImageError

NOTE = "prepared.json"
"""Name of the note in a folder."""

_REMEDY = "name another --out, or have all made anew with --overwrite"


@dataclass
class Note:
    """Note on a prepared folder: its settings and sources.

    Attributes:
        folder: where it lies.
        settings: of the preparation, as JSON holds them.
        sources: size in bytes, time of the last change in nanoseconds, and SHA-256 (None: not read yet), by name.
        new: names of sources that were added since the note was read.
    """

    folder: Path
    settings: dict[str, Any]
    sources: dict[str, tuple[int, int, str | None]] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "Note | None":
        """The note of a folder; None if it has none.

        Raises:
            ImageError: if it cannot be read.
        """
        file = folder / NOTE
        try:
            content = json.loads(file.read_bytes())
            sources = {str(name): (int(n), int(t), sha) for name, (n, t, sha) in content["sources"].items()}
            return cls(folder, dict(content["settings"]), sources)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ImageError(f"{file}: cannot be read ({error}): remove it, and {_REMEDY}") from None

    def write(self) -> None:
        """Writes it, unless what is there says the same.

        Raises:
            ImageError: if that fails.
        """
        text = json.dumps({"settings": self.settings, "sources": self.sources}, indent=1) + "\n"
        file = self.folder / NOTE
        try:
            if not file.is_file() or file.read_text() != text:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_text(file, text)
        except OSError as error:
            raise ImageError(f"{self.folder}: cannot be made ({error.strerror or error})") from None

    def check(self, settings: Mapping[str, Any], sources: Collection[str], changed: Sequence[str]) -> None:
        """Raises ImageError if the folder was made with other settings, or of sources that are gone or changed.

        Args:
            settings: of today.
            sources: of today; new ones are welcome.
            changed: of them, those of which something is there that was made of another file.
        """
        if self.settings != settings:
            keys = [key for key in {**self.settings, **settings} if self.settings.get(key) != settings.get(key)]
            was, now = (
                ", ".join(f"{key} {given[key]}" for key in keys if key in given) for given in (self.settings, settings)
            )
            raise ImageError(f"{self.folder}: was prepared with {was}, not {now}: {_REMEDY}")
        if gone := [name for name in self.sources if name not in sources]:
            raise ImageError(f"{self.folder}: holds what was made of {_some(gone)}, no source any more: {_REMEDY}")
        if changed:
            raise ImageError(f"{self.folder}: made of another {_some(changed)} than is there now: {_REMEDY}")

    def same(self, name: str, path: Path) -> bool:
        """True if a source is as it was noted, or is new."""
        if name not in self.sources:
            return True
        size, modified, digest = self.sources[name]
        try:
            state = path.stat()
            if (state.st_size, state.st_mtime_ns) == (size, modified):
                return True
            # copied or touched: the content counts
            return state.st_size == size and digest is not None and digest_of(path) == digest
        except OSError:  # whoever reads it will say so
            return True

    def add(self, name: str, path: Path, digest: str | None = None, new: bool = False) -> None:
        """Notes a source as it is now; a file that is gone is none."""
        self.new += [name] * new
        try:
            state = path.stat()
        except OSError:
            return
        self.sources[name] = (state.st_size, state.st_mtime_ns, digest)


def check_no_strangers(folder: Path) -> None:
    """Raises ImageError if a folder without a note holds images."""
    if not folder.is_dir():
        return
    names = [path.relative_to(folder).as_posix() for path in find_files(folder, endings())]
    if names:
        raise ImageError(f"{folder}: holds {_some(names)}, and no {NOTE} that says how they were made: {_REMEDY}")


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
