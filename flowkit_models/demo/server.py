"""Server of the page: gradio behind a guard, workers that do the work, and the limits of both."""

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowkit_models.data.sample_photos import test_photos
from flowkit_models.demo.callbacks import Callbacks
from flowkit_models.demo.guard import Guard
from flowkit_models.demo.page import CSS, build
from flowkit_models.demo.tasks import Tasks
from flowkit_models.demo.workers import Pool
from flowkit_models.images.image_file import write_image


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of what users may do.

    Attributes:
        names: hosts, beside the loopback ones, by which the page may be asked for; see `Guard`.
        upload: bytes of a file, and of a checkpoint that is opened.
        seconds: of a call.
        memory: bytes that a worker's calls may take.
        workers: processes that draw.
    """

    names: tuple[str, ...] = ()
    upload: int = 256_000_000
    seconds: float = 120.0
    memory: float = 4e9
    workers: int = 2

    def sentence(self) -> str:
        """The limits in words."""
        return f"Limits: {self.upload / 1e6:g} MB a file, {self.seconds:g} s and {self.memory / 1e9:g} GB a call."


def launch(checkpoint: Path, host: str, port: int, side: int, device: str, folder: Path, limits: Limits) -> None:
    """Serves the page until it is interrupted.

    Args:
        checkpoint: that is open at first.
        host: address to listen on.
        port: to listen on.
        side: longest side of HR images, in pixels.
        device: of the models.
        folder: for all files that the page keeps; the caller deletes it.
        limits: of what users may do.

    Raises:
        ImportError: without gradio; the message says how to install it.
        ValueError: if the checkpoint can't be opened.
    """
    gr = import_gradio(folder)
    make = functools.partial(Tasks, side, device, limits.upload)
    with Pool(make, str(checkpoint), limits.workers, limits.seconds, limits.memory) as pool:
        page = start(gr, Callbacks(folder, side, pool), host, port, limits)
        print(f"http://{host}:{port} (Ctrl+C ends it)", flush=True)
        page.block_thread()


def import_gradio(folder: Path) -> Any:
    """Imports gradio, told to keep its files in a folder and to send nothing.

    Raises:
        ImportError: without it; the message says how to install it.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "cache")
    try:
        import gradio  # noqa: PLC0415 - an extra, and the variables come first
    except ImportError as error:
        raise ImportError(f'the demo needs gradio ({error}): pip install "flowkit-torch[demo]"') from None
    return gradio


def start(gr: Any, calls: Callbacks, host: str, port: int, limits: Limits) -> Any:
    """Opens the first checkpoint and begins to serve the page, a gr.Blocks; arguments as for `launch`."""
    from starlette.middleware import Middleware  # noqa: PLC0415 - gradio brings it

    opened = calls.runner.run("", calls.runner.first, "open", calls.runner.first)
    page = build(gr, calls, opened, example_files(calls.folder), limits.sentence())
    theme = gr.themes.Default(
        primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        show_error=True,
        ssr_mode=False,
        footer_links=[],
        theme=theme,
        css=CSS,
        max_file_size=limits.upload,
        app_kwargs={"middleware": [Middleware(Guard, names=(host, *limits.names), largest=limits.upload + 1_000_000)]},
        prevent_thread_lock=True,
    )
    return page


def example_files(folder: Path) -> dict[str, str]:
    """The test photographs as files, by name; none without scikit-image."""
    try:
        photos = test_photos()
    except ImportError:
        return {}
    for name, photo in photos.items():
        write_image(folder / f"{name}.png", photo)
    return {name: str(folder / f"{name}.png") for name in photos}
