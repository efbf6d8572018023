"""Tables of results: Tables 2, 3 and 4 of the paper, mean ± deviation, and Markdown."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from flowkit_models.metrics.registry import METRICS


@dataclass(frozen=True)
class Preset:
    """One of the paper's tables: its title, scale, metrics, and the temperatures of flow models."""

    title: str
    scale: int
    metrics: tuple[str, ...]
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
    """Label of a row."""
    return name if temperature is None else f"{name} τ = {temperature:g}"


def cell(mean: float, spread: float | None, form: str) -> str:
    """Text of a number with its deviation, if it has one.

    Example:
        >>> cell(27.123, 0.456, ".2f")
        '27.12 ± 0.46'
    """
    return f"{mean:{form}}" if spread is None else f"{mean:{form}} ± {spread:{form}}"


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, numbers to the right.

    Example:
        >>> print(markdown(["", "PSNR"], [["bicubic", "28.42"]]))
        |  | PSNR |
        |---|---:|
        | bicubic | 28.42 |
    """
    lines = [headings, None, *rows]
    rule = "|---|" + "---:|" * (len(headings) - 1)
    return "\n".join(rule if line is None else f"| {' | '.join(line)} |" for line in lines)


def spread(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation over runs, of every value that all of them have.

    Returns:
        By name, "mean", "std" (n − 1 in the denominator; None for one run, or for infinite values) and "values".

    Example:
        >>> spread([{"psnr": 27.0}, {"psnr": 28.0, "ssim": 0.7}])
        {'psnr': {'mean': 27.5, 'std': 0.7071067811865476, 'values': [27.0, 28.0]}}
    """
    out = {}
    for name in runs[0]:
        if all(name in run for run in runs):
            values = [float(run[name]) for run in runs]
            finite = all(math.isfinite(value) for value in values)
            std = stdev(values) if finite and len(values) > 1 else None
            out[name] = {"mean": fmean(values), "std": std, "values": values}
    return out


def spread_table(
    summaries: Mapping[str, Mapping[str, Mapping[str, Any]]], columns: Mapping[str, tuple[str, str]]
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a table of mean ± standard deviation over runs.

    Args:
        summaries: `spread` of each model, by the name of its row.
        columns: heading and number format by name of the value. One that no model has is left out.

    Returns:
        The headings, the first one empty, and the rows, with "–" for a value that a model has not.
    """
    shown = {key: how for key, how in columns.items() if any(key in summary for summary in summaries.values())}
    rows = []
    for name, summary in summaries.items():
        found = [(summary.get(key), form) for key, (_, form) in shown.items()]
        cells = [
            cell(value["mean"], value["std"] or None, form) if value and math.isfinite(value["mean"]) else "–"
            for value, form in found  # a deviation of 0, of equal values, says nothing
        ]
        rows.append([name, *cells])
    return ["", *(heading for heading, _ in shown.values())], rows


def results_page(title: str, results: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Sequence[str]) -> str:
    """Results in Markdown: the table, why something was not computed, and how it was measured.

    Args:
        title: its heading.
        results: for each set's name one entry per system, in the same order: "system" with its name, "protocol",
            and the "rows" of `Evaluator.score`.
        metrics: the columns, for each set.
    """
    notes: dict[str, int] = {}
    columns = [(name, metric) for name in results for metric in metrics]
    heads = [
        f"{name} {METRICS[metric].title}" if len(results) > 1 else METRICS[metric].title for name, metric in columns
    ]
    lines = []
    for systems in zip(*results.values(), strict=True):
        by_set = dict(zip(results, systems, strict=True))
        for i, row in enumerate(systems[0]["rows"]):
            rows = {name: system["rows"][i] for name, system in by_set.items()}
            cells = [_result(rows[name], metric, notes, systems[0]["system"]["name"]) for name, metric in columns]
            label = row_label(systems[0]["system"]["name"], row["temperature"])
            lines.append([_plain(label), str(row["draws"]), *cells])
    said = [f"[{number}] not computed: {why}" for why, number in notes.items()]
    table = markdown(["system", "draws", *heads], lines)
    return "\n\n".join([f"## {title}", table, *said, _protocol(results)]) + "\n"


def _result(row: Mapping[str, Any], metric: str, notes: dict[str, int], system: str) -> str:
    if why := row["not_computed"].get(metric):
        number = notes.setdefault(f"{_plain(system)}, {METRICS[metric].heading}: {_plain(why)}", len(notes) + 1)
        return f"not computed [{number}]"
    if metric not in row["metrics"]:
        return "–"
    found = row["metrics"][metric]
    mean, spread = (None if value is None else float(value) for value in (found["mean"], found["spread"]))
    assert mean is not None, "every metric has a mean"
    return cell(mean, spread, METRICS[metric].form)


def _protocol(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The protocol in a list: what is the same for all systems and sets, then the sets, then the systems."""
    first = next(iter(results.values()))[0]["protocol"]
    lines = [f"- {first['images']}; mean {first['mean']}"]
    lines += [f"- {METRICS[name].heading}: {words}" for name, words in first["metrics"].items()]
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
