"""The note of a prepared folder that lies at a URL, or whose sources do."""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowkit_models.data.prepared import NOTE, Note
from flowkit_models.files import opened_system, write_text
from flowkit_models.images.formats import endings
from flowkit_models.ray.storage import delivered, joined
from flowkit_models.ray.tasks import told


@dataclass
class FolderNote(Note):
    """Note on a prepared folder by path or URL, read and written by fsspec.

    Results have their paths below the folder, sources their names.

    Attributes:
        urls: path or URL of each source by its name below the folder of all of them.
    """

    urls: dict[str, str] = field(default_factory=dict)

    def stored(self) -> bytes | None:
        """See `Note`."""
        with _as_os_errors():
            system, inner = opened_system(joined(str(self.folder), NOTE))
            return system.cat_file(inner) if system.exists(inner) else None

    def store(self, text: str) -> None:
        """See `Note`."""
        with _as_os_errors(), delivered(joined(str(self.folder), NOTE)) as file:
            write_text(file, text)

    def state(self, path: Path) -> tuple[int, int]:
        """See `Note`; the time is 0 where a file system knows none."""
        with _as_os_errors():
            system, inner = opened_system(self.urls[path.as_posix()])
            try:
                modified = system.modified(inner).timestamp()
            except (NotImplementedError, KeyError, AttributeError):
                modified = 0
            return int(system.size(inner)), int(modified * 1e9)

    def digest(self, path: Path) -> str:
        """See `Note`."""
        with _as_os_errors():
            system, inner = opened_system(self.urls[path.as_posix()])
            with system.open(inner, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()

    def results(self) -> Iterable[Path]:
        """See `Note`."""
        return [Path(name) for name in self._names() if name.lower().endswith(".png")]

    def strangers(self) -> list[str]:
        """See `Note`."""
        return [name for name in self._names() if name.lower().endswith(tuple(endings()))]

    def check_apart(self, results: Iterable[Path], sources: Mapping[str, Path]) -> None:
        """See `Note`; `prepare_by` lets no results into the folder of the sources."""

    def remove(self, result: Path) -> None:
        """See `Note`."""
        with _as_os_errors():
            system, inner = opened_system(joined(str(self.folder), result.as_posix()))
            system.rm(inner)

    def _names(self) -> list[str]:
        with _as_os_errors():
            system, inner = opened_system(str(self.folder))
            return [name[len(inner) :].lstrip("/") for name in sorted(system.find(inner))]


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    """Other errors of file systems as OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(told(error)) from None
