"""Which requests are let in: those of this page in this machine's browser. Any site that a visitor has open can send others.

A page elsewhere may point a name of its own at 127.0.0.1 (so the Host is checked), send requests here (so the Origin is
checked, of websockets too), or show this page in a frame. What it may do is what a link does: open a page by GET.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
HEADERS = {  # on every answer: nothing is fetched from elsewhere, whatever a text holds, and no other page frames this one
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """An ASGI application in front of another, which answers 403 or 421 to what does not come from its own pages.

    Args:
        app: what is guarded.
        hosts: names by which it may be called besides those of this machine's loopback.
        any_address: whether it may be called by any IP address: it listens to a network. A name is never taken for one.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] = (), any_address: bool = False) -> None:
        self._app, self._hosts, self._any_address = app, LOOPBACK | set(hosts), any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer why not."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self.refusal(headers, method=scope.get("method", "GET"), kind=scope["type"])
        if refusal is None:
            await self._app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refusal[1]})
        else:
            await PlainTextResponse(refusal[1] + "\n", status_code=refusal[0])(scope, receive, send)

    def refusal(self, headers: dict[str, str], *, method: str, kind: str) -> tuple[int, str] | None:
        """The status and the reason why a request is not let in; None for one that is."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 421, "this page answers to its own address only: open the one that `atlas explore` printed"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "requests from other sites are refused"
        site = headers.get("sec-fetch-site", "same-origin")
        followed_link = kind == "http" and method == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if site not in ("same-origin", "none") and not followed_link:
            return 403, "requests from other sites are refused"
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._hosts or (self._any_address and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _with_headers(send: Send) -> Send:
    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            taken: list[Any] = [pair for pair in message.get("headers", []) if pair[0].decode().lower() not in HEADERS]
            message = {**message, "headers": [*taken, *ours]}
        await send(message)

    return send_more
