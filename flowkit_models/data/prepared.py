"""The note that a prepared folder keeps of its settings and sources, so that no two kinds of files get mixed in it."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowkit_models.files import write_text
from flowkit_models.images.formats import endings, find_files
from flowkit_models.images.image_file import ImageError
from flowkit_models.terminal import first_few

NOTE = "prepared.json"
"""Name of the note in a folder."""

_REMEDY = "name another --out, or have all made anew with --overwrite"


@dataclass
class Note:
    """Note on a prepared folder: its settings and sources. Subclasses do the same for folders elsewhere.

    Attributes:
        folder: where it lies.
        settings: of the preparation, as JSON holds them.
        sources: size in bytes, time of the last change in nanoseconds, and SHA-256 (None: not read yet), by name.
        new: names of sources that were added since the note was read.
    """

    folder: Path | str
    settings: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, tuple[int, int, str | None]] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)

    def read(self) -> bool:
        """Takes over what the folder's note says; False if it has none.

        Raises:
            ImageError: if it cannot be read.
        """
        try:
            text = self.stored()
            if text is None:
                return False
            content = json.loads(text)
            sources = {str(name): (int(n), int(t), sha) for name, (n, t, sha) in content["sources"].items()}
            self.settings, self.sources = dict(content["settings"]), sources
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ImageError(f"{self.folder}/{NOTE}: cannot be read ({error}): remove it, and {_REMEDY}") from None
        return True

    def write(self) -> None:
        """Writes it, unless what is there says the same.

        Raises:
            ImageError: if that fails.
        """
        text = json.dumps({"settings": self.settings, "sources": self.sources}, indent=1) + "\n"
        try:
            if self.stored() != text.encode():
                self.store(text)
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
            raise ImageError(f"{self.folder}: holds what was made of {first_few(gone)}, no source any more: {_REMEDY}")
        if changed:
            raise ImageError(f"{self.folder}: made of another {first_few(changed)} than is there now: {_REMEDY}")

    def check_no_strangers(self) -> None:
        """Raises ImageError if a folder without a note holds images."""
        if names := self.strangers():
            raise ImageError(
                f"{self.folder}: holds {first_few(names)}, and no {NOTE} that says how they were made: {_REMEDY}"
            )

    def check_apart(self, results: Iterable[Path], sources: Mapping[str, Path]) -> None:
        """Raises ImageError if a source is among results that are to be removed."""
        places = {result.resolve() for result in results}
        if names := [name for name, path in sources.items() if path.resolve() in places]:
            raise ImageError(f"{self.folder}: holds {first_few(names)}, which is to be prepared: name another --out")

    def same(self, name: str, path: Path) -> bool:
        """True if a source is as it was noted, or is new."""
        if name not in self.sources:
            return True
        size, modified, digest = self.sources[name]
        try:
            found = self.state(path)
            if found == (size, modified):
                return True
            # copied or touched: the content counts
            return found[0] == size and digest is not None and self.digest(path) == digest
        except OSError:  # whoever reads it will say so
            return True

    def add(self, name: str, path: Path, digest: str | None = None, new: bool = False) -> None:
        """Notes a source as it is now; a file that is gone is none."""
        self.new += [name] * new
        with suppress(OSError):
            self.sources[name] = (*self.state(path), digest)

    def stored(self) -> bytes | None:
        """What the folder's note is now; None: it has none. Raises OSError."""
        try:
            return (Path(self.folder) / NOTE).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def store(self, text: str) -> None:
        """Makes a text the folder's note, which appears whole; raises OSError."""
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        write_text(Path(self.folder) / NOTE, text)

    def state(self, path: Path) -> tuple[int, int]:
        """Size of a source in bytes, and the time of its last change in nanoseconds; raises OSError."""
        found = path.stat()
        return found.st_size, found.st_mtime_ns

    def digest(self, path: Path) -> str:
        """SHA-256 of a source; raises OSError."""
        return digest_of(path)

    def results(self) -> Iterable[Path]:
        """The PNG files in the folder and below it."""
        return Path(self.folder).rglob("*.png")

    def strangers(self) -> list[str]:
        """Names of images in the folder."""
        folder = Path(self.folder)
        if not folder.is_dir():
            return []
        return [path.relative_to(folder).as_posix() for path in find_files(folder, endings())]

    def remove(self, result: Path) -> None:
        """Removes one of `results`."""
        result.unlink(missing_ok=True)


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
