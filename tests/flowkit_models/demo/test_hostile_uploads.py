"""Hostile checkpoints and pictures, uploaded one after another while another session draws: nobody else notices."""

import itertools
import json
import os
import re
import threading
import time

import browser
import hostile
import pytest
from hostile_files import HOSTILE
from http_session import Browser
from scenes import make_photo, saved

httpx = pytest.importorskip("httpx", reason="comes with gradio")
PATIENCE = 120  # seconds, on a machine that has other things to do
PROGRAMS = ("gs", "convert", "magick", "rsvg-convert", "sh", "inkscape", "dcraw")


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """What the page said to each hostile file and how long it took, to each draw of another session, and what ran."""
    folder, tools, here = (tmp_path_factory.mktemp(name) for name in ("uploads", "tools", "here"))
    for program in PROGRAMS:
        (tools / program).write_text(f"#!/bin/bash\ntouch {here}/ran-{program}\n")
        (tools / program).chmod(0o755)
    photo = make_photo(folder / "good photo.png", 64, 64)
    model = saved("hcflow_sr_x4_small", folder)
    environment = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    options = ("--side", "96", "--memory", "2", "--time-limit", "9")
    said, draws, done = {}, [], threading.Event()
    with browser.serve(model, *options, environment=environment, folder=here) as address:

        def page(name):
            return Browser(httpx.Client(base_url=address, timeout=PATIENCE), name)

        alice, mallory = page("alice"), page("mallory")

        def draw():
            for seed in itertools.count():
                start = time.monotonic()
                answer = json.dumps(alice.draw(photo, seed=seed))
                draws.append((answer, time.monotonic() - start))
                if done.is_set():
                    return

        drawing = threading.Thread(target=draw, daemon=True)
        drawing.start()
        try:
            for name, made in (*hostile.MADE.items(), *HOSTILE.items()):
                path = folder / name
                path.write_bytes(made()) if name in HOSTILE else made(path)
                there = mallory.upload(path).json()[0]
                start = time.monotonic()
                answer = mallory.draw_uploaded(there) if name in HOSTILE else mallory.open(there)
                said[name] = answer, time.monotonic() - start
                path.unlink()
        finally:
            done.set()
            drawing.join(PATIENCE)
        assert not drawing.is_alive()
    return said, draws, sorted(path.name for path in here.iterdir())


@pytest.mark.slow
def test_each_is_refused_in_a_line_within_ten_seconds(played):
    said = played[0]
    assert len(said) == len(hostile.MADE) + len(HOSTILE) >= 80
    for name, (answer, seconds) in said.items():
        assert seconds < 10, (name, seconds)
        if name in HOSTILE and isinstance(answer, list):
            continue  # its pixels are whole
        assert isinstance(answer, str), (name, answer)
        assert re.match(rf"{re.escape(name)}: |stopped: ", answer), (name, answer)
        assert "\n" not in answer, (name, answer)
        assert len(answer) < 600, (name, answer)


@pytest.mark.slow
def test_every_draw_of_the_other_session_succeeds(played):
    said, draws, _ = played
    assert len(draws) > len(said) / 4, "they ran side by side"
    for answer, seconds in draws:
        assert re.search(r"draw 2: [\d.]+ dB", answer), answer
        assert seconds < 10


@pytest.mark.slow
def test_nothing_is_executed(played):
    assert played[2] == []
