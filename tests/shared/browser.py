"""A page that is served by a process of its own, and a browser that looks at pages and watches what they ask and say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HARMLESS = ("GPU stall due to ReadPixels",)  # what software rendering says of itself


@contextmanager
def serving(path: str | Path, *words: str) -> Iterator[str]:
    """The address of a page that `atlas explore` serves in a process of its own."""
    command = [sys.executable, "-m", "atlas.cli.main", "explore", str(path), "--no-browser", "--port", "0", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stderr
    try:
        line = process.stdout.readline()
        assert "http" in line, line + process.stderr.read()
        yield line.split(": ")[-1].split()[0]
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors, errors
    assert errors.replace("stopped", "").strip() == "", errors


@contextmanager
def looking(chromium: Browser, url: str, **settings: Any) -> Iterator[Page]:
    """A browser's page that may ask nothing of another machine, and whose console stays without errors."""
    context = chromium.new_context(base_url=url, viewport={"width": 1360, "height": 900}, **settings)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
    page, faults, outside = context.new_page(), [], []
    page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request", lambda asked: None if asked.url.startswith((url, "data:", "blob:")) else outside.append(asked.url)
    )
    page.on(
        "websocket",
        lambda socket: (
            None if socket.url.split("://")[1].startswith(url.split("://")[1]) else outside.append(socket.url)
        ),
    )
    page.set_default_timeout(60_000)
    yield page
    assert outside == []
    assert [fault for fault in faults if not any(word in fault for word in HARMLESS)] == []
    context.close()
