"""A page to play with an image flow: draws at any temperature, where they differ, edits of the latents.

Needs the extra `demo`. Nothing leaves the machine, and nothing is fetched from the network.
"""

import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from flowkit_models.demo.page import launch
from flowkit_models.devices import find_device
from flowkit_models.models.bundled import SHIPPED


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the recipe."""

    model: Path = SHIPPED
    """Checkpoint that is open at first: ours, or a published one of HCFlow, SRFlow or IRN."""
    host: str = "127.0.0.1"
    """Address to listen on. Whoever reaches the page can open checkpoints that you can read: 0.0.0.0 lets all."""
    port: int = 7860
    """Port to listen on."""
    side: int = 512
    """Longest side of HR images, in pixels; larger photographs are cut or shrunk."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: the GPU, if there is one."""


def main(config: Config) -> None:
    """Checks the options, and serves the page until Ctrl+C."""
    if not config.model.is_file():
        raise ValueError(f"--model {config.model}: no such file")
    if config.side < 32:
        raise ValueError(f"--side must be at least 32 pixels, got {config.side}")
    check_port(config.host, config.port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder goes, however the page is ended
    device = str(find_device(config.device))
    with tempfile.TemporaryDirectory(prefix="flowkit-demo-") as folder:
        launch(config.model, config.host, config.port, config.side, device, Path(folder))


def check_port(host: str, port: int) -> None:
    """Raises a ValueError if nothing can listen there."""
    try:
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((host, port))
    except (OSError, OverflowError) as error:
        raise ValueError(f"{host}:{port} can't be listened on ({error}): choose another --port or --host") from None


def run(arguments: list[str]) -> int | str:
    """Runs the recipe; returns 0, or one line that says what was wrong."""
    try:
        main(tyro.cli(Config, args=arguments, description=__doc__))
    except KeyboardInterrupt:
        return "stopped"
    except (ValueError, OSError, ImportError) as error:
        return f"error: {error}"
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
