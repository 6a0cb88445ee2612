"""Lists of neurons that visitors kept, and what they say of them."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable
from typing import Any

import polars as pl
from nicegui import ui
from starlette.requests import Request

from atlas.explorer.address import link
from atlas.explorer.columns import neuron_table
from atlas.explorer.export import export_buttons
from atlas.explorer.frame import attempt, chips, code_block, empty_state, framed, later
from atlas.explorer.keep import NONE, Picked, picked
from atlas.explorer.spelled import literal
from atlas.explorer.visit import Visit
from atlas.meaning.notes import add_notes, read_lists, read_notes, remove_notes, rename_list

SHOWN = ("neuron", "sae_id", "text", "support", "label", "fires_on")


def add_lists_page(visit: Visit) -> None:
    """Let the application have the page."""

    @ui.page("/lists", title="Lists")
    def page(request: Request, name: str = "") -> None:
        with framed(visit, request, "/lists", name or "Lists"):
            ui.label("Lists").classes("title")
            lists = read_lists(visit.atlas.store)
            if lists.is_empty():
                empty_state(
                    "No neuron is kept yet. Tick neurons in a search, a topic or a map, and press “Keep in a list”; a neuron's "
                    "own page has the same button."
                )
                return
            hints = {row["list"]: f"{row['neurons']} neurons" for row in lists.iter_rows(named=True)}
            chips("/lists", "name", hints, name)
            if name:
                ListView(visit, name)
            else:
                empty_state("Choose a list.")


class ListView:
    """A list as one visitor sees it."""

    def __init__(self, visit: Visit, name: str) -> None:
        self.visit, self.name = visit, name
        self.frame = pl.DataFrame()
        self.place = ui.column().classes("w-full")
        later(self.show)

    async def show(self) -> None:
        """Show the neurons of the list."""
        found = await attempt(read_notes, self.visit.atlas.store, self.name)
        if found is None:
            return
        self.frame = found
        self.place.clear()
        with self.place:
            self.table = neuron_table(found, SHOWN, pick=True, page=50, mark="list")
            self._actions()
            self._doors()

    def _actions(self) -> None:
        sql = f"select * from notes where list = {literal(self.name)} order by sae_key, neuron"
        with ui.row().classes("items-center"):
            ui.button("Steer with the list", icon="tune", on_click=self.steer).props("outline no-caps")
            self._button("Note on the ticked", "edit_note", self.ask_note, "note")
            self._button("Take out the ticked", "bookmark_remove", self.take_out, "take-out")
            self._button("Rename", "edit", self.ask_name, "rename")
            export_buttons(self.visit, sql, "list")

    def _button(self, name: str, icon: str, work: Callable[[], Any], mark: str) -> None:
        button = ui.button(name, icon=icon, on_click=work).props(f'outline no-caps data-testid="{mark}"')
        button.set_enabled(not self.visit.read_only)

    def steer(self) -> None:
        """Go to the page that steers, with all neurons of the list."""
        ui.navigate.to(link("/steer", listed=self.name))

    def _doors(self) -> None:
        """How else the list steers."""
        wish, path = {"name": self.name, "prompt": "I want to tell you about"}, self.visit.atlas.store.path
        for title, text in (
            (
                "Steer by it: as a command",
                shlex.join(["atlas", "steer", str(path), "-", wish["prompt"], "--list", self.name]),
            ),
            (
                "Steer by it: as Python",
                f"import atlas\n\na = atlas.open({str(path)!r})\n"
                f"a.generate(None, {wish['prompt']!r}, chosen={self.name!r})",
            ),
        ):
            with ui.expansion(title, icon="content_copy").classes("w-full copies"):
                code_block(text, what=title.rpartition(" ")[2])

    def ask_note(self) -> None:
        """Ask for what is to be said of the ticked neurons."""
        chosen = picked(self.table)
        if not chosen:
            ui.notify(NONE)
            return
        said = next((row["text"] for row in self.table.selected), "")
        ask_text("Note", said or "", functools.partial(self._note, chosen))

    async def _note(self, chosen: Picked, text: str) -> None:
        done = await attempt(_done, add_notes, self.visit.atlas.store, chosen, name=self.name, text=text)
        if done:
            await self.show()

    async def take_out(self) -> None:
        """Take the ticked neurons out of the list; a list is gone with its last one."""
        chosen = picked(self.table)
        if not chosen:
            ui.notify(NONE)
            return
        done = await attempt(_done, remove_notes, self.visit.atlas.store, self.name, chosen)
        if done and sum(map(len, chosen.values())) == self.frame.height:
            ui.navigate.to("/lists")
        elif done:
            await self.show()

    def ask_name(self) -> None:
        """Ask for another name of the list."""
        ask_text("Name of the list", self.name, self._rename)

    async def _rename(self, name: str) -> None:
        if await attempt(_done, rename_list, self.visit.atlas.store, self.name, name):
            ui.navigate.to(link("/lists", name=name.strip()))


def ask_text(label: str, value: str, work: Callable[[str], Any]) -> None:
    """Ask for a text, and do something with it."""
    with ui.dialog() as dialog, ui.card():
        box = ui.textarea(label, value=value).props('autogrow autofocus data-testid="asked"').classes("w-80")

        async def take() -> None:
            dialog.close()
            await work(box.value or "")

        with ui.row():
            ui.button("Save", on_click=take).props('unelevated no-caps data-testid="asked-save"')
            ui.button("Cancel", on_click=dialog.close).props("flat no-caps")
    dialog.open()


def _done(work: Callable[..., object], *arguments: Any, **named: Any) -> bool:
    work(*arguments, **named)
    return True
