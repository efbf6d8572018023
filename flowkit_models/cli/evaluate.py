"""`flowkit evaluate`: scores systems on paired sets, as a table of the paper's."""

import time
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console

from flowkit_models.cli.options import Evaluate
from flowkit_models.devices import find_device
from flowkit_models.evaluation.evaluator import Evaluator
from flowkit_models.evaluation.paired_set import PairedSet, read_set
from flowkit_models.evaluation.results import Results, check_names
from flowkit_models.evaluation.systems import ResultsFolder, System, open_system, split_name
from flowkit_models.evaluation.tables import PRESETS
from flowkit_models.metrics.registry import Rules, jpeg_metric
from flowkit_models.terminal import progress_bar


def evaluate_systems(options: Evaluate) -> int:
    """Sets, systems, scores, table and pictures; returns the exit code."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    preset = PRESETS[options.table]
    rules = _rules(options)
    console = Console(soft_wrap=True)
    device = find_device(options.device)
    results = Results(options.out, options.pictures, options.overwrite)

    sets = [read_set(folder, rules.scale, options.lr_set, options.edges, options.ties) for folder in options.set]
    check_names([data.name for data in sets])

    temperatures = tuple(dict.fromkeys(options.temperatures or preset.temperatures))
    usual = not options.temperatures
    opened = [
        open_system(given, rules.scale, temperatures, preset.rescaling, device, usual) for given in options.systems
    ]
    for system in opened if usual else []:
        recommended = getattr(system, "recommended", None)
        if recommended is not None and recommended not in system.temperatures:
            rows = " and ".join(f"{tau:g}" for tau in system.temperatures if tau is not None)
            words = (
                f"{system.name}: rows of τ {rows}, as the paper's table has; its checkpoint recommends {recommended:g}"
            )
            console.print(f"{words}: --temperatures {recommended:g}", markup=False, highlight=False)
    systems: dict[str, list[System]] = {
        data.name: [*opened, *(_results_folder(given, data, rules.scale) for given in options.results)] for data in sets
    }
    check_names([system.name for system in systems[sets[0].name]])

    evaluator = Evaluator(rules, options.weights, device)
    for metric, why in evaluator.missing.items():
        console.print(f"{metric}: not computed: {why}", markup=False, highlight=False)
    scores: dict[str, list[dict[str, Any]]] = {data.name: [] for data in sets}
    total = sum(len(system.temperatures) * len(data.pairs) for data in sets for system in systems[data.name])
    with progress_bar(console, total, "scoring") as tick:
        for data in sets:
            for system in systems[data.name]:
                task, started = f"{system.name} on {data.name}", time.monotonic()
                tick(task, advance=0)
                found = results.kept(evaluator, system, data)
                if found is None:
                    found = results.score(evaluator, system, data, tick)
                    seconds = f"{time.monotonic() - started:.0f} s"
                    console.print(f"{task}: scored in {seconds}", markup=False, highlight=False)
                else:
                    tick(advance=len(system.temperatures) * len(data.pairs))
                scores[data.name].append(found)

    table = results.write(preset.title, scores, rules.metrics)
    console.print(table, markup=False, highlight=False)
    undrawn = ""
    try:
        for data in sets:
            results.draw(data, systems[data.name], rules.border, preset.rescaling)
    except ModuleNotFoundError as error:
        undrawn = f" (no picture of each set: {error})"
    console.print(
        f"see {options.out}: table.md, results.json, images{undrawn or ', and a picture of each set'}", markup=False
    )
    return 0


def _rules(options: Evaluate) -> Rules:
    preset = PRESETS[options.table]
    return Rules(
        options.scale or preset.scale,
        tuple(dict.fromkeys((*(options.metrics or preset.metrics), *map(jpeg_metric, options.jpeg)))),
        options.draws,
        options.seed,
        options.crop,
        options.window,
        options.luma,
        options.rounding == "truncate",
    )


def _results_folder(given: str, data: PairedSet, scale: float) -> ResultsFolder:
    """The folder of result images for a set: as given, or the one in it that is called as the set."""
    name, where = split_name(given)
    whole = Path(where)
    folder = whole / data.name if (whole / data.name).is_dir() else whole
    return ResultsFolder(folder, data.pairs, scale, name or whole.absolute().name)
