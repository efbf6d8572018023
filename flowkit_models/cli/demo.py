"""`flowkit demo`: a page in the browser to play with an image flow."""

import math
import signal
import socket
import tempfile
from pathlib import Path

from flowkit_models.cli.options import Demo
from flowkit_models.demo.server import Limits, launch
from flowkit_models.devices import find_device
from flowkit_models.models.bundled import SHIPPED
from flowkit_models.models.factory import find_checkpoint


def serve_demo(options: Demo) -> int:
    """Runs `flowkit demo`: serves the page until Ctrl-C.

    Raises:
        ValueError: if an option makes no sense, or the address can't be listened on.
        ImportError: without gradio.
    """
    checkpoint = find_checkpoint(options.model or SHIPPED)
    if not checkpoint.is_file():
        raise ValueError(f"--model {checkpoint}: no such file")
    if options.side < 32:
        raise ValueError(f"--side must be at least 32 pixels, got {options.side}")
    for name in ("max_upload", "time_limit", "memory", "workers"):
        if not 0 < getattr(options, name) < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0, got {getattr(options, name)}")
    device = find_device(options.device)
    check_port(options.host, options.port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder goes, however the page is ended
    limits = Limits(
        names=options.allow,
        upload=int(options.max_upload * 1e6),
        seconds=options.time_limit,
        memory=options.memory * 1e9,
        workers=options.workers,
    )
    with tempfile.TemporaryDirectory(prefix="flowkit-demo-") as folder:
        launch(checkpoint, options.host, options.port, options.side, str(device), Path(folder), limits)
    return 0


def check_port(host: str, port: int) -> None:
    """Raises a ValueError if nothing can listen there."""
    try:
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((host, port))
    except (OSError, OverflowError) as error:
        raise ValueError(f"{host}:{port} can't be listened on ({error}): choose another --port or --host") from None
