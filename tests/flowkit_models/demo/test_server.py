"""The page over HTTP: who may ask, how much may be sent, and two people at once, one of them hostile."""

import contextlib
import json
import re
import time
from pathlib import Path

import browser
import pytest
from http_session import Browser
from scenes import make_photo, saved

httpx = pytest.importorskip("httpx", reason="comes with gradio")
SCRIPT = Path(__file__).with_name("slow_page.py")
PATIENCE = 120  # seconds, on a machine that has other things to do


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Address of a page of slow_page.py."""
    folder = tmp_path_factory.mktemp("demo")
    with browser.serve_script(SCRIPT, lambda port: [saved("hcflow_sr_x4_small", folder), str(folder), port]) as found:
        yield found


@pytest.fixture
def visit(address):
    """Opens the page as a session."""
    with contextlib.ExitStack() as stack:
        yield lambda session: Browser(stack.enter_context(httpx.Client(base_url=address, timeout=PATIENCE)), session)


def test_a_hostile_call_stops_nobody(visit, tmp_path):
    photo = make_photo(tmp_path / "photo.png", 64, 64)
    alice, mallory = visit("alice"), visit("mallory")
    assert re.search(r"draw 2: [\d.]+ dB", json.dumps(alice.draw(photo)))
    start = time.monotonic()
    assert mallory.join("checkpoint", "submit", ["endless", "bicubic"]).status_code == 200
    time.sleep(1)
    for seed in range(3):
        assert re.search(r"draw 2: [\d.]+ dB", json.dumps(alice.draw(photo, 0.2 + seed / 10)))
    took = time.monotonic() - start
    assert mallory.listen() == "stopped: it took more than 20 s (--time-limit)"
    assert took < 20 < time.monotonic() - start
    # its worker starts anew
    mallory.join("checkpoint", "submit", [str(tmp_path / "none.pth"), "bicubic"])
    assert "none.pth: no such file" in mallory.listen()


def test_errors_are_said(visit, tmp_path):
    (tmp_path / "bad.png").write_text("no photograph")
    page = visit("bob")
    assert "bad.png: not an image" in page.draw(tmp_path / "bad.png")
    page.join("checkpoint", "submit", [str(tmp_path / "none.pth"), "bicubic"])
    assert "none.pth: no such file" in page.listen()
    large = tmp_path / "large.safetensors"
    large.write_bytes(bytes(1_000_001))
    page.join("checkpoint", "submit", [str(large), "bicubic"])
    assert "more than the 1 MB of a checkpoint (--max-upload)" in page.listen()
    assert page.upload(large).status_code == 413
    large.write_bytes(bytes(3_000_000))
    assert page.upload(large).status_code == 413


def test_foreign_hosts_and_origins(visit):
    web = visit("dave").web
    for path in ("/", "/config", "/gradio_api/queue/data?session_hash=x", "/gradio_api/file=x", "/gradio_api/info"):
        assert web.get(path, headers={"Host": "evil.example"}).status_code == 403, path
    for path in ("/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/component_server"):
        assert web.post(path, headers={"Host": "evil.example"}).status_code == 403, path
        assert web.post(path, headers={"Origin": "http://evil.example"}).status_code == 403, path
    for host in ("localhost", "box.lan:80"):
        answer = web.get("/", headers={"Host": host, "Origin": f"http://{host}"})
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_page_starts_at_the_recommended_tau_and_states_its_limits(visit):
    page = visit("carol")
    by_id = {props.get("elem_id"): props for props in page.widgets.values()}
    assert by_id["tau"]["value"] == 0.8
    assert by_id["limits"]["value"] == "Limits: 1 MB a file, 20 s and 2 GB a call."
    assert "hcflow_sr_x4_small.safetensors · HCFlow ×4" in by_id["model"]["value"]
