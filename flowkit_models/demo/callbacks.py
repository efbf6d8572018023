"""Callbacks of the page's widgets: values of widgets in, values of widgets out. The work is done by workers."""

import functools
import os
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from flowkit_models.models.bundled import list_bundled

KEPT = 50
"""Finished calls whose files are kept for downloads."""

F = TypeVar("F", bound=Callable[..., Any])


class Runner(Protocol):
    """Interface of what runs tasks, such as `flowkit_models.demo.workers.Pool`."""

    first: str

    def run(self, session: str, checkpoint: str, name: str, *arguments: Any) -> Any:
        """Result of a task; ValueError or OSError with one line for the page."""


def says_errors(function: F) -> F:
    """Makes a gr.Error, which the page shows, of what a user can do something about."""

    @functools.wraps(function)
    def called(self: "Callbacks", *args: Any) -> Any:
        try:
            return function(self, *args)
        except (ValueError, OSError) as error:
            line = " ".join(str(error).split()) or type(error).__name__
            raise self.gr.Error(self.own_places.sub("", line), print_exception=False) from None

    return called  # type: ignore[return-value]


class Callbacks:
    """Callbacks of one page. The first argument of each is the session that calls.

    Args:
        folder: where the files of results are written.
        side: longest side of HR images, in pixels.
        runner: does the work.

    Attributes:
        own_places: matches the folders in which the page keeps a file; errors name the file alone.
    """

    def __init__(self, folder: Path, side: int, runner: Runner) -> None:
        import gradio  # noqa: PLC0415 - an extra

        self.gr: Any = gradio
        self.folder, self.side, self.runner = folder, side, runner
        self.files: deque[str] = deque()
        self.own_places = re.compile(re.escape(f"{folder}{os.sep}") + r"(?:(?:cache[/\\])?\w+[/\\])?")

    def run(self, session: str, checkpoint: str, name: str, *arguments: Any) -> Any:
        """Result of a task that writes files: each call has a folder of its own, for names are the same."""
        folder = tempfile.mkdtemp(dir=self.folder)
        try:
            return self.runner.run(session, checkpoint, name, folder, *arguments)
        finally:
            self.files.append(folder)  # not before: calls of others may end sooner, and clean up
            if len(self.files) > KEPT:  # gradio has its own copies
                shutil.rmtree(self.files.popleft(), ignore_errors=True)

    def edit(self, session: str, state: Any, name: str, *arguments: Any) -> Any:
        """Result of a task on draws."""
        if state is None:
            raise ValueError("load a photograph and draw first")
        return self.run(session, state[1], name, state, *arguments)

    @says_errors
    def open(self, session: str, checkpoint: str, kind: str) -> dict[str, Any]:
        """A checkpoint chosen: a line on it, what a photograph can be for it, and its recommended τ."""
        found = self.runner.run(session, checkpoint, "open", checkpoint)
        kept = [name for _, name in found["kinds"]] if found["kind"] == "bicubic" else ["lr"]
        tau = {"value": found["temperature"], "maximum": max(HOTTEST, found["temperature"])}
        return {
            "opened": checkpoint,
            "bundled": checkpoint if checkpoint in bundled_files() else None,
            "model": found["about"],
            "kind": self.gr.update(
                choices=[tuple(choice) for choice in found["kinds"]], value=kind if kind in kept else found["kind"]
            ),
            **{name: self.gr.update(**tau) for name in ("temperature", "brush_temperature", "paste_temperature")},
        }

    def redraw(self, session: str, photo: str | None, *options: Any) -> dict[str, Any]:
        """`draw`, and nothing as long as there is no photograph: for what happens by itself."""
        return self.draw(session, photo, *options) if photo else {}

    @says_errors
    def draw(self, session: str, photo: str | None, checkpoint: str, *options: Any) -> dict[str, Any]:
        """Draws, and what the page shows of them, by the names of the widgets."""
        if not photo:
            raise ValueError("load a photograph first")
        shown = self.run(session, checkpoint, "draw", photo, checkpoint, *options)
        names, levels = shown.pop("names"), shown.pop("levels")
        return {
            **shown,
            "download": self.button(shown["download"]),
            **{name: self.gr.update(choices=names, value=names[0]) for name in ("paste_base", "brush_base", "first")},
            "second": self.gr.update(choices=names, value=names[min(1, len(names) - 1)]),
            "levels": self.gr.update(
                choices=list(zip(levels, range(len(levels)), strict=True)), value=[*range(len(levels))]
            ),
            "editor": canvas(shown["draws"][0][0]),
            **dict.fromkeys(("pasted", "paste_result", "brush_result", "way_result", "strip")),
            **dict.fromkeys(("paste_caption", "brush_caption", "way_caption"), ""),
            **{name: self.gr.update(visible=False) for name in ("paste_download", "brush_download", "way_download")},
        }

    @says_errors
    def pick(self, session: str, state: Any, index: int) -> dict[str, Any]:
        """The button that downloads one of the draws."""
        return self.button(self.edit(session, state, "pick", index))

    @says_errors
    def place(self, session: str, image: str, index: tuple[int, int]) -> tuple[int, int]:
        """A pixel (column, row) that was clicked, as (row, column) in percent of the image."""
        row, column = self.run(session, self.runner.first, "place", image, index)
        return row, column

    @says_errors
    def show_base(self, session: str, state: Any, name: str | None) -> Any:
        """The image to brush over."""
        return canvas(self.edit(session, state, "show_base", name))

    @says_errors
    def paste(self, session: str, state: Any, *options: Any) -> tuple[str, str, str, dict[str, Any]]:
        """The pixels pasted, the result, a caption, and the button that downloads it."""
        pasted, made, caption, file = self.edit(session, state, "paste", *options)
        return pasted, made, caption, self.button(file)

    @says_errors
    def brush(self, session: str, state: Any, *options: Any) -> tuple[str, str, dict[str, Any]]:
        """The result, a caption, and the button that downloads it."""
        made, caption, file = self.edit(session, state, "brush", *options)
        return made, caption, self.button(file)

    @says_errors
    def way(self, session: str, state: Any, *options: Any) -> tuple[str, str, dict[str, Any]]:
        """The image at t, a caption, and the button that downloads it."""
        made, caption, file = self.edit(session, state, "way", *options)
        return made, caption, self.button(file)

    def move_way(self, session: str, state: Any, *options: Any) -> Any:
        """`way`, and nothing as long as there are no draws."""
        return (self.gr.skip(),) * 3 if state is None else self.way(session, state, *options)

    @says_errors
    def strip(self, session: str, state: Any, *options: Any) -> list[Any]:
        """Five images on the way."""
        return [tuple(image) for image in self.edit(session, state, "strip", *options)]

    def button(self, file: tuple[str, str]) -> Any:
        """Update of a button that downloads a file, of (path, label)."""
        path, label = file
        return self.gr.update(value=path, label=label, visible=True)


HOTTEST = 1.2
"""τ at the sliders' end, where a checkpoint recommends none above."""


def bundled_files() -> dict[str, str]:
    """The files of the models that come with the package, with words for each."""
    return {str(model.path): f"{name}: {model.use}" for name, model in list_bundled().items()}


def canvas(path: str) -> dict[str, Any]:
    """Content of the editor for a brush: an image, and no paint."""
    return {"background": path, "layers": [], "composite": None}
