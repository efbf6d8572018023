"""Guard: foreign hosts and origins are refused, and requests that are too large; what the page answers is fenced in."""

import asyncio

import pytest

from flowkit_models.demo.guard import POLICY, SMALL, Guard

FORM = (b"content-type", b"multipart/form-data; boundary=x")


async def greet(scope, receive, send):
    """An app that reads everything and says how much it was."""
    seen = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        seen += len(message["body"])
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(seen).encode()})


def ask(headers, names=(), body=(b"",), kind="http"):
    """What is sent as an answer."""
    sent, parts = [], list(body)

    async def receive():
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(greet, names, 10 * SMALL)({"type": kind, "headers": headers}, receive, send))
    return sent


def status(headers, names=(), body=(b"",)):
    return ask(headers, names, body)[0]["status"]


@pytest.mark.parametrize("host", [b"localhost", b"localhost:7860", b"127.0.0.1:7860", b"[::1]:7860", b"LOCALHOST"])
def test_loopback_is_allowed(host):
    start, body = ask([(b"host", host)])
    assert start["status"] == 200
    assert (b"content-security-policy", POLICY.encode()) in start["headers"]
    assert body["body"] == b"0"


@pytest.mark.parametrize(
    "host",
    [b"evil.example", b"localhost.evil.example", b"127.0.0.1.evil.example:80", b"192.168.1.5", b"", b"[::1", b"\xff"],
)
def test_foreign_hosts_are_refused(host):
    start, body = ask([(b"host", host)])
    assert start["status"] == 403
    assert body["body"].count(b"\n") == 1
    assert b"--allow" in body["body"]


def test_no_host_or_two_are_refused():
    assert status([]) == 403
    assert status([(b"host", b"localhost"), (b"host", b"evil.example")]) == 403


def test_what_is_stated_is_allowed():
    assert status([(b"host", b"box.lan:7860")], ("127.0.0.1", "Box.lan")) == 200
    assert status([(b"host", b"192.168.1.5:7860")], ("192.168.1.5",)) == 200
    # all of the machine's addresses, and no name: an attacker's name is one, too
    assert status([(b"host", b"192.168.1.5:7860")], ("0.0.0.0",)) == 200
    assert status([(b"host", b"evil.example")], ("0.0.0.0",)) == 403


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (b"http://localhost:7860", 200),
        (b"HTTP://LOCALHOST:7860", 200),
        (b"http://evil.example", 403),
        (b"http://localhost:3000", 403),
        (b"null", 403),
    ],
)
def test_origin_is_the_page_itself(origin, expected):
    assert status([(b"host", b"localhost:7860"), (b"origin", origin)]) == expected


def test_sizes():
    local = (b"host", b"localhost")
    assert status([local, (b"content-length", str(SMALL).encode())]) == 200
    assert status([local, (b"content-length", str(SMALL + 1).encode())]) == 413
    assert status([local, FORM, (b"content-length", str(10 * SMALL).encode())]) == 200
    assert status([local, FORM, (b"content-length", str(10 * SMALL + 1).encode())]) == 413
    assert status([local, (b"content-length", b"-1")]) == 413
    half = bytes(SMALL // 2)
    assert ask([local], body=(half, half))[1]["body"] == str(SMALL).encode()
    with pytest.raises(ConnectionError):  # nothing was stated, and it does not end
        ask([local], body=(half, half, half))


def test_websockets():
    assert ask([(b"host", b"evil.example")], kind="websocket") == [{"type": "websocket.close", "code": 1008}]
