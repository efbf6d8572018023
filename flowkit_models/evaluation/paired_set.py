"""Sets of image pairs in memory, with the protocol's account of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowkit_models.data.image_pair import Pair
from flowkit_models.data.layouts import hr_prefix
from flowkit_models.data.pairs import PairFiles, find_pairs, read_pair
from flowkit_models.evaluation.evaluator import set_checksum
from flowkit_models.images.image_file import conversion
from flowkit_models.images.resize import Edges, Ties


@dataclass(frozen=True)
class PairedSet:
    """A set of image pairs.

    Attributes:
        name: for tables and files.
        pairs: by the image's name.
        about: for the protocol: names, where LR comes from, checksum, and files that were converted.
    """

    name: str
    pairs: dict[str, Pair]
    about: dict[str, Any]


def read_set(
    folder: Path, scale: float, lr_folder: Path | None = None, edges: Edges = "mirror", ties: Ties = "even"
) -> PairedSet:
    """Reads a set, and checks that its sizes fit.

    Args:
        folder: as for `find_pairs`; its name, or that of the folder of HR/, is the set's.
        scale: HR size over LR size.
        lr_folder: where the LR files are, if elsewhere.
        edges: of the bicubic that makes LR where the set has none.
        ties: how that rounds halves.

    Raises:
        ImageError: if files are missing, unreadable or of sizes that don't fit.
    """
    path = folder.absolute()
    name = path.parent.name if hr_prefix(path.name) == "" else path.name
    files = find_pairs(folder, scale, lr_folder)
    pairs = {pair.name: Pair.of(*read_pair(pair, scale, edges, ties)) for pair in files}
    made = f"made by bicubic as MATLAB's, edges {edges}, ties {ties}, 8 bits"
    about = {
        "name": name,
        "names": list(pairs),
        "lr": made if files[0].lr is None else "the set's files",
        "sha256": set_checksum(pairs),
        "converted": dict(converted for pair in files for converted in _converted(pair)),
    }
    return PairedSet(name, pairs, about)


def _converted(files: PairFiles) -> Iterator[tuple[str, str]]:
    """Files of a pair that don't hold 8-bit RGB, and what `read_image` does about each."""
    for path in (files.hr, files.lr):
        if path is None:
            continue
        if done := conversion(path):
            yield path.name, done
