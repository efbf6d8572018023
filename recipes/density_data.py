"""Data of recipes/density.py: tables and MNIST, split so that equal rows stay together, dequantised, standardised."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TARGETS = {"naval_propulsion_plant": 2}
"""Targets of a set, its last columns; one of those that are not named."""


@dataclass(frozen=True)
class Split:
    """Rows for training, validation and test, and their contexts, if the density is conditional.

    Attributes:
        x: the rows by part, (N, D), or images (N, 1, H, W) with grey levels k/256.
        context: None, or features (N, F) by part.
        notes: what was done to the data, in words.
    """

    x: dict[str, Tensor]
    context: dict[str, Tensor] | None
    notes: tuple[str, ...]

    @property
    def is_image(self) -> bool:
        """Whether these are images."""
        return self.x["train"].ndim == 4


def read_sets(data: Path, names: Sequence[str]) -> dict[str, np.ndarray | tuple[np.ndarray, np.ndarray]]:
    """Reads data sets: tables (N, D), or training and test images.

    Args:
        data: an .npz of tables, or with train_images and test_images, an .npy, a .csv (with or without a line of
            names), or a folder of such files.
        names: sets to read, by their names in an .npz or the files' stems; none: all.

    Raises:
        ValueError: names sets that are not there, and those that are.
    """
    files = sorted(p for p in data.iterdir() if p.suffix in (".npz", ".npy", ".csv")) if data.is_dir() else [data]
    found = {name: table for file in files for name, table in _read(file).items()}
    missing = [name for name in names if name not in found]
    if missing or not found:
        raise ValueError(f"--data {data}: no set {', '.join(missing)}; there is {', '.join(found) or 'none'}")
    return {name: found[name] for name in names or found}


def _read(file: Path) -> dict[str, np.ndarray | tuple[np.ndarray, np.ndarray]]:
    try:
        if file.suffix == ".npy":
            return {file.stem: _table(np.load(file))}
        if file.suffix == ".csv":
            return {file.stem: _table(_read_csv(file))}
        if file.suffix != ".npz":
            raise ValueError("not an .npz, .npy or .csv")
        arrays = np.load(file)
        if "train_images" in arrays:
            return {file.stem: (arrays["train_images"], arrays["test_images"])}
        return {name: _table(arrays[name]) for name in arrays.files}
    except ValueError as error:
        raise ValueError(f"--data {file}: {error}") from None


def _read_csv(file: Path) -> np.ndarray:
    first = file.read_text(encoding="utf-8-sig").partition("\n")[0]
    try:
        [float(word) for word in first.split(",")]
        names = 0
    except ValueError:
        names = 1
    return np.loadtxt(file, delimiter=",", skiprows=names, ndmin=2, encoding="utf-8-sig")


def _table(table: np.ndarray) -> np.ndarray:
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.number) or len(table) < 10:
        raise ValueError(f"expected tables of numbers with at least ten rows, got {table.dtype} {table.shape}")
    odd = np.argwhere(~np.isfinite(table))
    if len(odd):
        raise ValueError(f"{len(odd)} numbers are NaN or infinite, the first in row {odd[0][0]}, column {odd[0][1]}")
    return table.astype(np.float64)


def split_table(name: str, table: np.ndarray, conditional: bool, targets: int | None, seed: int) -> Split:
    """80 % of the rows for training, 10 % each for validation and test, standardised by the training rows.

    Equal rows fall into the same part. Columns with fewer distinct values than a tenth of the rows get uniform noise of
    the width of their smallest step: a density would win by a spike on each value.

    Args:
        name: of the set, for errors.
        table: (N, D).
        conditional: p(targets | features) in place of the density of all columns.
        targets: how many of the last columns are targets; None: as is known of the set, else 1.
        seed: of the split and the noise.

    Raises:
        ValueError: for a joint density that does not exist, as columns are constant or depend on others linearly.
    """
    random = np.random.default_rng(seed)
    groups = np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)
    count = int(groups.max()) + 1
    share = np.empty(count)
    share[random.permutation(count)] = np.arange(count) / count
    part = np.digitize(share, [0.8, 0.9])[groups]

    last = TARGETS.get(name, 1) if targets is None else targets
    if not 0 < last < table.shape[1]:
        raise ValueError(f"--targets {last}: {name} has {table.shape[1]} columns")
    values = [np.unique(column) for column in table.T]
    constant = [i for i, distinct in enumerate(values) if len(distinct) == 1]
    if not conditional:
        _check_joint(name, table, constant)
    modelled = range(table.shape[1] - last, table.shape[1]) if conditional else range(table.shape[1])
    few = [i for i in modelled if 1 < len(values[i]) < len(table) / 10]
    for i in few:
        table = table.copy()
        table[:, i] += random.random(len(table)) * np.diff(values[i]).min()
    keep = [i for i in range(table.shape[1]) if i not in constant]
    train = table[part == 0]
    scale = np.where(train.std(0) > 0, train.std(0), 1.0)
    rows = torch.from_numpy((table - train.mean(0)) / scale).float()
    parts = {which: torch.from_numpy(part == i) for i, which in enumerate(("train", "validation", "test"))}
    features = [i for i in keep if i < table.shape[1] - last]
    x = {which: rows[chosen][:, list(modelled)] for which, chosen in parts.items()}
    context = {which: rows[chosen][:, features] for which, chosen in parts.items()} if conditional else None
    equal = len(table) - count
    notes = [f"{len(table)} rows, {len(modelled)} columns"]
    notes += [f"{len(features)} features"] if conditional else []
    notes += [f"{equal} repeated rows, on one side of the split with their equals"] if equal else []
    notes += [f"columns {', '.join(map(str, few))} dequantised"] if few else []
    return Split(x, context, tuple(notes))


def _check_joint(name: str, table: np.ndarray, constant: list[int]) -> None:
    if constant:
        which = f"columns {', '.join(map(str, constant))} are constant"
    elif np.linalg.matrix_rank((table - table.mean(0)) / table.std(0), tol=1e-5 * len(table) ** 0.5) < table.shape[1]:
        which = "a column is a linear function of others"
    else:
        return
    raise ValueError(f"{name}: {which}, so the joint density does not exist; take --task conditional, or leave it out")


def split_images(images: np.ndarray, test: np.ndarray, rows: int | None) -> Split:
    """Images with grey levels k/256 on 256 cells: a twelfth of the training images validate; the test set as it is."""
    x, held = (torch.from_numpy(a).float()[:, None] / 256 for a in (images[:rows], test[: rows and max(1, rows // 6)]))
    cut = len(x) - max(1, len(x) // 12)
    shape = "×".join(map(str, images.shape[1:]))
    notes = (f"{cut} images of {shape} for training, {len(x) - cut} for validation, {len(held)} for test",)
    return Split({"train": x[:cut], "validation": x[cut:], "test": held}, None, notes)
