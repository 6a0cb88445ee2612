"""The server behind `atlas explore`: on this machine's loopback unless told, until Ctrl-C."""

from __future__ import annotations

import logging
import socket
import warnings
import webbrowser
from collections.abc import Callable

import uvicorn

from atlas.errors import AtlasError
from atlas.explorer.app import make_app
from atlas.explorer.guard import LOOPBACK
from atlas.explorer.visit import Visit
from atlas.meaning.neuron_vectors import ensure_neuron_vectors
from atlas.store.state import require_complete

HOST, PORT = "127.0.0.1", 8765
EVERY_ADDRESS = ("0.0.0.0", "::", "")


def serve(
    visit: Visit,
    *,
    host: str = HOST,
    port: int = PORT,
    browser: bool = True,
    tell: Callable[[str], None],
) -> None:
    """Show an atlas until the process is told to stop.

    Args:
        visit: the atlas.
        host: name or address to listen on; only this machine reaches 127.0.0.1.
        port: where; 0 for any that is free.
        browser: whether to open the page in the user's browser.
        tell: called with the page's address once it answers.

    Raises:
        AtlasError: the address cannot be listened on, or the atlas is unfinished.
    """
    with visit.atlas.store.read() as session:
        require_complete(session, visit.atlas.store)
    if not visit.read_only:
        ensure_neuron_vectors(visit.atlas.store)
    listening = listen(host, port)
    url = address_of(listening, host)
    app = make_app(visit, hosts={host.lower()} - set(EVERY_ADDRESS), any_address=host in EVERY_ADDRESS)
    quiet()
    server = Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on", ws="websockets-sansio"))
    server.ready = lambda: _ready(url, browser=browser, tell=tell)
    server.run(sockets=[listening])


class Server(uvicorn.Server):
    """A server that says when it answers, by calling `ready`."""

    ready: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say so."""
        with warnings.catch_warnings():  # NiceGUI looks at every object there is, and some of torch's are deprecated
            warnings.simplefilter("ignore", FutureWarning)
            await super().startup(sockets)
        if self.started and self.ready is not None:
            self.ready()


def _ready(url: str, *, browser: bool, tell: Callable[[str], None]) -> None:
    tell(url)
    if browser:
        webbrowser.open(url)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; AtlasError where the address cannot be had."""
    found = None
    try:
        (family, kind, _, _, place), *_ = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        found = socket.socket(family, kind)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(place)
    except OSError as error:
        if found is not None:
            found.close()
        raise AtlasError(
            f"{host}:{port} cannot be listened on ({error.strerror or error}): give another --port, or --port 0 for a free one"
        ) from error
    return found


def address_of(listening: socket.socket, host: str) -> str:
    """The address under which a browser of this machine opens the page."""
    port = listening.getsockname()[1]
    name = "127.0.0.1" if host in EVERY_ADDRESS or host in LOOPBACK - {"::1"} else host
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def quiet() -> None:
    """Let the web libraries say warnings only."""
    for name in ("nicegui", "uvicorn", "uvicorn.error", "engineio", "socketio", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
