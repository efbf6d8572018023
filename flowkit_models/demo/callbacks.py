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
from urllib.parse import quote

from flowkit_models.demo.viewer import EMPTY, before_and_after
from flowkit_models.models.bundled import list_bundled

KEPT = 50
"""Finished calls whose files are kept for downloads."""

QUICK = 30.0
"""Seconds up to which a whole photograph is enlarged without being asked for."""

Progress = Callable[[int, int], None]

F = TypeVar("F", bound=Callable[..., Any])


class Runner(Protocol):
    """Interface of what runs tasks, such as `flowkit_models.demo.workers.Pool`."""

    first: str

    def run(self, session: str, checkpoint: str, name: str, *arguments: Any, progress: Progress | None = None) -> Any:
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

    def run(self, session: str, checkpoint: str, name: str, *arguments: Any, progress: Progress | None = None) -> Any:
        """Result of a task that writes files: each call has a folder of its own, for names are the same."""
        folder = tempfile.mkdtemp(dir=self.folder)
        try:
            return self.runner.run(session, checkpoint, name, folder, *arguments, progress=progress)
        finally:
            self.files.append(folder)  # not before: calls of others may end sooner, and clean up
            if len(self.files) > KEPT:  # gradio has its own copies
                shutil.rmtree(self.files.popleft(), ignore_errors=True)

    def edit(self, session: str, state: Any, name: str, *arguments: Any) -> Any:
        """Result of a task on draws."""
        if state is None:
            raise ValueError("load a photograph and draw first")
        return self.run(session, state[1], name, state, *arguments)

    def begin(self, session: str, progress: Progress, photo: str | None, checkpoint: str) -> dict[str, Any]:
        """`look` for another photograph or model, at what the checkpoint recommends; nothing without a photograph."""
        shown = self.look(session, progress, photo, checkpoint, None, 50, 50) if photo else {}
        return {**self.clear(session), **shown, "look_row": 50, "look_column": 50}

    def clear(self, session: str) -> dict[str, Any]:
        """The tab without a photograph: for one that can't be opened, too, lest another's file be taken for its."""
        return {"viewer": EMPTY, "about": "", "sample": None, "seconds": 0.0, **self._nothing(), "variations": None}

    def _nothing(self) -> dict[str, Any]:
        return {name: self.gr.update(visible=False) for name in ("whole_download", "whole")}

    @says_errors
    def look(
        self,
        session: str,
        progress: Progress,
        photo: str | None,
        checkpoint: str,
        sample: list[float] | None,
        row: float,
        column: float,
    ) -> dict[str, Any]:
        """A window of the enlarged photograph, before and after, and what the page says of it."""
        if not photo:
            raise ValueError("load a photograph first")
        made = self.run(session, checkpoint, "look", photo, checkpoint, sample, row, column, progress=progress)
        before, after = (self.address(made[name]) for name in ("before", "after"))
        (width, height), whole = made["size"], made["whole"]
        part = "" if made["size"] == whole else f", a window of {width} × {height} of it at 100 %"
        how = "learned prior" if made["temperature"] is None else f"τ = {made['temperature']:g}"
        words = f"{whole[0]} × {whole[1]} pixels{part}; {how}; {made['seconds']:.1f} s"
        return {
            "viewer": before_and_after(before, after, (width, height), ("bicubic", "flowkit")),
            "about": words + ("" if sample is None else f"; variation {int(sample[2]) + 1}"),
            "seconds": made["estimate"],
        }

    def enlarge_quick(
        self, session: str, progress: Progress, photo: str | None, checkpoint: str, sample: Any, seconds: float
    ) -> dict[str, Any]:
        """`enlarge`, if it doesn't take long; else a button for it."""
        if photo and seconds <= QUICK:
            return self.enlarge(session, progress, photo, checkpoint, sample)
        label = f"Enlarge all of it (about {max(1, round(seconds / 60))} min)"
        return {"whole": self.gr.update(value=label, visible=bool(photo))}

    @says_errors
    def enlarge(
        self, session: str, progress: Progress, photo: str, checkpoint: str, sample: Any, *_: Any
    ) -> dict[str, Any]:
        """The whole photograph enlarged, as a file, in the button that downloads it."""
        made = self.run(session, checkpoint, "enlarge", photo, checkpoint, sample, progress=progress)
        return {
            "whole_download": self.button((made["file"], made["label"])),
            "whole": self.gr.update(visible=False),
            "about": made["about"],
        }

    @says_errors
    def vary(
        self,
        session: str,
        progress: Progress,
        photo: str | None,
        checkpoint: str,
        temperature: float,
        seed: float,
        row: float,
        column: float,
    ) -> dict[str, Any]:
        """Four draws of the window, and what they are draws of."""
        if not photo:
            raise ValueError("load a photograph first")
        given = (photo, checkpoint, temperature, seed, row, column)
        made = self.run(session, checkpoint, "vary", *given, progress=progress)
        return {"variations": [tuple(image) for image in made], "varied": [temperature, seed]}

    def choose(self, session: str, varied: list[float], index: int) -> dict[str, Any]:
        """A variation that was chosen is what is looked at and enlarged from now on."""
        return {"sample": [*varied, index], **self._nothing()}

    def address(self, file: str) -> str:
        """Address of a copy of a file that the page serves."""
        from gradio.processing_utils import save_file_to_cache  # noqa: PLC0415 - an extra
        from gradio.utils import get_upload_folder  # noqa: PLC0415

        return f"gradio_api/file={quote(save_file_to_cache(file, get_upload_folder()))}"

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
