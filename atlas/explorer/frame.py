"""What every page has: the bar with its links, dark or light, and how a fault or an empty place is said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from nicegui import run, ui
from starlette.requests import Request

from atlas.errors import AtlasError
from atlas.explorer.address import link
from atlas.explorer.visit import Visit

T = TypeVar("T")
PAGES = {
    "/": ("Search", "search", "Neurons for any text"),
    "/topics": ("Topics", "topic", "The stored topics and their best neurons"),
    "/compare": ("Compare", "compare_arrows", "One topic against another"),
    "/map": ("Map", "scatter_plot", "All neurons, those that are alike together"),
    "/steer": ("Steer", "tune", "Generate text with neurons turned up"),
    "/sql": ("SQL", "terminal", "Ask the file anything, read-only"),
    "/lists": ("Lists", "bookmarks", "Neurons that were kept, and notes on them"),
}
DARK = "atlas-dark"  # the cookie that remembers it


@contextmanager
def framed(visit: Visit, request: Request, path: str, title: str) -> Iterator[None]:
    """A page: what is made inside stands under the bar.

    Args:
        visit: the atlas.
        request: the browser's; its cookie says whether the page is dark.
        path: which of PAGES it belongs to.
        title: of the browser's tab.
    """
    ui.page_title(f"{title} - {visit.name}")
    ui.add_head_html('<link rel="stylesheet" href="/_atlas/page.css">')
    ui.colors(primary="#3b5bdb")
    dark = ui.dark_mode({"1": True, "0": False}.get(request.cookies.get(DARK, "")))
    with ui.header(elevated=False).classes("bar items-center no-wrap"):
        ui.link("neuron atlas", "/").classes("brand")
        ui.label(visit.name).classes("file").tooltip(str(visit.atlas.store.file))
        with ui.row().classes("links no-wrap"):
            for target, (name, icon, hint) in PAGES.items():
                with ui.link(target=target).classes("here" if target == path else "").props(f'aria-label="{name}"'):
                    ui.icon(icon)
                    ui.label(name)
                    ui.tooltip(hint)
        ui.space()
        if visit.read_only:
            ui.badge("read-only").tooltip("Nothing can be stored: the page was opened with --read-only")
        ui.button(icon="contrast", on_click=lambda: _turn(dark)).props(
            'flat round dense aria-label="Dark or light"'
        ).tooltip("Dark or light")
    with ui.column().classes("page w-full"):
        yield


def from_elsewhere(request: Request) -> bool:
    """Whether a link on another site led here: then nothing is stored, and no model run, until the visitor asks for it."""
    return request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin")


def _turn(dark: ui.dark_mode) -> None:
    dark.value = not dark.value
    ui.run_javascript(f"document.cookie='{DARK}={int(dark.value)};path=/;max-age=31536000;samesite=strict'")


def empty_state(text: str, *, icon: str = "info") -> None:
    """Say what is not there yet, and what to do about it."""
    with ui.row().classes("empty items-center no-wrap"):
        ui.icon(icon)
        ui.label(text)


def chips(path: str, parameter: str, hints: Mapping[str, str], chosen: str) -> None:
    """Links to a page's stored things, the chosen one marked.

    Args:
        path: the page.
        parameter: of its address, which names one of them.
        hints: name -> what is said of it where the pointer rests on it.
        chosen: the one that is shown; empty for none.
    """
    with ui.row().classes("chips"):
        for name, hint in hints.items():
            chip = ui.link(name, link(path, **{parameter: name})).classes("sample")
            chip.classes("chosen" if name == chosen else "").tooltip(hint)


def say(error: Exception) -> None:
    """Show a fault that a visitor can put right."""
    ui.notify(str(error), type="negative", multi_line=True, timeout=8000, close_button="close")


async def attempt(work: Callable[..., T], *arguments: Any, **named: Any) -> T | None:
    """The result of what reads or computes, done in a thread; None after a fault, which is said in one line."""
    try:
        return await asyncio.shield(run.io_bound(work, *arguments, **named))
    except AtlasError as error:
        say(error)
        return None


def later(work: Callable[[], Any]) -> None:
    """Do something as soon as the page stands in the browser."""
    ui.timer(0.01, work, once=True)


def copied(text: str, what: str) -> None:
    """Put a text into the clipboard."""
    ui.clipboard.write(text)
    ui.notify(f"{what} copied", timeout=1500)


def code_block(text: str, *, what: str = "SQL", whole: str | None = None) -> None:
    """A text as code, with a button that copies it, or the `whole` where what is shown is cut; `what` it is."""
    with ui.element("div").classes("code"):
        ui.label(text).classes("source")
        ui.button(icon="content_copy", on_click=lambda: copied(whole or text, what)).props(
            'flat round dense size=sm aria-label="Copy"'
        )
