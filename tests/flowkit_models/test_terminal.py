"""The terminal: empty arguments, encodings that lack a character, signals as exit codes, warnings, progress bars."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import warnings

import pytest
from rich.console import Console

from flowkit_models.terminal import (
    CLOSED,
    Terminated,
    empty_argument,
    exit_code,
    make_progress,
    program,
    progress_bar,
    stop_if_asked,
)


@pytest.mark.parametrize(
    ("line", "culprit"),
    [
        (["upscale", ""], "one of the arguments"),
        (["upscale", "a.png", ""], "one of the arguments"),
        (["upscale", "--", ""], "one of the arguments"),
        (["upscale", "-o", "", "a.png"], "-o: "),
        (["upscale", "--model", ""], "--model: "),
        (["upscale", "--model="], "--model: "),
        (["upscale", "--suffix", "", ""], "one of the arguments"),
        (["upscale", "--suffix=_b", ""], "one of the arguments"),
    ],
)
def test_empty_arguments_are_named(line, culprit) -> None:
    message = empty_argument(line, ("--suffix",))
    assert message is not None
    assert message.startswith(culprit)
    assert "empty" in message


@pytest.mark.parametrize("line", [[], ["a"], ["--suffix", ""], ["--suffix="], ["a=", " ", "-"]])
def test_other_arguments_are_not(line) -> None:
    assert empty_argument(line, ("--suffix",)) is None


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_what_an_encoding_lacks_is_replaced(encoding, monkeypatch) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    with program():
        for stream in streams:
            print("τ → \udce9", file=stream, flush=True)
    assert all(stream.buffer.getvalue() for stream in streams)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_signals_come_once(number, kind) -> None:
    before = signal.getsignal(number)
    seen = []

    def run() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), signal.SIGINT)  # taken for the same
            seen.append("cleaned up")

    with pytest.raises(KeyboardInterrupt) as stop, program():
        run()
    assert stop.type is kind
    assert exit_code(stop.value) == 128 + number
    assert seen == ["cleaned up"]
    assert signal.getsignal(number) == before


def test_a_signal_that_a_callback_swallowed_is_not_lost() -> None:
    def swallow() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        stop_if_asked()

    with pytest.raises(Terminated), program():
        swallow()
    code = compile("os.kill(os.getpid(), signal.SIGTERM)", "callback", "exec")
    with program():
        exec(code, {"__name__": "pyvips", "os": os, "signal": signal})
        with pytest.raises(Terminated):
            stop_if_asked()
    with program():
        stop_if_asked()


def test_a_warning_is_one_line() -> None:
    form = warnings.formatwarning
    with program():
        assert warnings.formatwarning("two\nlines", UserWarning, "file.py", 1) == "warning: two lines\n"
    assert warnings.formatwarning is form


RECIPE = "import sys; from flowkit_models.training.recipe import run; sys.exit(run(lambda: print('done')))"


@pytest.mark.parametrize("unbuffered", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "program", [["-m", "flowkit_models.cli", "--version"], ["-c", RECIPE]], ids=["command", "recipe"]
)
def test_a_closed_output_ends_a_program_without_a_word(program, unbuffered) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | unbuffered
    ended = subprocess.run(
        [sys.executable, *program], stdout=writer, stderr=subprocess.PIPE, check=False, env=variables
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (CLOSED, b"")


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
    code = "import sys, flowkit_models.terminal; assert 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
