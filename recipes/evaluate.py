"""Scores systems on paired sets as the paper's Tables 2, 3 and 4 do: checkpoints of any kind, bicubic, result images.

Writes table.md, results.json with the whole protocol, the images that it shows, and a picture sheet of each set. A
system that is scored already is not scored again: an interrupted run can be started anew.
"""

import importlib.metadata
import json
import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from PIL import Image
from rich.console import Console

from flowkit_models.data.image_pair import Pair
from flowkit_models.data.pairs import PairFiles, find_pairs, read_pair
from flowkit_models.devices import find_device
from flowkit_models.evaluation.evaluator import MetricName, Rules, Scored, Scorer, set_checksum
from flowkit_models.evaluation.figures import Shown, draw_sheet
from flowkit_models.evaluation.systems import ResultsFolder, System, named, open_system
from flowkit_models.evaluation.tables import PRESETS, markdown, row_label
from flowkit_models.files import write_text
from flowkit_models.images.convert import luma
from flowkit_models.images.image_file import check_writable, read_image, write_image
from flowkit_models.images.resize import Edges, Ties
from flowkit_models.metrics.full_reference import psnr
from flowkit_models.progress import progress_bar
from flowkit_models.training.recipe import run as run_recipe
from flowkit_models.training.run_folder import plain


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the recipe."""

    set: tuple[Path, ...]
    """Sets to score on, each with HR and LR files (HR/ + LR_bicubic/X4/, GTmod12/ + LRbicx4/, DIV2K's, SelfExSR's), or
    HR files alone, whose LR images are then made."""
    lr_set: Path | None = None
    """Folder of the LR files, for a single set, if they lie elsewhere."""
    systems: tuple[str, ...] = ("bicubic",)
    """bicubic, or checkpoints: ours, published ones of HCFlow, SRFlow and IRN, SRCNN, EDSR, RDN, SRResNet, RankSRGAN,
    and what spandrel recognises. NAME=PATH names one in the table."""
    results: tuple[str, ...] = ()
    """Folders of a system's output images, or of one such folder per set, called as the set. NAME=DIR names it."""
    table: Literal["sr", "face", "rescaling"] = "sr"
    """Which table: 2 (×4), 3 (faces, ×8) or 4 (×4, Y; flows make the LR image themselves)."""
    scale: int | None = None
    """HR size over LR size. None: the table's."""
    metrics: tuple[MetricName, ...] = ()
    """Columns. None given: the table's."""
    temperatures: tuple[float, ...] = ()
    """τ of flow models, a row for each. None given: 0 and 0.9; faces 0 and 0.8; rescaling 1."""
    draws: int = 5
    """Samples per image and temperature."""
    seed: int = 0
    """Seed of the draws, started anew for each row."""
    crop: int | None = None
    """Pixels left out at every edge by PSNR and SSIM. None: the scale. SRFlow's own script: 0."""
    window: Literal["gaussian", "uniform"] = "gaussian"
    """SSIM's window. SRFlow's own script: uniform."""
    luma: Literal["exact", "integer"] = "exact"
    """Y as it is, as HCFlow and IRN have it, or rounded, as in MATLAB's tables."""
    rounding: Literal["round", "truncate"] = "round"
    """How results become 8 bits. SRFlow's own script: truncate."""
    edges: Edges = "mirror"
    """Edges of the bicubic that makes LR where a set has none: clamp for the usual benchmarks."""
    ties: Ties = "even"
    """Halves in that bicubic: up for the usual benchmarks."""
    weights: Path | None = None
    """File or folder of AlexNet's and VGG-16's weights, for LPIPS and DISTS. None: torch's cache, or a download."""
    pictures: int = 4
    """Images per set that the picture sheet shows, the first ones; their first draws are kept as files, too."""
    out: Path = Path("runs/evaluate")
    """Folder of the results."""
    overwrite: bool = False
    """Score systems anew that are scored already."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: the GPU, if there is one."""

    def rules(self) -> Rules:
        """How images are scored."""
        preset = PRESETS[self.table]
        if self.draws < 1 or self.pictures < 0 or (self.crop or 0) < 0 or (self.scale is not None and self.scale < 1):
            raise ValueError("draws and scale must be at least 1, pictures and crop at least 0")
        if not all(0 <= t < math.inf for t in self.temperatures):
            raise ValueError(f"temperatures must be at least 0, got {self.temperatures}")
        return Rules(
            self.scale or preset.scale,
            tuple(dict.fromkeys(self.metrics or preset.metrics)),
            self.draws,
            self.seed,
            self.crop,
            self.window,
            self.luma,
            self.rounding == "truncate",
        )


@dataclass(frozen=True)
class TestSet:
    """A set in memory, with what the protocol says of it."""

    name: str
    pairs: dict[str, Pair]
    about: dict[str, Any]


def main(config: Config) -> None:
    """Data, systems, scores, table, pictures."""
    rules = config.rules()
    preset = PRESETS[config.table]
    console = Console(soft_wrap=True)
    device = str(find_device(config.device))
    check_writable(config.out / "systems")

    # Data
    sets = test_sets(config, rules.scale)

    # Systems
    temperatures = tuple(dict.fromkeys(config.temperatures or preset.temperatures))
    opened = [open_system(given, rules.scale, temperatures, preset.rescaling, device) for given in config.systems]
    systems: dict[str, list[System]] = {
        data.name: [*opened, *results_folders(config, data, rules.scale)] for data in sets
    }
    check_names([system.name for system in systems[sets[0].name]])

    # Scores
    scorer = Scorer(rules, config.weights, device)
    for metric, why in scorer.missing.items():
        console.print(f"{metric}: not computed: {why}", markup=False, highlight=False)
    results: dict[str, list[dict[str, Any]]] = {}
    total = sum(len(s.temperatures) * len(data.pairs) for data in sets for s in systems[data.name])
    with progress_bar(console, total, "scoring") as tick:

        def say(line: str) -> None:
            console.print(line, markup=False, highlight=False)

        for data in sets:
            results[data.name] = []
            for system in systems[data.name]:
                tick(f"{system.name} on {data.name}", advance=0)
                results[data.name].append(score_once(config, scorer, system, data, tick, say))

    # Table and pictures
    table = markdown(preset.title, results, rules.metrics)
    versions = {name: importlib.metadata.version(name) for name in ("flowkit-torch", "torch", "numpy", "pillow")}
    save_json(config.out / "results.json", {"versions": versions, "command": sys.argv, "sets": results})
    write_text(config.out / "table.md", table)
    for data in sets:
        draw_pictures(config, data, systems[data.name], preset.rescaling, rules.border)
    console.print(table, markup=False, highlight=False)
    console.print(f"see {config.out}: table.md, results.json, images, and a picture of each set")


def test_sets(config: Config, scale: int) -> list[TestSet]:
    """The sets, read and checked."""
    if config.lr_set is not None and len(config.set) > 1:
        raise ValueError("--lr-set goes with a single --set")
    sets = [_test_set(config, folder, scale) for folder in config.set]
    check_names([data.name for data in sets])
    return sets


def _test_set(config: Config, folder: Path, scale: int) -> TestSet:
    path = folder.absolute()
    name = path.parent.name if path.name in ("HR", "GTmod12") else path.name
    files = find_pairs(folder, scale, config.lr_set)
    pairs = {pair.name: Pair.of(*read_pair(pair, scale, config.edges, config.ties)) for pair in files}
    made = f"made by bicubic as MATLAB's, edges {config.edges}, ties {config.ties}, 8 bits"
    about = {
        "name": name,
        "names": list(pairs),
        "lr": made if files[0].lr is None else "the set's files",
        "sha256": set_checksum(pairs),
        "converted": dict(converted for pair in files for converted in _converted(pair)),
    }
    return TestSet(name, pairs, about)


def _converted(files: PairFiles) -> list[tuple[str, str]]:
    """Those of a pair's files that don't hold 8-bit RGB, and what `read_image` does about it."""
    found = []
    for path in (files.hr, files.lr):
        if path is None:
            continue
        with Image.open(path) as image:
            wide = image.mode.startswith("I") or any(";16" in str(tile) for tile in getattr(image, "tile", []))
            if image.has_transparency_data:
                found.append((path.name, "transparent, laid over white"))
            elif wide:
                found.append((path.name, "16 bits, reduced to 8"))
            elif image.mode != "RGB":
                found.append((path.name, f"mode {image.mode}, made RGB"))
    return found


def results_folders(config: Config, data: TestSet, scale: int) -> list[ResultsFolder]:
    """The folders of result images for a set."""
    folders = []
    for given in config.results:
        name, where = named(given)
        whole = Path(where)
        folder = whole / data.name if (whole / data.name).is_dir() else whole
        folders.append(ResultsFolder(folder, data.pairs, scale, name or whole.absolute().name))
    return folders


def check_names(names: list[str]) -> None:
    """Raises ValueError if two are written to the same file, or none is there."""
    seen: dict[str, str] = {}
    for name in names:
        if slug(name) in seen:
            raise ValueError(
                f"{seen[slug(name)]!r} and {name!r} would be one name: say NAME=PATH, or rename the folder"
            )
        seen[slug(name)] = name
    if not names:
        raise ValueError("nothing to score: name --systems or --results")


def slug(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^\w.=+-]+", "_", name)


def score_once(
    config: Config,
    scorer: Scorer,
    system: System,
    data: TestSet,
    advance: Callable[[], None],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The results of a system on a set: those on file if they were made by this protocol, or new ones."""
    file = config.out / "systems" / f"{slug(system.name)}.{slug(data.name)}.json"
    protocol = {**scorer.rules.protocol(), "weights": scorer.checksums, "set": data.about}
    identity = plain({"system": {"name": system.name, **system.about}, "protocol": protocol})
    steps = len(system.temperatures) * len(data.pairs)
    if file.is_file() and not config.overwrite:
        found: dict[str, Any] = json.loads(file.read_text())
        check_same(found, identity, file)
        if not any(name in scorer.checksums for row in found["rows"] for name in row["not_computed"]):
            for _ in range(steps):
                advance()
            return found  # else it lacks a metric whose weights are there now
    shown, started = list(data.pairs)[: config.pictures], time.monotonic()
    rows: list[dict[str, Any]] = []
    for step in scorer.steps(system, data.pairs):
        if isinstance(step, Scored):
            advance()
            if step.image in shown:
                path = picture(config.out, data, system.name, step.temperature, step.image)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, step.first[0])
        else:
            rows = step
    save_json(file, identity | {"rows": rows})
    say(f"{system.name} on {data.name}: scored in {time.monotonic() - started:.0f} s")
    saved: dict[str, Any] = json.loads(file.read_text())
    return saved


def check_same(found: Mapping[str, Any], now: Mapping[str, Any], file: Path) -> None:
    """Raises ValueError, naming what differs, if results on file were not made by this protocol."""
    differing = []
    for part, values in now.items():
        old = found.get(part, {})
        for key in sorted(values.keys() | old.keys()):
            a, b = old.get(key), values.get(key)
            if key == "weights":  # those of a metric may be there at one time only
                a, b = ({name: x[name] for name in a.keys() & b.keys()} for x in (a, b))
            if a != b:
                differing.append(f"{part}: {key}")
    if differing:
        raise ValueError(f"{file}: scored in another way ({', '.join(differing)}): --overwrite, or another --out")


def save_json(path: Path, content: Any) -> None:
    """Writes strict JSON; infinities and NaN become strings."""
    text = json.dumps(_strict(content), indent=1, ensure_ascii=False, default=str, allow_nan=False)
    write_text(path, text + "\n")


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _strict(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def picture(out: Path, data: TestSet, system: str, temperature: float | None, image: str) -> Path:
    """Where the first draw of a row lies."""
    return out / "images" / slug(data.name) / slug(row_label(system, temperature)) / f"{image}.png"


def draw_pictures(config: Config, data: TestSet, systems: list[System], on_luma: bool, border: int) -> None:
    """A sheet with a row per image: LR, every row of the table, HR."""
    rows = {}
    made = [(system.name, temperature) for system in systems for temperature in system.temperatures]
    for name, pair in list(data.pairs.items())[: config.pictures]:
        paths = [picture(config.out, data, system, temperature, name) for system, temperature in made]
        if not all(path.is_file() for path in paths):
            continue  # one was scored before, with fewer pictures
        row = [Shown("LR", pair.lr)]
        for (system, temperature), path in zip(made, paths, strict=True):
            image = read_image(path)[None]
            a, b = (luma(image), luma(pair.hr)) if on_luma else (image, pair.hr)
            decibels = psnr(a, b, border).item() if 2 * border < min(pair.hr.shape[2:]) else math.nan
            note = f"{decibels:.2f} dB (Y)" if on_luma else f"{decibels:.2f} dB"
            row.append(Shown(row_label(system, temperature), image, note))
        rows[name] = [*row, Shown("HR", pair.hr)]
    if rows:
        draw_sheet(rows, config.out / f"{slug(data.name)}.png", pair.hr.shape[-1] // pair.lr.shape[-1])


def run(arguments: list[str]) -> int | str:
    """Runs the recipe; returns 0, or one line that says what was wrong."""
    return run_recipe(lambda: main(tyro.cli(Config, args=arguments, description=__doc__)))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
