"""Tables 2, 3 and 4 of the paper: their columns, and results as Markdown."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowkit_models.evaluation.evaluator import MetricName

HEADINGS: dict[MetricName, tuple[str, int]] = {
    "psnr": ("PSNR ↑", 2),
    "ssim": ("SSIM ↑", 4),
    "psnr_y": ("PSNR (Y) ↑", 2),
    "ssim_y": ("SSIM (Y) ↑", 4),
    "lpips": ("LPIPS ↓", 4),
    "dists": ("DISTS ↓", 4),
    "niqe": ("NIQE ↓", 2),
    "brisque": ("BRISQUE ↓", 2),
    "consistency": ("consistency ↑", 2),
    "consistency_hr": ("consistency (HR) ↑", 2),
    "lr_psnr": ("LR-PSNR ↑", 2),
    "diversity": ("diversity ↑", 2),
    "ntire": ("NTIRE diversity ↑", 2),
    "ntire_mse": ("NTIRE diversity (MSE) ↑", 2),
    "nll": ("NLL ↓", 3),
    "bits_per_dim": ("bits/dim ↓", 3),
}
"""What a table calls a metric, with which way is better, and its decimals."""


@dataclass(frozen=True)
class Preset:
    """One of the paper's tables: its title, scale, metrics, and the temperatures of flow models."""

    title: str
    scale: int
    metrics: tuple[MetricName, ...]
    temperatures: tuple[float, ...]
    rescaling: bool = False


PRESETS = {
    "sr": Preset(
        "General image super-resolution (Table 2)",
        4,
        ("psnr", "ssim", "lpips", "lr_psnr", "consistency", "diversity"),
        (0.0, 0.9),
    ),
    "face": Preset(
        "Face image super-resolution (Table 3)",
        8,
        ("psnr", "ssim", "lpips", "lr_psnr", "consistency", "diversity", "niqe", "brisque"),
        (0.0, 0.8),
    ),
    "rescaling": Preset("Image rescaling (Table 4)", 4, ("psnr_y", "ssim_y"), (1.0,), rescaling=True),
}


def row_label(name: str, temperature: float | None) -> str:
    """What a table calls a row."""
    return name if temperature is None else f"{name} τ = {temperature:g}"


def markdown(title: str, results: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Sequence[MetricName]) -> str:
    """Results as a Markdown table with notes.

    Args:
        title: its heading.
        results: for each set's name one entry per system, in the same order: "system" with its name, "protocol",
            and the "rows" of `Scorer.score`.
        metrics: the columns, for each set.

    Returns:
        The table; below it why something was not computed, and how it was measured.
    """
    notes: dict[str, int] = {}
    several = len(results) > 1
    columns = [(name, metric) for name in results for metric in metrics]
    heads = [f"{name} {HEADINGS[metric][0]}" if several else HEADINGS[metric][0] for name, metric in columns]
    lines = [f"| system | draws | {' | '.join(heads)} |", f"|---|---|{'---|' * len(columns)}"]
    for systems in zip(*results.values(), strict=True):
        by_set = dict(zip(results, systems, strict=True))
        for i, row in enumerate(systems[0]["rows"]):
            rows = {name: system["rows"][i] for name, system in by_set.items()}
            cells = [_cell(rows[name], metric, notes, systems[0]["system"]["name"]) for name, metric in columns]
            label = row_label(systems[0]["system"]["name"], row["temperature"])
            lines.append(f"| {_plain(label)} | {row['draws']} | {' | '.join(cells)} |")
    said = [f"[{number}] not computed: {why}" for why, number in notes.items()]
    return "\n\n".join([f"## {title}", "\n".join(lines), *said, _protocol(results)]) + "\n"


def _cell(row: Mapping[str, Any], metric: MetricName, notes: dict[str, int], system: str) -> str:
    if why := row["not_computed"].get(metric):
        number = notes.setdefault(f"{_plain(system)}, {HEADINGS[metric][0][:-2]}: {_plain(why)}", len(notes) + 1)
        return f"not computed [{number}]"
    if metric not in row["metrics"]:
        return "–"
    decimals = HEADINGS[metric][1]
    found = row["metrics"][metric]
    mean, spread = (None if value is None else float(value) for value in (found["mean"], found["spread"]))
    assert mean is not None, "every metric has a mean"
    text = f"{mean:.{decimals}f}" if math.isfinite(mean) else str(mean)
    return text if spread is None else f"{text} ± {spread:.{decimals}f}"


def _protocol(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The protocol in a list: what is the same for all systems and sets, then the sets, then the systems."""
    first = next(iter(results.values()))[0]["protocol"]
    lines = [f"- {first['images']}; mean {first['mean']}"]
    lines += [f"- {HEADINGS[name][0][:-2]}: {words}" for name, words in first["metrics"].items()]
    lines += [f"- weights of {name}: {checksum}" for name, checksum in first["weights"].items()]
    lines.append(f"- at most {first['draws']} draws, seed {first['seed']}")
    for name, systems in results.items():
        data = systems[0]["protocol"]["set"]
        count = len(data["names"])
        lines.append(f"- {name}: {count} image{'s' * (count > 1)}; LR: {data['lr']}; SHA-256 {data['sha256'][:12]}")
        lines += [f"  - {file}: {what}" for file, what in data["converted"].items()]
    for system in next(iter(results.values())):
        about = {key: value for key, value in system["system"].items() if key not in ("name", "temperatures")}
        said = (f"{key} {value[:12] if key.startswith('sha256') else value}" for key, value in about.items())
        lines.append(f"- {_plain(system['system']['name'])}: {_plain('; '.join(said))}")
    return "Protocol:\n\n" + "\n".join(lines)


def _plain(text: str) -> str:
    """Text that leaves a Markdown table as it is."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")
