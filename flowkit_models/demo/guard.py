"""Guard before the page: who may ask for it (Host, Origin), how much they may send, and whom the browser may ask."""

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; worker-src 'self' blob:"
"""Content-Security-Policy: the browser asks nobody but this server for anything."""

SMALL = 4_000_000
"""Bytes of a request that uploads no file."""

WILDCARDS = ("0.0.0.0", "::")
"""Addresses that stand for all of the machine."""


class Guard:
    """ASGI middleware that refuses foreign hosts and origins (403) and large requests (413), and sends `POLICY`.

    A web page of a stranger may have its name point here (DNS rebinding), or post here: it gets no answer.

    Args:
        app: what is guarded.
        names: hosts, beside the loopback ones, by which the page may be asked for. A wildcard address lets every
            address through, but no name.
        largest: bytes of a request that uploads a file.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], names: Iterable[str], largest: int) -> None:
        self.app, self.names, self.largest = app, {name.lower() for name in names}, largest

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Passes on what may pass, with one header more in the answer."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = scope["headers"]
        hosts, origins = (
            [value.decode("latin-1") for key, value in headers if key == name] for name in (b"host", b"origin")
        )
        if len(hosts) != 1 or not self.knows(hosts[0]):
            said = f"{', '.join(hosts) or 'no host'}: not a name of this page; flowkit demo --allow NAME adds one\n"
            await _refuse(scope, send, 403, said)
            return
        if any(urlsplit(origin).netloc.lower() != hosts[0].lower() for origin in origins):
            await _refuse(scope, send, 403, f"{', '.join(origins)}: another page may not use this one\n")
            return
        sent = dict(headers)
        most = self.largest if sent.get(b"content-type", b"").startswith(b"multipart/") else SMALL
        length = sent.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > most:
            await _refuse(scope, send, 413, f"more than {most / 1e6:g} MB, the limit (flowkit demo --max-upload)\n")
            return
        seen = 0

        async def counted() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body") or b"")
            return message if seen <= most else {"type": "http.disconnect"}  # it stated no length

        async def with_policy(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, counted, with_policy)

    def knows(self, host: str) -> bool:
        """True for the value of a Host header that names this page, with any port.

        >>> guard = Guard(None, ["box.lan"], 0)
        >>> [guard.knows(host) for host in ("localhost:7860", "Box.lan", "[::1]:80", "evil.example")]
        [True, True, True, False]
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name == "localhost" or name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.names.isdisjoint(WILDCARDS)


async def _refuse(scope: MutableMapping[str, Any], send: Any, status: int, text: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
