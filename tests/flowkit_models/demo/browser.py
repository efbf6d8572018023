"""The demo's page in headless Chromium: for its test, and for the pictures in docs/.

PYTHONPATH=. python tests/flowkit_models/demo/browser.py MODEL docs     draws docs/demo_*.png
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from flowkit_models.data.sample_photos import test_photos as photographs
from flowkit_models.images.image_file import write_image

RECIPE = Path(__file__).parents[3] / "recipes" / "demo.py"
PATIENCE = 180  # seconds, on a machine that has other things to do


def chromium():
    """Where a Chromium is installed, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


def serve(model, *options, **process):
    """Runs the recipe on a free port; gives its address."""
    given = ["--model", str(model), "--device", "cpu", *options]
    return serve_script(RECIPE, lambda port: [*given, "--port", port], **process)


@contextlib.contextmanager
def serve_script(script, arguments, environment=(), folder=None):
    """Runs a script in a folder, with its arguments of a free port; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(script), *arguments(str(port))]
    env = {**os.environ, "PYTHONPATH": str(RECIPE.parents[1]), "OMP_NUM_THREADS": "1", **dict(environment)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=folder
    )
    try:
        said = process.stdout.readline()
        assert f"http://127.0.0.1:{port}" in said, said + process.stdout.read()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
        process.stdout.close()


@contextlib.contextmanager
def opened(address, width=1280, height=900):
    """The page in a browser, with the addresses that it asked for."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - not every test needs it

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(1000 * PATIENCE)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        try:
            yield page, asked
        finally:
            browser.close()


def paint(page, strokes):
    """Brushes over the editor: a line through points, in fractions of its canvas."""
    canvas = page.locator("#editor canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in strokes]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=8)
    page.mouse.up()


def screenshots(model, folder):
    """The pictures for docs/."""
    with tempfile.TemporaryDirectory() as made, serve(model) as address, opened(address, 1440) as (page, _):
        for name in ("chelsea", "astronaut"):
            write_image(Path(made) / f"{name}.png", photographs()[name])
        page.set_input_files("#own_photo input[type=file]", Path(made) / "chelsea.png")
        page.wait_for_selector("#viewer img >> nth=1")
        page.wait_for_selector("#whole, #get", state="visible")
        if page.locator("#whole").is_visible():
            page.locator("#whole").click()
        page.wait_for_selector("#get", state="visible")
        page.wait_for_timeout(2000)
        _shoot(page, folder / "demo_enlarge.png")
        page.set_viewport_size({"width": 360, "height": 740})
        page.wait_for_timeout(2000)
        _shoot(page, folder / "demo_phone.png")
        page.set_viewport_size({"width": 1440, "height": 900})
        page.get_by_role("tab", name="Compare").click()
        page.set_input_files("#photo input[type=file]", Path(made) / "astronaut.png")
        page.wait_for_selector("text=draw 4:")
        page.wait_for_timeout(3000)
        _shoot(page, folder / "demo_draws.png")
        page.get_by_role("tab", name="Edit", exact=True).click()
        page.wait_for_timeout(3000)
        paint(page, [(0.46, 0.3), (0.52, 0.3), (0.52, 0.38), (0.46, 0.38), (0.46, 0.32)])
        page.get_by_label("zero").check()
        page.locator("#brush").click()
        page.wait_for_selector("#brush_result img")
        page.wait_for_timeout(2000)
        _shoot(page, folder / "demo_edit.png")


def _shoot(page, path, most=400_000):
    """A screenshot of the whole page, in as many colours as fit into `most` bytes."""
    page.screenshot(path=path, full_page=True)
    with Image.open(path) as image:
        whole = image.convert("RGB")
    for colours in (256, 192, 128, 96, 64):
        whole.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= most:
            break


if __name__ == "__main__":
    screenshots(Path(sys.argv[1]), Path(sys.argv[2]))
