"""The progress bar: what it shows, and that no rich is imported until it draws."""

import io
import subprocess
import sys

from rich.console import Console

from flowkit_models.progress import make_progress, progress_bar


def test_a_bar_says_what_it_is_at_and_how_far() -> None:
    file = io.StringIO()
    with progress_bar(Console(file=file, width=80), 3, "first") as tick:
        tick()
        tick("[second]", advance=0)
        tick()
    (line,) = file.getvalue().splitlines()
    assert line.startswith("[second] ")  # as it is: no markup
    assert "2/3" in line


def test_tasks_have_a_status_where_it_is_asked_for() -> None:
    file = io.StringIO()
    with make_progress(Console(file=file, width=80), status=True) as progress:
        progress.add_task("a", total=2, completed=2, status="5 it/s")
    assert "2/2 5 it/s" in file.getvalue()


def test_a_transient_bar_leaves_nothing() -> None:
    file = io.StringIO()
    with progress_bar(Console(file=file, width=80), 3, transient=True) as tick:
        tick()
    assert not file.getvalue().strip()


def test_the_module_needs_no_rich() -> None:
    code = "import sys, flowkit_models.progress; assert 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
